//! What a rotation writes: the new record after the current version, and which keys Vault would drop for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use super::super::{command::Failure, keygen::dated_id};
use crate::{
    keyring::{
        KeyId, Listing,
        history::VersionState,
        new_record,
        record::{Contents, RecordForm},
    },
    secret::Secret,
    settings::KvVersion,
    sync::{Reader, Rules},
    vault::{Kv, VaultError},
};

/// With less room than this after a rotation, it warns.
const LOW_HEADROOM: u64 = 2;

pub(super) struct Plan {
    pub(super) id: KeyId,
    /// The new record.
    pub(super) fields: Secret<String>,
    /// The version that it follows; 0 for the first.
    pub(super) expected: u64,
    /// Which keys would be lost, and what to do instead.
    pub(super) losses: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// What Vault holds now.
#[derive(Default)]
struct Found {
    listing: Option<Listing>,
    /// The IDs of each version that could be read; version 0 on KV version 1.
    versions: BTreeMap<u64, BTreeSet<KeyId>>,
    form: RecordForm,
}

pub(super) async fn plan(kv: &Kv<'_>, rules: Rules, id: Option<&KeyId>) -> Result<Plan, Failure> {
    let found = read(kv, rules).await.map_err(Failure::from_error)?;
    let is_used = |id: &KeyId| found.versions.values().any(|ids| ids.contains(id));
    let id = match id {
        Some(id) if is_used(id) => {
            return Err(Failure::Operation(format!(
                "the keyring has a key {} already: choose another --id, since one ID is one key",
                id.as_str()
            )));
        }
        Some(id) => id.clone(),
        None => dated_id(is_used).map_err(Failure::from_error)?,
    };
    let fields = match (found.form, found.versions.keys().next_back()) {
        (RecordForm::Map, Some(version)) => {
            let current = kv.read((*version > 0).then_some(*version)).await.map_err(Failure::from_error)?;
            new_record::added_to_map(&current, &id)
        }
        _ => new_record::single(&id),
    };
    Ok(Plan {
        fields: fields.map_err(Failure::from_error)?,
        expected: found.listing.as_ref().map_or(0, |listing| listing.current),
        losses: found.losses(kv.engine()),
        warnings: found.warnings(kv.engine()),
        id,
    })
}

async fn read(kv: &Kv<'_>, rules: Rules) -> Result<Found, VaultError> {
    let mut found = Found::default();
    let observe = |version: Option<u64>, contents: &Contents| {
        let ids = contents.keys.iter().map(|key| key.id().clone()).collect();
        found.versions.insert(version.unwrap_or(0), ids);
        found.form = contents.form; // the newest comes last
    };
    match Reader::default().read(kv, rules, SystemTime::now(), observe).await {
        Ok(read) => found.listing = read.listing,
        Err(VaultError::NotFound { .. }) => {} // the first record
        Err(error) => return Err(error),
    }
    Ok(found)
}

fn listed(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl Found {
    /// The keys that only these versions have.
    fn only_in(&self, versions: &BTreeSet<u64>) -> BTreeSet<&str> {
        let is_elsewhere = |id: &KeyId| {
            self.versions.iter().any(|(number, ids)| !versions.contains(number) && ids.contains(id))
        };
        let ids =
            self.versions.iter().filter(|(number, _)| versions.contains(number)).flat_map(|(_, ids)| ids);
        ids.filter(|id| !is_elsewhere(id)).map(KeyId::as_str).collect()
    }

    fn losses(&self, engine: KvVersion) -> Option<String> {
        if self.form == RecordForm::Map {
            return None; // the new version has all keys
        }
        if engine == KvVersion::V1 {
            let ids = listed(self.only_in(&BTreeSet::from([0])));
            return (!ids.is_empty()).then(|| {
                format!(
                    "KV version 1 keeps one record, so the key {ids} would be lost: write {{\"active\", \"keys\"}} with all \
                     keys, or use an engine of version 2"
                )
            });
        }
        let listing = self.listing.as_ref()?;
        let live = listing.versions.iter().filter(|(_, state)| **state == VersionState::Live);
        let numbers = live.map(|(id, _)| id.number);
        // More than one, if max_versions was lowered.
        let destroyed: BTreeSet<_> = numbers.filter(|number| listing.headroom_of(*number) == 0).collect();
        let ids = self.only_in(&destroyed);
        if ids.is_empty() {
            return None;
        }
        let (plural, its) = if destroyed.len() == 1 { ("", "its key") } else { ("s", "the keys") };
        Some(format!(
            "with max_versions = {} Vault would destroy version{plural} {} and {its} {}: raise max_versions (bao kv \
             metadata put), or rewrap what was encrypted under that (`keyringd rewrap --lines --census` counts it)",
            listing.max_versions,
            listed(destroyed),
            listed(ids)
        ))
    }

    fn warnings(&self, engine: KvVersion) -> Vec<String> {
        let mut warnings = Vec::new();
        if engine == KvVersion::V1 {
            warnings.push(
                "KV version 1 has no check-and-set: two rotations at once overwrite each other".to_owned(),
            );
        }
        let headroom =
            self.listing.as_ref().map(Listing::headroom).filter(|_| self.form == RecordForm::Single);
        if let Some(left @ 1..=LOW_HEADROOM) = headroom {
            let left = left - 1;
            warnings.push(format!(
                "after this rotation there is room for {left} more before Vault destroys the oldest key: raise max_versions"
            ));
        }
        warnings
    }
}
