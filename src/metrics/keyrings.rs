//! The series of each keyring, by its name. The first names have series of their own, and all others share `other`: a folder may
//! hold any number of keyrings.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{
    Outcome,
    series::{Series, registered},
};

/// How many names have series of their own.
const MAX_NAMES: usize = 32;

const OTHER: &str = "other";

type ByName = [(&'static str, String); 1];
type ByNameAndOutcome = [(&'static str, String); 2];

/// One keyring at the scrape.
#[derive(Clone, Debug)]
pub struct KeyringState {
    pub name: Arc<str>,
    pub ready: bool,
    pub keys: usize,
    pub last_sync: Option<SystemTime>,
    /// Versions that can be written before Vault destroys the oldest; `None` on KV v1.
    pub versions_headroom: Option<u64>,
}

#[derive(Debug)]
pub(super) struct KeyringSeries {
    /// In the order of their first use.
    names: Mutex<Vec<Arc<str>>>,
    ready: Series<ByName, Gauge>,
    keys: Series<ByName, Gauge>,
    since_sync: Series<ByName, Gauge<f64, AtomicU64>>,
    versions_headroom: Series<ByName, Gauge<f64, AtomicU64>>,
    syncs: Series<ByNameAndOutcome, Counter>,
}

/// The worst of several keyrings, and the sum of their keys.
#[derive(Clone, Copy)]
struct Summary {
    ready: bool,
    keys: usize,
    /// `None` if one has never synced.
    since_sync: Option<Duration>,
    versions_headroom: Option<u64>,
}

impl KeyringSeries {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let seconds = Some(Unit::Seconds);
        let ready = "Whether a keyring is ready, by its name; from the 33rd name on as `other`, of which none may be unready";
        let since = "Since the last successful sync of a keyring; NaN before the first";
        let headroom =
            "How many versions of a keyring can be written before Vault destroys the oldest; NaN on KV v1";
        Self {
            names: Mutex::default(),
            ready: registered(registry, "keyring_ready", ready, None),
            keys: registered(registry, "keyring_keys", "Keys of a keyring", None),
            since_sync: registered(registry, "keyring_since_last_sync", since, seconds),
            versions_headroom: registered(registry, "keyring_versions_headroom", headroom, None),
            syncs: registered(registry, "keyring_syncs", "Syncs of a keyring with Vault", None),
        }
    }

    pub(super) fn synced(&self, name: &str, outcome: Outcome) {
        self.syncs_of(self.label(name), outcome).inc();
    }

    fn syncs_of(&self, label: String, outcome: Outcome) -> Counter {
        let [(key, outcome)] = outcome.labels();
        self.syncs.get_or_create(&[("keyring", label), (key, outcome.to_owned())])
    }

    pub(super) fn set(&self, keyrings: &[KeyringState], now: SystemTime) {
        let mut by_label: BTreeMap<String, Summary> = BTreeMap::new();
        for keyring in keyrings {
            let one = Summary::of(keyring, now);
            by_label.entry(self.label(&keyring.name)).and_modify(|all| *all = all.with(one)).or_insert(one);
        }
        self.ready.clear();
        self.keys.clear();
        self.since_sync.clear();
        self.versions_headroom.clear();
        for outcome in [Outcome::Success, Outcome::Failure] {
            for label in by_label.keys() {
                self.syncs_of(label.clone(), outcome);
            }
        }
        for (label, Summary { ready, keys, since_sync, versions_headroom }) in by_label {
            let labels = [("keyring", label)];
            self.ready.get_or_create(&labels).set(ready.into());
            self.keys.get_or_create(&labels).set(i64::try_from(keys).unwrap_or(i64::MAX));
            self.since_sync
                .get_or_create(&labels)
                .set(since_sync.map_or(f64::NAN, |since| since.as_secs_f64()));
            #[expect(clippy::cast_precision_loss, reason = "a count of versions is far below 2^52")]
            let headroom = versions_headroom.map_or(f64::NAN, |headroom| headroom as f64);
            self.versions_headroom.get_or_create(&labels).set(headroom);
        }
    }

    /// The name, or `other` once there are too many.
    fn label(&self, name: &str) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.iter().any(|known| **known == *name) {
            if names.len() == MAX_NAMES {
                return OTHER.to_owned();
            }
            names.push(name.into());
        }
        drop(names);
        name.to_owned()
    }
}

impl Summary {
    fn of(keyring: &KeyringState, now: SystemTime) -> Self {
        let since_sync = keyring.last_sync.map(|at| now.duration_since(at).unwrap_or_default());
        let KeyringState { ready, keys, versions_headroom, .. } = *keyring;
        Self { ready, keys, since_sync, versions_headroom }
    }

    fn with(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            ready: self.ready && other.ready,
            keys: self.keys.saturating_add(other.keys),
            since_sync: self.since_sync.zip(other.since_sync).map(|(a, b)| a.max(b)),
            versions_headroom: least(self.versions_headroom, other.versions_headroom),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    fn text(
        keyrings: &[KeyringState],
        series: &KeyringSeries,
        registry: &Registry,
        now: SystemTime,
    ) -> String {
        series.set(keyrings, now);
        let mut out = String::new();
        text::encode(&mut out, registry).unwrap();
        out
    }

    #[test]
    fn names_after_the_32nd_share_a_series_with_the_worst_of_them() {
        let mut registry = Registry::default();
        let (series, now) = (KeyringSeries::register(&mut registry), SystemTime::now());
        let state = |at: u64| KeyringState {
            name: format!("ring{at}").into(),
            ready: at != 70,
            keys: 3,
            last_sync: Some(now - Duration::from_secs(at)),
            versions_headroom: Some(100 - at),
        };
        let all: Vec<_> = (0..100).map(state).collect();
        for keyring in &all {
            series.synced(&keyring.name, Outcome::Success);
        }
        let whole = text(&all, &series, &registry, now);
        for line in [
            "keyring_ready{keyring=\"ring31\"} 1",
            "keyring_ready{keyring=\"other\"} 0",
            "keyring_keys{keyring=\"other\"} 204",
            "keyring_since_last_sync_seconds{keyring=\"other\"} 99.0",
            "keyring_versions_headroom{keyring=\"other\"} 1.0",
            "keyring_syncs_total{keyring=\"other\",outcome=\"success\"} 68",
        ] {
            assert!(whole.lines().any(|one| one == line), "{line} in {whole}");
        }
        assert_eq!(whole.lines().filter(|line| line.starts_with("keyring_ready{")).count(), 33);
        let fewer = text(&all[..2], &series, &registry, now);
        assert_eq!(fewer.lines().filter(|line| line.starts_with("keyring_ready{")).count(), 2);
    }
}
