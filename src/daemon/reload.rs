//! SIGHUP: the settings are loaded again, checked, and then applied as a whole. Invalid ones change nothing.
//!
//! A session whose own settings are equal stays. Otherwise the session before it serves until the new one has logged in; a
//! further reload cancels that wait. Requests in flight keep what they began with. The socket's path, mode and group take
//! effect at the next start.

use std::{sync::Arc, time::SystemTime};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::{
    describe, keyrings_of, level, line_format, open, runtime_config, server_limits,
    upstream::{LoginFailures, VaultUpstream},
};
use crate::{
    api::{Api, RuntimeConfig},
    logging::Log,
    metrics::{Metrics, Outcome},
    references::Engines,
    server::Server,
    settings::{self, Auth, KvSecret, KvVersion, Loaded, Settings},
    signals::Signal,
    sync::Syncs,
    systemd,
    vault::{Client, Kv, SessionName, Sessions, VaultError, backoff, kv::Purpose},
};

/// What a reload changes.
pub(super) struct Reload {
    pub(super) api: Arc<Api>,
    pub(super) server: Arc<Server>,
    /// `None` if only references are served.
    pub(super) syncs: Option<Arc<Syncs>>,
    pub(super) upstream: Arc<VaultUpstream>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sessions: Arc<Sessions>,
    /// The settings that the socket was created with.
    pub(super) socket: settings::Socket,
    pub(super) cache: settings::Cache,
    pub(super) load: Box<dyn Fn() -> Loaded + Send>,
    pub(super) log: Log,
    /// New sessions that have to log in before they are used.
    pub(super) pending: JoinSet<()>,
}

impl Reload {
    /// Executes a signal other than the one to stop.
    pub(super) fn act_on(&mut self, signal: Signal) {
        match signal {
            Signal::Sync => {
                if let Some(syncs) = self.syncs.clone() {
                    tokio::spawn(async move { syncs.sync_all().await });
                }
            }
            Signal::Reload => {
                // Before the first keys or login the daemon is not ready, and must not report so after the reload.
                let ready = self.is_ready();
                if ready {
                    systemd::reloading();
                }
                self.reload();
                if ready {
                    systemd::ready();
                }
            }
            Signal::Stop => {}
        }
    }

    fn is_ready(&self) -> bool {
        match &self.syncs {
            Some(syncs) => {
                let default = syncs.keyrings().default();
                default.is_some_and(|entry| entry.published.keyring().is_some())
            }
            None => self.sessions.health().is_ok(),
        }
    }

    fn reload(&mut self) {
        let loaded = (self.load)();
        for warning in &loaded.warnings {
            tracing::warn!("settings: {warning}");
        }
        let mistakes = match loaded.settings {
            Ok(settings) => self.apply(settings).err().into_iter().collect(),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        };
        for mistake in &mistakes {
            tracing::error!("settings: {mistake}");
        }
        if mistakes.is_empty() {
            tracing::info!("settings reloaded");
        } else {
            tracing::error!(mistakes = mistakes.len(), "settings not reloaded: the current ones stay");
        }
        let outcome = if mistakes.is_empty() { Outcome::Success } else { Outcome::Failure };
        self.upstream.set_mistakes(mistakes);
        self.metrics.reloaded(outcome);
    }

    /// What can fail comes first; from then on everything is applied.
    fn apply(&mut self, settings: Settings) -> Result<(), String> {
        if settings.keyrings.is_some() != self.syncs.is_some() {
            return Err("keyring_enabled takes effect at the next start: restart keyringd".to_owned());
        }
        let keyrings = keyrings_of(self.syncs.as_ref());
        let (described, config) =
            (describe(&settings), RuntimeConfig { keyrings, ..runtime_config(&settings) });
        let Settings { keyrings, socket, cache, log, references, require_memory_lock: _ } = settings;
        let (keyring, engines) =
            open(keyrings, references, &self.sessions).map_err(|error| error.to_string())?;
        let created = |socket: &settings::Socket| {
            (socket.path.clone(), socket.mode, socket.group, socket.metrics_listen)
        };
        if created(&socket) != created(&self.socket) {
            tracing::warn!(
                "keyring_socket_path, keyring_socket_mode, keyring_socket_group and keyring_metrics_listen take effect at \
                 the next start: restart keyringd"
            );
        }
        if cache != self.cache {
            tracing::warn!("keyring_cache_* take effect at the next start: restart keyringd");
        }
        self.log.change(level(log), line_format(log));
        self.api.change(config);
        self.server.change(server_limits(&socket));
        self.upstream.set_described(described);
        self.pending = JoinSet::new(); // aborts what an earlier reload waits for
        let failures = self.upstream.new_login_failures();
        let secret = keyring.as_ref().map(|(keyring, _)| keyring.secret.clone());
        self.change_references(engines, secret, Arc::clone(&failures));
        if let (Some((keyring, client)), Some(syncs)) = (keyring, self.syncs.clone()) {
            self.change_syncs(syncs, client, keyring, failures);
        }
        Ok(())
    }

    fn change_references(
        &mut self,
        engines: Engines,
        secret: Option<KvSecret>,
        failures: Arc<LoginFailures>,
    ) {
        let standby: Vec<_> = engines.clients().filter(|client| client.is_standby()).cloned().collect();
        if standby.is_empty() {
            return self.upstream.references.change(engines);
        }
        let upstream = Arc::clone(&self.upstream);
        self.pending.spawn(async move {
            join_all(standby.iter().map(|client| until_usable(client, secret.as_ref(), &failures))).await;
            upstream.references.change(engines);
            standby.iter().for_each(Client::take_over);
        });
    }

    fn change_syncs(
        &mut self,
        syncs: Arc<Syncs>,
        client: Client,
        keyring: settings::Keyring,
        failures: Arc<LoginFailures>,
    ) {
        let secret = keyring.secret.clone();
        syncs.change(&client, keyring);
        self.pending.spawn(async move {
            if client.is_standby() {
                until_usable(&client, Some(&secret), &failures).await;
                client.take_over();
            }
            syncs.switch(client).await;
        });
    }
}

/// Waits until a new session has logged in. Failures are logged and shown in the status.
///
/// A configured token must also read the keyring's `secret`, if that is what it is for: its lookup shows nothing, since a
/// valid token may lack the right to it.
async fn until_usable(client: &Client, secret: Option<&KvSecret>, failures: &LoginFailures) {
    client.until_logged_in(|error| report(client, error, failures)).await;
    let mut attempts = 0;
    while let Some(secret) = secret
        && let Err(error @ VaultError::BadToken(_)) = read_any(client, secret).await
    {
        report(client, &error, failures);
        attempts += 1;
        tokio::time::sleep(backoff::after_failure(attempts, None, backoff::random())).await;
    }
    failures.set(&client.name().to_string(), None);
}

async fn read_any(client: &Client, secret: &KvSecret) -> Result<(), VaultError> {
    let kv = Kv::new(client, secret, Purpose::Keyring);
    match (client.name(), &client.server().auth) {
        (SessionName::Keyring, Auth::Token(_)) if secret.kv == KvVersion::V2 => {
            kv.list(SystemTime::now()).await.map(drop)
        }
        (SessionName::Keyring, Auth::Token(_)) => kv.read(None).await.map(drop),
        _ => Ok(()),
    }
}

fn report(client: &Client, error: &VaultError, failures: &LoginFailures) {
    let session = client.name().to_string();
    let failure = format!("login with the new settings failed; the previous session stays in use: {error}");
    tracing::warn!(session, "{failure}");
    failures.set(&session, Some(format!("{session}: {failure}")));
}
