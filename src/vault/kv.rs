//! The KV secrets engine, versions 1 and 2: the versions of a secret, and their fields as JSON text.
//!
//! <https://openbao.org/api-docs/secret/kv/kv-v2/>: `GET /v1/{mount}/metadata/{path}` and
//! `GET /v1/{mount}/data/{path}?version=N`; on version 1, `GET /v1/{mount}/{path}`. `keyring::record` parses the fields of
//! the keyring's secret, `keyring::history` combines its versions.
//! The file is longer than most: each response of both versions, with its limits.

mod policy;
mod write;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use reqwest::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{client::Client, error::VaultError, transport::Response};
use crate::{
    keyring::{Listing, history::VersionState, key::VersionId, options},
    secret::Secret,
    settings::{KvSecret, KvVersion, SecretPath},
};
pub use policy::{Use, least_privilege};
pub use write::WriteError;

/// How many versions the engine keeps if neither the secret nor the engine sets `max_versions`.
pub const DEFAULT_MAX_VERSIONS: u64 = 10;

/// The limit on the versions of a secret: each takes a request.
const MAX_VERSIONS: usize = 10_000;

/// One secret, and how to read it.
#[derive(Debug)]
pub struct Kv<'a> {
    client: &'a Client,
    secret: &'a KvSecret,
    purpose: Purpose,
    token: Option<&'a Secret<String>>,
}

/// What the secret is read for, which decides the settings that an error names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Keyring,
    Reference,
}

/// The fields of a secret, or the response for a version that was deleted or destroyed.
enum Fetched {
    Fields(Secret<String>),
    Removed(Response),
}

