//! The daemon: starts sync and socket, waits for a signal or the end of a task, and stops the tasks in order.
//!
//! Tasks are started here only, and `tasks` stops them. `reload` changes the settings of a running daemon, `upstream` is what the socket
//! asks of Vault, `notify` tells systemd, `describe` people; [`dev`] is the same daemon with a random keyring and without Vault.

mod cache;
mod describe;
pub mod dev;
mod metrics_tls;
mod notify;
mod reload;
#[cfg(test)]
mod simulation;
mod tasks;
mod upstream;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, RuntimeConfig},
    hardening,
    keyring::{Keyrings, new_record::NewRecordError},
    logging::Log,
    metrics::{BackgroundTask, Metrics},
    references::{Engines, KeyringEngine, References},
    server::{
        self, Heartbeat, Listeners, MetricsListener, Server,
        listen::{self, ListenError, SocketFile},
    },
    settings::{self, Effective, Keyrings as KeyringSettings, KvSecret, Loaded, Settings},
    signals::Signal,
    sync::{CopyKeeper, Syncs, copy::CopyError},
    systemd,
    vault::{Client, SessionName, Sessions, transport::TransportError},
};
use describe::{describe, log_start, names};
use dev::PersistError;
use notify::Notifier;
use reload::Reload;
use tasks::{Tasks, spawn};
use upstream::VaultUpstream;

/// The descriptors that are left for Vault, files and connections that wait.
const OTHER_DESCRIPTORS: usize = 64;

/// Reloads that wait on the socket. Each takes milliseconds.
const MAX_RELOADS: usize = 4;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("keyring_metrics_listen: cannot listen on {0}: {1}: choose an address that is free")]
    Metrics(SocketAddr, std::io::Error),
    #[error("{0}")]
    MetricsTls(String),
    #[error("the socket that systemd passed cannot be used: {0}")]
    Passed(std::io::Error),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    NewRecord(#[from] NewRecordError),
    #[error(transparent)]
    Persist(#[from] PersistError),
    #[error("keyring_cache_key: {0}")]
    Copy(#[from] CopyError),
}

/// What the daemon gets from outside.
pub struct Inputs {
    pub signals: UnboundedReceiver<Signal>,
    /// Loads the settings again.
    pub load: Box<dyn Fn() -> Loaded + Send>,
    /// The kong.conf, if there is one.
    pub configuration: Option<PathBuf>,
    /// The values of the settings at the start.
    pub effective: Vec<Effective>,
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
    let described = describe(&settings, &settings.socket.path, inputs.configuration.as_deref());
    let Settings { keyrings, references, socket, cache, .. } = settings;
    let (keyring, engines) = open(keyrings, references, &sessions)?;
    let (listener, file) = listen(inputs.listener, &socket).await?;
    let names =
        keyring.as_ref().map_or_else(|| "none, references only".to_owned(), |(keyring, _)| names(keyring));
    log_start(&described, &socket, &names, file.as_ref());
    let metrics_listener = match &socket.metrics {
        Some(settings) => Some(listen_for_metrics(settings).await?),
        None => None,
    };
    let keeping = cache::check(&cache)?;
    let syncs =
        keyring.map(|(keyring, client)| Syncs::start(&client, keyring, Arc::clone(&metrics), stop.clone()));
    let keeper = cache::keeper(keeping, syncs.as_ref(), &metrics);
    let references = Arc::new(References::new(engines));
    let (reloads, next_reload) = mpsc::channel(MAX_RELOADS);
    let upstream = Arc::new(VaultUpstream::new(
        (syncs.clone(), keeper.as_ref().map(CopyKeeper::report)),
        Arc::clone(&references),
        Arc::clone(&sessions),
        described,
        reloads,
    ));
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
        copying: cache::spawn(keeper, &metrics, &stop),
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
        socket: socket.path,
        load: inputs.load,
        effective: inputs.effective,
        configuration: inputs.configuration,
        log: inputs.log,
        pending: JoinSet::new(),
    };
    let code = tasks.run(inputs.signals, next_reload, move |event| reload.act_on(event)).await;
    drop(file);
    Ok(code)
}

/// The socket that systemd passed, or a new one, whose file is removed when the result is dropped.
async fn listen(
    passed: Option<std::os::unix::net::UnixListener>,
    socket: &settings::Socket,
) -> Result<(UnixListener, Option<SocketFile>), StartError> {
    let Some(passed) = passed else {
        let (listener, file) = listen::bind(&socket.path, socket.mode, socket.group).await?;
        return Ok((listener, Some(file)));
    };
    Ok((UnixListener::from_std(passed).map_err(StartError::Passed)?, None))
}

async fn listen_for_metrics(
    settings::MetricsListener { address, tls }: &settings::MetricsListener,
) -> Result<MetricsListener, StartError> {
    let tls = tls.as_ref().map(|tls| metrics_tls::config(Arc::clone(tls))).transpose();
    let tls = tls.map_err(StartError::MetricsTls)?;
    let listener = TcpListener::bind(address).await;
    Ok(MetricsListener { listener: listener.map_err(|error| StartError::Metrics(*address, error))?, tls })
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
