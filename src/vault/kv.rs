//! The KV secrets engine, versions 1 and 2: one secret's versions and their contents.
//!
//! <https://openbao.org/api-docs/secret/kv/kv-v2/>: `GET /v1/{mount}/metadata/{path}` and
//! `GET /v1/{mount}/data/{path}?version=N`; on version 1, `GET /v1/{mount}/{path}`. What the contents mean is in
//! `keyring::record`, what the versions add up to in `keyring::history`.

use std::{collections::BTreeMap, time::SystemTime};

use reqwest::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{Access, VaultError, transport::Answer};
use crate::{
    keyring::{
        KeyDerivation, Listing,
        history::{VersionId, VersionState},
        record::Contents,
    },
    settings::{self, SecretPath},
};

/// `max_versions` 0 stands for the engine's own default.
const DEFAULT_MAX_VERSIONS: u64 = 10;

/// One secret.
#[derive(Debug)]
pub struct Kv {
    mount: SecretPath,
    path: SecretPath,
    derivation: KeyDerivation,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
}

#[derive(Deserialize)]
struct Metadata {
    current_version: u64,
    #[serde(default)]
    max_versions: u64,
    versions: BTreeMap<u64, VersionMetadata>,
}

#[derive(Deserialize)]
struct VersionMetadata {
    created_time: String,
    deletion_time: String,
    destroyed: bool,
}

#[derive(Deserialize)]
struct VersionData<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// What a 404 says of a version that was there.
#[derive(Deserialize)]
struct RemovedVersion {
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
}

impl Kv {
    pub fn new(settings: &settings::Vault, derivation: KeyDerivation) -> Self {
        Self { mount: settings.mount.clone(), path: settings.path.clone(), derivation }
    }

    pub const fn derivation(&self) -> KeyDerivation {
        self.derivation
    }

    /// Version 2: which versions there are, and which of them can be read at `now`. One request.
    ///
    /// # Errors
    /// [`VaultError`]; a secret that is not there is one too.
    pub async fn list(&self, access: &Access<'_>, now: SystemTime) -> Result<Listing, VaultError> {
        let answer = access.get(self.segments(Some("metadata")), None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            let hint = "write the first record there; or correct keyring_vault_mount and keyring_vault_path, or \
                        keyring_vault_kv if the engine is version 1";
            return Err(not_found(answer, hint));
        }
        let metadata =
            serde_json::from_slice(&answer.body).ok().and_then(|envelope: Envelope<Metadata>| envelope.data);
        let Some(metadata) = metadata else {
            return Err(malformed(answer, "it holds no version metadata; is the engine of version 2?"));
        };
        listing(metadata, now).ok_or_else(|| malformed(answer, "a time in it cannot be read"))
    }

    /// Version 2: the contents of one version; `None` when it turns out to be deleted or destroyed. One request.
    ///
    /// # Errors
    /// [`VaultError`]; also when there is no such version.
    pub async fn read(&self, access: &Access<'_>, version: u64) -> Result<Option<Contents>, VaultError> {
        let answer = access.get(self.segments(Some("data")), Some(version)).await?;
        if answer.status == StatusCode::NOT_FOUND {
            // The metadata of a removed version comes along; without it nothing is known.
            return match answer.json::<Envelope<RemovedVersion>>() {
                Some(Envelope { data: Some(_) }) => Ok(None),
                _ => Err(not_found(answer, &format!("version {version} was listed and is not there"))),
            };
        }
        match serde_json::from_slice::<Envelope<VersionData<'_>>>(&answer.body) {
            Ok(Envelope { data: Some(version) }) => {
                Ok(Some(Contents::parse(version.data.get().as_bytes(), self.derivation)))
            }
            _ => Err(malformed(answer, "data.data is missing; is the engine of version 2?")),
        }
    }

    /// Version 1: the contents there are. One request.
    ///
    /// # Errors
    /// [`VaultError`]; a secret that is not there is one too.
    pub async fn read_v1(&self, access: &Access<'_>) -> Result<Contents, VaultError> {
        let answer = access.get(self.segments(None), None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            let hint = "write the record there; or correct keyring_vault_mount and keyring_vault_path, or set \
                        keyring_vault_kv = v2 if the engine is version 2";
            return Err(not_found(answer, hint));
        }
        match serde_json::from_slice::<Envelope<&RawValue>>(&answer.body) {
            Ok(Envelope { data: Some(data) }) => Ok(Contents::parse(data.get().as_bytes(), self.derivation)),
            _ => Err(malformed(answer, "data is missing")),
        }
    }

    fn segments<'a>(&'a self, of: Option<&'a str>) -> impl Iterator<Item = &'a str> {
        self.mount.segments().chain(of).chain(self.path.segments())
    }
}

