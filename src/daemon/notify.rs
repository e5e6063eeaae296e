//! The notifications to systemd: READY once the daemon can do its work, and STATUS at each change.

use std::{sync::Arc, time::Duration};

use futures_util::future::select_ok;

use crate::{
    keyring::{Keyring, KeyringSource},
    references::References,
    sync::Syncs,
    systemd,
    vault::{Client, VaultError},
};

/// The time between two attempts, of which the session's backoff skips some.
const LOGIN_INTERVAL: Duration = Duration::from_secs(1);

/// What the daemon waits for before it is ready.
#[derive(Clone)]
pub(super) enum Notifier {
    /// The first keys of the default keyring.
    Keyring(Arc<Syncs>),
    /// The first login, if only references are served.
    References(Arc<References>),
}

impl Notifier {
    pub(super) fn new(syncs: Option<&Arc<Syncs>>, references: &Arc<References>) -> Self {
        match syncs {
            Some(syncs) => Self::Keyring(Arc::clone(syncs)),
            None => Self::References(Arc::clone(references)),
        }
    }

    /// Runs until the daemon stops.
    pub(super) async fn run(self) {
        match self {
            Self::Keyring(syncs) => follow_keyring(&syncs).await,
            Self::References(references) => {
                log_in(&references).await;
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn follow_keyring(syncs: &Syncs) {
    let (mut is_ready, mut ended) = (false, syncs.watch());
    loop {
        let default =
            syncs.keyrings().default().map(|entry| Arc::clone(&entry.published)).unwrap_or_default();
        let (keyring, report) = (default.keyring(), default.report());
        let status = match (&keyring, &report.last_error) {
            (None, None) => "waiting for the first keys".to_owned(),
            (None, Some(error)) => format!("no keys yet: {error}"),
            (Some(keyring), None) => serving(keyring),
            (Some(keyring), Some(error)) => format!("{}; syncs fail: {error}", serving(keyring)),
        };
        systemd::status(&status);
        if !is_ready && keyring.is_some() {
            systemd::ready();
            is_ready = true;
        }
        if ended.changed().await.is_err() {
            return;
        }
    }
}

fn serving(keyring: &Keyring) -> String {
    let id = keyring.active().key.id();
    match keyring.source() {
        KeyringSource::Vault => format!("serving, active key {id}"),
        KeyringSource::Copy { synced } => {
            let synced = humantime::format_rfc3339_seconds(synced);
            format!("serving from the copy of {synced}, active key {id}")
        }
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
                    tracing::warn!(error = %failure, "no login yet");
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
