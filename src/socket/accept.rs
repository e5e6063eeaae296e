//! Letting clients in: accepting on the socket and beside it, how many at once, and letting them finish at the stop.
//!
//! The caller brings the listeners. How a connection is served is in `connection`.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Notify,
    time::{Interval, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Service, access::Peer, connection, request::Client};

/// Of so many connections, one may be a client's that may do nothing here but ask whether the daemon lives.
const STRANGERS: usize = 16;

/// How long requests in flight may take to finish once the stop was asked for.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// How long accepting pauses when the kernel has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many clients may be connected at once where metrics are served.
const METRICS_CONNECTIONS: usize = 64;

/// Where clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The Unix socket, where the kernel says who they are.
    Socket,
    /// A loopback address, where nobody can be told who he is.
    Loopback,
}

/// The connections that came in by one door.
#[derive(Default)]
pub struct Crowd {
    pub open: AtomicUsize,
    /// Of these, clients that may do nothing but ask whether the daemon lives.
    strangers: AtomicUsize,
    /// A connection ended, or more may be open than before.
    pub room: Notify,
}

/// What clients connect to.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    const DOOR: Door;

    /// The next connection, and who it is, if that can be told.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Peer>)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    const DOOR: Door = Door::Socket;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Peer>)> {
        let (stream, _) = Self::accept(self).await?;
        let peer = Peer::of(&stream)?;
        Ok((stream, Some(peer)))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    const DOOR: Door = Door::Loopback;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Peer>)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, None))
    }
}

/// Where clients may connect.
#[derive(Debug)]
pub struct Listeners {
    pub socket: UnixListener,
    /// A loopback address for metrics and health.
    pub metrics: Option<TcpListener>,
}

/// A sign that the loop which serves goes round.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    pub every: Duration,
    pub beat: fn(),
}

/// Serves until `stop`; then what is in flight may finish. Answers how many connections were cut because they did not
/// within [`DRAIN`].
pub async fn serve(
    listeners: Listeners,
    service: Arc<Service>,
    heartbeat: Option<Heartbeat>,
    stop: CancellationToken,
) -> usize {
    let beside = async {
        match listeners.metrics {
            Some(metrics) => serve_on(metrics, Arc::clone(&service), None, stop.clone()).await,
            None => 0,
        }
    };
    let telling = service.audit.tell_until(&stop);
    let (cut, cut_beside, ()) = tokio::join!(
        serve_on(listeners.socket, Arc::clone(&service), heartbeat, stop.clone()),
        beside,
        telling
    );
    service.audit.flush(true);
    cut + cut_beside
}

async fn serve_on<L: Listener>(
    listener: L,
    service: Arc<Service>,
    heartbeat: Option<Heartbeat>,
    stop: CancellationToken,
) -> usize {
    let connections = TaskTracker::new();
    let mut pulse = heartbeat.map(|heartbeat| interval(heartbeat.every));
    let mut last_warning = None;
    loop {
        // A place first, a connection then: further clients wait in the kernel's queue.
        let accepted = async {
            service.place(L::DOOR).await;
            listener.accept().await
        };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            () = next(&mut pulse) => {
                heartbeat.inspect(|heartbeat| (heartbeat.beat)());
                continue;
            }
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if last_warning.is_none_or(|at: Instant| at.elapsed() > WARNING_INTERVAL) {
                        tracing::warn!("connections cannot be accepted, and are tried again: {error}");
                        last_warning = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let live = service.live();
        let stranger = peer.as_ref().is_some_and(|peer| peer.may_do_nothing(live.access.as_ref()));
        let Some(place) = Place::take(Arc::clone(&service), L::DOOR, stranger) else {
            tracing::debug!("a client that may do nothing here was not let in: there are too many of them");
            continue;
        };
        let client = Arc::new(Client::new(place, peer));
        // A token of its own: it is looked at whenever anything happens on the connection, and asks for no lock of others.
        connections.spawn(connection::see_through(stream, client, stop.child_token()));
    }
    drop(listener);
    connections.close();
    match timeout(DRAIN, connections.wait()).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    }
}

/// The next beat; without a pulse there is none.
async fn next(pulse: &mut Option<Interval>) {
    match pulse {
        Some(pulse) => drop(pulse.tick().await),
        None => std::future::pending().await,
    }
}

/// One open connection's place among those that may be open; free again when dropped.
pub struct Place {
    pub service: Arc<Service>,
    pub door: Door,
    stranger: bool,
}

impl Place {
    /// `None` when strangers have as many places as they may.
    fn take(service: Arc<Service>, door: Door, stranger: bool) -> Option<Self> {
        let crowd = service.crowd(door);
        if stranger {
            let most = (service.live().limits.connections / STRANGERS).max(1);
            if crowd.strangers.fetch_add(1, Ordering::Relaxed) >= most {
                crowd.strangers.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
        crowd.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { service, door, stranger })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let crowd = self.service.crowd(self.door);
        crowd.open.fetch_sub(1, Ordering::Relaxed);
        if self.stranger {
            crowd.strangers.fetch_sub(1, Ordering::Relaxed);
        }
        crowd.room.notify_one();
    }
}

impl Service {
    /// Waits until a further connection may be open. There is one acceptor a door, so the place is still there afterwards.
    async fn place(&self, door: Door) {
        let crowd = self.crowd(door);
        let most = || match door {
            Door::Socket => self.live().limits.connections,
            Door::Loopback => METRICS_CONNECTIONS,
        };
        while crowd.open.load(Ordering::Relaxed) >= most() {
            crowd.room.notified().await;
        }
    }
}
