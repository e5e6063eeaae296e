//! What is told of the keys in Transit's shape: the name, and each version with its key's ID, time and state.
//!
//! <https://openbao.org/api-docs/secret/transit/#read-key>. Nothing of a key itself is ever told.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Formats;
use crate::{
    cipher::Format,
    keyring::{HeldKey, Keyring},
    socket::{admin, answer::Answer},
};

/// `GET /v1/transit/keys/{name}`.
pub fn read(keyring: &Keyring, name: &str, formats: Formats) -> Answer {
    let mut versions: BTreeMap<u64, Vec<&HeldKey>> = BTreeMap::new();
    for held in keyring.newest_first() {
        versions.entry(held.version).or_default().push(held);
    }
    let oldest = versions.keys().next().copied();
    let versions: serde_json::Map<_, _> =
        versions.into_iter().map(|(version, held)| (version.to_string(), told(keyring, &held))).collect();
    Answer::json(
        200,
        &json!({ "data": {
            "name": name,
            "type": match formats.write {
                Format::Transit => "aes256-gcm96",
                _ => "xaes-256-gcm",
            },
            "latest_version": keyring.active().version,
            "keys": versions,
            "min_available_version": oldest,
            "min_decryption_version": oldest,
            "min_encryption_version": 0,
            "deletion_allowed": false,
            "derived": false,
            "exportable": false,
            "allow_plaintext_backup": false,
            "supports_encryption": true,
            "supports_decryption": true,
            "supports_derivation": false,
            "supports_signing": false,
        } }),
    )
}

/// `LIST /v1/transit/keys`: there is one name.
pub fn names(name: &str) -> Answer {
    Answer::json(200, &json!({ "data": { "keys": [name] } }))
}

/// One version. A map of several keys tells of the active one, or of any, and names them all.
fn told(keyring: &Keyring, held: &[&HeldKey]) -> Value {
    let active = keyring.active().key.id();
    let first = held.iter().find(|held| held.key.id() == active).unwrap_or(&held[0]);
    let mut told = admin::key(first, active);
    if held.len() > 1 {
        told["ids"] = held.iter().map(|held| held.key.id().as_str()).collect();
    }
    told
}
