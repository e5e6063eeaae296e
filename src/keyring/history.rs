//! From the versions of one Vault secret to one keyring: which versions to fetch, which to hold, which key is active.
//!
//! Pure functions of Vault's listing and of the contents; `sync` reads them. The rules: a version that was destroyed or
//! deleted leaves the keyring. A version that Vault pruned stays, retired. The newest live usable version is active. Of two
//! different keys with one ID the older stays. The last keys are never dropped.
//! The file is longer than most: the rules are one decision.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use subtle::ConstantTimeEq as _;

use super::{
    key::{HeldKey, Key, KeyId, VersionId},
    record::{self, Contents, RecordError, RecordForm, RejectedRecord},
    snapshot::Keyring,
};

/// Vault's metadata of the secret's versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub versions: BTreeMap<VersionId, VersionState>,
    /// When Vault deletes a live version by itself, by its number (`delete_version_after`).
    pub deletions: BTreeMap<u64, SystemTime>,
    pub current: u64,
    /// Vault keeps this many versions. One more destroys the oldest.
    pub max_versions: u64,
    /// The custom metadata that is for keyringd.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    Live,
    /// Destroyed, or deleted with a deletion time in the past.
    Removed,
}

/// The limit on the keys of a keyring.
const MAX_KEYS: usize = 10_000;

/// The contents that were read so far, by version.
#[derive(Clone, Debug, Default)]
pub struct History {
    versions: BTreeMap<VersionId, HeldVersion>,
    /// What the last keyring was built from. As long as Vault holds the same, nothing is built.
    built_from: Option<Source>,
}

/// What Vault held at one read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// KV v2's versions, whose contents never change.
    Listing(Listing),
    /// The digest of KV v1's fields.
    Fields([u8; 32]),
}

#[derive(Clone, Debug)]
struct HeldVersion {
    contents: Arc<Contents>,
    retired: bool,
}

/// A record that is not in the keyring, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub version: u64,
    pub id: Option<KeyId>,
    pub reason: RejectionReason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectionReason {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(
        "version {0} already holds a different key with this id; the older key stays: write the key under a new id, since \
         hosts that start after version {0} is gone use the newer one; compare the fingerprints that `keyringd status` \
         shows on each host"
    )]
    Conflict(u64),
}

/// Why the versions make no keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeyring {
    #[error("every version of the secret is deleted or destroyed")]
    NoneLive,
    #[error("no live version of the secret holds a usable record")]
    NoneUsable,
    #[error(
        "the versions of the secret hold {0} keys, and at most {MAX_KEYS} are held: destroy versions whose ciphertexts are gone"
    )]
    TooManyKeys(usize),
}

#[derive(Debug)]
pub struct Built {
    pub keyring: Result<Keyring, NoKeyring>,
    pub rejected: Vec<Rejection>,
}

impl Listing {
    /// The version that Vault deletes next by itself, and when.
    pub fn next_deletion(&self) -> Option<(u64, SystemTime)> {
        self.deletions.iter().min_by_key(|&(_, at)| at).map(|(version, at)| (*version, *at))
    }

    /// The number of versions that can be written before Vault destroys the oldest listed version.
    pub fn headroom(&self) -> u64 {
        self.headroom_of(self.versions.keys().map(|id| id.number).min().unwrap_or(self.current))
    }

    /// The number of versions that can be written before Vault destroys this one.
    pub fn headroom_of(&self, version: u64) -> u64 {
        self.max_versions.saturating_sub(self.current.saturating_add(1).saturating_sub(version))
    }
}

impl History {
    /// The live versions to fetch: those not held yet, oldest first.
    pub fn missing(&self, listing: &Listing) -> Vec<VersionId> {
        let live = listing.versions.iter().filter(|&(_, state)| *state == VersionState::Live);
        live.map(|(id, _)| *id).filter(|id| !self.versions.contains_key(id)).collect()
    }

    /// The next read builds a keyring, whatever Vault holds.
    pub fn forget_source(&mut self) {
        self.built_from = None;
    }

