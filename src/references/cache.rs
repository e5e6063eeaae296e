//! The secrets that were read: each read by one at a time however many ask, anew before its time is over, and bounded.
//!
//! What is kept of one, and what that is worth, is in `kept`. Reading goes on when whoever asked has gone: others wait for
//! it too, and a login that is cut off leaves a token behind. What is dropped is wiped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    kept::{Json, Kept, Outcome, Worth, is_absence},
    read::Reads,
};
use crate::{
    settings::reference::Caching,
    vault::{Place, VaultError},
};

/// The most that is kept: secrets, and bytes of them. Past it, what was not asked for longest goes.
const MOST: usize = 1024;
const MOST_BYTES: usize = 32 << 20;

/// How long a secret that nobody asks for goes on being read anew.
const IDLE: Duration = Duration::from_secs(3600);

/// How long one waits for Vault who could be served an old value.
const PATIENCE: Duration = Duration::from_secs(1);

/// A secret on a server, which may be asked in several ways.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub server: Arc<str>,
    pub place: Place,
}

/// What was found, and how old it is beyond its time.
#[derive(Debug)]
pub struct Found {
    pub json: Json,
    pub stale: Option<Duration>,
}

#[derive(Default)]
pub struct Cache(Mutex<HashMap<Key, Arc<Entry>>>);

struct Entry {
    key: Key,
    kept: Mutex<Kept>,
    /// Held by the one who reads.
    reading: tokio::sync::Mutex<()>,
    reads: Mutex<Arc<dyn Reads>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// The secret, as fresh as `caching` wants it if that can be had.
    ///
    /// # Errors
    /// [`VaultError`] of the last look for it.
    pub async fn get(
        &self,
        key: Key,
        caching: Caching,
        reads: &Arc<dyn Reads>,
    ) -> Result<Found, Arc<VaultError>> {
        let entry = self.entry(key, reads);
        let now = Instant::now();
        lock(&entry.kept).ask(caching, now);
        let worth = lock(&entry.kept).worth(caching, now);
        let stand_in = match worth {
            Worth::Serve(json, stale) => return Ok(Found { json, stale }),
            Worth::Refuse(error) => return Err(error),
            Worth::Read(stand_in) => stand_in,
        };
        let reading = tokio::spawn(Arc::clone(&entry).read(now));
        let Some((json, over)) = stand_in else {
            let outcome = reading.await.unwrap_or_else(|_| Err(Arc::new(stopping())));
            self.make_room();
            return outcome.map(|json| Found { json, stale: None });
        };
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(Ok(json))) => Ok(Found { json, stale: None }),
            Ok(Ok(Err(error))) if is_absence(&error) => Err(error),
            _ => Ok(Found { json, stale: Some(over) }),
        }
    }

    fn entry(&self, key: Key, reads: &Arc<dyn Reads>) -> Arc<Entry> {
        let mut entries = lock(&self.0);
        let entry = entries.entry(key).or_insert_with_key(|key| {
            Arc::new(Entry {
                key: key.clone(),
                kept: Mutex::default(),
                reading: tokio::sync::Mutex::default(),
                reads: Mutex::new(Arc::clone(reads)),
            })
        });
        let entry = Arc::clone(entry);
        drop(entries);
        *lock(&entry.reads) = Arc::clone(reads);
        entry
    }

    /// Reads anew what is due, and drops what can serve no more. Answers when to call next, at the latest.
    pub fn refresh(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        lock(&self.0).retain(|_, entry| {
            let mut kept = lock(&entry.kept);
            let (spent, due) = (kept.tidy(now), kept.refresh_due(now, IDLE));
            drop(kept);
            // One that is being read now is just beginning.
            let idle = entry.reading.try_lock().is_ok();
            match due {
                Some(at) if at <= now && idle => drop(tokio::spawn(Arc::clone(entry).read(now))),
                Some(at) if at > now => next = Some(next.map_or(at, |next| next.min(at))),
                _ => {}
            }
            !(spent && idle && Arc::strong_count(entry) == 1)
        });
        next
    }

    fn make_room(&self) {
        let mut entries = lock(&self.0);
        let size = |entry: &Entry| lock(&entry.kept).size();
        let mut bytes: usize = entries.values().map(|entry| size(entry)).sum();
        if entries.len() <= MOST && bytes <= MOST_BYTES {
            return;
        }
        let mut by_use: Vec<_> =
            entries.values().map(|entry| (lock(&entry.kept).used(), Arc::clone(entry))).collect();
        by_use.sort_by_key(|(used, _)| *used);
        for (_, entry) in by_use {
            if entries.len() <= MOST && bytes <= MOST_BYTES {
                return;
            }
            bytes = bytes.saturating_sub(size(&entry));
            entries.remove(&entry.key);
        }
    }

    /// The settings have changed: everything is to be read anew, and what is on no server of theirs goes.
    pub fn outdate(&self, servers: &HashMap<Arc<str>, Arc<dyn Reads>>) {
        lock(&self.0).retain(|key, entry| {
            let Some(reads) = servers.get(&key.server) else { return false };
            lock(&entry.kept).outdate();
            *lock(&entry.reads) = Arc::clone(reads);
            true
        });
    }
}

