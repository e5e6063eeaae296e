//! What a reload came to, as the one who asked for it reads it: what changed, and the outcome of the sync that followed.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::super::upstream::LoginFailures;
use crate::vault::{Client, SessionName};

/// How long the answer waits for the sync. A Vault that does not answer is reported sooner.
const SYNC_WAIT: Duration = Duration::from_secs(30);

/// Settings that were applied.
pub(super) struct Applied {
    pub(super) changed: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) following: Following,
}

/// What goes on after the settings were applied.
pub(super) struct Following {
    /// The sessions that log in before they are used.
    pub(super) logins: Vec<Client>,
    pub(super) failures: Arc<LoginFailures>,
    /// The outcome of the sync, with a line per failure; `None` if only references are served. A further reload drops it.
    pub(super) sync: Option<oneshot::Receiver<Result<(), Vec<String>>>>,
}

impl Applied {
    /// The answer, after the sync or the first failure of the login that it waits for.
    pub(super) async fn answer(self) -> Value {
        let Self { changed, warnings, following: Following { logins, failures, sync } } = self;
        let (outcome, errors) = match sync {
            None => (Value::Null, Vec::new()),
            Some(sync) => {
                let ended = tokio::time::timeout(SYNC_WAIT, async {
                    tokio::select! {
                        outcome = sync => outcome.ok(),
                        failure = failures.of(&SessionName::Keyring) => Some(Err(vec![failure])),
                    }
                });
                match ended.await.ok().flatten() {
                    Some(Ok(())) => ("success".into(), Vec::new()),
                    Some(Err(errors)) => ("failure".into(), errors),
                    None => ("pending".into(), Vec::new()),
                }
            }
        };
        json!({
            "changed": changed,
            "warnings": warnings,
            "logins": pending(&logins),
            "sync": outcome,
            "sync_errors": errors,
        })
    }
}

/// The names of the sessions that have not logged in yet.
fn pending(logins: &[Client]) -> Vec<String> {
    let waiting = logins.iter().filter(|client| client.is_standby());
    let mut names: Vec<_> = waiting.map(|client| client.name().to_string()).collect();
    names.sort();
    names.dedup();
    names
}