    /// Whether the last keyring was built from this listing.
    pub fn is_built_from_listing(&self, listing: &Listing) -> bool {
        matches!(&self.built_from, Some(Source::Listing(built)) if built == listing)
    }

    /// Whether the last keyring was built from these fields of KV v1.
    pub fn is_built_from_fields(&self, fields: &str) -> bool {
        self.built_from == Some(Source::Fields(record::digest(fields.as_bytes())))
    }

    /// Adds the fetched versions, drops the removed versions and builds the keyring. If no key would remain, it drops
    /// nothing and returns the reason.
    pub fn advance(&mut self, listing: &Listing, fetched: Vec<(VersionId, Contents)>) -> Built {
        let mut known = self.known_keys();
        for (id, mut contents) in fetched {
            share_keys(&mut contents, &mut known);
            self.versions.insert(id, HeldVersion { contents: Arc::new(contents), retired: false });
        }
        let mut next = self.clone();
        next.versions.retain(|id, _| listing.versions.get(id) != Some(&VersionState::Removed));
        for (id, held) in &mut next.versions {
            held.retired = !listing.versions.contains_key(id);
        }
        let mut built = next.build();
        if built.keyring.is_ok() {
            next.built_from = Some(Source::Listing(listing.clone()));
            *self = next;
        } else if !listing.versions.values().any(|state| *state == VersionState::Live) {
            built.keyring = Err(NoKeyring::NoneLive);
        }
        built
    }

    /// The same for KV v1, which keeps no versions. A map replaces all keys. A new single record retires the previous
    /// one, because its ciphertexts still exist.
    pub fn replace(&mut self, contents: Contents, now: SystemTime) -> Built {
        let source = Source::Fields(contents.digest);
        // Not the newest by its time: a wall clock that was set back dates a later record earlier.
        let live = self.versions.values().find(|held| !held.retired);
        let mut next = self.clone();
        if live.is_none_or(|held| !held.contents.same_as(&contents)) {
            let mut contents = contents;
            self.keep_malformed(&mut contents);
            next.versions
                .retain(|_, held| contents.form == RecordForm::Single && !held.contents.same_as(&contents));
            next.versions.values_mut().for_each(|held| held.retired = true);
            next.versions.insert(
                VersionId { created: now, number: 1 },
                HeldVersion { contents: Arc::new(contents), retired: false },
            );
        }
        let built = next.build();
        if built.keyring.is_ok() {
            next.built_from = Some(source);
            *self = next;
        }
        built
    }

    /// A malformed record of a map does not remove a key: the key that is held with this ID stays.
    fn keep_malformed(&self, contents: &mut Contents) {
        let Some((_, held)) = self.versions.iter().find(|(_, held)| !held.retired) else { return };
        let mut before: HashMap<_, _> = held.contents.keys.iter().map(|key| (key.id(), key)).collect();
        for key in &contents.keys {
            before.remove(key.id());
        }
        for id in contents.rejected.iter().filter_map(|rejected| rejected.id.as_ref()) {
            contents.keys.extend(before.remove(id).map(Arc::clone));
        }
    }

    /// How many keys the versions hold. A key of several versions counts for each.
    pub fn key_count(&self) -> usize {
        self.versions.values().map(|held| held.contents.keys.len()).sum()
    }

    fn known_keys(&self) -> HashMap<KeyId, Arc<Key>> {
        let keys = self.versions.values().flat_map(|held| &held.contents.keys);
        keys.map(|key| (key.id().clone(), Arc::clone(key))).collect()
    }

