//! What the keyring must be after what the daemon was given, by the documented rules, in another form than `keyring::history`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use serde_json::Value;

use crate::keyring::{Key, Keyring, KeyringSource, key::VersionId};

/// One record, as an operator wrote it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) fields: Value,
    /// `None` for a malformed one.
    pub(super) key: Option<Arc<Key>>,
}

/// The keys that must be held, by ID: the key, and whether Vault no longer lists it.
type Keys = BTreeMap<String, (Arc<Key>, bool)>;

#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// What this life of the daemon read and uses.
    history: BTreeMap<VersionId, Arc<Record>>,
    /// Read since, by a sync that did not end.
    pending: BTreeMap<VersionId, Arc<Record>>,
    /// The last listing that is not applied yet: which versions are live.
    listing: Option<BTreeMap<VersionId, bool>>,
    /// Of KV v1: the records that are used, the live one last, and what was read since.
    records: Vec<Arc<Record>>,
    fields: Option<Arc<Record>>,
    expected: Option<(Keys, String)>,
    /// The fingerprints of all keys that any life of the daemon has read.
    ever: HashSet<(String, String)>,
}

impl Oracle {
    /// The daemon starts again, and knows nothing.
    pub(super) fn restart(&mut self) {
        let ever = std::mem::take(&mut self.ever);
        *self = Self { ever, ..Self::default() };
    }

    pub(super) fn listed(&mut self, versions: BTreeMap<VersionId, bool>) {
        self.pending.retain(|id, _| versions.get(id) == Some(&true));
        self.listing = Some(versions);
    }

    pub(super) fn read(&mut self, id: VersionId, record: &Arc<Record>) {
        self.pending.insert(id, Arc::clone(record));
        self.note(record);
    }

    pub(super) fn read_fields(&mut self, record: &Arc<Record>) {
        self.fields = Some(Arc::clone(record));
        self.note(record);
    }

    fn note(&mut self, record: &Record) {
        if let Some(key) = &record.key {
            self.ever.insert((key.id().as_str().to_owned(), key.fingerprint()));
        }
    }

    /// The records of KV v1 once this one is read; `None` if it makes no keyring.
    pub(super) fn records_with(&self, record: &Arc<Record>) -> Option<Vec<Arc<Record>>> {
        let key = record.key.as_ref()?;
        let mut records = self.records.clone();
        records.retain(|held| held.key.as_ref().is_none_or(|held| !held.same_key(key)));
        let is_other = |held: &Arc<Record>| held.key.as_ref().is_some_and(|held| held.id() == key.id());
        (!records.iter().any(is_other)).then(|| records.into_iter().chain([Arc::clone(record)]).collect())
    }

    pub(super) fn removed(&mut self, id: VersionId) {
        if let Some(live) = self.listing.as_mut().and_then(|listing| listing.get_mut(&id)) {
            *live = false;
        }
    }

    /// A sync has ended: if it read everything that is live, it must have applied it.
    pub(super) fn sync_ended(&mut self) {
        if let Some(records) = self.fields.take().and_then(|record| self.records_with(&record)) {
            let keys: Vec<_> = records.iter().filter_map(|record| record.key.clone()).collect();
            let active = keys.last().unwrap().id().as_str().to_owned();
            let keys = keys.into_iter().map(|key| (key.id().as_str().to_owned(), key));
            let keys = keys.map(|(id, key)| (id.clone(), (key, id != active))).collect();
            (self.records, self.expected) = (records, Some((keys, active)));
        }
        let is_held = |id: &VersionId| self.history.contains_key(id) || self.pending.contains_key(id);
        let is_complete = |listing: &BTreeMap<_, _>| listing.iter().all(|(id, live)| !live || is_held(id));
        let Some(listing) = self.listing.take_if(|listing| is_complete(listing)) else { return };
        self.history.append(&mut self.pending);
        let mut next = self.history.clone();
        next.retain(|id, _| listing.get(id) != Some(&false));
        if let Some(keyring) = keyring(&next, &listing.into_keys().collect()) {
            (self.history, self.expected) = (next, Some(keyring));
        }
    }

    /// Checks what is published after the end of a sync.
    pub(super) fn check(&self, published: Option<&Keyring>) {
        let Some(published) = published else {
            assert!(self.expected.is_none(), "no keys are published, although Vault gave some");
            return;
        };
        for held in published.newest_first() {
            let key = (held.key.id().as_str().to_owned(), held.key.fingerprint());
            assert!(self.ever.contains(&key), "{} is used and was never read", key.0);
        }
        if published.source() != KeyringSource::Vault {
            assert!(self.expected.is_none(), "a copy is used, although Vault gave keys");
            return;
        }
        let (keys, active) = self.expected.as_ref().expect("keys are published without a complete read");
        let held = |id: &str, retired| published.get(id).is_some_and(|held| held.retired == retired);
        let ours: BTreeSet<_> = published.newest_first().iter().map(|held| held.key.id().as_str()).collect();
        assert_eq!(ours, keys.keys().map(String::as_str).collect(), "the keys that are held");
        for (id, (key, retired)) in keys {
            assert!(published.get(id).unwrap().key.same_key(key), "{id} is another key");
            assert!(held(id, *retired), "{id} is retired: {retired} expected");
        }
        assert_eq!(published.active().key.id().as_str(), active, "the active key");
    }
}

/// The keyring of these versions, of which `listed` ones are in Vault; `None` if there is no active key.
fn keyring(
    versions: &BTreeMap<VersionId, Arc<Record>>,
    listed: &BTreeSet<VersionId>,
) -> Option<(Keys, String)> {
    let mut keys = Keys::new();
    let mut active = None;
    // What Vault pruned is older than what it lists.
    for retired in [true, false] {
        for (_, record) in versions.iter().filter(|(id, _)| listed.contains(id) != retired) {
            let Some(key) = &record.key else { continue };
            let held = keys.entry(key.id().as_str().to_owned()).or_insert_with(|| (Arc::clone(key), retired));
            if held.0.same_key(key) {
                held.1 &= retired;
                if !retired {
                    active = Some(key.id().as_str().to_owned());
                }
            }
        }
    }
    Some((keys, active?))
}
