//! Admitting connections: accepting on both listeners, and the drain at the shutdown.
//!
//! The caller brings the listeners. `permits` shares the limit between uids, `connection` serves each connection.
//! The file is longer than most: one loop for each kind of listener, and what both count.

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
    time::{Interval, interval, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{self, H2, Limits},
    permits::Permits,
    tls::{TlsConfig, TlsListener},
};
use crate::{
    api::{Api, Caller, ListenerKind, Peer},
    metrics::{BackgroundTask, GaugeGuard, Metrics},
    supervise::supervise,
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
    permits: EnumMap<ListenerKind, Arc<Permits>>,
    h2: H2,
    /// Connections without any permission.
    unprivileged: AtomicUsize,
}

/// Where clients connect.
pub struct Listeners {
    pub socket: UnixListener,
    /// For metrics and health.
    pub metrics: Option<MetricsListener>,
}

/// A TCP address, where peers are anonymous.
pub struct MetricsListener {
    pub listener: TcpListener,
    pub tls: Option<TlsConfig>,
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

impl Listener for TlsListener {
    type Stream = TlsStream<TcpStream>;
    const KIND: ListenerKind = ListenerKind::Loopback;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Peer>)> {
        Ok((Self::accept(self).await?, None))
    }
}

impl Server {
    pub fn new(api: Arc<Api>, metrics: Arc<Metrics>, limits: Limits) -> Self {
        Self {
            api,
            metrics,
            limits: ArcSwap::from_pointee(limits),
            permits: EnumMap::default(),
            h2: H2::default(),
            unprivileged: AtomicUsize::new(0),
        }
    }

    /// Connections from here on have the new limits.
    pub fn change(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
        self.permits[ListenerKind::Unix].limit_changed();
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
                Some(MetricsListener { listener, tls: Some(config) }) => {
                    self.serve_on(TlsListener::new(listener, config), None, &stop).await
                }
                Some(MetricsListener { listener, tls: None }) => self.serve_on(listener, None, &stop).await,
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
        let accept = || self.accept(&listener, &connections, heartbeat, stop);
        supervise(BackgroundTask::Accept, &self.metrics, accept).await;
        drop(listener);
        connections.close();
        match timeout(DRAIN_TIMEOUT, connections.wait()).await {
            Ok(()) => 0,
            Err(_) => connections.len(),
        }
    }

