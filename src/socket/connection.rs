//! One connection: HTTP/1.1 or h2, what it may take of the daemon, how long it may do nothing, and how it ends.
//!
//! Letting it in is in `accept`, what its requests get in `request`.

use std::{
    convert::Infallible,
    future::{self, Future},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Limits,
    accept::Door,
    preface::{self, Protocol},
    request::Client,
    stream::Patient,
};

/// From the end of one request to the head of the next where metrics are served: anybody on this machine may connect there.
const METRICS_HEADER_TIME: Duration = Duration::from_secs(10);

/// How long a client that has connected may take to begin its first request once the stop was asked for. It came in time,
/// and would take an end without an answer for a failure.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// The most bytes of a request's head.
const MAX_HEAD: u32 = 16 << 10;

/// How many calls one h2 connection may have under way. A further one waits at the client.
const MAX_STREAMS: u32 = 128;

/// How much of bodies an h2 client may send ahead: of one call, whose messages are short, and of all calls.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// How much of an answer h2 keeps until its client takes it. The answers are short.
const SEND_BUFFER: usize = 64 << 10;

/// How many calls a client may take back before they were begun with: more of them end the connection (CVE-2023-44487).
const MAX_TAKEN_BACK: usize = 20;

/// What a connection has done, for telling whether it does anything.
#[derive(Debug, Default)]
pub struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Serves a connection to its end: the client's, or that of what is in flight once `stop` was asked for.
pub async fn see_through<S>(stream: S, client: Arc<Client>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut limits = client.limits();
    if client.door() == Door::Loopback {
        limits.header_time = limits.header_time.min(METRICS_HEADER_TIME);
    }
    let stopping = async {
        stop.cancelled().await;
        let _ = timeout(FIRST_REQUEST, client.has_asked()).await;
    };
    let mut stopping = pin!(stopping);
    let stream = Patient::new(stream, limits.write_time);
    let told = tokio::select! {
        () = stopping.as_mut() => return,
        told = timeout(limits.header_time, preface::tell(stream)) => told,
    };
    let Ok(Ok((protocol, stream))) = told else { return };
    let (io, answering) = (TokioIo::new(stream), Arc::clone(&client));
    let handle = service_fn(move |request| {
        let client = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(client.answer(request).await.into_response()) }
    });
    let ended = match protocol {
        Protocol::Http1 => {
            let connection = Box::pin(http1(&limits).serve_connection(io, handle));
            // How long it may do nothing, hyper knows: it waits for a head.
            until_its_end(connection, http1::Connection::graceful_shutdown, future::pending(), stopping).await
        }
        Protocol::Http2 => {
            let connection = Box::pin(http2().serve_connection(io, handle));
            let idle = async {
                client.activity.idle(&limits).await;
                limits.write_time
            };
            until_its_end(connection, http2::Connection::graceful_shutdown, idle, stopping).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_header_size(MAX_HEAD as usize);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_TAKEN_BACK);
    builder
}

/// Runs a connection. At the stop it finishes what is in flight, for which the caller bounds the time. When it is idle, as
/// `idle` answers, it is told to end, and cut if its client does not let it within that long.
async fn until_its_end<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<Box<C>>,
    finish: impl FnOnce(Pin<&mut C>),
    idle: impl Future<Output = Duration>,
    stopping: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let goodbye = tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopping => None,
        goodbye = idle => Some(goodbye),
    };
    finish(connection.as_mut());
    let Some(goodbye) = goodbye else { return connection.await };
    timeout(goodbye, connection).await.unwrap_or(Ok(()))
}

impl Activity {
    /// A request is under way for as long as the guard lives.
    pub fn request(&self) -> impl Drop + use<'_> {
        struct UnderWay<'a>(&'a Activity);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.ended.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// Until there was no request for as long as one may wait for the first, or for the next. It looks once in that time,
    /// so that it may come up to as late again.
    async fn idle(&self, limits: &Limits) {
        let so_far = || (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
        let mut before = so_far();
        let mut patience: Duration = limits.header_time;
        loop {
            tokio::time::sleep(patience).await;
            let now = so_far();
            if now == before && now.0 == now.1 {
                return;
            }
            (before, patience) = (now, limits.idle_time);
        }
    }
}
