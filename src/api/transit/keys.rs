//! The keys in Transit's shape: the names, and per version the key's ID, creation time and state, never key material.
//!
//! <https://openbao.org/api-docs/secret/transit/#read-key>

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::{
    api::{
        context::Call,
        error::ApiError,
        response::{self, Response},
        status::describe_key,
    },
    cipher::Format,
    keyring::{HeldKey, Keyring, KeyringEntry},
};

/// `GET /v1/transit/keys/{name}`
pub(in crate::api) async fn read(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let keyring = call.context.snapshot(call.keyring).await?;
    Ok(describe(&keyring, call.keyring))
}

/// `LIST /v1/transit/keys`
pub(in crate::api) async fn list(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let names: Vec<_> = call.config.keyrings.all().map(|entry| &entry.name).collect();
    Ok(response::json(StatusCode::OK, &json!({ "data": { "keys": names } })))
}

fn describe(keyring: &Keyring, entry: &KeyringEntry) -> Response {
    let mut versions: BTreeMap<u64, Vec<&HeldKey>> = BTreeMap::new();
    for held in keyring.newest_first() {
        versions.entry(held.version).or_default().push(held);
    }
    let oldest = versions.keys().next().copied();
    let versions: serde_json::Map<_, _> = versions
        .into_iter()
        .map(|(version, held)| (version.to_string(), describe_version(keyring, &held)))
        .collect();
    response::json(
        StatusCode::OK,
        &json!({ "data": {
            "name": entry.name,
            "type": match entry.formats.write {
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

/// A version with several keys is described by the active one, or any, with the IDs of all.
fn describe_version(keyring: &Keyring, held: &[&HeldKey]) -> Value {
    let active = keyring.active().key.id();
    let first = held.iter().find(|held| held.key.id() == active).unwrap_or(&held[0]);
    let mut description = describe_key(first, active);
    if held.len() > 1 {
        description["ids"] = held.iter().map(|held| held.key.id().as_str()).collect();
    }
    description
}