    /// Accepts connections until `stop`.
    async fn accept<L: Listener>(
        self: &Arc<Self>,
        listener: &L,
        connections: &TaskTracker,
        heartbeat: Option<Heartbeat>,
        stop: &CancellationToken,
    ) {
        let mut pulse = heartbeat.map(|heartbeat| interval(heartbeat.interval));
        let mut last_warning = None;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                () = next(&mut pulse) => {
                    heartbeat.inspect(|heartbeat| (heartbeat.beat)());
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.start(connections, stream, peer, L::KIND, stop),
                Err(error) => {
                    if last_warning.is_none_or(|at: Instant| at.elapsed() > WARNING_INTERVAL) {
                        tracing::warn!(%error, "accepting connections failed, retrying");
                        last_warning = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection as soon as it has a permit. It is accepted first: the share of its uid decides.
    fn start<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        self: &Arc<Self>,
        connections: &TaskTracker,
        stream: S,
        peer: Option<Peer>,
        listener: ListenerKind,
        stop: &CancellationToken,
    ) {
        let mut caller = Caller { listener, peer: peer.map(Arc::new), closed: CancellationToken::new() };
        let Some(count) = Count::begin(Arc::clone(self), &caller) else {
            tracing::debug!("connection refused: too many open connections without any permission");
            return;
        };
        let waiting = match self.permits[listener].enter(caller.uid(), self.limit(listener)) {
            Ok(permit) => Ok(permit),
            Err(Some(waiting)) => Err(waiting),
            Err(None) => {
                tracing::debug!("connection refused: too many of its user wait (keyring_max_connections)");
                return;
            }
        };
        // A token of its own: it is polled at each event of the connection, and a shared one takes a lock.
        let (server, stop) = (Arc::clone(self), stop.child_token());
        connections.spawn(async move {
            let permit = match waiting {
                Ok(permit) => permit,
                Err(waiting) => tokio::select! {
                    permit = waiting.permit(|| server.limit(listener)) => permit,
                    () = stop.cancelled() => return,
                },
            };
            caller.closed = permit.closed().clone();
            let limits = **server.limits.load();
            connection::serve(stream, &server.api, caller, permit, &server.h2, limits, stop).await;
            drop(count);
        });
    }

    fn limit(&self, listener: ListenerKind) -> usize {
        match listener {
            ListenerKind::Unix => self.limits.load().connections,
            ListenerKind::Loopback => LOOPBACK_CONNECTIONS,
        }
    }
}

/// The next beat; without a heartbeat there is none.
async fn next(pulse: &mut Option<Interval>) {
    match pulse {
        Some(pulse) => drop(pulse.tick().await),
        None => std::future::pending().await,
    }
}

/// One connection, counted until it is dropped.
struct Count {
    server: Arc<Server>,
    unprivileged: bool,
    _open: Option<GaugeGuard>,
}

impl Count {
    /// `None` if the connection has no permission, and its kind has reached its share of the limit.
    fn begin(server: Arc<Server>, caller: &Caller) -> Option<Self> {
        let unprivileged = !server.api.has_any_permission(caller);
        if unprivileged {
            let limit = (server.limits.load().connections / UNPRIVILEGED_SHARE).max(1);
            if server.unprivileged.fetch_add(1, Ordering::Relaxed) >= limit {
                server.unprivileged.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
        let open = (caller.listener == ListenerKind::Unix).then(|| server.metrics.open_connection());
        Some(Self { server, unprivileged, _open: open })
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if self.unprivileged {
            self.server.unprivileged.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf},
        sync::{Mutex, mpsc},
    };

    use super::*;

    fn server() -> Arc<Server> {
        let metrics = Arc::new(Metrics::default());
        let api = Arc::new(Api::without_vault(Arc::clone(&metrics)));
        Arc::new(Server::new(api, metrics, Limits::new(16)))
    }

    /// A listener that panics where it gets nothing.
    struct Planted(Mutex<mpsc::UnboundedReceiver<Option<Stream>>>);

    /// A stream that panics when it is read, unless it has one.
    struct Stream(Option<DuplexStream>);

    impl Listener for Planted {
        type Stream = Stream;
        const KIND: ListenerKind = ListenerKind::Loopback;

        async fn accept(&self) -> io::Result<(Stream, Option<Peer>)> {
            match self.0.lock().await.recv().await {
                Some(stream) => Ok((stream.expect("planted in the accept loop"), None)),
                None => std::future::pending().await,
            }
        }
    }

    impl AsyncRead for Stream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(self.0.as_mut().expect("planted in a connection")).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Stream {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(self.0.as_mut().expect("planted in a connection")).poll_write(cx, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_panic_in_the_accept_loop_or_in_a_connection_ends_that_only() {
        let server = server();
        let (clients, listener) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (serving, stopped) = (Arc::clone(&server), stop.clone());
        let listener = Planted(Mutex::new(listener));
        let serving = tokio::spawn(async move { serving.serve_on(listener, None, &stopped).await });
        for planted in [None, Some(Stream(None)), None, Some(Stream(None))] {
            clients.send(planted).unwrap();
            let (mut client, stream) = tokio::io::duplex(1 << 10);
            clients.send(Some(Stream(Some(stream)))).unwrap();
            client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"), "{answer}");
        }
        stop.cancel();
        assert_eq!(serving.await.unwrap(), 0);
        assert_eq!(server.permits[ListenerKind::Loopback].open(), 0);
    }
}
