//! The socket: HTTP/1.1 on a Unix listener, for applications and operators.
//!
//! [`listen`] makes the socket file, [`transit`] and [`admin`] answer, [`body`] and [`answer`] carry bytes in and out.
//! Here: accepting, the limits on a connection, and which request goes where. The caller brings the listener and the
//! stop; Vault is not known here, and the keyring only as the published snapshot.

pub mod admin;
pub mod answer;
pub mod body;
pub mod listen;
mod stream;
pub mod transit;

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use hyper::{Method, Request, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{net::UnixListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use crate::{keyring::Published, metrics::Metrics, secret::Secret};
use answer::Answer;

/// How long requests in flight may take to finish once the stop was asked for.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long a decrypt waits for the sync that looks for its key.
const UNKNOWN_KEY_WAIT: Duration = Duration::from_secs(2);

/// The most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// Between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// How long accepting pauses when the kernel has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a request is answered from.
pub struct Service {
    pub published: Arc<Published>,
    pub metrics: Arc<Metrics>,
    pub upstream: Arc<dyn Upstream>,
    live: ArcSwap<Live>,
    /// Connections that are open.
    open: AtomicUsize,
    /// A connection ended, or more may be open than before.
    room: Notify,
}

/// What can change while the service runs. A request sees one state of it from its start to its end.
#[derive(Clone, Debug)]
pub struct Live {
    /// The key name in Transit's paths.
    pub name: String,
    /// How long after the last good sync it is not ready any more; `None` for never.
    pub max_stale: Option<Duration>,
    pub limits: Limits,
}

/// What no client can make the daemon exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one request's body.
    pub request_size: usize,
    pub connections: usize,
    /// Items of one batch.
    pub batch: usize,
    /// From the end of one request to the whole head of the next.
    pub header_time: Duration,
    /// From a request's head to the end of its body.
    pub body_time: Duration,
    /// How long a client may take nothing of its answer.
    pub write_time: Duration,
}

/// What the socket asks of the side that talks to Vault.
pub trait Upstream: Send + Sync {
    /// Syncs now, with this token if there is one; the error is for people.
    fn sync(&self, token: Option<Secret<String>>) -> Answered<'_, Result<(), String>>;

    /// A ciphertext names a key that is not held: look for it, unless that was done a moment ago.
    fn look_for_new_keys(&self) -> Answered<'_, ()>;

    /// What `GET /status` says of where the keys come from.
    fn describe(&self) -> serde_json::Value;
}

pub type Answered<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Accepts and serves until `stop`, then lets what is in flight finish. Answers how many connections were cut because
/// they did not finish within [`DRAIN`].
pub async fn serve(listener: UnixListener, service: Arc<Service>, stop: CancellationToken) -> usize {
    let draining = GracefulShutdown::new();
    let mut last_warning = None;
    loop {
        // A place first, a connection then: further clients wait in the kernel's queue.
        let accepted = async {
            service.place().await;
            listener.accept().await
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => match accepted {
                Ok((stream, _)) => stream,
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
        let (answering, place) = (Arc::clone(&service), Place::take(Arc::clone(&service)));
        let handle = service_fn(move |request| {
            let service = Arc::clone(&answering);
            async move { Ok::<_, Infallible>(service.answer(request).await.into_response()) }
        });
        let limits = service.live().limits;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_header_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream::Patient::new(stream, limits.write_time)), handle);
        let connection = draining.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended early: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    match tokio::time::timeout(DRAIN, draining.shutdown()).await {
        Ok(()) => 0,
        Err(_) => service.open.load(Ordering::Relaxed),
    }
}

/// One open connection's place among those that may be open; free again when dropped.
struct Place(Arc<Service>);

impl Place {
    fn take(service: Arc<Service>) -> Self {
        service.open.fetch_add(1, Ordering::Relaxed);
        Self(service)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.room.notify_one();
    }
}

impl Service {
    pub fn new(
        live: Live,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        upstream: Arc<dyn Upstream>,
    ) -> Self {
        let live = ArcSwap::from_pointee(live);
        Self { published, metrics, upstream, live, open: AtomicUsize::new(0), room: Notify::new() }
    }

    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Requests that begin from here on see the new state.
    pub fn change(&self, live: Live) {
        self.live.store(Arc::new(live));
        self.room.notify_one();
    }

    /// Waits until a further connection may be open. There is one acceptor, so the place is still there afterwards.
    async fn place(&self) {
        while self.open.load(Ordering::Relaxed) >= self.live().limits.connections {
            self.room.notified().await;
        }
    }

    /// Answers one request. A panic ends that request and nothing else.
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match AssertUnwindSafe(self.route(request)).catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => Answer::errors(500, "the request failed inside keyringd; its log says where"),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let path = path.strip_suffix('/').unwrap_or(path);
        let is = |method| head.method == method;
        let writes = is(Method::POST) || is(Method::PUT);
        let live = self.live();
        if let Some(rest) = path.strip_prefix("/v1/transit/") {
            return match transit::Operation::of(rest, &live.name) {
                Ok(_) if !writes => Answer::not_allowed("POST, PUT"),
                Ok(operation) => self.transit(operation, &head.headers, body, &live.limits).await,
                Err(answer) => answer,
            };
        }
        match path {
            "/keyring" if is(Method::GET) => admin::keyring(&self.published),
            "/keyring/active" if is(Method::GET) => admin::active(&self.published),
            "/keyring/vault/sync" if writes => match body::read(&head.headers, body, &live.limits).await {
                Ok(body) => admin::sync(self.upstream.as_ref(), &head.headers, &body).await,
                Err(answer) => answer,
            },
            "/status" if is(Method::GET) => admin::status(self),
            "/livez" if is(Method::GET) => Answer::text(200, "ok\n"),
            "/readyz" if is(Method::GET) => admin::ready(&self.published, live.max_stale),
            "/metrics" if is(Method::GET) => Answer::metrics(self.metrics.text()),
            "/keyring" | "/keyring/active" | "/status" | "/livez" | "/readyz" | "/metrics" => {
                Answer::not_allowed("GET")
            }
            "/keyring/vault/sync" => Answer::not_allowed("POST, PUT"),
            _ => admin::elsewhere(path),
        }
    }

    async fn transit(
        &self,
        operation: transit::Operation,
        headers: &header::HeaderMap,
        body: Incoming,
        limits: &Limits,
    ) -> Answer {
        let body = match body::read(headers, body, limits).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let Some(keyring) = self.published.keyring() else { return admin::no_keys(&self.published) };
        let outcome = operation.run(&keyring, &body, limits.batch);
        if !outcome.unknown_key {
            return outcome.answer;
        }
        let looked = tokio::time::timeout(UNKNOWN_KEY_WAIT, self.upstream.look_for_new_keys()).await;
        match self.published.keyring() {
            Some(newer) if looked.is_ok() && !Arc::ptr_eq(&newer, &keyring) => {
                operation.run(&newer, &body, limits.batch).answer
            }
            _ => outcome.answer,
        }
    }
}
