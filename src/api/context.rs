//! What handlers are given: the state that all requests share, the configuration that a reload swaps as a whole, and the
//! one call. It imports the API's leaves only, so that every other file can import it.

use std::{
    num::NonZero,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hyper::http::request::Parts;
use tokio::sync::Semaphore;

use super::{
    access::Caller,
    audit::{Audit, AuditFields},
    body::{Limits, RequestBody},
    budget::{ByteBudget, ByteBudgetGuard},
    error::{ApiError, ErrorKind},
    kms_recovery::MovedKeys,
    promotion::Promotion,
    token_limit::TokenLimit,
};
use crate::{
    keyring::{Keyring, KeyringEntry, Keyrings},
    metrics::Metrics,
    secret::Secret,
    settings::{self, AccessList},
};

/// How long a request waits for the outcome of the first sync. An unreachable Vault is reported sooner.
const FIRST_SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for the sync that looks for its key.
const UNKNOWN_KEY_TIMEOUT: Duration = Duration::from_secs(2);

/// The state that all requests share.
pub(super) struct Context {
    pub(super) metrics: Arc<Metrics>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) config: ArcSwap<RuntimeConfig>,
    pub(super) budget: Arc<ByteBudget>,
    pub(super) audit: Audit,
    pub(super) promotion: Promotion,
    pub(super) moved_keys: MovedKeys,
    pub(super) tokens: TokenLimit,
    pub(super) started: Instant,
    /// One per processor for requests that compute for long: all others get their time in between.
    pub(super) turns: Semaphore,
}

/// What a reload can change. A request keeps the one that it began with.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    pub keyrings: Keyrings,
    /// The name of the keyring that encrypts for Kubernetes; `None` for the default one.
    pub kms_name: Option<String>,
    /// `None` leaves it to the socket's mode and group.
    pub access: Option<AccessList>,
    pub audit: settings::Audit,
    pub limits: Limits,
    /// Below which paths Transit is served.
    pub transit_mounts: Arc<[String]>,
    /// The namespace of the keyring's Vault, without slashes at its ends.
    pub namespace: Option<String>,
}

/// What the API asks of the side that talks to Vault.
pub trait Upstream: Send + Sync {
    /// Syncs this keyring now, with this token if there is one. The error is for the caller.
    fn sync<'a>(
        &'a self,
        keyring: &'a str,
        token: Option<Secret<String>>,
    ) -> UpstreamFuture<'a, Result<(), String>>;

    /// Looks for the key of a ciphertext that the snapshot of this keyring does not have, unless the last look was a
    /// moment ago. The error is why Vault cannot be asked.
    fn look_for_new_keys<'a>(&'a self, keyring: &'a str) -> UpstreamFuture<'a, Result<(), String>>;

    /// Waits for the outcome of the first sync of this keyring.
    fn first_outcome<'a>(&'a self, keyring: &'a str) -> UpstreamFuture<'a, ()>;

    /// Resolves references to other secrets: a result for each. Those to one secret are answered from one read.
    fn resolve<'a>(
        &'a self,
        references: &'a [&'a str],
    ) -> UpstreamFuture<'a, Vec<Result<ResolvedValue, ApiError>>>;

    /// Whether references can be resolved: a session has logged in. The error gives the reason, without secrets.
    fn can_resolve(&self) -> Result<(), String>;

    /// Reloads the settings. Returns what changed, or every mistake as a line.
    fn reload(&self) -> UpstreamFuture<'_, Result<serde_json::Value, String>>;

    /// The `source` of `GET /status`.
    fn describe(&self) -> serde_json::Value;
}

pub type UpstreamFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The value of a reference.
pub struct ResolvedValue {
    pub text: Secret<String>,
    /// How long ago a cached value expired that could not be refreshed.
    pub stale: Option<Duration>,
}

/// One authorised request, as its handler sees it.
pub(super) struct Call<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) config: &'a RuntimeConfig,
    pub(super) head: &'a Parts,
    /// The keyring that the path names, or the default one. Handlers ask for it by [`Call::keyring`].
    pub(super) named: Option<&'a Arc<KeyringEntry>>,
    /// What follows the route's path: an algorithm, a byte count, a mount.
    pub(super) tail: &'a str,
    pub(super) caller: &'a Caller,
    /// Empty on routes without a body.
    pub(super) body: RequestBody,
    /// Holds the body. Handlers reserve what they allocate on top.
    pub(super) budget: &'a mut ByteBudgetGuard,
    /// What the handler adds to the audit, also on an error.
    pub(super) audit: AuditFields,
}