#[derive(Deserialize)]
struct Metadata {
    current_version: u64,
    #[serde(default)]
    max_versions: u64,
    versions: BTreeMap<u64, VersionMetadata>,
    #[serde(rename = "custom_metadata")]
    custom: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct EngineConfig {
    #[serde(default)]
    max_versions: u64,
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

/// Secrets, and folders with a slash at the end.
#[derive(Deserialize)]
struct Folder {
    keys: Vec<String>,
}

/// The body of a 404 for a version that existed.
#[derive(Deserialize)]
struct RemovedVersion {
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
}

impl<'a> Kv<'a> {
    pub const fn new(client: &'a Client, secret: &'a KvSecret, purpose: Purpose) -> Self {
        Self { client, secret, purpose, token: None }
    }

    /// Reads with this token, if there is one, instead of the session's.
    #[must_use]
    pub const fn with_token(self, token: Option<&'a Secret<String>>) -> Self {
        Self { token, ..self }
    }

    pub const fn engine(&self) -> KvVersion {
        self.secret.kv
    }

    /// Version 2: the versions, and which of them can be read. `max_versions` is the secret's own. One request.
    ///
    /// Vault's clock decides what is deleted, as it wrote the times of deletion: ours, `now`, may be wrong by days.
    pub async fn list(&self, now: SystemTime) -> Result<Listing, VaultError> {
        let response = self.get("metadata", None).await?;
        if response.status == StatusCode::NOT_FOUND {
            return Err(self.not_found(response));
        }
        let Some(metadata) = response.data::<Metadata>() else {
            return Err(malformed(response, "it holds no version metadata; is the engine of version 2?"));
        };
        // A date has whole seconds: what is deleted within this one counts as deleted.
        let now = response.date.and_then(|date| date.checked_add(Duration::from_secs(1))).unwrap_or(now);
        listing(metadata, now).map_err(|what| malformed(response, what))
    }

    /// Version 2: the engine's own `max_versions`; `None` without the right to read it. One request.
    pub async fn engine_max_versions(&self) -> Result<Option<u64>, VaultError> {
        let segments = self.secret.mount.segments().chain(["config"]);
        let Some(response) = self.client.get_if_allowed(self.token, segments).await? else { return Ok(None) };
        Ok(response.data().map(|EngineConfig { max_versions }| max_versions))
    }

    /// The fields of one version, or of the current one. [`VaultError::NotFound`] also for a removed version.
    pub async fn read(&self, version: Option<u64>) -> Result<Secret<String>, VaultError> {
        match self.fetch(version).await? {
            Fetched::Fields(fields) => Ok(fields),
            Fetched::Removed(response) => Err(self.not_found(response)),
        }
    }

    /// Version 2: the fields of one version; `None` when it was deleted or destroyed. One request.
    pub async fn read_version(&self, version: u64) -> Result<Option<Secret<String>>, VaultError> {
        match self.fetch(Some(version)).await? {
            Fetched::Fields(fields) => Ok(Some(fields)),
            Fetched::Removed(_) => Ok(None),
        }
    }

    async fn fetch(&self, version: Option<u64>) -> Result<Fetched, VaultError> {
        let response = self.get("data", version).await?;
        let is_v2 = self.secret.kv == KvVersion::V2;
        if response.status == StatusCode::NOT_FOUND {
            // The response for a removed version has its metadata. Without it, nothing is known of the version.
            return match response.data::<RemovedVersion>() {
                Some(_) if is_v2 => Ok(Fetched::Removed(response)),
                _ => Err(self.not_found(response)),
            };
        }
        let fields: Option<&RawValue> =
            if is_v2 { response.data().map(|VersionData { data }| data) } else { response.data() };
        // A record of the keyring that is `null` is rejected by itself; a reference has no use for it.
        let fields = fields.filter(|fields| self.purpose == Purpose::Keyring || fields.get() != "null");
        match fields.map(|fields| Secret::new(fields.get().to_owned())) {
            Some(fields) => Ok(Fetched::Fields(fields)),
            None if is_v2 => Err(malformed(response, "data.data is missing; is the engine of version 2?")),
            None => Err(malformed(response, "data is missing")),
        }
    }

    /// `endpoint` is version 2's.
    async fn get(&self, endpoint: &str, version: Option<u64>) -> Result<Response, VaultError> {
        let endpoint = (self.secret.kv == KvVersion::V2).then_some(endpoint);
        let segments = self.secret.mount.segments().chain(endpoint).chain(self.secret.path.segments());
        let version = version.map(|version| version.to_string());
        let query = version.as_deref().map(|version| ("version", version));
        self.client.get(segments, query, self.token).await
    }

    /// The names of the secrets directly below this path, which is a folder. One request. Vault answers alike for a folder
    /// that is empty and for one that does not exist.
    pub async fn list_folder(&self) -> Result<Vec<String>, VaultError> {
        let endpoint = (self.secret.kv == KvVersion::V2).then_some("metadata");
        let segments = self.secret.mount.segments().chain(endpoint).chain(self.secret.path.segments());
        let response = self.client.get(segments, Some(("list", "true")), self.token).await?;
        if response.status == StatusCode::NOT_FOUND {
            return match self.not_found(response) {
                error @ VaultError::NoMount { .. } => Err(error),
                _ => Ok(Vec::new()),
            };
        }
        let Some(Folder { mut keys }) = response.data() else {
            return Err(malformed(response, "it holds no list of keys"));
        };
        keys.retain(|name| !name.ends_with('/'));
        Ok(keys)
    }

    fn not_found(&self, response: Response) -> VaultError {
        let path = response.path;
        if response.message.contains("no handler for route") {
            let mount = self.secret.mount.to_string();
            let setting = match self.purpose {
                Purpose::Keyring => "keyring_vault_mount",
                Purpose::Reference => "vault_hcv_mount, or the object's mount",
            };
            return VaultError::NoMount { path, mount, setting };
        }
        let hint = match (self.purpose, self.secret.kv) {
            (Purpose::Keyring, KvVersion::V2) if self.has_data_segment() => {
                "KV v2 adds data/ itself: remove it from keyring_vault_mount or keyring_vault_path"
            }
            (Purpose::Reference, KvVersion::V2) if self.has_data_segment() => {
                "KV v2 adds data/ itself: remove it from the reference, or from vault_hcv_mount or the object's prefix"
            }
            (Purpose::Keyring, KvVersion::V2) => {
                "write the first record there; or correct keyring_vault_mount and keyring_vault_path, or \
                 keyring_vault_kv if the engine is version 1"
            }
            (Purpose::Keyring, KvVersion::V1) => {
                "write the record there; or correct keyring_vault_mount and keyring_vault_path, or set \
                 keyring_vault_kv = v2 if the engine is version 2"
            }
            (Purpose::Reference, _) => {
                "write the secret there, or correct the reference; if it exists, correct the mount or the version of \
                 the engine (vault_hcv_mount, vault_hcv_kv, or the object's mount and kv)"
            }
        };
        VaultError::NotFound { path, hint }
    }

    /// Whether the settings repeat the `data` that the API's paths have, as `secret/data` or `data/keyring`.
    fn has_data_segment(&self) -> bool {
        self.secret.path.segments().next() == Some("data")
            || self.secret.mount.segments().skip(1).last() == Some("data")
    }
}

fn listing(metadata: Metadata, now: SystemTime) -> Result<Listing, &'static str> {
    if metadata.versions.len() > MAX_VERSIONS {
        return Err("it has more than 10000 versions: lower max_versions");
    }
    let time = |text: &str| humantime::parse_rfc3339(text).map_err(|_| "a time in it is invalid");
    let (mut versions, mut deletions) = (BTreeMap::new(), BTreeMap::new());
    for (number, version) in metadata.versions {
        let created = time(&version.created_time)?;
        let deletion = match version.deletion_time.as_str() {
            "" => None,
            text => Some(time(text)?),
        };
        let is_removed = version.destroyed || deletion.is_some_and(|at| at <= now);
        let state = if is_removed { VersionState::Removed } else { VersionState::Live };
        if let Some(at) = deletion.filter(|_| !is_removed) {
            deletions.insert(number, at);
        }
        versions.insert(VersionId { number, created }, state);
    }
    let Metadata { current_version: current, max_versions, custom, .. } = metadata;
    let mut options = custom.unwrap_or_default();
    options.retain(|name, _| name.starts_with(options::PREFIX));
    Ok(Listing { versions, deletions, current, max_versions, options })
}

/// What a fuzz target calls with metadata of any content.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_metadata(json: &[u8]) {
    let Ok(metadata) = serde_json::from_slice::<Metadata>(json) else { return };
    if let Ok(listing) = listing(metadata, SystemTime::UNIX_EPOCH) {
        assert!(listing.versions.len() <= MAX_VERSIONS);
    }
}

