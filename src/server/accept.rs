//! Admitting connections: accepting on both listeners, the limits on open connections, and the drain at the shutdown.
//!
//! The caller brings the listeners. `connection` serves each connection.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use enum_map::EnumMap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Notify,
    time::{Interval, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connection::{self, Limits};
use crate::{
    api::{Api, Caller, ListenerKind, Peer},
    metrics::{GaugeGuard, Metrics},
};

/// Connections without any permission get 1/16 of the limit.
const UNPRIVILEGED_SHARE: usize = 16;

/// How long requests in flight may take once the shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The least time between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// How long accepting pauses when the process has no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limit on open connections of the loopback listener.
const LOOPBACK_CONNECTIONS: usize = 64;

/// Serves the API on the listeners.
pub struct Server {
    api: Arc<Api>,
    metrics: Arc<Metrics>,
    limits: ArcSwap<Limits>,
    counts: EnumMap<ListenerKind, ConnectionCount>,
}

/// The open connections of one listener.
#[derive(Default)]
struct ConnectionCount {
    open: AtomicUsize,
    /// Of these, connections without any permission.
    unprivileged: AtomicUsize,
    /// A connection ended, or the limit changed.
    changed: Notify,
}

/// Where clients connect.
#[derive(Debug)]
pub struct Listeners {
    pub socket: UnixListener,
    /// A loopback address for metrics and health.
    pub metrics: Option<TcpListener>,
}

/// Proof to a watchdog that the accept loop runs.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    pub interval: Duration,
    pub beat: fn(),
}

/// A kind of listener that a connection comes from.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    const KIND: ListenerKind;

    /// The next connection, and its peer if the kernel identifies it.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Peer>)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    const KIND: ListenerKind = ListenerKind::Unix;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Peer>)> {
        let (stream, _) = Self::accept(self).await?;
        let peer = Peer::from_stream(&stream)?;
        Ok((stream, Some(peer)))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    const KIND: ListenerKind = ListenerKind::Loopback;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Peer>)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, None))
    }
}

impl Server {
    pub fn new(api: Arc<Api>, metrics: Arc<Metrics>, limits: Limits) -> Self {
        Self { api, metrics, limits: ArcSwap::from_pointee(limits), counts: EnumMap::default() }
    }

    /// Connections from here on have the new limits.
    pub fn change(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
        self.counts[ListenerKind::Unix].changed.notify_one();
    }

    /// Serves until `stop`, then drains. Returns how many connections did not finish within `DRAIN_TIMEOUT` and were cut.
    pub async fn serve(
        self: Arc<Self>,
        listeners: Listeners,
        heartbeat: Option<Heartbeat>,
        stop: CancellationToken,
    ) -> usize {
        let loopback = async {
            match listeners.metrics {
                Some(listener) => self.serve_on(listener, None, &stop).await,
                None => 0,
            }
        };
        let (unix, loopback) = tokio::join!(self.serve_on(listeners.socket, heartbeat, &stop), loopback);
        unix + loopback
    }

    async fn serve_on<L: Listener>(
        self: &Arc<Self>,
        listener: L,
        heartbeat: Option<Heartbeat>,
        stop: &CancellationToken,
    ) -> usize {
        let connections = TaskTracker::new();
        let mut pulse = heartbeat.map(|heartbeat| interval(heartbeat.interval));
        let mut last_warning = None;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                () = next(&mut pulse) => {
                    heartbeat.inspect(|heartbeat| (heartbeat.beat)());
                    continue;
                }
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.start(&connections, stream, peer, L::KIND, stop),
                Err(error) => {
                    if last_warning.is_none_or(|at: Instant| at.elapsed() > WARNING_INTERVAL) {
                        tracing::warn!("accepting connections failed, retrying: {error}");
                        last_warning = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        match timeout(DRAIN_TIMEOUT, connections.wait()).await {
            Ok(()) => 0,
            Err(_) => connections.len(),
        }
    }

    /// Waits for a free connection before `accept()`: further clients wait in the kernel's queue. Each listener has one accept
    /// loop, so the free connection is still there afterwards.
    async fn accept<L: Listener>(&self, listener: &L) -> io::Result<(L::Stream, Option<Peer>)> {
        let count = &self.counts[L::KIND];
        let limit = || match L::KIND {
            ListenerKind::Unix => self.limits.load().connections,
            ListenerKind::Loopback => LOOPBACK_CONNECTIONS,
        };
        while count.open.load(Ordering::Relaxed) >= limit() {
            count.changed.notified().await;
        }
        listener.accept().await
    }

    fn start<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self: &Arc<Self>,
        connections: &TaskTracker,
        stream: S,
        peer: Option<Peer>,
        listener: ListenerKind,
        stop: &CancellationToken,
    ) {
        let caller = Caller { listener, peer: peer.map(Arc::new) };
        let Some(permit) = ConnectionPermit::acquire(Arc::clone(self), &caller) else {
            tracing::debug!("connection refused: too many open connections without any permission");
            return;
        };
        let (api, limits) = (Arc::clone(&self.api), **self.limits.load());
        // A token of its own: it is polled at each event of the connection, and a shared one takes a lock.
        let stop = stop.child_token();
        connections.spawn(async move {
            connection::serve(stream, api, caller, limits, stop).await;
            drop(permit);
        });
    }
}

/// The next beat; without a heartbeat there is none.
async fn next(pulse: &mut Option<Interval>) {
    match pulse {
        Some(pulse) => drop(pulse.tick().await),
        None => std::future::pending().await,
    }
}

/// One open connection, counted until it is dropped.
struct ConnectionPermit {
    server: Arc<Server>,
    listener: ListenerKind,
    unprivileged: bool,
    _open: Option<GaugeGuard>,
}

impl ConnectionPermit {
    /// `None` if the connection has no permission, and its kind has reached its share of the limit.
    fn acquire(server: Arc<Server>, caller: &Caller) -> Option<Self> {
        let (listener, unprivileged) = (caller.listener, !server.api.has_any_permission(caller));
        let count = &server.counts[listener];
        if unprivileged {
            let limit = (server.limits.load().connections / UNPRIVILEGED_SHARE).max(1);
            if count.unprivileged.fetch_add(1, Ordering::Relaxed) >= limit {
                count.unprivileged.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
        count.open.fetch_add(1, Ordering::Relaxed);
        let open = (listener == ListenerKind::Unix).then(|| server.metrics.open_connection());
        Some(Self { server, listener, unprivileged, _open: open })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let count = &self.server.counts[self.listener];
        count.open.fetch_sub(1, Ordering::Relaxed);
        if self.unprivileged {
            count.unprivileged.fetch_sub(1, Ordering::Relaxed);
        }
        count.changed.notify_one();
    }
}