impl<'a> Call<'a> {
    /// The keyring of the request.
    ///
    /// # Errors
    /// [`no_keyring`], if the daemon serves references only.
    pub(super) fn keyring(&self) -> Result<&'a Arc<KeyringEntry>, ApiError> {
        self.named.ok_or_else(no_keyring)
    }
}

/// The answer to what needs a keyring, of a daemon without one.
pub(super) fn no_keyring() -> ApiError {
    ApiError::new(
        ErrorKind::NoRoute,
        "no keyring is configured: this daemon serves references only (/v1/resolve); for keys, set keyring_enabled = on \
         and the keyring_vault_* settings",
    )
}

impl Context {
    pub(super) fn turns() -> Semaphore {
        Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get))
    }

    /// The published snapshot; at the start, once the first sync has ended. A client that connects during a restart should
    /// not notice it.
    pub(super) async fn snapshot(&self, entry: &KeyringEntry) -> Result<Arc<Keyring>, ApiError> {
        if entry.published.keyring().is_none() {
            let _ = tokio::time::timeout(FIRST_SYNC_TIMEOUT, self.upstream.first_outcome(&entry.name)).await;
        }
        entry.published.keyring().ok_or_else(|| ApiError::unavailable(entry.no_keys()))
    }

    /// A newer snapshot, for a ciphertext whose key this one does not have. `None` if Vault has none either.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], when Vault cannot be asked: `unknown` names the key.
    pub(super) async fn newer_snapshot(
        &self,
        entry: &KeyringEntry,
        current: &Arc<Keyring>,
        unknown: impl FnOnce() -> String,
    ) -> Result<Option<Arc<Keyring>>, ApiError> {
        let look = self.upstream.look_for_new_keys(&entry.name);
        let looked = tokio::time::timeout(UNKNOWN_KEY_TIMEOUT, look).await;
        let newer = entry.published.keyring().filter(|newer| !Arc::ptr_eq(newer, current));
        let cause = match (looked, &newer) {
            (Ok(Ok(())), _) | (_, Some(_)) => return Ok(newer),
            (Ok(Err(cause)), None) => cause,
            (Err(_), None) => format!("no answer within {} s", UNKNOWN_KEY_TIMEOUT.as_secs()),
        };
        Err(ApiError::unavailable(format!("{}, and Vault cannot be asked for it: {cause}", unknown())))
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod testing {
    use super::*;
    use crate::keyring::{Format, Formats, KongFields, Published};

    pub(crate) fn config() -> RuntimeConfig {
        let formats = Formats { write: Format::Native, kong_fields: KongFields::Refuse };
        let published = Arc::new(Published::default());
        let entry = KeyringEntry {
            name: "keyring".into(),
            published,
            formats,
            index_key: None,
            max_stale: None,
            secret: None,
            moving_to: None,
        };
        RuntimeConfig {
            keyrings: Keyrings::single(entry),
            kms_name: None,
            access: None,
            audit: settings::Audit::Off,
            limits: Limits::new(1 << 20, 1 << 20, 10),
            transit_mounts: ["transit".to_owned()].into(),
            namespace: None,
        }
    }

    /// A Vault that is never asked.
    pub(crate) struct Nowhere;

    impl Upstream for Nowhere {
        fn sync<'a>(
            &'a self,
            _: &'a str,
            _: Option<Secret<String>>,
        ) -> UpstreamFuture<'a, Result<(), String>> {
            Box::pin(async { Err("nowhere".to_owned()) })
        }

        fn look_for_new_keys<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, Result<(), String>> {
            Box::pin(async { Err("nowhere".to_owned()) })
        }

        fn first_outcome<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, ()> {
            Box::pin(async {})
        }

        fn resolve<'a>(
            &'a self,
            _: &'a [&'a str],
        ) -> UpstreamFuture<'a, Vec<Result<ResolvedValue, ApiError>>> {
            Box::pin(async { Vec::new() })
        }

        fn can_resolve(&self) -> Result<(), String> {
            Err("nowhere".to_owned())
        }

        fn reload(&self) -> UpstreamFuture<'_, Result<serde_json::Value, String>> {
            Box::pin(async { Err("nowhere".to_owned()) })
        }

        fn describe(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
    }
}
