//! References to other secrets: from a text in Kong's notation or APISIX's to the value that it stands for.
//!
//! `name` says what a text names, `engines` where that is, [`read`] asks Vault for it, `cache` keeps it by the rules of
//! `kept`, and `field` takes one field out. Here: the way from one to the next, and every way to fail. The grammars are in
//! `settings::reference`; who may ask is for the socket to say.

mod cache;
mod engines;
mod field;
mod kept;
mod name;
pub mod read;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    secret::Secret,
    settings::{
        KvVersion, Secrets,
        reference::{self, apisix},
        resolve::{Named, Unresolved},
    },
    vault::{Place, VaultError, transport::TransportError},
};
use cache::{Cache, Key};
pub use engines::Home;
use engines::{Engine, Engines};
use kept::is_absence;
use name::Name;
use read::Reads;

/// How often it is looked whether something is due, at the latest.
const LOOK: Duration = Duration::from_secs(1);

/// And at the earliest, however short somebody's times are.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// Why a reference gives no value. Behind the reference, or alone where that may not be quoted.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("is not a well-formed reference: {0}")]
    Kong(#[from] reference::Malformed),
    #[error("is not a well-formed reference: {0}")]
    Apisix(#[from] apisix::Malformed),
    #[error("has . or .. or a control character for a segment of its path, which leads nowhere in Vault")]
    BadPath,
    #[error(
        "names the backend or prefix {0}, which is none here: hcv, env and what keyring_hcv_prefixes lists are"
    )]
    UnknownBackend(String),
    #[error("names the ID {0}, which keyring_secret_objects does not have")]
    UnknownObject(String),
    #[error("asks for a version, which an engine of version 1 does not keep")]
    NoVersions,
    #[error("{0}")]
    Variable(#[from] Unresolved),
    #[error(
        "names the variable {0}, which is for the daemon itself: a reference to a variable of one's own is resolved \
         by `keyringd vault get` and `keyringd exec`"
    )]
    OwnVariable(String),
    #[error("names no secret that is there: {0}")]
    NoSecret(String),
    #[error("names a secret that has no fields")]
    NoFields,
    #[error("names a secret that has no field {0:?}")]
    NoField(String),
    #[error("names the field {0:?}, which is {1}: only text can be a value")]
    NotText(String, &'static str),
    #[error("names the field {0:?}, which is not base64 of text, as vault_hcv_decode_base64 has it")]
    NotBase64(String),
    #[error("cannot be read: {0}")]
    Vault(String),
}

/// What a reference stands for.
#[derive(Debug)]
pub struct Resolved {
    pub value: Secret<String>,
    /// It could not be read anew, and is older by so much than it should be.
    pub stale: Option<Duration>,
}

/// Resolves references, by the settings as they are.
pub struct References {
    engines: ArcSwap<Engines>,
    cache: Cache,
    /// The keyring's own session.
    keyring: Arc<dyn Reads>,
    sessions: TaskTracker,
    stop: CancellationToken,
}

impl References {
    /// # Errors
    /// [`TransportError`] when the settings' certificates cannot be used. No request is sent yet.
    pub fn new(secrets: Secrets, home: &Home, keyring: Arc<dyn Reads>) -> Result<Self, TransportError> {
        let (sessions, stop) = (TaskTracker::new(), CancellationToken::new());
        let engines = Engines::new(secrets, home, &keyring, &sessions, &stop)?;
        let engines = ArcSwap::from_pointee(engines);
        Ok(Self { engines, cache: Cache::default(), keyring, sessions, stop })
    }

    /// Goes on with other settings. What was read serves until it is read anew, as far as it is still meant.
    ///
    /// # Errors
    /// As [`References::new`]; nothing has changed then.
    pub fn change(&self, secrets: Secrets, home: &Home) -> Result<(), TransportError> {
        let engines = Engines::new(secrets, home, &self.keyring, &self.sessions, &self.stop)?;
        let servers = engines.all().map(|engine| (Arc::clone(&engine.server), Arc::clone(&engine.reads)));
        let servers = servers.collect();
        self.engines.store(Arc::new(engines));
        self.cache.outdate(&servers);
        Ok(())
    }

    /// Reads anew what is due, until `stop`; then ends the sessions.
    pub async fn keep_fresh(&self, stop: CancellationToken) {
        loop {
            let now = Instant::now();
            let pause =
                self.cache.refresh().map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
            if tokio::time::timeout(pause.max(SHORTEST_LOOK), stop.cancelled()).await.is_ok() {
                break;
            }
        }
        self.stop.cancel();
        self.sessions.close();
        self.sessions.wait().await;
    }

    /// What a reference in either notation stands for.
    ///
    /// # Errors
    /// [`ResolveError`], which quotes no value.
    pub async fn resolve(&self, reference: &str) -> Result<Resolved, ResolveError> {
        let engines = self.engines.load_full();
        if let Some(named) = Named::of(reference) {
            return engines.variable(&named?);
        }
        let name = Name::parse(reference)?;
        let engine = engines.of(&name.engine)?;
        if name.version.is_some() && engine.kv == KvVersion::V1 {
            return Err(ResolveError::NoVersions);
        }
        let path = engine.below.iter().cloned().chain(name.path).collect();
        let place = Place::new(&engine.mount, engine.kv, path, name.version);
        let key = Key { server: Arc::clone(&engine.server), place };
        let caching = name.caching.or(engine.caching);
        let found = self.cache.get(key, caching, &engine.reads).await;
        let found = found.map_err(|error| ResolveError::of(&error, engine))?;
        let value = field::of(&found.json, name.field.as_deref(), engine.decode_base64)?;
        Ok(Resolved { value, stale: found.stale })
    }
}

impl ResolveError {
    /// The words of logins name the keyring's settings; those of `hcv` are called alike.
    fn of(error: &VaultError, engine: &Engine) -> Self {
        let mut said = error.to_string();
        if engine.has_session {
            said = said.replace("keyring_vault_", "vault_hcv_");
        }
        if is_absence(error) { Self::NoSecret(said) } else { Self::Vault(said) }
    }
}
