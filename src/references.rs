//! References to other secrets: from a text in Kong's notation or APISIX's to its value.
//!
//! The way is `name` (what the text names) → `engines` (where that is) → `cache` and `cache_entry` (what is fresh, else read
//! by the engine) → `extract`. The grammars are in `settings::reference`. Who may resolve is up to the API.

mod cache;
mod cache_entry;
mod engines;
mod name;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::future::join_all;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    secret::Secret,
    settings::{
        KvSecret, KvVersion, SecretPath,
        reference::Caching,
        resolve::{EnvReference, kind},
    },
    vault::Client,
};
use cache::{Cache, Key};
pub use engines::{Engines, KeyringEngine};
use engines::{Fetch, SecretAddress};
use name::Name;
pub use name::ResolveError;

/// The longest time between two checks for due refreshes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// And the shortest, however short a reference's TTL is.
const SHORTEST_REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// Whether a text is well-formed as a reference to a secret, before any Vault is asked.
pub fn check_notation(text: &str) -> Result<(), ResolveError> {
    Name::parse(text).map(drop)
}

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

    /// The sessions, some of them several times.
    pub fn clients(&self) -> Vec<Client> {
        self.engines.load().clients().cloned().collect()
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
            let next = self.cache.refresh(now);
            let pause = next.map_or(REFRESH_INTERVAL, |next| next.saturating_duration_since(now));
            let pause = pause.clamp(SHORTEST_REFRESH_INTERVAL, REFRESH_INTERVAL);
            if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// The values of references in either notation, in their order. References to one secret are answered from one read,
    /// so that a certificate and its key are of one version.
    pub async fn resolve(&self, references: &[&str]) -> Vec<Result<Resolved, ResolveError>> {
        let engines = self.engines.load_full();
        let targets: Vec<_> = references.iter().map(|reference| Target::find(&engines, reference)).collect();
        let mut wanted: HashMap<Key, (Caching, Fetch)> = HashMap::new();
        for target in targets.iter().flatten() {
            if let Target::Field { key, caching, fetch, .. } = target {
                let (all, _) = wanted.entry(key.clone()).or_insert_with(|| (*caching, Arc::clone(fetch)));
                *all = all.strictest(*caching);
            }
        }
        let reads = wanted.into_iter().map(|(key, (caching, fetch))| async move {
            let found = self.cache.get(key.clone(), caching, &fetch).await;
            (key, found)
        });
        let found: HashMap<_, _> = join_all(reads).await.into_iter().collect();
        let value = |target| match target {
            Target::Variable(value) => Ok(Resolved { value, stale: None }),
            Target::Field { key, field, decode_base64, source, .. } => {
                let at = || format!("{} {source}", key.address);
                let found = found[&key].as_ref().map_err(|error| ResolveError::from_vault(error).at(at()))?;
                let value =
                    extract(&found.json, field.as_deref(), decode_base64).map_err(|error| error.at(at()))?;
                Ok(Resolved { value, stale: found.stale })
            }
        };
        targets.into_iter().map(|target| target.and_then(value)).collect()
    }
}

/// What a reference leads to.
enum Target {
    Variable(Secret<String>),
    Field {
        key: Key,
        /// `None` for the whole secret.
        field: Option<String>,
        caching: Caching,
        decode_base64: bool,
        fetch: Fetch,
        /// The Vault, and the settings that name it.
        source: Arc<str>,
    },
}

impl Target {
    fn find(engines: &Engines, reference: &str) -> Result<Self, ResolveError> {
        if let Some(named) = EnvReference::from_either_notation(reference, &engines.env) {
            return Ok(Self::Variable(engines.variable(&named?)?));
        }
        let name = Name::parse(reference)?;
        let engine = engines.get(&name.engine)?;
        if name.version.is_some() && engine.kv == KvVersion::V1 {
            return Err(ResolveError::NoVersions);
        }
        let path = SecretPath(engine.below.iter().cloned().chain(name.path).collect());
        let secret = KvSecret { mount: engine.mount.clone(), path, kv: engine.kv };
        Ok(Self::Field {
            key: Key {
                engine: Arc::clone(&engine.id),
                address: SecretAddress { secret, version: name.version },
            },
            field: name.field,
            caching: name.caching.or(engine.caching),
            decode_base64: engine.decode_base64,
            fetch: Arc::clone(&engine.fetch),
            source: Arc::clone(&engine.source),
        })
    }
}

/// One field of a secret, from the JSON text of all fields; without a field name, the whole text. The other fields are not
/// copied, and no error quotes the content of any field.
fn extract(json: &Secret<String>, field: Option<&str>, base64: bool) -> Result<Secret<String>, ResolveError> {
    let Some(name) = field else { return Ok(Secret::new(json.expose().clone())) };
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(json.expose()).map_err(|_| ResolveError::NoFields)?;
    let raw = fields.get(name).ok_or_else(|| ResolveError::NoField(name.to_owned()))?;
    let text: Secret<String> = serde_json::from_str(raw.get())
        .map_err(|_| ResolveError::NotText(name.to_owned(), kind(raw.get())))?;
    if base64 { decoded(name, &text) } else { Ok(text) }
}

fn decoded(name: &str, text: &Secret<String>) -> Result<Secret<String>, ResolveError> {
    let not_base64 = || ResolveError::NotBase64(name.to_owned());
    let bytes = BASE64_STANDARD.decode(text.expose().trim()).map(Zeroizing::new).map_err(|_| not_base64())?;
    let text = str::from_utf8(&bytes).map_err(|_| not_base64())?;
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"name": "ACME Inc.", "test.com.key": "-----BEGIN\nplanted\n-----END\n", "empty": "",
        "number": 1, "yes": true, "nothing": null, "object": {"planted": "x"}, "list": ["planted"],
        "base64": "aMOpbGxv", "bytes": "/w=="}"#;

    fn field(name: Option<&str>, base64: bool) -> Result<String, String> {
        let found = extract(&Secret::new(JSON.to_owned()), name, base64);
        found.map(|text| text.expose().clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_text_is_returned_unchanged_and_without_a_field_everything() {
        assert_eq!(field(Some("name"), false).unwrap(), "ACME Inc.");
        assert_eq!(field(Some("test.com.key"), false).unwrap(), "-----BEGIN\nplanted\n-----END\n");
        assert_eq!(field(Some("empty"), false).unwrap(), "");
        assert_eq!(field(None, false).unwrap(), JSON);
        assert_eq!(field(None, true).unwrap(), JSON);
        assert_eq!(field(Some("base64"), true).unwrap(), "héllo");
    }

    #[test]
    fn any_other_type_is_named_and_not_quoted() {
        for (name, base64, part) in [
            ("Name", false, "has no field \"Name\""),
            ("number", false, "is a number"),
            ("yes", false, "is a boolean"),
            ("nothing", false, "is null"),
            ("object", false, "is an object"),
            ("list", false, "is a list"),
            ("name", true, "is not base64"),
            ("bytes", true, "is not base64"),
        ] {
            let error = field(Some(name), base64).unwrap_err();
            assert!(error.contains(part) && !error.contains("planted") && !error.contains("ACME"), "{error}");
        }
        let list = extract(&Secret::new("[\"planted\"]".to_owned()), Some("0"), false).unwrap_err();
        assert!(matches!(list, ResolveError::NoFields));
    }
}