    fn build(&self) -> Built {
        let mut keys: BTreeMap<KeyId, HeldKey> = BTreeMap::new();
        let mut rejected = Vec::new();
        let mut active = None;
        // Oldest first, so that the older of two different keys with one ID wins. Versions that Vault no longer lists are
        // older than all listed versions.
        let mut oldest_first: Vec<_> = self.versions.iter().collect();
        oldest_first.sort_by_key(|(version, held)| (!held.retired, **version));
        for (version, held) in oldest_first {
            let mut reject = |RejectedRecord { id, reason }: &RejectedRecord| {
                rejected.push(Rejection {
                    version: version.number,
                    id: id.clone(),
                    reason: (*reason).into(),
                });
            };
            held.contents.rejected.iter().for_each(&mut reject);
            let mut candidate = held.contents.active.as_ref().filter(|_| !held.retired);
            for key in &held.contents.keys {
                let fresh = HeldKey {
                    retired: held.retired,
                    mapped: held.contents.form == RecordForm::Map,
                    ..HeldKey::new(Arc::clone(key), version.number, version.created)
                };
                match keys.get_mut(key.id()) {
                    Some(older) if !older.key.same_key(key) => {
                        candidate = candidate.filter(|id| *id != key.id());
                        rejected.push(Rejection {
                            version: version.number,
                            id: Some(key.id().clone()),
                            reason: RejectionReason::Conflict(older.version),
                        });
                    }
                    Some(older) => {
                        let mut earlier_versions = std::mem::take(&mut older.earlier_versions);
                        earlier_versions.push(older.newest());
                        let retired = older.retired && held.retired;
                        *older = HeldKey { earlier_versions, retired, ..fresh };
                    }
                    None => {
                        keys.insert(key.id().clone(), fresh);
                    }
                }
            }
            active = candidate.cloned().or(active);
        }
        let keyring = if keys.len() > MAX_KEYS {
            Err(NoKeyring::TooManyKeys(keys.len()))
        } else {
            active.and_then(|active| Keyring::new(keys.into_values(), &active)).ok_or(NoKeyring::NoneUsable)
        };
        Built { keyring, rejected }
    }

    /// IDs of keys whose text ends in a line break, with their version and what becomes of it.
    pub fn line_breaks(&self) -> Vec<(u64, KeyId, &'static str)> {
        let all = self.versions.iter().flat_map(|(version, held)| {
            held.contents.line_breaks.iter().map(|(id, meaning)| (version.number, id.clone(), *meaning))
        });
        all.collect()
    }

    /// Keys with a short key text: their version and ID.
    pub fn short_keys(&self) -> Vec<(u64, KeyId)> {
        let all = self
            .versions
            .iter()
            .flat_map(|(version, held)| held.contents.short.iter().map(|id| (version.number, id)));
        all.map(|(number, id)| (number, id.clone())).collect()
    }
}

