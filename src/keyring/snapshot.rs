//! The snapshot: the keys that are held, by ID and by KV version, which of them is active, and their public names.
//!
//! A name is the `key_id` of Kubernetes' KMS API and contains no secret: `kr1.` and base64url(SHA-256(mount ‖ path ‖ record
//! id ‖ KV version ‖ creation time)). Each part is preceded by its length as 8 bytes, big-endian. The version is decimal,
//! the time decimal nanoseconds since 1970. A key that returns in a new version gets a new name.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sha2::{Digest as _, Sha256};

use super::{
    key::{HeldKey, KeyDerivation, KeyId, VersionId},
    options::Options,
};

/// An immutable snapshot with exactly one active key. A change publishes a new snapshot, so one request sees one keyring
/// from its start to its end.
#[derive(Debug)]
pub struct Keyring {
    active: Arc<HeldKey>,
    by_id: HashMap<KeyId, Arc<HeldKey>>,
    /// A version in the map form carries several keys: the active key first, then the newest.
    by_version: HashMap<u64, Vec<Arc<HeldKey>>>,
    location: SecretLocation,
    options: Options,
    source: KeyringSource,
    /// Computed on first use.
    names: OnceLock<Names>,
}

/// Where the keys of a snapshot come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyringSource {
    #[default]
    Vault,
    /// The sealed copy, with the time of the sync that it is from.
    Copy { synced: SystemTime },
}

impl Keyring {
    /// `None` when `active` is not among the keys.
    pub fn new(keys: impl IntoIterator<Item = HeldKey>, active: &KeyId) -> Option<Self> {
        let by_id: HashMap<_, _> =
            keys.into_iter().map(|held| (held.key.id().clone(), Arc::new(held))).collect();
        let active = Arc::clone(by_id.get(active)?);
        let (by_version, location, options, source, names) = Default::default();
        let mut keyring = Self { active, by_id, by_version, location, options, source, names };
        let mut keys: Vec<_> = keyring.by_id.values().map(Arc::clone).collect();
        keys.sort_by_key(|held| (held.key.id() != keyring.active.key.id(), Reverse(held.version)));
        for held in keys {
            for version in held.earlier_versions.iter().map(|id| id.number).chain([held.version]) {
                keyring.by_version.entry(version).or_default().push(Arc::clone(&held));
            }
        }
        Some(keyring)
    }

    /// Sets the location of the Vault secret, which is part of the public names.
    #[must_use]
    pub fn with_location(self, location: SecretLocation) -> Self {
        Self { location, names: OnceLock::new(), ..self }
    }

    /// Sets the options that the secret carries.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    pub const fn options(&self) -> &Options {
        &self.options
    }

    #[must_use]
    pub fn with_source(self, source: KeyringSource) -> Self {
        Self { source, ..self }
    }

    pub const fn location(&self) -> &SecretLocation {
        &self.location
    }

    pub const fn source(&self) -> KeyringSource {
        self.source
    }

    pub fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::new(&self.location, &self.active, self.by_id.values()))
    }

    pub fn active(&self) -> &HeldKey {
        &self.active
    }

    pub fn get(&self, id: &str) -> Option<&HeldKey> {
        self.by_id.get(id).map(Arc::as_ref)
    }

    /// The keys that this KV version carries: several only in the map form.
    pub fn keys_of_version(&self, version: u64) -> &[Arc<HeldKey>] {
        self.by_version.get(&version).map_or(&[], Vec::as_slice)
    }

    pub fn key_count(&self) -> usize {
        self.by_id.len()
    }

    /// All keys, newest version first.
    pub fn newest_first(&self) -> Vec<&HeldKey> {
        let mut keys: Vec<_> = self.by_id.values().map(Arc::as_ref).collect();
        keys.sort_by(|a, b| {
            (b.version, b.created).cmp(&(a.version, a.created)).then_with(|| a.key.id().cmp(b.key.id()))
        });
        keys
    }
}

/// The prefix of the names.
const PREFIX: &str = "kr1.";

/// Where a keyring's Vault secret is, and how its keys are derived. Mount and path are part of the names; all of it binds a
/// sealed copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretLocation {
    /// The URL of the server, without a slash at its end.
    pub host: String,
    /// Empty for none.
    pub namespace: String,
    pub mount: String,
    pub path: String,
    /// KV v1 has neither versions nor times. Both parts of the name are empty then.
    pub versioned: bool,
    pub derivation: KeyDerivation,
}

/// The keys of a keyring by name. A key has one name for each version that carries it.
#[derive(Debug)]
pub struct Names {
    active: String,
    by_name: HashMap<String, NamedVersion>,
}

/// One version of a key, which has a name of its own.
#[derive(Clone, Debug)]
pub struct NamedVersion {
    pub held: Arc<HeldKey>,
    pub version: VersionId,
}

impl Names {
    fn new<'k>(
        location: &SecretLocation,
        active: &HeldKey,
        keys: impl IntoIterator<Item = &'k Arc<HeldKey>>,
    ) -> Self {
        let mut by_name = HashMap::new();
        for held in keys {
            for version in held.earlier_versions.iter().copied().chain([held.newest()]) {
                let named = NamedVersion { held: Arc::clone(held), version };
                by_name.insert(location.name(held, version), named);
            }
        }
        Self { active: location.name(active, active.newest()), by_name }
    }

    /// The name of the active key in the newest version that carries it.
    pub fn active(&self) -> &str {
        &self.active
    }

    pub fn get(&self, name: &str) -> Option<&HeldKey> {
        self.version(name).map(|named| &*named.held)
    }

    pub fn version(&self, name: &str) -> Option<&NamedVersion> {
        self.by_name.get(name)
    }

    /// Every name, newest version first.
    pub fn all(&self) -> Vec<(&str, &NamedVersion)> {
        let mut all: Vec<_> = self.by_name.iter().map(|(name, version)| (name.as_str(), version)).collect();
        all.sort_by(|(a_name, a), (b_name, b)| b.version.cmp(&a.version).then_with(|| a_name.cmp(b_name)));
        all
    }
}

