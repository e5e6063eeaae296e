//! The socket's way to Vault: what it asks for is handed to the sync, or to the references, and their errors are turned into
//! what clients are told.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

use crate::{
    references::{
        References, ResolveError,
        read::{Reading, Reads},
    },
    secret::Secret,
    settings::resolve::Unresolved,
    socket::{Answered, Upstream, resolve},
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
    fn sync(&self, token: Option<Secret<String>>) -> Answered<'_, Result<(), String>> {
        Box::pin(self.sync.sync(token))
    }

    fn look_for_new_keys(&self) -> Answered<'_, ()> {
        Box::pin(self.sync.look_for_new_keys())
    }

    fn first_outcome(&self) -> Answered<'_, ()> {
        Box::pin(self.sync.first_outcome())
    }

    fn resolve<'a>(&'a self, reference: &'a str) -> Answered<'a, Result<resolve::Value, resolve::Refusal>> {
        Box::pin(async move {
            match self.references.resolve(reference).await {
                Ok(resolved) => Ok(resolve::Value { text: resolved.value, stale: resolved.stale }),
                Err(error) => Err(refusal(reference, &error)),
            }
        })
    }

    fn describe(&self) -> Value {
        let mut described = Value::clone(&self.described.load());
        described["reload_mistakes"] = Vec::clone(&self.mistakes.load()).into();
        described
    }
}

fn refusal(reference: &str, error: &ResolveError) -> resolve::Refusal {
    let status = match error {
        ResolveError::NoSecret(_)
        | ResolveError::NoField(_)
        | ResolveError::Variable(Unresolved::NotSet(_) | Unresolved::NoField(..)) => 404,
        ResolveError::Vault(_) => 503,
        _ => 400,
    };
    let is_reference = !matches!(
        error,
        ResolveError::Kong(_)
            | ResolveError::Apisix(_)
            | ResolveError::Variable(Unresolved::Malformed(_) | Unresolved::MalformedApisix(_))
    );
    let named = if is_reference { reference } else { "the text" };
    resolve::Refusal { status, message: format!("{named} {error}"), is_reference }
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
