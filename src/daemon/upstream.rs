//! What the socket asks of Vault: requests go to the sync or to the references, and their errors become responses.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    api::{ApiError, ErrorKind, ResolvedValue, Upstream, UpstreamFuture},
    references::{References, ResolveError, Resolved},
    secret::Secret,
    settings::resolve::Unresolved,
    sync::{CopyReport, SyncHandle, Syncs},
    vault::{SessionName, Sessions},
};

pub(super) struct VaultUpstream {
    /// `None` if only references are served.
    syncs: Option<Arc<Syncs>>,
    /// `None` if there is no sealed copy.
    copy: Option<Arc<CopyReport>>,
    pub(super) references: Arc<References>,
    sessions: Arc<Sessions>,
    described: ArcSwap<Value>,
    mistakes: Mutex<Mistakes>,
    reloads: mpsc::Sender<ReloadDone>,
}

/// Gets what a reload changed, or every mistake as a line.
pub(super) type ReloadDone = oneshot::Sender<Result<Value, String>>;

#[derive(Default)]
struct Mistakes {
    /// Of the last reload.
    settings: Vec<String>,
    logins: Arc<LoginFailures>,
}

/// By session of one reload: why it cannot log in, so that the previous session stays in use.
#[derive(Default)]
pub(super) struct LoginFailures(watch::Sender<BTreeMap<String, String>>);

impl LoginFailures {
    /// `None` once the session has logged in.
    pub(super) fn set(&self, session: &str, failure: Option<String>) {
        self.0.send_modify(|failures| {
            match failure {
                Some(failure) => failures.insert(session.to_owned(), failure),
                None => failures.remove(session),
            };
        });
    }

    /// Waits for a failure of this session.
    pub(super) async fn of(&self, session: &SessionName) -> String {
        let (mut failures, session) = (self.0.subscribe(), session.to_string());
        // The sender lives as long as `self`.
        let failed = failures.wait_for(|failures| failures.contains_key(&session)).await;
        failed.ok().and_then(|failures| failures.get(&session).cloned()).unwrap_or_default()
    }
}

impl VaultUpstream {
    pub(super) fn new(
        (syncs, copy): (Option<Arc<Syncs>>, Option<Arc<CopyReport>>),
        references: Arc<References>,
        sessions: Arc<Sessions>,
        described: Value,
        reloads: mpsc::Sender<ReloadDone>,
    ) -> Self {
        let (described, mistakes) = (ArcSwap::from_pointee(described), Mutex::default());
        Self { syncs, copy, references, sessions, described, mistakes, reloads }
    }

    fn handle(&self, keyring: &str) -> Option<SyncHandle> {
        self.syncs.as_ref()?.handle(keyring)
    }

    pub(super) fn set_described(&self, described: Value) {
        self.described.store(Arc::new(described));
    }

    pub(super) fn set_mistakes(&self, mistakes: Vec<String>) {
        lock(&self.mistakes).settings = mistakes;
    }

    /// A new list, which replaces that of the reload before.
    pub(super) fn new_login_failures(&self) -> Arc<LoginFailures> {
        let failures = Arc::default();
        lock(&self.mistakes).logins = Arc::clone(&failures);
        failures
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream for VaultUpstream {
    fn sync<'a>(
        &'a self,
        keyring: &'a str,
        token: Option<Secret<String>>,
    ) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match &self.syncs {
                Some(syncs) => syncs.sync(keyring, token).await,
                None => Err("no keyring is configured".to_owned()),
            }
        })
    }

    fn look_for_new_keys<'a>(&'a self, keyring: &'a str) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match self.handle(keyring) {
                Some(sync) => sync.look_for_new_keys().await,
                None => Ok(()),
            }
        })
    }

    fn first_outcome<'a>(&'a self, keyring: &'a str) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            if let Some(sync) = self.handle(keyring) {
                sync.first_outcome().await;
            }
        })
    }

    fn resolve<'a>(
        &'a self,
        references: &'a [&'a str],
    ) -> UpstreamFuture<'a, Vec<Result<ResolvedValue, ApiError>>> {
        Box::pin(resolve(&self.references, references))
    }

    fn can_resolve(&self) -> Result<(), String> {
        self.sessions.health()
    }

    fn reload(&self) -> UpstreamFuture<'_, Result<Value, String>> {
        Box::pin(async {
            let (done, outcome) = oneshot::channel();
            let stopping = || "keyringd is shutting down".to_owned();
            self.reloads.send(done).await.map_err(|_| stopping())?;
            outcome.await.unwrap_or_else(|_| Err(stopping()))
        })
    }

    fn describe(&self) -> Value {
        let mut described = Value::clone(&self.described.load());
        let mistakes = lock(&self.mistakes);
        let mut all = mistakes.settings.clone();
        all.extend(mistakes.logins.0.borrow().values().cloned());
        drop(mistakes);
        described["reload_mistakes"] = all.into();
        if let Some(syncs) = &self.syncs {
            described["keyrings"] = syncs.describe_folders();
        }
        described["copy"] = self.copy.as_ref().map(|copy| copy.describe()).into();
        described["sessions"] = self.sessions.describe().into();
        described
    }
}

/// The values of references as the API answers them.
pub(super) async fn resolve(references: &References, names: &[&str]) -> Vec<Result<ResolvedValue, ApiError>> {
    let resolved = references.resolve(names).await;
    let answer = |(name, result): (&&str, Result<Resolved, ResolveError>)| match result {
        Ok(resolved) => Ok(ResolvedValue { text: resolved.value, stale: resolved.stale }),
        Err(error) => Err(api_error(name, &error)),
    };
    names.iter().zip(resolved).map(answer).collect()
}

fn api_error(reference: &str, error: &ResolveError) -> ApiError {
    let kind = match error.cause() {
        ResolveError::NoSecret(_)
        | ResolveError::NoField(_)
        | ResolveError::Variable(Unresolved::NotSet(_) | Unresolved::NoField(..)) => ErrorKind::NotFound,
        ResolveError::Vault(_) => ErrorKind::Unavailable,
        ResolveError::Kong(_)
        | ResolveError::Apisix(_)
        | ResolveError::Variable(Unresolved::Malformed(_) | Unresolved::MalformedApisix(_)) => {
            ErrorKind::NotAReference
        }
        _ => ErrorKind::Invalid,
    };
    let subject = if kind == ErrorKind::NotAReference { "the text" } else { reference };
    ApiError::new(kind, format!("{subject} {error}"))
}