/// The form of a name in the metrics of Kubernetes' API server: `sha256:` and its digest in hexadecimal.
pub fn name_hash(name: &str) -> String {
    let digest = hex_simd::encode_to_string(Sha256::digest(name.as_bytes()), hex_simd::AsciiCase::Lower);
    if name.is_empty() { String::new() } else { format!("sha256:{digest}") }
}

impl SecretLocation {
    /// Whether both are one secret, read by one rule, on whatever server.
    pub fn is_same_secret(&self, other: &Self) -> bool {
        let secret = |one: &Self| Self { host: String::new(), ..one.clone() };
        secret(self) == secret(other)
    }

    fn name(&self, held: &HeldKey, version: VersionId) -> String {
        let (number, created) = if self.versioned {
            (version.number.to_string(), nanoseconds(version.created).to_string())
        } else {
            Default::default()
        };
        let mut hash = Sha256::new();
        for part in [&self.mount, &self.path, held.key.id().as_str(), &number, &created] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        PREFIX.to_owned() + &BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
    }
}

fn nanoseconds(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{keyring::Key, secret::Secret};

    fn version(number: u64) -> VersionId {
        VersionId { number, created: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_000 + number) }
    }

    /// A key in the given versions, newest last.
    fn held(id: &str, versions: &[u64]) -> HeldKey {
        let key = Arc::new(Key::new(KeyId::parse(id).unwrap(), Secret::new([7; 32])));
        let (newest, earlier) = versions.split_last().unwrap();
        let newest = version(*newest);
        let earlier_versions = earlier.iter().map(|number| version(*number)).collect();
        HeldKey { earlier_versions, ..HeldKey::new(key, newest.number, newest.created) }
    }

    fn keyring(location: &SecretLocation, keys: impl IntoIterator<Item = HeldKey>, active: &str) -> Keyring {
        Keyring::new(keys, &KeyId::parse(active).unwrap()).unwrap().with_location(location.clone())
    }

    fn location() -> SecretLocation {
        let (mount, path) = ("secret".to_owned(), "keyring".to_owned());
        SecretLocation { mount, path, versioned: true, ..SecretLocation::default() }
    }

    #[test]
    fn a_name_is_the_documented_hash() {
        // Python: sha256(b"".join(len(part).to_bytes(8, "big") + part for part in [b"secret", b"keyring", b"a", b"2", …]))
        let keyring = keyring(&location(), [held("a", &[2])], "a");
        assert_eq!(keyring.names().active(), "kr1.CK7dtU3G7Ch-FsZcVrjzsyj6Qx2ywSNgcfpfcPi4vKc");
    }

    #[test]
    fn every_part_changes_the_name_and_lengths_separate_the_parts() {
        let name = |location: &SecretLocation, id: &str, version: u64| {
            keyring(location, [held(id, &[version])], id).names().active().to_owned()
        };
        let elsewhere = |mount: &str, path: &str| SecretLocation {
            mount: mount.to_owned(),
            path: path.to_owned(),
            ..location()
        };
        let mut all = vec![
            name(&location(), "a", 1),
            name(&location(), "a", 2),
            name(&location(), "b", 1),
            name(&elsewhere("secret", "other"), "a", 1),
            name(&elsewhere("secretk", "eyring"), "a", 1),
            name(&elsewhere("other", "keyring"), "a", 1),
        ];
        assert!(all.iter().all(|name| name.len() == 47 && name.starts_with(PREFIX)), "{all:?}");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
        assert_eq!(name(&location(), "a", 1), name(&location(), "a", 1));
    }

    #[test]
    fn a_key_has_one_name_per_version_that_carries_it() {
        let before = keyring(&location(), [held("a", &[1])], "a");
        let rotated = keyring(&location(), [held("a", &[1]), held("b", &[2])], "b");
        let back = keyring(&location(), [held("a", &[1, 3]), held("b", &[2])], "a");
        let (first, second, third) =
            (before.names().active(), rotated.names().active(), back.names().active());
        assert_ne!(first, third, "a key that returns gets a new name");
        for (name, id) in [(first, "a"), (second, "b"), (third, "a")] {
            assert_eq!(back.names().get(name).unwrap().key.id().as_str(), id);
        }
        assert!(rotated.names().get(third).is_none() && back.names().get("").is_none());
    }

    #[test]
    fn without_versions_the_name_does_not_contain_a_time() {
        let location = SecretLocation { versioned: false, ..location() };
        let name = |created| {
            let key = Arc::clone(&held("a", &[1]).key);
            keyring(&location, [HeldKey::new(key, 1, created)], "a").names().active().to_owned()
        };
        assert_eq!(name(UNIX_EPOCH), name(SystemTime::now()));
    }

    #[test]
    fn a_hash_has_the_form_of_the_api_servers_metrics() {
        assert_eq!(name_hash("1"), "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b");
        assert_eq!(name_hash(""), "");
    }
}
