//! The daemon: starts sync and socket, waits for a signal or the end of a task, and stops the tasks in order.
//!
//! Tasks are started and stopped here only. `reload` changes the settings of a running daemon, `upstream` is what the socket
//! asks of Vault, `notify` tells systemd; [`dev`] is the same daemon with a random keyring and without Vault.

mod cache;
pub mod dev;
mod notify;
mod reload;
mod upstream;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc::UnboundedReceiver,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::{
    api::{self, Api, RuntimeConfig},
    hardening,
    keyring::Keyrings,
    logging::{LineFormat, Log},
    metrics::{BackgroundTask, Metrics},
    references::{Engines, KeyringEngine, References},
    server::{
        self, Heartbeat, Listeners, Server,
        listen::{self, ListenError, SocketFile},
    },
    settings::{self, Keyrings as KeyringSettings, KvSecret, Loaded, LogFormat, LogLevel, Settings},
    signals::Signal,
    supervise::supervise,
    sync::{Syncs, copy::CopyError},
    systemd,
    vault::{Client, SessionName, Sessions, transport::TransportError},
};
use notify::Notifier;
use reload::Reload;
use upstream::VaultUpstream;

/// The descriptors that are left for Vault, files and connections that wait.
const OTHER_DESCRIPTORS: usize = 64;

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
    #[error("keyring_cache_key: {0}")]
    Copy(#[from] CopyError),
}

/// What the daemon gets from outside.
pub struct Inputs {
    pub signals: UnboundedReceiver<Signal>,
    /// Loads the settings again.
    pub load: Box<dyn Fn() -> Loaded + Send>,
    pub log: Log,
    /// A socket that systemd listens on for us.
    pub listener: Option<std::os::unix::net::UnixListener>,
}

/// The daemon, from its settings to its exit code. It serves from the start; until the first keyring it answers 503.
pub async fn run(settings: Settings, inputs: Inputs) -> Result<ExitCode, StartError> {
    let metrics = Arc::new(Metrics::default());
    let stop = CancellationToken::new();
    let sessions = Arc::new(Sessions::new(Arc::clone(&metrics), stop.clone()));
    let config = runtime_config(&settings);
    let described = describe(&settings);
    let Settings { keyrings, references, socket, cache, .. } = settings;
    let (keyring, engines) = open(keyrings, references, &sessions)?;
    let (listener, file) = listen(inputs.listener, &socket).await?;
    let metrics_listener = match socket.metrics_listen {
        Some(address) => Some(listen_for_metrics(address).await?),
        None => None,
    };
    let keeping = cache::check(&cache)?;
    let syncs =
        keyring.map(|(keyring, client)| Syncs::start(&client, keyring, Arc::clone(&metrics), stop.clone()));
    let references = Arc::new(References::new(engines));
    let upstream =
        VaultUpstream::new(syncs.clone(), Arc::clone(&references), Arc::clone(&sessions), described);
    let upstream = Arc::new(upstream);
    let config = RuntimeConfig { keyrings: keyrings_of(syncs.as_ref()), ..config };
    let api = Arc::new(Api::new(config, Arc::clone(&metrics), Arc::clone(&upstream) as _));
    let server = Arc::new(Server::new(Arc::clone(&api), Arc::clone(&metrics), server_limits(&socket)));
    let listeners = Listeners { socket: listener, metrics: metrics_listener };
    let heartbeat =
        systemd::watchdog_interval().map(|interval| Heartbeat { interval, beat: systemd::ping_watchdog });
    let serving = Arc::clone(&server).serve(listeners, heartbeat, stop.clone());
    let tasks = Tasks {
        serving: tokio::spawn({
            let api = Arc::clone(&api);
            async move { api.audit_during(serving).await }
        }),
        syncing: match &syncs {
            Some(syncs) => tokio::spawn({
                let syncs = Arc::clone(syncs);
                async move { syncs.run().await }
            }),
            None => tokio::spawn(stop.clone().cancelled_owned()),
        },
        refreshing: spawn(BackgroundTask::References, &metrics, {
            let (references, stop) = (Arc::clone(&references), stop.clone());
            move || {
                let (references, stop) = (Arc::clone(&references), stop.clone());
                async move { references.keep_fresh(stop).await }
            }
        }),
        copying: cache::spawn(keeping.zip(syncs.clone()), &metrics, &stop),
        notifying: spawn(BackgroundTask::Systemd, &metrics, {
            let notifier = Notifier::new(syncs.as_ref(), &references);
            move || notifier.clone().run()
        }),
        sessions: Arc::clone(&sessions),
        stop,
    };
    let mut reload = Reload {
        api,
        server,
        syncs,
        upstream,
        metrics,
        sessions,
        socket,
        cache,
        load: inputs.load,
        log: inputs.log,
        pending: JoinSet::new(),
    };
    let code = tasks.run(inputs.signals, move |signal| reload.act_on(signal)).await;
    drop(file);
    Ok(code)
}

/// The socket that systemd passed, or a new one, whose file is removed when the result is dropped.
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

/// Starts a supervised task.
fn spawn<F: Future<Output = ()> + Send + 'static>(
    task: BackgroundTask,
    metrics: &Arc<Metrics>,
    run: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()> {
    let metrics = Arc::clone(metrics);
    tokio::spawn(async move { supervise(task, &metrics, run).await })
}

