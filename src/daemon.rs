//! The daemon's life: it starts the sync and the socket, waits for a signal or a death, and stops them in order.
//!
//! One owner: only here are tasks started and stopped. What each does is theirs; [`dev`] is the same daemon on a keyring
//! of its own, without Vault.

pub mod dev;

use std::{process::ExitCode, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    keyring::Published,
    metrics::Metrics,
    secret::Secret,
    settings::{self, KvVersion, Settings},
    signals::Signal,
    socket::{
        self, Answered, Limits, Service, Upstream,
        listen::{self, ListenError},
    },
    sync::{SyncHandle, Syncer},
    vault::{Session, transport::TransportError},
};

/// From the end of one request to the whole head of the next. Long enough for the connection pools of clients.
const HEADER_TIME: Duration = Duration::from_secs(75);

/// From a request's head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    NoRandomness(#[from] crate::cipher::NoRandomness),
}

/// The daemon, from its settings to its exit code. It serves from the start; until the first keyring is there, with 503.
///
/// # Errors
/// [`StartError`]: the settings name something that cannot be had.
pub async fn run(settings: Settings, signals: UnboundedReceiver<Signal>) -> Result<ExitCode, StartError> {
    let (listener, file) =
        listen::bind(&settings.socket.path, settings.socket.mode, settings.socket.group).await?;
    tracing::info!(
        socket = %settings.socket.path.display(),
        vault = %settings.vault.host,
        mount = %settings.vault.mount,
        path = %settings.vault.path,
        version = env!("CARGO_PKG_VERSION"),
        "keyringd starts"
    );
    let (published, metrics) = (Arc::new(Published::default()), Arc::new(Metrics::default()));
    let described = describe(&settings);
    let session = Session::new(settings.vault, Arc::clone(&metrics))?;
    let (syncer, sync) =
        Syncer::new(&settings.keyring, session, Arc::clone(&published), Arc::clone(&metrics));
    let service = Service {
        name: settings.keyring.name,
        published,
        metrics,
        upstream: Arc::new(FromVault { sync: sync.clone(), described }),
        limits: limits(settings.socket.limits),
    };
    let stop = CancellationToken::new();
    let life = Life {
        serving: tokio::spawn(socket::serve(listener, Arc::new(service), stop.clone())),
        syncing: tokio::spawn(syncer.run(stop.clone())),
        stop,
    };
    let code = life.until_its_end(signals, &sync).await;
    drop(file);
    Ok(code)
}

/// The tasks of a daemon.
struct Life {
    serving: JoinHandle<usize>,
    syncing: JoinHandle<()>,
    stop: CancellationToken,
}

impl Life {
    /// Until it is asked to stop, which is a success, or a task dies, which is a failure.
    async fn until_its_end(mut self, mut signals: UnboundedReceiver<Signal>, sync: &SyncHandle) -> ExitCode {
        let asked = loop {
            tokio::select! {
                _ = &mut self.serving => break false,
                _ = &mut self.syncing => break false,
                signal = signals.recv() => match signal {
                    Some(Signal::Sync) => {
                        let sync = sync.clone();
                        tokio::spawn(async move { sync.sync(None).await });
                    }
                    Some(Signal::Reload) => {
                        tracing::warn!("settings are read at start alone: restart keyringd to have them read anew");
                    }
                    Some(Signal::Stop) | None => break true,
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
        self.stop.cancel();
        match self.serving.await {
            Ok(0) => tracing::info!("stopped"),
            Ok(cut) => tracing::warn!(cut, "stopped, and connections that did not finish were cut"),
            Err(_) => return ExitCode::FAILURE,
        }
        let _ = self.syncing.await; // it has had the whole drain to end its session in
        ExitCode::SUCCESS
    }
}

const fn limits(limits: settings::Limits) -> Limits {
    Limits {
        request_size: limits.request_size,
        connections: limits.connections,
        batch: limits.batch,
        header_time: HEADER_TIME,
        body_time: BODY_TIME,
    }
}

/// The socket's way to Vault.
struct FromVault {
    sync: SyncHandle,
    described: Value,
}

impl Upstream for FromVault {
    fn sync(&self, token: Option<Secret<String>>) -> Answered<'_, Result<(), String>> {
        Box::pin(self.sync.sync(token))
    }

    fn look_for_new_keys(&self) -> Answered<'_, ()> {
        Box::pin(self.sync.look_for_new_keys())
    }

    fn describe(&self) -> Value {
        self.described.clone()
    }
}

fn describe(settings: &Settings) -> Value {
    json!({
        "vault": settings.vault.host.as_str().trim_end_matches('/'),
        "mount": settings.vault.mount.to_string(),
        "path": settings.vault.path.to_string(),
        "kv": match settings.vault.kv { KvVersion::V1 => "v1", KvVersion::V2 => "v2" },
        "interval": settings.keyring.sync_interval.as_secs(),
        "plain_http": settings.vault.sends_in_the_clear(),
    })
}
