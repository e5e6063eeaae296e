//! One connection: its protocol, its timeouts and its end.
//!
//! The file is longer than others: it keeps together what wraps the stream. [`detect`] reads h2's connection preface
//! (RFC 9113, section 3.4), which hyper-util's detection does without a bound on time; [`ClientStream`] replays these
//! bytes and bounds the time of writing: hyper bounds the time of reading only.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::{
    Request,
    body::{Bytes, Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    error_body::ErrorBody,
    pace::{Pace, Timed, Turns},
    permits::{Activity, Permit, Permits},
};
use crate::api::{Api, Body, Caller, ListenerKind};

/// Long enough for the connection pools of clients.
const HEADER_TIME: Duration = Duration::from_secs(75);

/// Kubernetes asks for the status every minute.
const IDLE_TIME: Duration = Duration::from_secs(300);

const WRITE_TIME: Duration = Duration::from_secs(30);

/// The limit on the header time of the loopback listener: every user of this machine may connect there.
const LOOPBACK_HEADER_TIME: Duration = Duration::from_secs(10);

/// How long a connected client may take for its first request once the shutdown began. It connected in time, and would
/// take a close without a response for a failure.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(500);

/// The limit on the bytes of a request's head over HTTP/1.1: associated data of raw bodies are in a header.
const MAX_HTTP1_HEAD: usize = 64 << 10;

/// The limit on what hyper reads ahead of one HTTP/1.1 connection.
const READ_BUFFER: usize = 64 << 10;

/// How long an HTTP/1.1 connection has no request until its buffers are freed.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// The limits on h2, which is for KMS: connections, concurrent calls of one, and the bytes of a call's headers. Further
/// calls wait at the client. The headers of all calls together take a few MiB.
const MAX_H2_CONNECTIONS: usize = 64;
const MAX_STREAMS: u32 = 16;
const MAX_H2_HEAD: u32 = 4 << 10;

/// How many bytes an h2 client may send ahead: of one call, whose messages are short, and of all calls.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// How many bytes of a response h2 buffers. The responses are short.
const SEND_BUFFER: usize = 64 << 10;

/// How many calls a client may reset before they were accepted; more end the connection (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// What one client can make a connection hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections on the Unix socket.
    pub connections: usize,
    /// From the end of one request to the whole head of the next. Over h2, from connecting to the first call.
    pub header_time: Duration,
    /// Over h2, from the end of one call to the next.
    pub idle_time: Duration,
    /// From the first blocked write to the end of what is to be written.
    pub write_time: Duration,
}

impl Limits {
    pub const fn new(connections: usize) -> Self {
        Self { connections, header_time: HEADER_TIME, idle_time: IDLE_TIME, write_time: WRITE_TIME }
    }
}

/// What all h2 connections share: permits, since the byte budget does not count their headers, and time.
#[derive(Clone, Default)]
pub(super) struct H2 {
    permits: Arc<Permits>,
    pace: Arc<Pace>,
}

/// The connection, as its requests share it.
struct Connection {
    api: Arc<Api>,
    caller: Caller,
    permit: Permit,
    /// Has a permit after the first request.
    first_request: Notify,
    /// A write to the client is blocked.
    blocked: Arc<AtomicBool>,
}

/// Serves a connection until its client closes it, until its permit is withdrawn, or until its requests in flight have
/// finished after `stop`.
pub(super) async fn serve<S>(
    stream: S,
    api: &Arc<Api>,
    caller: Caller,
    permit: Permit,
    h2: &H2,
    mut limits: Limits,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    if caller.listener == ListenerKind::Loopback {
        limits.header_time = limits.header_time.min(LOOPBACK_HEADER_TIME);
    }
    let closed = caller.closed.clone();
    let blocked = Arc::new(AtomicBool::new(false));
    let connection =
        Arc::new(Connection { api: Arc::clone(api), caller, permit, first_request: Notify::new(), blocked });
    let stopping = async {
        stop.cancelled().await;
        let _ = timeout(FIRST_REQUEST_TIME, connection.first_request.notified()).await;
    };
    let serving = serve_protocols(stream, &connection, h2, &limits, stopping);
    match serving.await {
        Err(error) => tracing::debug!(%error, "a connection ended early"),
        Ok(()) if closed.is_cancelled() => tracing::debug!("a connection was closed for another user's"),
        Ok(()) => {}
    }
}

