//! References to other secrets: from a text in Kong's notation or APISIX's to its value.
//!
//! The way is `name` (what the text names) → `engines` (where that is) → `cache` and `cache_entry` (what is fresh) → `fetch`
//! (read from Vault) → `field`. The grammars are in `settings::reference`. Who may resolve references is up to the API.

mod cache;
mod cache_entry;
mod engines;
mod error;
mod fetch;
mod field;
mod name;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    secret::Secret,
    settings::{KvSecret, KvVersion, SecretPath, resolve::EnvReference},
};
use cache::{Cache, Key};
pub use engines::Engines;
pub use error::ResolveError;
use fetch::SecretAddress;
use name::Name;

/// The longest time between two checks for due refreshes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// And the shortest, however short a reference's TTL is.
const SHORTEST_REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// The value of a reference.
#[derive(Debug)]
pub struct Resolved {
    pub value: Secret<String>,
    /// How long ago the value expired, if it could not be refreshed.
    pub stale: Option<Duration>,
}

/// Resolves references by the current settings.
pub struct References {
    engines: ArcSwap<Engines>,
    cache: Cache,
}

impl References {
    pub fn new(engines: Engines) -> Self {
        Self { engines: ArcSwap::from_pointee(engines), cache: Cache::default() }
    }

    /// Uses other settings. What is cached is refreshed at its next use, and dropped if its engine is gone.
    pub fn change(&self, engines: Engines) {
        let fetches =
            engines.all().map(|engine| (Arc::clone(&engine.id), Arc::clone(&engine.fetch))).collect();
        self.engines.store(Arc::new(engines));
        self.cache.outdate(&fetches);
    }

    /// Refreshes what is due, until `stop`.
    pub async fn keep_fresh(&self, stop: CancellationToken) {
        loop {
            let now = Instant::now();
            let next = self.cache.refresh();
            let pause = next.map_or(REFRESH_INTERVAL, |next| next.saturating_duration_since(now));
            let pause = pause.clamp(SHORTEST_REFRESH_INTERVAL, REFRESH_INTERVAL);
            if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// The value of a reference in either notation.
    ///
    /// # Errors
    /// [`ResolveError`], which quotes no value.
    pub async fn resolve(&self, reference: &str) -> Result<Resolved, ResolveError> {
        let engines = self.engines.load_full();
        if let Some(named) = EnvReference::from_either_notation(reference) {
            return Ok(Resolved { value: engines.variable(&named?)?, stale: None });
        }
        let name = Name::parse(reference)?;
        let engine = engines.get(&name.engine)?;
        if name.version.is_some() && engine.kv == KvVersion::V1 {
            return Err(ResolveError::NoVersions);
        }
        let path = SecretPath(engine.below.iter().cloned().chain(name.path).collect());
        let secret = KvSecret { mount: engine.mount.clone(), path, kv: engine.kv };
        let key =
            Key { engine: Arc::clone(&engine.id), address: SecretAddress { secret, version: name.version } };
        let caching = name.caching.or(engine.caching);
        let found = self.cache.get(key, caching, &engine.fetch).await;
        let found = found.map_err(|error| ResolveError::from_vault(&error))?;
        let value = field::extract(&found.json, name.field.as_deref(), engine.decode_base64)?;
        Ok(Resolved { value, stale: found.stale })
    }
}
