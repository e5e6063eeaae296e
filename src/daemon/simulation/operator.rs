//! What an operator does to the secret: rotations, mistakes, deletions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;

use super::{oracle::Record, random::Random, vault::Vault};
use crate::{
    keyring::{Key, KeyId},
    secret::Secret,
};

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Rotate,
    WriteMalformed,
    WriteOldKeyAgain,
    WriteOtherKeyUnderOldId,
    DeleteVersion,
    UndeleteVersion,
    DestroyVersion,
    DeleteAll,
    RecreateSecret,
    RestoreSnapshot,
    AddToFolder,
    RemoveFromFolder,
}

/// Each as often as it is here.
pub(super) const CHANGES: &[Change] = &[
    Change::Rotate,
    Change::Rotate,
    Change::Rotate,
    Change::Rotate,
    Change::Rotate,
    Change::Rotate,
    Change::Rotate,
    Change::Rotate,
    Change::WriteMalformed,
    Change::WriteOldKeyAgain,
    Change::WriteOtherKeyUnderOldId,
    Change::DeleteVersion,
    Change::DeleteVersion,
    Change::UndeleteVersion,
    Change::UndeleteVersion,
    Change::UndeleteVersion,
    Change::DestroyVersion,
    Change::DeleteAll,
    Change::RecreateSecret,
    Change::RestoreSnapshot,
    Change::AddToFolder,
    Change::AddToFolder,
    Change::RemoveFromFolder,
];

fn record(random: &mut Random, id: &str) -> Arc<Record> {
    let mut k = [0; 32];
    k.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_be_bytes()));
    let key = Key::new(KeyId::parse(id).unwrap(), Secret::new(k));
    let fields = json!({ "id": id, "key": BASE64_STANDARD.encode(k) });
    Arc::new(Record { fields, key: Some(Arc::new(key)) })
}

/// A new version with a key of this ID, and how long it lives.
pub(super) fn write_key(vault: &mut Vault, id: &str, lives: Option<Duration>) {
    let record = record(&mut vault.random, id);
    vault.write(record, lives);
}

/// What an operator does to the secret.
pub(super) fn change(vault: &mut Vault, random: &mut Random, change: Change) {
    let (now, live) = (vault.true_time(), vault.secret.clone());
    let (one_of, count) = (random.next(), live.versions.len() as u64);
    let at = (count > 0).then(|| usize::try_from(one_of % count).unwrap());
    let old = at.and_then(|at| live.versions.values().nth(at)).map(|version| Arc::clone(&version.record));
    let mut versions = vault.secret.versions.values_mut();
    let chosen = at.and_then(|at| versions.nth(at));
    match (change, chosen) {
        (Change::DeleteVersion, Some(version)) => version.deletion = Some(now),
        (Change::UndeleteVersion, Some(version)) => version.deletion = None,
        (Change::DestroyVersion, Some(version)) => version.destroyed = true,
        (Change::DeleteAll, _) => {
            vault.secret.versions.values_mut().for_each(|version| version.deletion = Some(now));
        }
        (Change::WriteMalformed, _) => {
            let fields =
                random.of(&["null", "{}", r#"{"id": "x", "key": "short"}"#, r#"{"id": 1, "key": 2}"#]);
            let fields = serde_json::from_str(fields).unwrap();
            vault.write(Arc::new(Record { fields, key: None }), None);
        }
        (Change::WriteOldKeyAgain, Some(_)) => vault.write(old.unwrap(), None),
        (Change::WriteOtherKeyUnderOldId, Some(_)) => {
            let id = old.unwrap().key.as_ref().map_or("first", |key| key.id().as_str()).to_owned();
            vault.write(record(random, &id), None);
        }
        (Change::RestoreSnapshot, Some(_)) => {
            // As it was two versions ago.
            let current = vault.secret.current;
            vault.secret.versions.retain(|number, _| number + 2 <= current);
            vault.secret.current = current.saturating_sub(2);
        }
        (Change::AddToFolder, _) => {
            let name = format!("tenant-{}", one_of % 5);
            let id = format!("{name}.{}", random.below(10_000_000));
            let record = record(random, &id);
            vault.secret.folder.add(name, now, record);
        }
        (Change::RemoveFromFolder, _) => vault.secret.folder.remove(one_of),
        (Change::RecreateSecret, _) => {
            (vault.secret.versions, vault.secret.current) = (BTreeMap::new(), 0);
            if random.one_in(2) {
                vault.write(record(random, &format!("key-{}", one_of % 10_000_000)), None);
            }
        }
        _ => {
            let lives = random.one_in(8).then(|| random.about(Duration::from_secs(86_400)));
            vault.write(record(random, &format!("key-{}", one_of % 10_000_000)), lives);
        }
    }
}
