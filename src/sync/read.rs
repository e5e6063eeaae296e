//! One read of the keyring's secret: what changed is fetched, and the history builds the keyring. Sync and doctor share it.
//!
//! A read that fails keeps the versions that it fetched, so that the next one goes on there: a rate limit slows a read down
//! and never starts it again. The warnings that follow from a read are in `warnings`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::block_in_place,
};

use crate::{
    keyring::{
        History, KeyDerivation, KongFields, Listing, Options,
        history::{Built, VersionState},
        key::VersionId,
        record::Contents,
    },
    secret::Secret,
    settings::{self, KvVersion},
    vault::{Kv, VaultError, kv::DEFAULT_MAX_VERSIONS},
};

/// How many requests the syncs make at once, and so how many versions are fetched at once. One at a time after the server
/// refused one for its rate limit.
const CONCURRENT_READS: usize = 16;

/// The wait after a refusal by a rate limit that names no time. Vault's limits are per second unless configured otherwise.
const RATE_LIMIT_INTERVAL: Duration = Duration::from_secs(1);

/// The longest wait within one read. With a longer one the read fails, and the next goes on.
const LONGEST_RATE_LIMIT_WAIT: Duration = Duration::from_secs(10);

/// How often the engine's `max_versions` is requested. It rarely changes, and a steady sync costs one request.
const ENGINE_LIMIT_INTERVAL: Duration = Duration::from_secs(3600);

/// Refusals of one version in a row, after which the read fails.
const MAX_REFUSALS: u32 = 5;

/// Work on so many keys takes 2 ms at most.
const FEW_KEYS: usize = 200;

/// The bytes of the shortest record of a map: an ID, a key of 32 bytes in base64, and the punctuation.
const SHORTEST_RECORD: usize = 50;

/// What a read gave.
#[derive(Debug)]
pub struct Read {
    /// `None` if Vault holds what the last keyring was built from.
    pub built: Option<Built>,
    /// `None` on KV version 1.
    pub listing: Option<Listing>,
    /// What the secret's metadata says, and what of it has no effect.
    pub options: Options,
    pub ignored_options: Vec<String>,
    /// The highest current version that was ever seen.
    pub highest: u64,
}

/// The turns of requests to Vault, which all readers share: a start with many keyrings does not flood it.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_READS)))
    }
}

impl Turns {
    /// The outcome of a request, once it is its turn.
    pub(super) async fn take<T>(&self, request: impl Future<Output = T>) -> T {
        let _turn = self.0.acquire().await; // never closed
        request.await
    }
}

/// What the settings say of a keyring's records. Options of the secret come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub derivation: KeyDerivation,
    pub kong_fields: KongFields,
}

impl Rules {
    pub const fn from_settings(settings: &settings::Keyring) -> Self {
        let kong_fields = if settings.kong_fields { KongFields::Accept } else { KongFields::Refuse };
        Self { derivation: settings.derivation, kong_fields }
    }
}

/// What was read of one secret so far.
#[derive(Debug, Default)]
pub struct Reader {
    turns: Turns,
    /// How the keys of the history were derived.
    derivation: Option<KeyDerivation>,
    pub history: History,
    /// Fetched by reads that failed later.
    fetched: BTreeMap<VersionId, Option<Contents>>,
    limit: EngineLimit,
    highest: u64,
}

/// The engine's own `max_versions`, which applies to a secret that sets none.
#[derive(Debug, Default)]
struct EngineLimit {
    max_versions: Option<u64>,
    requested: Option<SystemTime>,
}

impl Reader {
    pub(super) fn new(turns: Turns) -> Self {
        Self { turns, ..Self::default() }
    }

    /// One that has read nothing yet.
    pub(super) fn forgetful(&self) -> Self {
        Self::new(self.turns.clone())
    }