/// The tasks of a daemon.
struct Tasks {
    serving: JoinHandle<usize>,
    syncing: JoinHandle<()>,
    refreshing: JoinHandle<()>,
    copying: JoinHandle<()>,
    notifying: JoinHandle<()>,
    sessions: Arc<Sessions>,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs until a signal to stop, which is a success, or until a task ends, which is a failure.
    async fn run(mut self, mut signals: UnboundedReceiver<Signal>, mut act: impl FnMut(Signal)) -> ExitCode {
        let has_failed = loop {
            tokio::select! {
                _ = &mut self.serving => break true,
                _ = &mut self.syncing => break true,
                _ = &mut self.refreshing => break true,
                _ = &mut self.copying => break true,
                _ = &mut self.notifying => break true,
                () = self.sessions.crashed() => break true,
                signal = signals.recv() => match signal {
                    Some(Signal::Stop) | None => break false,
                    Some(signal) => act(signal),
                },
            }
        };
        if has_failed {
            tracing::error!(
                "a task of the daemon ended, so it stops: this is a defect of keyringd, please report it"
            );
            return ExitCode::FAILURE;
        }
        self.shut_down().await
    }

    async fn shut_down(self) -> ExitCode {
        tracing::info!("shutting down, draining requests");
        self.notifying.abort();
        systemd::stopping();
        self.stop.cancel();
        match self.serving.await {
            Ok(0) => tracing::info!("stopped"),
            Ok(cut) => {
                tracing::warn!(cut, "stopped; connections that did not finish were cut");
            }
            Err(_) => return ExitCode::FAILURE,
        }
        let _ = (self.syncing.await, self.refreshing.await, self.copying.await);
        self.sessions.end().await; // they began to end with the drain
        ExitCode::SUCCESS
    }
}

async fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Metrics(address, error))
}

/// The session and the settings of the keyring, unless only references are served, and the engines of references.
fn open(
    keyrings: Option<KeyringSettings>,
    references: settings::ReferenceSettings,
    sessions: &Sessions,
) -> Result<(Option<(settings::Keyring, Client)>, Engines), TransportError> {
    let Some(KeyringSettings { server, default }) = keyrings else {
        return Ok((None, Engines::new(references, None, sessions)?));
    };
    let client = sessions.client(SessionName::Keyring, server)?;
    let KvSecret { mount, kv, .. } = default.secret.clone();
    let engine = KeyringEngine { client: client.clone(), mount, kv };
    let engines = Engines::new(references, Some(&engine), sessions)?;
    Ok((Some((default, client)), engines))
}

/// The keyrings that are kept in step; none if only references are served.
fn keyrings_of(syncs: Option<&Arc<Syncs>>) -> Keyrings {
    syncs.map_or_else(Keyrings::none, |syncs| syncs.keyrings().clone())
}

/// What a reload can change in the API, still without the keyrings.
fn runtime_config(settings: &Settings) -> RuntimeConfig {
    let Settings { keyrings, socket, .. } = settings;
    let limits = socket.limits;
    RuntimeConfig {
        keyrings: Keyrings::none(),
        kms_name: keyrings.as_ref().and_then(|all| all.default.kms_name.clone()),
        access: socket.access.clone(),
        audit: socket.audit,
        limits: api::Limits::new(limits.request_size, limits.inflight_size, limits.batch),
        transit_mounts: socket.transit_mounts.clone().into(),
        namespace: keyrings.as_ref().and_then(|all| all.server.namespace.clone()),
    }
}

/// Fewer connections than configured if there are not enough descriptors for them and for everything else.
fn server_limits(socket: &settings::Socket) -> server::Limits {
    let (configured, descriptors) = (socket.limits.connections, hardening::descriptor_limit());
    let available =
        usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(OTHER_DESCRIPTORS).max(1);
    if available < configured {
        tracing::warn!(
            "keyring_max_connections is {configured}, and the limit on descriptors allows {available}: raise it to \
             {}, with LimitNOFILE= or ulimit -n",
            configured.saturating_add(OTHER_DESCRIPTORS)
        );
    }
    server::Limits::new(configured.min(available))
}

pub const fn line_format(log: settings::Log) -> LineFormat {
    match log.format {
        LogFormat::Text => LineFormat::Text,
        LogFormat::Json => LineFormat::Json,
    }
}

pub const fn level(log: settings::Log) -> LevelFilter {
    match log.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

/// The `source` of the status: nothing of a keyring if there is none.
fn describe(settings: &Settings) -> Value {
    let Some(KeyringSettings { server, default }) = &settings.keyrings else { return json!({}) };
    json!({
        "vault": server.host.as_str().trim_end_matches('/'),
        "mount": default.secret.mount.to_string(),
        "path": default.secret.path.to_string(),
        "kv": default.secret.kv.to_string(),
        "auth_method": server.auth.name(),
        "interval": default.sync_interval.as_secs(),
        "plain_http": server.sends_in_the_clear(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// The exit code of a daemon whose task of this number panics.
    async fn exit_code_when_one_panics(panics: usize) -> ExitCode {
        let task = |at: usize| {
            tokio::spawn(async move {
                assert_ne!(at, panics, "planted");
                std::future::pending::<()>().await;
            })
        };
        let serving = task(0);
        let serving = tokio::spawn(async move {
            serving.await.unwrap();
            0
        });
        let stop = CancellationToken::new();
        let tasks = Tasks {
            serving,
            syncing: task(1),
            refreshing: task(2),
            copying: task(3),
            notifying: task(4),
            sessions: Arc::new(Sessions::new(Arc::default(), stop.clone())),
            stop,
        };
        let (_signals, received) = mpsc::unbounded_channel();
        tasks.run(received, |_| ()).await
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_daemon_with_a_failure() {
        for panics in 0..5 {
            assert_eq!(exit_code_when_one_panics(panics).await, ExitCode::FAILURE, "{panics}");
        }
    }
}