fn listing(metadata: Metadata, now: SystemTime) -> Option<Listing> {
    let mut versions = BTreeMap::new();
    for (number, version) in metadata.versions {
        let created = humantime::parse_rfc3339(&version.created_time).ok()?;
        let deleted = match version.deletion_time.as_str() {
            "" => false,
            time => humantime::parse_rfc3339(time).ok()? <= now,
        };
        let state = if version.destroyed || deleted { VersionState::Removed } else { VersionState::Live };
        versions.insert(VersionId { number, created }, state);
    }
    let max_versions = match metadata.max_versions {
        0 => DEFAULT_MAX_VERSIONS,
        max => max,
    };
    Some(Listing { versions, current: metadata.current_version, max_versions })
}

fn not_found(answer: Answer, hint: &str) -> VaultError {
    VaultError::NotFound { path: answer.path, hint: hint.to_owned() }
}

fn malformed(answer: Answer, what: &'static str) -> VaultError {
    VaultError::Malformed { path: answer.path, what }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use VersionState::{Live, Removed};

    use super::*;

    #[test]
    fn destroyed_and_deleted_versions_are_removed_and_one_that_will_be_deleted_is_live() {
        let json = r#"{"current_version": 4, "max_versions": 0, "versions": {
            "1": {"created_time": "2026-01-01T00:00:00.5Z", "deletion_time": "", "destroyed": false},
            "2": {"created_time": "2026-01-02T00:00:00Z", "deletion_time": "", "destroyed": true},
            "3": {"created_time": "2026-01-03T00:00:00.123456789Z", "deletion_time": "2026-01-04T00:00:00Z", "destroyed": false},
            "4": {"created_time": "2026-01-03T00:00:00.12345678Z", "deletion_time": "2026-01-06T00:00:00Z", "destroyed": false}}}"#;
        let now = humantime::parse_rfc3339("2026-01-05T00:00:00Z").unwrap();
        let listing = listing(serde_json::from_str(json).unwrap(), now).unwrap();
        let mut states: Vec<_> = listing.versions.iter().map(|(id, state)| (id.number, *state)).collect();
        states.sort_by_key(|(number, _)| *number);
        assert_eq!(states, [(1, Live), (2, Removed), (3, Removed), (4, Live)]);
        assert_eq!((listing.current, listing.max_versions), (4, 10));
        let oldest_first: Vec<_> = listing.versions.keys().map(|id| id.number).collect();
        assert_eq!(oldest_first, [1, 2, 3, 4], "whatever the clock of a node said");
        let first = listing.versions.keys().next().unwrap().created;
        assert_eq!(
            first,
            humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap() + Duration::from_millis(500)
        );
    }

    #[test]
    fn a_time_that_cannot_be_read_is_no_listing() {
        let json = r#"{"current_version": 1, "versions": {"1": {"created_time": "yesterday", "deletion_time": "", "destroyed": false}}}"#;
        assert_eq!(listing(serde_json::from_str(json).unwrap(), SystemTime::now()), None);
    }
}
