//! The snapshot: the keys that are held, by ID and by KV version, and which of them is active.
//!
//! How versions of a Vault secret become a snapshot is in `history`. Readers get it from `published`.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{
    key::{HeldKey, KeyId},
    name::{Names, SecretLocation},
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
    /// Computed on first use.
    names: OnceLock<Names>,
}

impl Keyring {
    /// `None` when `active` is not among the keys.
    pub fn new(keys: impl IntoIterator<Item = HeldKey>, active: &KeyId) -> Option<Self> {
        let by_id: HashMap<_, _> =
            keys.into_iter().map(|held| (held.key.id().clone(), Arc::new(held))).collect();
        let active = Arc::clone(by_id.get(active)?);
        let (by_version, location, names) = Default::default();
        let mut keyring = Self { active, by_id, by_version, location, names };
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
