//! The keyring: an immutable snapshot of the keys that are held, and which of them is active.
//!
//! Vault's records become keys in [`key`], their rules are kept in [`record`] and [`history`], [`name`] says what keys
//! are called in public, [`published`] is where a finished snapshot meets its readers, and [`registry`] names the
//! keyrings that the daemon serves. No input or output happens here: bytes and the time come in as values.

pub mod history;
pub mod key;
pub mod name;
pub mod published;
pub mod record;
pub mod registry;
mod xaes;

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use history::VersionId;
pub use history::{History, Listing};
pub use key::{Key, KeyDerivation, KeyId};
pub use name::{Names, Place};
pub use published::Published;
pub use registry::{Format, Formats, KeyringEntry, Keyrings};

/// A snapshot of the keys. It never changes: a new state is a new snapshot, swapped in whole, so one request sees one
/// keyring from its start to its end. It always has an active key.
#[derive(Debug)]
pub struct Keyring {
    active: Arc<HeldKey>,
    by_id: HashMap<KeyId, Arc<HeldKey>>,
    /// A version may carry several keys, as one map. The active one stands first, then the newest.
    by_version: HashMap<u64, Vec<Arc<HeldKey>>>,
    place: Place,
    /// Made when they are first asked for.
    names: OnceLock<Names>,
}

/// A key together with what Vault says of it.
#[derive(Debug)]
pub struct HeldKey {
    pub key: Arc<Key>,
    /// The newest KV version that carries this key; 1 on KV v1, which has no versions.
    pub version: u64,
    /// Older KV versions that carry it too.
    pub earlier_versions: Vec<VersionId>,
    /// When that version was written.
    pub created: SystemTime,
    /// Whether the newest of them carries it in a map, among others or alone.
    pub mapped: bool,
    /// Vault no longer lists any version that carries this key: it is held for as long as the process lives.
    pub retired: bool,
}

impl HeldKey {
    /// A key that one live version carries.
    pub fn new(key: Arc<Key>, version: u64, created: SystemTime) -> Self {
        Self { key, version, earlier_versions: Vec::new(), created, mapped: false, retired: false }
    }

    const fn newest(&self) -> VersionId {
        VersionId { number: self.version, created: self.created }
    }
}

impl Keyring {
    /// A keyring of the given keys. `None` when `active` is not among them.
    pub fn new(keys: impl IntoIterator<Item = HeldKey>, active: &KeyId) -> Option<Self> {
        let by_id: HashMap<_, _> =
            keys.into_iter().map(|held| (held.key.id().clone(), Arc::new(held))).collect();
        let active = Arc::clone(by_id.get(active)?);
        let (by_version, place, names) = Default::default();
        let mut keyring = Self { active, by_id, by_version, place, names };
        let mut keys: Vec<_> = keyring.by_id.values().map(Arc::clone).collect();
        keys.sort_by_key(|held| (held.key.id() != keyring.active.key.id(), Reverse(held.version)));
        for held in keys {
            for version in held.earlier_versions.iter().map(|id| id.number).chain([held.version]) {
                keyring.by_version.entry(version).or_default().push(Arc::clone(&held));
            }
        }
        Some(keyring)
    }

    /// The same, read from this place, which its keys' public names tell.
    #[must_use]
    pub fn read_from(self, place: Place) -> Self {
        Self { place, names: OnceLock::new(), ..self }
    }

    /// The public names of its keys.
    pub fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::new(&self.place, &self.active, self.by_id.values()))
    }

    /// The key that seals.
    pub fn active(&self) -> &HeldKey {
        &self.active
    }

    pub fn get(&self, id: &str) -> Option<&HeldKey> {
        self.by_id.get(id).map(Arc::as_ref)
    }

    /// The keys that this KV version carries: one, unless it holds a map.
    pub fn of_version(&self, version: u64) -> &[Arc<HeldKey>] {
        self.by_version.get(&version).map_or(&[], Vec::as_slice)
    }

    /// How many keys are held: one at least.
    pub fn key_count(&self) -> usize {
        self.by_id.len()
    }

    /// Every key, newest version first.
    pub fn newest_first(&self) -> Vec<&HeldKey> {
        let mut keys: Vec<_> = self.by_id.values().map(Arc::as_ref).collect();
        keys.sort_by(|a, b| {
            (b.version, b.created).cmp(&(a.version, a.created)).then_with(|| a.key.id().cmp(b.key.id()))
        });
        keys
    }
}