/// A key that several versions of a map hold exists once.
fn share_keys(contents: &mut Contents, known: &mut HashMap<KeyId, Arc<Key>>) {
    for key in &mut contents.keys {
        let known = known.entry(key.id().clone()).or_insert_with(|| Arc::clone(key));
        if known.same_key(key) && bool::from(known.hmac().ct_eq(key.hmac())) {
            *key = Arc::clone(known);
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "version {}: record {id} ignored: {}", self.version, self.reason),
            None => write!(f, "version {}: record ignored: {}", self.version, self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keyring::KeyDerivation;

    fn version(number: u64) -> VersionId {
        VersionId { number, created: SystemTime::UNIX_EPOCH + Duration::from_secs(number) }
    }

    fn record(json: &str) -> Contents {
        Contents::parse(json.as_bytes(), KeyDerivation::Sha256)
    }

    fn single(id: &str, key: &str) -> Contents {
        record(&format!(r#"{{"id": "{id}", "key": "{key}"}}"#))
    }

    /// A listing of the given versions; a negative number is a removed one.
    fn listing(numbers: &[i64]) -> Listing {
        let state = |n: &i64| if *n < 0 { VersionState::Removed } else { VersionState::Live };
        Listing {
            versions: numbers.iter().map(|n| (version(n.unsigned_abs()), state(n))).collect(),
            current: numbers.iter().map(|n| n.unsigned_abs()).max().unwrap_or(0),
            max_versions: 10,
            ..Listing::default()
        }
    }

    /// `active` and the sorted IDs, retired ones with a `*`.
    fn summary(built: &Built) -> String {
        match &built.keyring {
            Ok(keyring) => {
                let mut ids: Vec<_> = keyring.newest_first();
                ids.sort_by_key(|held| held.key.id().clone());
                let ids: Vec<_> = ids
                    .iter()
                    .map(|held| format!("{}{}", held.key.id(), if held.retired { "*" } else { "" }))
                    .collect();
                format!("{} of {}", keyring.active().key.id(), ids.join(" "))
            }
            Err(reason) => reason.to_string(),
        }
    }

    fn two_versions() -> History {
        let mut history = History::default();
        let fetched = vec![(version(1), single("a", "x")), (version(2), single("b", "y"))];
        assert_eq!(summary(&history.advance(&listing(&[1, 2]), fetched)), "b of a b");
        history
    }

    #[test]
    fn only_live_versions_not_held_are_fetched() {
        let history = two_versions();
        assert_eq!(history.missing(&listing(&[1, 2])), []);
        assert_eq!(history.missing(&listing(&[1, -2, 3, -4, 5])), [version(3), version(5)]);
        let recreated = VersionId { created: SystemTime::now(), number: 1 };
        let mut after_recreation = listing(&[]);
        after_recreation.versions.insert(recreated, VersionState::Live);
        assert_eq!(history.missing(&after_recreation), [recreated]);
    }

    #[test]
    fn a_removed_version_leaves_the_keyring() {
        let mut history = two_versions();
        assert_eq!(summary(&history.advance(&listing(&[-1, 2]), vec![])), "b of b");
        assert_eq!(history.missing(&listing(&[1, 2])), [version(1)], "an undeleted version is fetched again");
    }

    #[test]
    fn when_the_current_version_was_removed_the_newest_live_one_is_active() {
        assert_eq!(summary(&two_versions().advance(&listing(&[1, -2]), vec![])), "a of a");
    }

    #[test]
    fn when_every_version_was_removed_the_keyring_stays() {
        let mut history = two_versions();
        assert_eq!(
            summary(&history.advance(&listing(&[-1, -2]), vec![])),
            "every version of the secret is deleted or destroyed"
        );
        assert_eq!(summary(&history.build()), "b of a b");
        let next = history.advance(&listing(&[-1, -2, 3]), vec![(version(3), single("c", "z"))]);
        assert_eq!(summary(&next), "c of c");
    }

    #[test]
    fn a_pruned_version_stays_retired_and_is_never_active() {
        let mut history = two_versions();
        assert_eq!(summary(&history.advance(&listing(&[2]), vec![])), "b of a* b");
        let bad = vec![(version(3), record("{}"))];
        assert_eq!(
            summary(&history.advance(&listing(&[3]), bad)),
            "no live version of the secret holds a usable record"
        );
        assert_eq!(summary(&history.build()), "b of a* b", "and the keyring stays");
    }

    #[test]
    fn a_malformed_current_version_leaves_the_active_key_as_it_was() {
        let mut history = two_versions();
        let built = history.advance(&listing(&[1, 2, 3]), vec![(version(3), record(r#"{"id": "c"}"#))]);
        assert_eq!(summary(&built), "b of a b");
        assert_eq!(built.rejected[0].version, 3);
        assert_eq!(history.missing(&listing(&[1, 2, 3])), [], "a malformed version is not fetched again");
    }

    #[test]
    fn of_two_different_keys_with_one_id_the_older_stays() {
        let mut history = two_versions();
        let built = history.advance(&listing(&[1, 2, 3]), vec![(version(3), single("a", "other"))]);
        assert_eq!(summary(&built), "b of a b");
        assert_eq!(
            built.rejected,
            [Rejection {
                version: 3,
                id: Some(KeyId::parse("a").unwrap()),
                reason: RejectionReason::Conflict(1)
            }]
        );
        let keyring = built.keyring.unwrap();
        assert!(keyring.get("a").unwrap().key.same_key(&single("a", "x").keys[0]));
        assert_eq!(summary(&history.advance(&listing(&[-1, 2, 3]), vec![])), "a of a b");
    }

    #[test]
    fn a_rolled_back_version_is_one_key_under_the_newest_number() {
        let mut history = two_versions();
        let built = history.advance(&listing(&[1, 2, 3]), vec![(version(3), single("a", "x"))]);
        assert_eq!(summary(&built), "a of a b");
        assert_eq!(built.keyring.unwrap().active().version, 3);
        assert_eq!(summary(&history.advance(&listing(&[-1, 2, 3]), vec![])), "a of a b");
    }

    #[test]
    fn a_key_has_the_form_of_its_newest_version_and_names_all_of_them() {
        let map = || record(r#"{"active": "a", "keys": {"a": "x", "b": "y"}}"#);
        let mut history = two_versions();
        let keyring = history.advance(&listing(&[1, 2, 3]), vec![(version(3), map())]).keyring.unwrap();
        let (a, b) = (keyring.get("a").unwrap(), keyring.get("b").unwrap());
        assert!(a.mapped && b.mapped);
        assert_eq!((&*a.earlier_versions, a.newest()), (&[version(1)][..], version(3)));
        assert_eq!((&*b.earlier_versions, b.newest()), (&[version(2)][..], version(3)));
        let built = history.advance(&listing(&[2, 3, 4]), vec![(version(4), single("a", "x"))]);
        let keyring = built.keyring.unwrap();
        let a = keyring.get("a").unwrap();
        assert!(!a.mapped && !a.retired, "one of its versions is in Vault");
        assert_eq!((&*a.earlier_versions, a.newest()), (&[version(1), version(3)][..], version(4)));
        let keyring = history.advance(&listing(&[4]), vec![]).keyring.unwrap();
        assert!(keyring.get("b").unwrap().retired, "none of its versions is");
    }

    #[test]
    fn what_a_record_should_not_be_is_reported_with_its_version() {
        let mut history = two_versions();
        let long = "0123456789abcdef0123456789abcdef";
        let fetched = vec![(version(3), single("c", long)), (version(4), single("d", &format!("{long}\\n")))];
        assert!(history.advance(&listing(&[1, 2, 3, 4]), fetched).keyring.is_ok());
        let ids =
            |all: Vec<(u64, KeyId)>| -> Vec<_> { all.iter().map(|(at, id)| format!("{at} {id}")).collect() };
        assert_eq!(ids(history.short_keys()), ["1 a", "2 b"]);
        let line_breaks = history.line_breaks().into_iter().map(|(at, id, _)| (at, id)).collect();
        assert_eq!(ids(line_breaks), ["4 d"]);
    }

    #[test]
    fn the_newest_record_of_a_key_decides_its_hmac_key() {
        let mut history = two_versions();
        let given = record(r#"{"id": "a", "key": "x", "hmac_key": "c2l4dGVlbiBieXRlcyAhIQ=="}"#);
        let hmac = given.keys[0].hmac().to_vec();
        let built = history.advance(&listing(&[1, 2, 3]), vec![(version(3), given)]);
        assert_eq!(summary(&built), "a of a b");
        assert_eq!(built.keyring.unwrap().active().key.hmac(), hmac);
        assert_eq!(hmac, b"sixteen bytes !!");
    }

    #[test]
    fn a_map_is_a_whole_keyring_in_one_version() {
        let mut history = History::default();
        let map = record(r#"{"active": "b", "keys": {"a": "x", "b": "y"}}"#);
        assert_eq!(summary(&history.advance(&listing(&[1]), vec![(version(1), map)])), "b of a b");
    }

    #[test]
    fn on_kv_v1_a_new_single_record_retires_the_old_one_and_a_map_replaces_all() {
        let mut history = History::default();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(summary(&history.replace(single("a", "x"), at(1))), "a of a");
        assert_eq!(summary(&history.replace(single("b", "y"), at(2))), "b of a* b");
        assert_eq!(summary(&history.replace(single("b", "y"), at(3))), "b of a* b");
        assert_eq!(summary(&history.replace(single("a", "x"), at(4))), "a of a b*");
        assert_eq!(history.versions.len(), 2, "going back and forth does not grow the history");
        assert_eq!(
            summary(&history.replace(record("{}"), at(5))),
            "no live version of the secret holds a usable record"
        );
        assert_eq!(summary(&history.build()), "a of a b*", "and the keyring stays");
        assert_eq!(
            summary(&history.replace(record(r#"{"active": "c", "keys": {"c": "z"}}"#), at(6))),
            "c of c"
        );
    }

    #[test]
    fn on_kv_v1_a_clock_that_is_set_back_does_not_keep_an_earlier_record_from_becoming_active_again() {
        let mut history = History::default();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(summary(&history.replace(single("a", "x"), at(10))), "a of a");
        assert_eq!(summary(&history.replace(single("b", "y"), at(5))), "b of a* b");
        assert_eq!(summary(&history.replace(single("b", "y"), at(6))), "b of a* b");
        assert_eq!(summary(&history.replace(single("a", "x"), at(7))), "a of a b*");
    }

    #[test]
    fn on_kv_v1_a_malformed_record_of_a_map_keeps_its_key() {
        let mut history = History::default();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let map = |json: &str| record(&format!(r#"{{"active": "b", "keys": {json}}}"#));
        assert_eq!(summary(&history.replace(map(r#"{"a": "x", "b": "y"}"#), at(1))), "b of a b");
        assert_eq!(summary(&history.replace(map(r#"{"a": 7, "b": "y"}"#), at(2))), "b of a b");
        assert_eq!(summary(&history.replace(map(r#"{"b": "y"}"#), at(3))), "b of b");
    }

    #[test]
    fn the_current_version_has_the_highest_number_whatever_its_time() {
        let mut history = History::default();
        let behind = VersionId { number: 2, created: SystemTime::UNIX_EPOCH };
        let mut both = listing(&[1]);
        both.versions.insert(behind, VersionState::Live);
        let fetched = vec![(version(1), single("a", "x")), (behind, single("b", "y"))];
        assert_eq!(summary(&history.advance(&both, fetched)), "b of a b");
    }

    #[test]
    fn headroom_counts_the_versions_until_the_oldest_is_destroyed() {
        assert_eq!(listing(&[1, 2]).headroom(), 8);
        assert_eq!(listing(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).headroom(), 0);
        assert_eq!(listing(&[4, 13]).headroom(), 0);
        assert_eq!(listing(&[]).headroom(), 9);
    }

    #[test]
    fn what_did_not_change_is_not_built_again() {
        let mut history = two_versions();
        assert!(history.is_built_from_listing(&listing(&[1, 2])));
        assert!(!history.is_built_from_listing(&listing(&[1, -2])));
        history.forget_source();
        assert!(!history.is_built_from_listing(&listing(&[1, 2])));
        let (mut history, now) = (History::default(), SystemTime::now());
        let fields = r#"{"id": "a", "key": "x"}"#;
        assert!(history.replace(record(fields), now).keyring.is_ok());
        assert!(history.is_built_from_fields(fields));
        assert!(history.replace(record("{}"), now).keyring.is_err());
        assert!(history.is_built_from_fields(fields) && !history.is_built_from_fields("{}"));
    }

    #[test]
    fn a_key_in_several_versions_exists_once_and_there_are_not_too_many() {
        let map = |range: std::ops::Range<usize>| {
            let keys: Vec<_> = range.clone().map(|at| format!(r#""k{at}": "x{at}""#)).collect();
            record(&format!(r#"{{"active": "k{}", "keys": {{{}}}}}"#, range.start, keys.join(", ")))
        };
        let mut history = History::default();
        let built =
            history.advance(&listing(&[1, 2]), vec![(version(1), map(0..3)), (version(2), map(0..4))]);
        assert_eq!(built.keyring.unwrap().key_count(), 4);
        let [first, second] = [1, 2].map(|number| &history.versions[&version(number)].contents.keys);
        assert!(first.iter().zip(second).all(|(one, other)| Arc::ptr_eq(one, other)));
        let built = history.advance(&listing(&[1, 2, 3]), vec![(version(3), map(4..MAX_KEYS + 1))]);
        assert_eq!(summary(&built), NoKeyring::TooManyKeys(MAX_KEYS + 1).to_string());
    }
}
