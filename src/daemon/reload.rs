//! SIGHUP: the settings are loaded anew, checked, and then swapped in whole. Bad ones change nothing and say so.
//!
//! Requests in flight go on with what they began with. The socket itself stays as it is: its path, mode and group are
//! for the next start.

use std::sync::Arc;

use super::{FromVault, describe, level, runtime_config, server_limits};
use crate::{
    api::Api,
    keyring::Published,
    logging::Log,
    metrics::{Metrics, Outcome},
    references::Home,
    server::Server,
    settings::{self, Loaded, LogFormat, Settings},
    signals::Signal,
    sync::SyncHandle,
    systemd,
    vault::Session,
};

/// All that a reload reaches.
pub struct Reload {
    pub api: Arc<Api>,
    pub server: Arc<Server>,
    pub published: Arc<Published>,
    pub upstream: Arc<FromVault>,
    pub metrics: Arc<Metrics>,
    pub sync: SyncHandle,
    /// The socket as it was made.
    pub socket: settings::Socket,
    pub load: Box<dyn Fn() -> Loaded + Send>,
    pub log: Log,
}

impl Reload {
    /// Does what a signal asks for, unless it is the end.
    pub fn act_on(&self, signal: Signal) {
        match signal {
            Signal::Sync => {
                let sync = self.sync.clone();
                tokio::spawn(async move { sync.sync(None).await });
            }
            Signal::Reload => {
                // Before there are keys the daemon is not ready, and must not say so afterwards.
                let ready = self.published.keyring().is_some();
                if ready {
                    systemd::reloading();
                }
                self.now();
                if ready {
                    systemd::ready();
                }
            }
            Signal::Stop => {}
        }
    }

    /// Reloads. The sync takes up the new settings in its own time.
    fn now(&self) {
        let loaded = (self.load)();
        for warning in &loaded.warnings {
            tracing::warn!("settings: {warning}");
        }
        let mistakes = match loaded.settings {
            Ok(settings) => self.swap_in(settings).err().into_iter().collect(),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        };
        for mistake in &mistakes {
            tracing::error!("settings: {mistake}");
        }
        if mistakes.is_empty() {
            tracing::info!("the settings were reloaded");
        } else {
            tracing::error!(mistakes = mistakes.len(), "the settings were not reloaded: those before stay");
        }
        self.metrics.reloaded(if mistakes.is_empty() { Outcome::Success } else { Outcome::Failure });
        self.upstream.mistakes.store(Arc::new(mistakes));
    }

    /// What can fail comes first; from then on everything is swapped.
    fn swap_in(&self, settings: Settings) -> Result<(), String> {
        let described = describe(&settings);
        let Settings { vault, keyring, socket, log, secrets, require_memory_lock: _ } = settings;
        let home = Home::of(&vault);
        let session = Session::new(vault, Arc::clone(&self.metrics)).map_err(|error| error.to_string())?;
        self.upstream.references.change(secrets, &home).map_err(|error| error.to_string())?;
        let made = |socket: &settings::Socket| {
            (socket.path.clone(), socket.mode, socket.group, socket.metrics_listen)
        };
        if made(&socket) != made(&self.socket) {
            tracing::warn!(
                "keyring_socket_path, _mode, _group and keyring_metrics_listen take effect at the next start: restart \
                 keyringd"
            );
        }
        self.log.change(level(log), log.format == LogFormat::Json);
        self.api.change(runtime_config(&keyring, &socket, &self.published));
        self.server.change(server_limits(&socket));
        self.upstream.described.store(Arc::new(described));
        let sync = self.sync.clone();
        tokio::spawn(async move { sync.change(session, keyring).await });
        Ok(())
    }
}
