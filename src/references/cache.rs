//! The cache of secrets: one read per secret at a time, a background refresh before a value expires, a bounded size.
//!
//! It is our own because of Kong's three TTLs and because dropped values are wiped. The rules of one entry are in
//! `cache_entry`. A read continues when its caller goes away, since others may wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::Instrument as _;

use super::{
    cache_entry::{CacheEntry, Decision, Json, Outcome, is_absence},
    engines::{Fetch, SecretAddress},
};
use crate::{settings::reference::Caching, vault::VaultError};

/// The most secrets that are kept, and bytes of them. Past that, the least recently used are dropped.
const MAX_SECRETS: usize = 1024;
const MAX_BYTES: usize = 32 << 20;

/// How long an unused secret is still refreshed.
const IDLE: Duration = Duration::from_secs(600);

/// How long to wait for Vault where a stale value could be served.
const STALE_TIMEOUT: Duration = Duration::from_secs(1);

/// A secret in an engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) engine: Arc<str>,
    pub(super) address: SecretAddress,
}

/// What was found, and how long ago it expired.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) json: Json,
    pub(super) stale: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Key, Arc<Slot>>>);

struct Slot {
    key: Key,
    entry: Mutex<CacheEntry>,
    /// Held during a read.
    reading: tokio::sync::Mutex<()>,
    fetch: Mutex<Fetch>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// The secret, as fresh as `caching` requires, or stale if it cannot be read.
    pub(super) async fn get(
        &self,
        key: Key,
        caching: Caching,
        fetch: &Fetch,
    ) -> Result<Found, Arc<VaultError>> {
        let slot = self.slot(key, fetch);
        let now = Instant::now();
        lock(&slot.entry).record_request(caching, now);
        let decision = lock(&slot.entry).decide(caching, now);
        let stale = match decision {
            Decision::Serve(json, stale) => return Ok(Found { json, stale }),
            Decision::Refuse(error) => return Err(error),
            Decision::Read(stale) => stale,
        };
        let reading = tokio::spawn(Arc::clone(&slot).read(now).in_current_span());
        let Some((json, expired_for)) = stale else {
            // The runtime cancels tasks at the end only.
            let outcome = reading.await.unwrap_or_else(|_| Err(Arc::new(VaultError::Stopping)));
            self.make_room();
            return outcome.map(|json| Found { json, stale: None });
        };
        match tokio::time::timeout(STALE_TIMEOUT, reading).await {
            Ok(Ok(Ok(json))) => Ok(Found { json, stale: None }),
            Ok(Ok(Err(error))) if is_absence(&error) => Err(error),
            _ => Ok(Found { json, stale: Some(expired_for) }),
        }
    }

    fn slot(&self, key: Key, fetch: &Fetch) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        let slot = slots.entry(key).or_insert_with_key(|key| {
            Arc::new(Slot {
                key: key.clone(),
                entry: Mutex::default(),
                reading: tokio::sync::Mutex::default(),
                fetch: Mutex::new(Arc::clone(fetch)),
            })
        });
        let slot = Arc::clone(slot);
        drop(slots);
        if !Arc::ptr_eq(&lock(&slot.fetch), fetch) {
            slot.outdate(fetch);
        }
        slot
    }

    /// Starts the refreshes that are due, and drops expired entries. Returns when the next refresh is due.
    pub(super) fn refresh(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        lock(&self.0).retain(|_, slot| {
            let mut entry = lock(&slot.entry);
            let (empty, due) = (entry.expire(now), entry.refresh_due(now, IDLE));
            drop(entry);
            let idle = slot.reading.try_lock().is_ok();
            match due {
                Some(at) if at <= now && idle => drop(tokio::spawn(Arc::clone(slot).read(now))),
                Some(at) if at > now => next = Some(next.map_or(at, |next| next.min(at))),
                _ => {}
            }
            !(empty && idle && Arc::strong_count(slot) == 1)
        });
        next
    }

    fn make_room(&self) {
        let mut slots = lock(&self.0);
        let size = |slot: &Slot| lock(&slot.entry).size();
        let mut bytes: usize = slots.values().map(|slot| size(slot)).sum();
        if slots.len() <= MAX_SECRETS && bytes <= MAX_BYTES {
            return;
        }
        let mut by_use: Vec<_> =
            slots.values().map(|slot| (lock(&slot.entry).last_used(), Arc::clone(slot))).collect();
        by_use.sort_by_key(|(last_used, _)| *last_used);
        for (_, slot) in by_use {
            if slots.len() <= MAX_SECRETS && bytes <= MAX_BYTES {
                return;
            }
            bytes = bytes.saturating_sub(size(&slot));
            slots.remove(&slot.key);
        }
    }

    /// The settings have changed: entries are refreshed at their next use, by the engine's new way to read. Entries of
    /// engines that are gone are dropped.
    pub(super) fn outdate(&self, engines: &HashMap<Arc<str>, Fetch>) {
        lock(&self.0).retain(|key, slot| {
            let Some(fetch) = engines.get(&key.engine) else { return false };
            slot.outdate(fetch);
            true
        });
    }
}

