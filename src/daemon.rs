//! The daemon's life: it starts the sync and the socket, waits for a signal or a death, and stops them in order.
//!
//! One owner: only here are tasks started and stopped. What each does is theirs. `reload` changes the settings of a
//! running daemon, `upstream` is the socket's way to Vault; [`dev`] is the same daemon on a keyring of its own, without Vault.

pub mod dev;
mod reload;
mod upstream;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc::UnboundedReceiver,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::{
    api::{self, Api, RuntimeConfig},
    keyring::{Format, Formats, KeyringEntry, Keyrings, Published},
    logging::Log,
    metrics::Metrics,
    references::{Home, References},
    server::{
        self, Heartbeat, Listeners, Server,
        listen::{self, ListenError, SocketFile},
    },
    settings::{self, CiphertextFormat, Loaded, LogLevel, Settings},
    signals::Signal,
    sync::{SyncHandle, Syncer},
    systemd,
    vault::{Session, transport::TransportError},
};
use reload::Reload;
use upstream::{ByTheSync, FromVault};

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("keyring_metrics_listen: cannot listen on {0}: {1}: choose an address that is free")]
    Metrics(SocketAddr, std::io::Error),
    #[error("the socket that systemd passed cannot be used: {0}")]
    Passed(std::io::Error),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    NoRandomness(#[from] crate::cipher::NoRandomness),
}

/// What the daemon has of the world outside.
pub struct Outside {
    pub signals: UnboundedReceiver<Signal>,
    /// Loads the settings anew.
    pub load: Box<dyn Fn() -> Loaded + Send>,
    pub log: Log,
    /// A socket that somebody listens on for us.
    pub listener: Option<std::os::unix::net::UnixListener>,
}

/// The daemon, from its settings to its exit code. It serves from the start; until the first keyring is there, with 503.
///
/// # Errors
/// [`StartError`]: the settings name something that cannot be had.
pub async fn run(settings: Settings, outside: Outside) -> Result<ExitCode, StartError> {
    let (published, metrics) = (Arc::new(Published::default()), Arc::new(Metrics::default()));
    let described = ArcSwap::from_pointee(describe(&settings));
    let Settings { vault, keyring, secrets, socket, .. } = settings;
    let home = Home::of(&vault);
    let session = Session::new(vault, Arc::clone(&metrics))?;
    let (listener, file) = listen(outside.listener, &socket).await?;
    let (syncer, sync) = Syncer::new(&keyring, session, Arc::clone(&published), Arc::clone(&metrics));
    let references = Arc::new(References::new(secrets, &home, Arc::new(ByTheSync(sync.clone())))?);
    let metrics_listener = match socket.metrics_listen {
        Some(address) => Some(listen_for_metrics(address).await?),
        None => None,
    };
    let config = runtime_config(&keyring, &socket, &published);
    let upstream = Arc::new(FromVault {
        sync: sync.clone(),
        references: Arc::clone(&references),
        described,
        mistakes: ArcSwap::default(),
    });
    let api = Arc::new(Api::new(config, Arc::clone(&metrics), Arc::clone(&upstream) as _));
    let server = Server::new(Arc::clone(&api), Arc::clone(&metrics), server_limits(&socket));
    let (server, stop) = (Arc::new(server), CancellationToken::new());
    let listeners = Listeners { socket: listener, metrics: metrics_listener };
    let heartbeat =
        systemd::sign_of_life_interval().map(|every| Heartbeat { interval: every, beat: systemd::alive });
    let life = Life {
        serving: tokio::spawn({
            let (api, serving) =
                (Arc::clone(&api), Arc::clone(&server).serve(listeners, heartbeat, stop.clone()));
            async move { api.audit_during(serving).await }
        }),
        syncing: tokio::spawn(syncer.run(stop.clone())),
        reading: tokio::spawn({
            let stop = stop.clone();
            async move { references.keep_fresh(stop).await }
        }),
        telling: tokio::spawn(tell_systemd(sync.clone(), Arc::clone(&published))),
        stop,
    };
    let reload = Reload {
        api,
        server,
        published,
        upstream,
        metrics,
        sync,
        socket,
        load: outside.load,
        log: outside.log,
    };
    let code = life.until_its_end(outside.signals, move |signal| reload.act_on(signal)).await;
    drop(file);
    Ok(code)
}

/// The socket that was passed to us, or one of our own making, whose file goes when it is dropped.
async fn listen(
    passed: Option<std::os::unix::net::UnixListener>,
    socket: &settings::Socket,
) -> Result<(UnixListener, Option<SocketFile>), StartError> {
    let version = env!("CARGO_PKG_VERSION");
    let Some(passed) = passed else {
        let (listener, file) = listen::bind(&socket.path, socket.mode, socket.group).await?;
        tracing::info!(socket = %socket.path.display(), version, "keyringd starts");
        return Ok((listener, Some(file)));
    };
    tracing::info!(version, "keyringd starts on the socket that systemd listens on");
    Ok((UnixListener::from_std(passed).map_err(StartError::Passed)?, None))
}