impl Entry {
    /// Reads it, unless somebody else did while this waited for its turn.
    async fn read(self: Arc<Self>, asked: Instant) -> Outcome {
        let _turn = self.reading.lock().await;
        let before = lock(&self.kept).outcome_since(asked);
        if let Some(outcome) = before {
            return outcome;
        }
        let reads = Arc::clone(&lock(&self.reads));
        let outcome = reads.read(self.key.place.clone()).await.map(Arc::new).map_err(Arc::new);
        let mut kept = lock(&self.kept);
        let served = kept.size() > 0;
        kept.take(&outcome, Instant::now());
        drop(kept);
        match &outcome {
            Err(error) if served && is_absence(error) => {
                tracing::info!("a secret that was read is not there any more, and serves no longer: {error}");
            }
            Err(error) if served => {
                tracing::warn!(
                    "a secret cannot be read anew, and serves as it was for its resurrect_ttl: {error}"
                );
            }
            _ => {}
        }
        outcome
    }
}

/// Why nothing is read any more.
pub fn stopping() -> VaultError {
    VaultError::Unreachable { host: "Vault".to_owned(), cause: "the daemon is stopping".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{references::read::Reading, secret::Secret};

    /// A server that counts, and answers as often as it is let.
    struct Counting {
        reads: AtomicUsize,
        gate: tokio::sync::Semaphore,
    }

    impl Counting {
        fn letting(answers: usize) -> Arc<Self> {
            Arc::new(Self { reads: AtomicUsize::new(0), gate: tokio::sync::Semaphore::new(answers) })
        }

        fn count(&self) -> usize {
            self.reads.load(Ordering::Relaxed)
        }
    }

    impl Reads for Counting {
        fn read(&self, place: Place) -> Reading<'_> {
            Box::pin(async move {
                self.reads.fetch_add(1, Ordering::Relaxed);
                self.gate.acquire().await.unwrap().forget();
                Ok(Secret::new(format!("{:?}", place.path)))
            })
        }
    }

    fn key(path: &str) -> Key {
        let place = Place { mount: vec!["m".into()], path: vec![path.into()], v2: true, version: None };
        Key { server: "s".into(), place }
    }

    #[tokio::test]
    async fn however_many_ask_at_once_one_reads() {
        let server = Counting::letting(0);
        let (cache, reads) = (Arc::new(Cache::default()), Arc::clone(&server) as Arc<dyn Reads>);
        let asking: Vec<_> = (0..100)
            .map(|_| {
                let (cache, reads) = (Arc::clone(&cache), Arc::clone(&reads));
                tokio::spawn(async move { cache.get(key("a"), Caching::default(), &reads).await })
            })
            .collect();
        while server.count() == 0 {
            tokio::task::yield_now().await;
        }
        // One that goes away leaves the others with their answer.
        asking[0].abort();
        server.gate.add_permits(1);
        for one in asking.into_iter().skip(1) {
            assert!(one.await.unwrap().is_ok());
        }
        assert_eq!(server.count(), 1);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_goes_by_when_it_was_asked_for() {
        let server = Counting::letting(1 << 20);
        let (cache, reads) = (Cache::default(), Arc::clone(&server) as Arc<dyn Reads>);
        for number in 0..MOST + 10 {
            cache.get(key(&number.to_string()), Caching::default(), &reads).await.unwrap();
        }
        assert_eq!(lock(&cache.0).len(), MOST);
        let before = server.count();
        cache.get(key(&(MOST + 9).to_string()), Caching::default(), &reads).await.unwrap();
        assert_eq!(server.count(), before);
        cache.get(key("0"), Caching::default(), &reads).await.unwrap();
        assert_eq!(server.count(), before + 1);
    }

    #[tokio::test]
    async fn what_is_dropped_is_dropped_with_its_text() {
        let server = Counting::letting(1 << 20);
        let (cache, reads) = (Cache::default(), Arc::clone(&server) as Arc<dyn Reads>);
        let found = cache.get(key("a"), Caching::default(), &reads).await.unwrap();
        let held = Arc::downgrade(&found.json);
        drop(found);
        assert!(held.upgrade().is_some());
        cache.outdate(&HashMap::new());
        assert!(held.upgrade().is_none());
    }
}