impl Slot {
    /// The settings have changed, and so has the way to read. What a running read gives is outdated too.
    #[expect(clippy::significant_drop_tightening, reason = "a read ends before both changes or after both")]
    fn outdate(&self, fetch: &Fetch) {
        let mut current = lock(&self.fetch);
        *current = Arc::clone(fetch);
        lock(&self.entry).outdate();
    }

    /// Reads the secret, unless another read has ended since `start`.
    async fn read(self: Arc<Self>, start: Instant) -> Outcome {
        let _turn = self.reading.lock().await;
        let before = lock(&self.entry).outcome_since(start);
        if let Some(outcome) = before {
            return outcome;
        }
        let fetch = Arc::clone(&lock(&self.fetch));
        let outcome = fetch(self.key.address.clone()).await.map(Arc::new).map_err(Arc::new);
        let had_value = self.apply(&outcome, &fetch);
        match &outcome {
            Err(error) if had_value && is_absence(error) => {
                tracing::info!(%error, "a referenced secret was deleted in Vault; dropped from the cache");
            }
            Err(error) if had_value => {
                tracing::warn!(
                    %error,
                    "refresh of a referenced secret failed; serving the cached value for its resurrect_ttl"
                );
            }
            _ => {}
        }
        outcome
    }

    /// Applies the outcome of a read by this way. Returns whether there was a value before.
    fn apply(&self, outcome: &Outcome, fetch: &Fetch) -> bool {
        let current = lock(&self.fetch);
        let mut entry = lock(&self.entry);
        let had_value = entry.size() > 0;
        entry.apply(outcome, Instant::now());
        if !Arc::ptr_eq(&current, fetch) {
            entry.outdate();
        }
        had_value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        secret::Secret,
        settings::{KvSecret, KvVersion, SecretPath},
    };

    /// A server that counts reads, and answers as many as it has permits.
    struct Server {
        reads: AtomicUsize,
        permits: tokio::sync::Semaphore,
    }

    impl Server {
        fn with_permits(permits: usize) -> Arc<Self> {
            Arc::new(Self { reads: AtomicUsize::new(0), permits: tokio::sync::Semaphore::new(permits) })
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::Relaxed)
        }