/// Serves the protocol that each part of the connection begins with. HTTP/1.1 is set aside while it is idle: its buffers
/// are freed, and with them what they hold of the last request.
async fn serve_protocols<S>(
    mut stream: S,
    connection: &Arc<Connection>,
    h2: &H2,
    limits: &Limits,
    stopping: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let closed = &connection.caller.closed;
    let mut stopping = pin!(stopping);
    let mut read = Bytes::new();
    loop {
        let detected = tokio::select! {
            () = stopping.as_mut() => return Ok(()),
            () = closed.cancelled() => return Ok(()),
            detected = timeout(limits.header_time, detect(&mut stream, read)) => detected,
        };
        let Ok(Ok((protocol, first))) = detected else { return Ok(()) };
        let uid = connection.caller.uid();
        let turns = (protocol == Protocol::Http2).then(|| Turns::new(&h2.pace, uid));
        let client = ClientStream::new(stream, first, turns, limits.write_time, &connection.blocked);
        let shared = Arc::clone(connection);
        let handle = service_fn(move |request| {
            let connection = Arc::clone(&shared);
            Box::pin(async move { Ok::<_, Infallible>(connection.handle(request).await) })
        });
        match protocol {
            Protocol::Http1 => {
                let mut serving =
                    Box::pin(http1().serve_connection(TokioIo::new(ErrorBody::new(client)), handle));
                // Now: the first requests may be served before the other future is polled.
                let before = connection.permit.activity().begun.load(Ordering::Relaxed);
                let event = tokio::select! {
                    biased;
                    ended = serving.as_mut() => return ended,
                    event = Rarely::new(connection.event(before, limits, stopping.as_mut())) => event,
                };
                match event {
                    Event::Closed | Event::LateHead => return Ok(()),
                    Event::Stopping | Event::Quiet => serving.as_mut().graceful_shutdown(),
                }
                if event == Event::Stopping
                    || poll_fn(|cx| Poll::Ready(serving.poll_without_shutdown(cx).is_pending())).await
                {
                    return unless_closed(serving, closed).await;
                }
                let parts = Pin::into_inner(serving).into_parts();
                // A copy: the rest of a buffer would keep the whole buffer.
                read = Bytes::copy_from_slice(&parts.read_buf);
                stream = parts.io.into_inner().into_inner().stream;
            }
            Protocol::Http2 => {
                let Ok(h2_permit) = h2.permits.enter(uid, MAX_H2_CONNECTIONS) else {
                    tracing::debug!("connection refused: too many h2 connections are open");
                    return Ok(());
                };
                let serving = http2().serve_connection(TokioIo::new(client), handle);
                let pace = Arc::clone(&h2.pace);
                let serving = Box::pin(Timed { future: Box::pin(serving), pace, uid });
                let idle = async {
                    connection.permit.activity().idle(limits).await;
                    limits.write_time
                };
                let serving =
                    run(serving, |mut serving| serving.future.as_mut().graceful_shutdown(), idle, stopping);
                return unless_closed(unless_closed(serving, h2_permit.closed()), closed).await;
            }
        }
    }
}

/// What happens to a connection of HTTP/1.1, besides its requests and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// Its permit or its bytes are for another user.
    Closed,
    /// The server stops.
    Stopping,
    /// It has had requests, and none for [`QUIET_TIME`].
    Quiet,
    /// Its first request is not whole within the header time.
    LateHead,
}

/// A future that is polled when it was woken itself, and not at each event of the connection that waits for it too.
struct Rarely<F>(FuturesUnordered<F>);

impl<F: Future> Rarely<F> {
    fn new(future: F) -> Self {
        Self(FuturesUnordered::from_iter([future]))
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.poll_next_unpin(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Serves on, and is cut when `closed` is cancelled.
async fn unless_closed(
    serving: impl Future<Output = hyper::Result<()>>,
    closed: &CancellationToken,
) -> hyper::Result<()> {
    tokio::select! {
        ended = serving => ended,
        () = closed.cancelled() => Ok(()),
    }
}

impl Connection {
    /// The next event of one that had begun `before` requests.
    async fn event(
        &self,
        before: u64,
        limits: &Limits,
        stopping: Pin<&mut impl Future<Output = ()>>,
    ) -> Event {
        tokio::select! {
            biased;
            () = self.caller.closed.cancelled() => Event::Closed,
            () = stopping => Event::Stopping,
            event = self.permit.activity().pause(before, &self.blocked, limits) => event,
        }
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> hyper::Response<Sending> {
        if self.permit.activity().begun.load(Ordering::Relaxed) == 0 {
            self.first_request.notify_one();
        }
        let active = Active::begin(&self);
        let response = self.api.handle(&self.caller, request).await;
        response.map(|body| Sending { body, _active: active })
    }
}

/// Without hyper's timer for heads, which is set and cleared with each request: [`Activity::pause`] looks once a second.
fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_header_size(MAX_HTTP1_HEAD).max_buf_size(READ_BUFFER);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_H2_HEAD)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS);
    builder
}

/// Runs a connection. At `stopping` it finishes the requests in flight, for which the caller bounds the time. When `idle`
/// ends, it shuts down, and is cut if its client does not let it within the returned time.
async fn run<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<Box<C>>,
    shut_down: impl FnOnce(Pin<&mut C>),
    idle: impl Future<Output = Duration>,
    stopping: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let grace = tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopping => None,
        grace = idle => Some(grace),
    };
    shut_down(connection.as_mut());
    let Some(grace) = grace else { return connection.await };
    timeout(grace, connection).await.unwrap_or(Ok(()))
}

