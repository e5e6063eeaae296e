//! The socket's way to Vault: what it asks for is handed to the sync, or to the references, and their errors are turned into
//! what clients are told.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

use crate::{
    api::{ApiError, ErrorKind, ResolvedValue, Upstream, UpstreamFuture},
    references::{
        References, ResolveError,
        read::{Reading, Reads},
    },
    secret::Secret,
    settings::resolve::Unresolved,
    sync::SyncHandle,
    vault::{Place, VaultError},
};

/// The socket's way to Vault.
pub struct FromVault {
    pub sync: SyncHandle,
    pub references: Arc<References>,
    pub described: ArcSwap<Value>,
    /// Of the last reload.
    pub mistakes: ArcSwap<Vec<String>>,
}

impl Upstream for FromVault {
    fn sync(&self, token: Option<Secret<String>>) -> UpstreamFuture<'_, Result<(), String>> {
        Box::pin(self.sync.sync(token))
    }

    fn look_for_new_keys(&self) -> UpstreamFuture<'_, ()> {
        Box::pin(self.sync.look_for_new_keys())
    }

    fn first_outcome(&self) -> UpstreamFuture<'_, ()> {
        Box::pin(self.sync.first_outcome())
    }

    fn resolve<'a>(&'a self, reference: &'a str) -> UpstreamFuture<'a, Result<ResolvedValue, ApiError>> {
        Box::pin(async move {
            match self.references.resolve(reference).await {
                Ok(resolved) => Ok(ResolvedValue { text: resolved.value, stale: resolved.stale }),
                Err(error) => Err(api_error(reference, &error)),
            }
        })
    }

    fn describe(&self) -> Value {
        let mut described = Value::clone(&self.described.load());
        described["reload_mistakes"] = Vec::clone(&self.mistakes.load()).into();
        described
    }
}

fn api_error(reference: &str, error: &ResolveError) -> ApiError {
    let kind = match error {
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

/// Secrets by the right of the keyring's own session, which the sync drives.
pub struct ByTheSync(pub SyncHandle);

impl Reads for ByTheSync {
    fn read(&self, place: Place) -> Reading<'_> {
        Box::pin(async move {
            let stopping = || VaultError::Unreachable {
                host: "Vault".to_owned(),
                cause: "the daemon is stopping".to_owned(),
            };
            self.0.read(place).await.unwrap_or_else(|| Err(stopping()))
        })
    }
}