        fn fetch(self: &Arc<Self>) -> Fetch {
            let server = Arc::clone(self);
            Arc::new(move |address| {
                let server = Arc::clone(&server);
                Box::pin(async move {
                    server.reads.fetch_add(1, Ordering::Relaxed);
                    server.permits.acquire().await.unwrap().forget();
                    Ok(Secret::new(address.secret.path.to_string()))
                })
            })
        }
    }

    fn key(path: &str) -> Key {
        let segment = |text: &str| SecretPath(vec![text.into()]);
        let secret = KvSecret { mount: segment("m"), path: segment(path), kv: KvVersion::V2 };
        Key { engine: "s".into(), address: SecretAddress { secret, version: None } }
    }

    #[tokio::test]
    async fn many_concurrent_requests_cause_one_read() {
        let server = Server::with_permits(0);
        let (cache, fetch) = (Arc::new(Cache::default()), server.fetch());
        let requests: Vec<_> = (0..100)
            .map(|_| {
                let (cache, fetch) = (Arc::clone(&cache), Arc::clone(&fetch));
                tokio::spawn(async move { cache.get(key("a"), Caching::default(), &fetch).await })
            })
            .collect();
        while server.reads() == 0 {
            tokio::task::yield_now().await;
        }
        // An abandoned request leaves the read to the others.
        requests[0].abort();
        server.permits.add_permits(1);
        for request in requests.into_iter().skip(1) {
            assert!(request.await.unwrap().is_ok());
        }
        assert_eq!(server.reads(), 1);
    }

    #[tokio::test]
    async fn the_cache_is_bounded_and_drops_the_least_recently_used() {
        let server = Server::with_permits(1 << 20);
        let (cache, fetch) = (Cache::default(), server.fetch());
        for number in 0..MAX_SECRETS + 10 {
            cache.get(key(&number.to_string()), Caching::default(), &fetch).await.unwrap();
        }
        assert_eq!(lock(&cache.0).len(), MAX_SECRETS);
        let before = server.reads();
        cache.get(key(&(MAX_SECRETS + 9).to_string()), Caching::default(), &fetch).await.unwrap();
        assert_eq!(server.reads(), before);
        cache.get(key("0"), Caching::default(), &fetch).await.unwrap();
        assert_eq!(server.reads(), before + 1);
    }

    #[tokio::test]
    async fn a_background_refresh_stops_ten_minutes_after_the_last_request() {
        let server = Server::with_permits(1 << 20);
        let (cache, fetch, start) = (Cache::default(), server.fetch(), Instant::now());
        let caching = Caching { ttl: Some(Duration::from_secs(1)), ..Caching::default() };
        cache.get(key("a"), caching, &fetch).await.unwrap();
        let mut last = Duration::ZERO;
        for after in (0..1200).step_by(10).map(Duration::from_secs) {
            let before = server.reads();
            cache.refresh(start + after);
            let slot = Arc::clone(&lock(&cache.0)[&key("a")]);
            while Arc::strong_count(&slot) > 2 {
                tokio::task::yield_now().await;
            }
            if server.reads() > before {
                last = after;
            }
        }
        assert_eq!((last, server.reads()), (Duration::from_secs(600), 61));
        cache.get(key("a"), Caching::default(), &fetch).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_read_gives_that_began_before_a_reload_is_not_fresh_after_it() {
        let (before, after) = (Server::with_permits(0), Server::with_permits(1));
        let (cache, old, new) = (Arc::new(Cache::default()), before.fetch(), after.fetch());
        let reading = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.get(key("a"), Caching::default(), &old).await }
        });
        while before.reads() == 0 {
            tokio::task::yield_now().await;
        }
        cache.outdate(&HashMap::from([("s".into(), Arc::clone(&new))]));
        before.permits.add_permits(1);
        assert!(reading.await.unwrap().is_ok());
        assert!(cache.get(key("a"), Caching::default(), &new).await.is_ok());
        assert_eq!((before.reads(), after.reads()), (1, 1));
    }

    #[tokio::test]
    async fn a_dropped_entry_drops_its_text() {
        let server = Server::with_permits(1 << 20);
        let (cache, fetch) = (Cache::default(), server.fetch());
        let found = cache.get(key("a"), Caching::default(), &fetch).await.unwrap();
        let held = Arc::downgrade(&found.json);
        drop(found);
        assert!(held.upgrade().is_some());
        cache.outdate(&HashMap::new());
        assert!(held.upgrade().is_none());
    }
}