impl Activity {
    /// Waits until there was no request for too long, with nothing left to write: for [`QUIET_TIME`] if more than `before` have
    /// begun, else for the header time. It looks once per [`QUIET_TIME`], so it may end up to two of these late.
    async fn pause(&self, before: u64, blocked: &AtomicBool, limits: &Limits) -> Event {
        let counts = || (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
        let (mut last, mut since) = (counts(), Instant::now());
        loop {
            tokio::time::sleep(QUIET_TIME.min(limits.header_time)).await;
            let (begun, ended) = counts();
            if (begun, ended) != last || begun != ended || blocked.load(Ordering::Relaxed) {
                (last, since) = ((begun, ended), Instant::now());
            } else if begun != before && since.elapsed() >= QUIET_TIME {
                return Event::Quiet;
            } else if begun == before && since.elapsed() >= limits.header_time {
                return Event::LateHead;
            }
        }
    }

    /// Waits until there was no request for the header time, then for the idle time. It checks once per interval, so it may
    /// end up to one interval late.
    async fn idle(&self, limits: &Limits) {
        let counts = || (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
        let mut before = counts();
        let mut interval: Duration = limits.header_time;
        loop {
            tokio::time::sleep(interval).await;
            let now = counts();
            if now == before && now.0 == now.1 {
                return;
            }
            (before, interval) = (now, limits.idle_time);
        }
    }
}

/// One request of a connection. It ends when its response was sent.
struct Active(Arc<Connection>);

impl Active {
    fn begin(connection: &Arc<Connection>) -> Self {
        connection.permit.activity().begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.permit.activity().ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A response's body, whose request is active until it was sent.
struct Sending {
    body: Body,
    _active: Active,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// A client's stream: its first bytes are read again, a client that sends without a pause gets turns, and a write timeout
/// prevents that a client holds a response's memory and a connection by reading slowly.
struct ClientStream<S> {
    stream: S,
    /// What is read again.
    first: Bytes,
    /// Without them it reads as it likes.
    turns: Option<Turns>,
    write_time: Duration,
    /// Set from the first blocked write until everything is written.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether there is a deadline, for the connection.
    blocked: Arc<AtomicBool>,
}

impl<S> ClientStream<S> {
    fn new(
        stream: S,
        first: Bytes,
        turns: Option<Turns>,
        write_time: Duration,
        blocked: &Arc<AtomicBool>,
    ) -> Self {
        Self { stream, first, turns, write_time, deadline: None, blocked: Arc::clone(blocked) }
    }
}

/// Reads on behind `read` until the bytes are h2's preface, or differ from it: then they are HTTP/1.1. The caller bounds
/// the time.
async fn detect<S: AsyncRead + Unpin>(stream: &mut S, read: Bytes) -> io::Result<(Protocol, Bytes)> {
    let (mut first, mut len) = ([0; PREFACE.len()], 0);
    if !read.is_empty() && !PREFACE.starts_with(&read) {
        return Ok((Protocol::Http1, read));
    }
    first[..read.len()].copy_from_slice(&read);
    len += read.len();
    while len < PREFACE.len() && first[..len] == PREFACE[..len] {
        match stream.read(&mut first[len..]).await? {
            0 => break,
            more => len += more,
        }
    }
    let protocol = if first == *PREFACE { Protocol::Http2 } else { Protocol::Http1 };
    Ok((protocol, Bytes::copy_from_slice(&first[..len])))
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            if let Some(turns) = &mut self.turns {
                ready!(turns.poll_turn(cx));
            }
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
            if let Some(turns) = &mut self.turns {
                turns.count(buffer.filled().len() - before);
            }
            return read;
        }
        let now = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(now));
        Poll::Ready(Ok(()))
    }
}

impl<S> ClientStream<S> {
    /// The outcome of a write, or an error after the deadline.
    fn check<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_pending() && self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep_until(Instant::now() + self.write_time)));
            self.blocked.store(true, Ordering::Relaxed);
        }
        let expired = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if expired {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client does not read its response");
            return Poll::Ready(Err(error));
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.check(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() && self.deadline.is_some() {
            self.deadline = None; // hyper flushes when it has written everything
            self.blocked.store(false, Ordering::Relaxed);
        }
        self.check(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// The detected protocol of a client that sends these pieces and then ends, and all bytes that are read afterwards.
    async fn detected(pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1);
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
            }
            drop(client);
        };
        let reading = async {
            let mut server = server;
            let (protocol, first) = detect(&mut server, Bytes::new()).await.unwrap();
            let turns = Turns::new(&Arc::default(), 0);
            let mut stream = ClientStream::new(server, first, Some(turns), WRITE_TIME, &Arc::default());
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            (protocol, all)
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn h2_is_detected_by_its_whole_preface_and_no_byte_is_lost() {
        assert_eq!(detected(&[PREFACE, b"more"]).await, (Protocol::Http2, [&PREFACE[..], b"more"].concat()));
        for other in
            [&b""[..], b"P", b"POST / HTTP/1.1\r\n\r\n", &PREFACE[..23], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"]
        {
            assert_eq!(detected(&[other]).await, (Protocol::Http1, other.to_vec()));
        }
    }
}