fn malformed(response: Response, what: &'static str) -> VaultError {
    VaultError::Malformed { path: response.path, what }
}

/// The paths of the secret that the daemon reads.
pub fn read_paths(secret: &KvSecret) -> Vec<String> {
    let join = |endpoint: Option<&str>| {
        let segments = secret.mount.segments().chain(endpoint).chain(secret.path.segments());
        SecretPath(segments.map(str::to_owned).collect()).to_string()
    };
    match secret.kv {
        KvVersion::V1 => vec![join(None)],
        KvVersion::V2 => vec![join(Some("metadata")), join(Some("data"))],
    }
}

/// The path of the engine's own limits. It is optional: without it, the versions that Vault keeps are a guess.
pub fn engine_config_path(secret: &KvSecret) -> Option<String> {
    let segments = secret.mount.segments().chain(["config"]).map(str::to_owned);
    (secret.kv == KvVersion::V2).then(|| SecretPath(segments.collect()).to_string())
}

#[cfg(test)]
mod tests {
    use VersionState::{Live, Removed};

    use super::*;

    #[test]
    fn destroyed_and_deleted_versions_are_removed_and_one_that_will_be_deleted_is_live() {
        let json = r#"{"current_version": 4, "max_versions": 0,
            "custom_metadata": {"owner": "x", "keyringd_format": "transit"}, "versions": {
            "1": {"created_time": "2026-01-01T00:00:00.5Z", "deletion_time": "", "destroyed": false},
            "2": {"created_time": "2026-01-02T00:00:00Z", "deletion_time": "", "destroyed": true},
            "3": {"created_time": "2026-01-03T00:00:00.123456789Z", "deletion_time": "2026-01-04T00:00:00Z", "destroyed": false},
            "4": {"created_time": "2026-01-03T00:00:00.12345678Z", "deletion_time": "2026-01-06T00:00:00Z", "destroyed": false}}}"#;
        let now = humantime::parse_rfc3339("2026-01-05T00:00:00Z").unwrap();
        let listing = listing(serde_json::from_str(json).unwrap(), now).unwrap();
        let mut states: Vec<_> = listing.versions.iter().map(|(id, state)| (id.number, *state)).collect();
        states.sort_by_key(|(number, _)| *number);
        assert_eq!(states, [(1, Live), (2, Removed), (3, Removed), (4, Live)]);
        assert_eq!((listing.current, listing.max_versions), (4, 0));
        assert_eq!(listing.options.len(), 1, "those of others are left out");
        assert_eq!(listing.options["keyringd_format"], "transit");
        assert_eq!(listing.next_deletion().map(|(version, _)| version), Some(4));
        let oldest_first: Vec<_> = listing.versions.keys().map(|id| id.number).collect();
        assert_eq!(oldest_first, [1, 2, 3, 4], "whatever the clock of a node");
        let first = listing.versions.keys().next().unwrap().created;
        assert_eq!(
            first,
            humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap() + Duration::from_millis(500)
        );
    }

    #[test]
    fn a_listing_with_an_invalid_time_is_refused() {
        let json = r#"{"current_version": 1, "versions": {"1": {"created_time": "yesterday", "deletion_time": "", "destroyed": false}}}"#;
        let refused = listing(serde_json::from_str(json).unwrap(), SystemTime::now());
        assert_eq!(refused, Err("a time in it is invalid"));
    }

    #[test]
    fn a_listing_of_too_many_versions_is_refused() {
        let of = |count| {
            let version = |_| VersionMetadata {
                created_time: "2026-01-01T00:00:00Z".to_owned(),
                deletion_time: String::new(),
                destroyed: false,
            };
            let versions = (1..=count).map(|number| (number, version(number))).collect();
            let metadata = Metadata { current_version: count, max_versions: 0, versions, custom: None };
            listing(metadata, SystemTime::now())
        };
        assert_eq!(of(10_000).unwrap().versions.len(), MAX_VERSIONS);
        assert!(of(10_001).unwrap_err().contains("10000 versions"));
    }
}
