//! SIGHUP or a request: the settings are loaded again, checked, and then applied as a whole. Invalid ones change nothing.
//!
//! A session whose own settings are equal stays. Otherwise the session before it serves until the new one has logged in; a
//! further reload cancels that wait. Requests in flight keep what they began with. The socket's path, mode and group take
//! effect at the next start.

#[cfg(test)]
mod at_start;
mod changes;
mod outcome;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use futures_util::future::join_all;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    describe::describe,
    keyrings_of, open, runtime_config, server_limits,
    upstream::{LoginFailures, ReloadDone, VaultUpstream},
};
use crate::{
    api::{Api, RuntimeConfig},
    logging::{Log, NOTICE},
    metrics::{Metrics, Outcome},
    references::Engines,
    server::Server,
    settings::{self, Auth, Effective, KvSecret, KvVersion, Loaded, Settings},
    signals::Signal,
    sync::Syncs,
    systemd,
    vault::{Client, Kv, SessionName, Sessions, VaultError, backoff, kv::Purpose},
};
use outcome::{Applied, Following};

/// What a reload changes.
pub(super) struct Reload {
    pub(super) api: Arc<Api>,
    pub(super) server: Arc<Server>,
    /// `None` if only references are served.
    pub(super) syncs: Option<Arc<Syncs>>,
    pub(super) upstream: Arc<VaultUpstream>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sessions: Arc<Sessions>,
    /// The socket that is served, whatever the settings say now.
    pub(super) socket: PathBuf,
    pub(super) load: Box<dyn Fn() -> Loaded + Send>,
    pub(super) configuration: Option<PathBuf>,
    /// The values in use.
    pub(super) effective: Vec<Effective>,
    pub(super) log: Log,
    /// New sessions that have to log in before they are used.
    pub(super) pending: JoinSet<()>,
}

/// What the daemon acts on, other than the signal to stop.
pub(super) enum Event {
    Signal(Signal),
    /// A request on the socket.
    Reload(ReloadDone),
}

impl Reload {
    pub(super) fn act_on(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::Sync) => {
                if let Some(syncs) = self.syncs.clone() {
                    tokio::spawn(async move { syncs.sync_all().await });
                }
            }
            Event::Signal(Signal::Reload) => drop(self.reload_for_systemd()),
            Event::Reload(done) => {
                let outcome = self.reload_for_systemd();
                // The caller may have gone.
                tokio::spawn(async move {
                    let _ = match outcome {
                        Ok(applied) => done.send(Ok(applied.answer().await)),
                        Err(mistakes) => done.send(Err(mistakes.join("\n"))),
                    };
                });
            }
            Event::Signal(Signal::Stop) => {}
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

    fn reload_for_systemd(&mut self) -> Result<Applied, Vec<String>> {
        // Before the first keys or login the daemon is not ready, and must not report so after the reload.
        let ready = self.is_ready();
        if ready {
            systemd::reloading();
        }
        let outcome = self.reload();
        if ready {
            systemd::ready();
        }
        outcome
    }

    /// The error has every mistake.
    fn reload(&mut self) -> Result<Applied, Vec<String>> {
        let loaded = (self.load)();
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "settings");
        }
        let applied = match loaded.settings {
            Ok(settings) => self.apply(settings).map_err(|mistake| vec![mistake]),
            Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
        };
        self.metrics.reloaded(Outcome::from_result(&applied));
        if let Err(mistakes) = &applied {
            for mistake in mistakes {
                tracing::error!(%mistake, "settings");
            }
            tracing::error!(mistakes = mistakes.len(), "settings not reloaded: the current ones stay");
            self.upstream.set_mistakes(mistakes.clone());
        } else {
            tracing::info!(target: NOTICE, "settings reloaded");
            self.upstream.set_mistakes(Vec::new());
        }
        let following = applied?;
        let changed = changes::between(&self.effective, &loaded.effective);
        let (in_use, waiting) = changes::merge(std::mem::take(&mut self.effective), loaded.effective);
        self.effective = in_use;
        if !waiting.is_empty() {
            let settings = waiting.join(", ");
            tracing::warn!(settings, "these settings take effect at the next start: restart keyringd");
        }
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        Ok(Applied { changed, warnings, following })
    }

    /// What can fail comes first; from then on everything is applied.
    fn apply(&mut self, settings: Settings) -> Result<Following, String> {
        if settings.keyrings.is_some() != self.syncs.is_some() {
            return Err("keyring_enabled takes effect at the next start: restart keyringd".to_owned());
        }
        let keyrings = keyrings_of(self.syncs.as_ref());
        let described = describe(&settings, &self.socket, self.configuration.as_deref());
        let config = RuntimeConfig { keyrings, ..runtime_config(&settings) };
        let Settings { keyrings, socket, log, references, .. } = settings;
        let (keyring, engines) =
            open(keyrings, references, &self.sessions).map_err(|error| error.to_string())?;
        self.log.change(log.level, log.format);
        self.api.change(config);
        self.server.change(server_limits(&socket));
        self.upstream.set_described(described);
        self.pending = JoinSet::new(); // aborts what an earlier reload waits for
        let failures = self.upstream.new_login_failures();
        let secret = keyring.as_ref().map(|(keyring, _)| keyring.secret.clone());
        let logins = logins(&engines, keyring.as_ref().map(|(_, client)| client));
        self.change_references(engines, secret, Arc::clone(&failures));
        let sync = keyring.zip(self.syncs.clone()).map(|((keyring, client), syncs)| {
            self.change_syncs(syncs, client, keyring, Arc::clone(&failures))
        });
        Ok(Following { logins, failures, sync })
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
    ) -> oneshot::Receiver<Result<(), Vec<String>>> {
        let secret = keyring.secret.clone();
        let (done, outcome) = oneshot::channel();
        syncs.change(&client, keyring);
        self.pending.spawn(async move {
            if client.is_standby() {
                until_usable(&client, Some(&secret), &failures).await;
                client.take_over();
            }
            let _ = done.send(syncs.switch(client).await); // nobody may wait for it
        });
        outcome
    }
}

/// The sessions that have to log in before they are used.
fn logins(engines: &Engines, keyring: Option<&Client>) -> Vec<Client> {
    engines.clients().chain(keyring).filter(|client| client.is_standby()).cloned().collect()
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
    let failure = "login with the new settings failed; the previous session stays in use";
    tracing::warn!(session, %error, "{failure}");
    failures.set(&session, Some(format!("{session}: {failure}: {error}")));
}