    /// Reads what it does not hold yet. `observe` gets the contents of each version that was fetched, oldest first; on KV
    /// version 1 there is no version number.
    ///
    /// # Errors
    /// [`VaultError`]. The history stays as it was.
    pub async fn read(
        &mut self,
        kv: &Kv<'_>,
        rules: Rules,
        now: SystemTime,
        mut observe: impl FnMut(Option<u64>, &Contents) + Send,
    ) -> Result<Read, VaultError> {
        if kv.engine() == KvVersion::V1 {
            let fields = self.turns.take(kv.read(None)).await?;
            let history = &mut self.history;
            let built = off_io_threads(most_keys(&fields).saturating_add(history.key_count()), || {
                (!history.is_built_from_fields(fields.expose())).then(|| {
                    let contents = Contents::parse(fields.expose().as_bytes(), rules.derivation);
                    observe(None, &contents);
                    history.replace(contents, now)
                })
            });
            let (options, ignored_options) = Default::default();
            return Ok(Read { built, listing: None, options, ignored_options, highest: 0 });
        }
        let mut listing = self.turns.take(kv.list(now)).await?;
        self.limit.complete(kv, &mut listing, now).await;
        let (options, ignored_options) = Options::parse(&listing.options, rules.kong_fields);
        let derivation = options.derivation.unwrap_or(rules.derivation);
        if self.derivation.replace(derivation).is_some_and(|before| before != derivation) {
            (self.history, self.fetched) = Default::default();
        }
        let missing = self.history.missing(&listing);
        self.fetched.retain(|id, _| missing.contains(id));
        let pending = missing.into_iter().filter(|id| !self.fetched.contains_key(id)).collect();
        let fetched = &mut self.fetched;
        fetch(kv, &self.turns, pending, |id, fields| {
            let parse = |fields: Secret<String>| Contents::parse(fields.expose().as_bytes(), derivation);
            let parse = |fields| off_io_threads(most_keys(&fields), || parse(fields));
            fetched.insert(id, fields.map(parse));
        })
        .await?;
        let mut contents = Vec::new();
        for (id, fetched) in std::mem::take(&mut self.fetched) {
            match fetched {
                Some(fetched) => {
                    observe(Some(id.number), &fetched);
                    contents.push((id, fetched));
                }
                // Removed since it was listed, or by a clock that is ahead of ours.
                None => drop(listing.versions.insert(id, VersionState::Removed)),
            }
        }
        self.highest = self.highest.max(listing.current);
        let history = &mut self.history;
        let fetched: usize = contents.iter().map(|(_, contents)| contents.keys.len()).sum();
        let built = off_io_threads(fetched.saturating_add(history.key_count()), || {
            (!history.is_built_from_listing(&listing)).then(|| history.advance(&listing, contents))
        });
        Ok(Read { built, listing: Some(listing), options, ignored_options, highest: self.highest })
    }
}

/// Fetches versions, oldest first. A rate limit makes it wait and go on with one request at a time.
async fn fetch(
    kv: &Kv<'_>,
    turns: &Turns,
    mut pending: Vec<VersionId>,
    mut keep: impl FnMut(VersionId, Option<Secret<String>>) + Send,
) -> Result<(), VaultError> {
    let (mut width, mut refusals) = (CONCURRENT_READS, 0_u32);
    while !pending.is_empty() {
        let rest = pending.split_off(width.min(pending.len()));
        let versions: Vec<_> = std::mem::replace(&mut pending, rest);
        let outcomes = join_all(versions.iter().map(|id| turns.take(kv.read_version(id.number)))).await;
        let (mut refused, mut refusal, mut failure) = (Vec::new(), None, None);
        for (id, outcome) in versions.into_iter().zip(outcomes) {
            match outcome {
                Ok(fields) => {
                    keep(id, fields);
                    refusals = 0;
                }
                Err(error) if error.is_rate_limit() => {
                    refused.push(id);
                    refusal = Some(error);
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(refusal) = refusal {
            let wait = refusal.retry_after().unwrap_or(RATE_LIMIT_INTERVAL);
            refusals = refusals.saturating_add(1);
            if wait > LONGEST_RATE_LIMIT_WAIT || refusals > MAX_REFUSALS {
                return Err(refusal);
            }
            width = 1;
            tokio::time::sleep(wait).await;
        }
        pending.splice(..0, refused);
    }
    Ok(())
}

impl EngineLimit {
    /// Fills in how many versions Vault keeps of a secret that sets no limit of its own: the engine's, or without the right
    /// to read that, as many as it left when it pruned.
    async fn complete(&mut self, kv: &Kv<'_>, listing: &mut Listing, now: SystemTime) {
        if listing.max_versions > 0 {
            return;
        }
        let age = self.requested.map(|at| now.duration_since(at).unwrap_or_default());
        if age.is_none_or(|age| age >= ENGINE_LIMIT_INTERVAL) {
            match kv.engine_max_versions().await {
                Ok(max) => {
                    self.max_versions = max.map(|max| if max == 0 { DEFAULT_MAX_VERSIONS } else { max });
                    self.requested = Some(now);
                }
                // It is optional: the guess below has to do until the next sync.
                Err(error) => tracing::debug!(%error, "the engine's max_versions is unknown"),
            }
        }
        let left_by_pruning = || {
            let oldest = listing.versions.keys().next()?.number;
            (oldest > 1).then_some(listing.current.saturating_add(1).saturating_sub(oldest))
        };
        listing.max_versions = self.max_versions.or_else(left_by_pruning).unwrap_or(DEFAULT_MAX_VERSIONS);
    }
}

/// The most keys that the fields of a secret can hold.
fn most_keys(fields: &Secret<String>) -> usize {
    fields.expose().len() / SHORTEST_RECORD
}

/// Work on this many keys. 10,000 take some 100 ms: other tasks leave this thread meanwhile. For a few, another thread would
/// cost more than it gives. A runtime of one thread has none that wait.
fn off_io_threads<T>(keys: usize, work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread if keys > FEW_KEYS => block_in_place(work),
        _ => work(),
    }
}
