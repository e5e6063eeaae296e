//! What systemd is told: READY once the daemon can do its work, and STATUS at each change.

use std::{sync::Arc, time::Duration};

use futures_util::future::select_ok;

use crate::{
    keyring::Published,
    references::References,
    sync::SyncHandle,
    systemd,
    vault::{Client, VaultError},
};

/// The time between two attempts, of which the session's backoff skips some.
const LOGIN_INTERVAL: Duration = Duration::from_secs(1);

/// What the daemon waits for before it is ready.
#[derive(Clone)]
pub(super) enum Notifier {
    /// The first keys.
    Keyring(SyncHandle, Arc<Published>),
    /// The first login, if only references are served.
    References(Arc<References>),
}

impl Notifier {
    pub(super) fn new(
        sync: Option<SyncHandle>,
        published: &Arc<Published>,
        references: &Arc<References>,
    ) -> Self {
        match sync {
            Some(sync) => Self::Keyring(sync, Arc::clone(published)),
            None => Self::References(Arc::clone(references)),
        }
    }

    /// Runs until the daemon stops.
    pub(super) async fn run(self) {
        match self {
            Self::Keyring(sync, published) => follow_keyring(sync, &published).await,
            Self::References(references) => {
                log_in(&references).await;
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn follow_keyring(mut sync: SyncHandle, published: &Published) {
    let mut is_ready = false;
    loop {
        let report = published.report();
        let status = match (published.keyring(), &report.last_error) {
            (None, None) => "waiting for the first keys".to_owned(),
            (None, Some(error)) => format!("no keys yet: {error}"),
            (Some(keyring), None) => format!("serving, active key {}", keyring.active().key.id()),
            (Some(keyring), Some(error)) => {
                format!("serving, active key {}; syncs fail: {error}", keyring.active().key.id())
            }
        };
        systemd::status(&status);
        if !is_ready && published.keyring().is_some() {
            systemd::ready();
            is_ready = true;
        }
        sync.changed().await;
    }
}

/// The first login, of any session: each reference reports its own Vault's failure. A reload may replace the sessions.
async fn log_in(references: &References) {
    systemd::status("waiting for the first login");
    let mut logged = String::new();
    loop {
        let clients = references.clients();
        match select_ok(clients.iter().map(|client| Box::pin(log_in_once(client)))).await {
            Ok(_) => break,
            Err(VaultError::LoginWaits { .. }) => {}
            Err(error) => {
                let failure = error.to_string();
                if failure != logged {
                    tracing::warn!("no login yet: {failure}");
                    systemd::status(&format!("no login yet: {failure}"));
                    logged = failure;
                }
            }
        }
        tokio::time::sleep(LOGIN_INTERVAL).await;
    }
    systemd::status("serving references");
    systemd::ready();
}

async fn log_in_once(client: &Client) -> Result<(), VaultError> {
    client.log_in().await
}