/// Ready once there are keys; how it goes in words, whenever that changes.
async fn tell_systemd(mut sync: SyncHandle, published: Arc<Published>) {
    let mut told = false;
    loop {
        let report = published.report();
        let words = match (published.keyring(), &report.last_error) {
            (None, None) => "waiting for the first keys".to_owned(),
            (None, Some(error)) => format!("no keys yet: {error}"),
            (Some(keyring), None) => format!("serving, active key {}", keyring.active().key.id()),
            (Some(keyring), Some(error)) => {
                format!("serving, active key {}; syncs fail: {error}", keyring.active().key.id())
            }
        };
        systemd::status(&words);
        if !told && published.keyring().is_some() {
            systemd::ready();
            told = true;
        }
        sync.changed().await;
    }
}

/// The tasks of a daemon.
struct Life {
    serving: JoinHandle<usize>,
    syncing: JoinHandle<()>,
    reading: JoinHandle<()>,
    telling: JoinHandle<()>,
    stop: CancellationToken,
}

impl Life {
    /// Until it is asked to stop, which is a success, or a task dies, which is a failure.
    async fn until_its_end(
        mut self,
        mut signals: UnboundedReceiver<Signal>,
        mut act: impl FnMut(Signal),
    ) -> ExitCode {
        let asked = loop {
            tokio::select! {
                _ = &mut self.serving => break false,
                _ = &mut self.syncing => break false,
                _ = &mut self.reading => break false,
                _ = &mut self.telling => break false,
                signal = signals.recv() => match signal {
                    Some(Signal::Stop) | None => break true,
                    Some(signal) => act(signal),
                },
            }
        };
        if !asked {
            tracing::error!(
                "a part of the daemon died, so it ends: this is a defect of keyringd, please report it"
            );
            return ExitCode::FAILURE;
        }
        tracing::info!("stopping: what is in flight may finish");
        self.telling.abort();
        systemd::stopping();
        self.stop.cancel();
        match self.serving.await {
            Ok(0) => tracing::info!("stopped"),
            Ok(cut) => tracing::warn!(cut, "stopped, and connections that did not finish were cut"),
            Err(_) => return ExitCode::FAILURE,
        }
        let _ = (self.syncing.await, self.reading.await); // they had the whole drain to end their sessions in
        ExitCode::SUCCESS
    }
}

async fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Metrics(address, error))
}

/// What a reload can change in the API.
fn runtime_config(
    keyring: &settings::Keyring,
    socket: &settings::Socket,
    published: &Arc<Published>,
) -> RuntimeConfig {
    let write = match keyring.ciphertext_format {
        CiphertextFormat::Native => Format::Native,
        CiphertextFormat::Transit => Format::Transit,
    };
    let limits = socket.limits;
    RuntimeConfig {
        keyrings: Keyrings::single(KeyringEntry {
            name: keyring.name.clone(),
            published: Arc::clone(published),
            formats: Formats { write, kong_fields: keyring.kong_fields },
            max_stale: keyring.max_stale,
        }),
        access: socket.access.clone(),
        audit: socket.audit,
        limits: api::Limits::new(limits.request_size, limits.inflight_size, limits.batch),
    }
}

const fn server_limits(socket: &settings::Socket) -> server::Limits {
    server::Limits::new(socket.limits.connections)
}

/// The level, as the log knows it.
pub const fn level(log: settings::Log) -> LevelFilter {
    match log.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

fn describe(settings: &Settings) -> Value {
    json!({
        "vault": settings.vault.host.as_str().trim_end_matches('/'),
        "mount": settings.vault.mount.to_string(),
        "path": settings.vault.path.to_string(),
        "kv": settings.vault.kv.to_string(),
        "auth_method": settings.vault.auth.name(),
        "interval": settings.keyring.sync_interval.as_secs(),
        "plain_http": settings.vault.sends_in_the_clear(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// A daemon whose tasks go on, but for the one that `dies` is put into.
    async fn end_of(dies: usize) -> ExitCode {
        let task = |at: usize| {
            tokio::spawn(async move {
                assert_ne!(at, dies, "planted");
                std::future::pending::<()>().await;
            })
        };
        let serving = task(0);
        let serving = tokio::spawn(async move {
            serving.await.unwrap();
            0
        });
        let life = Life {
            serving,
            syncing: task(1),
            reading: task(2),
            telling: task(3),
            stop: CancellationToken::new(),
        };
        let (_signals, received) = mpsc::unbounded_channel();
        life.until_its_end(received, |_| ()).await
    }

    #[tokio::test]
    async fn a_task_that_dies_ends_the_daemon_with_a_failure() {
        for dies in 0..4 {
            assert_eq!(end_of(dies).await, ExitCode::FAILURE, "{dies}");
        }
    }
}
