//! The socket: HTTP/1.1 and gRPC on one Unix listener, for applications, operators and Kubernetes.
//!
//! [`listen`] makes the socket file, [`accept`] lets clients in, `connection` and `preface` serve each in its protocol,
//! `route` says which request goes where, `access` who may, `request` goes from a head to an answer, which [`transit`],
//! [`admin`], [`kms`] and [`resolve`] give, `body`, `inflight` and [`answer`] carry bytes in and out, `account` counts it and
//! [`audit`] tells of it. Here: what all of that shares. The caller brings the listener and the stop; Vault is not known
//! here, and the keyring only as the published snapshot.

pub mod accept;
mod access;
mod account;
pub mod admin;
pub mod answer;
pub mod audit;
mod body;
mod connection;
mod inflight;
pub mod kms;
pub mod listen;
mod preface;
mod request;
pub mod resolve;
mod route;
mod stream;
pub mod transit;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    keyring::{Keyring, Published},
    metrics::Metrics,
    secret::Secret,
    settings::{self, Access},
};
use accept::{Crowd, Door};
pub use accept::{Heartbeat, Listeners, serve};
use audit::Audit;
use inflight::InFlight;
use kms::Promotion;

/// How long a request waits for the outcome of the first sync. A Vault that is away is known to be sooner.
const FIRST_SYNC_WAIT: Duration = Duration::from_secs(5);

/// How long a request waits for the sync that looks for its key.
const UNKNOWN_KEY_WAIT: Duration = Duration::from_secs(2);

/// What a request is answered from.
pub struct Service {
    pub published: Arc<Published>,
    pub metrics: Arc<Metrics>,
    pub upstream: Arc<dyn Upstream>,
    live: ArcSwap<Live>,
    inflight: Arc<InFlight>,
    audit: Audit,
    doors: [Crowd; 2],
    promotion: Promotion,
}

/// What can change while the service runs. A request sees one state of it from its start to its end.
#[derive(Clone, Debug)]
pub struct Live {
    /// The key name in Transit's paths.
    pub name: String,
    /// How long after the last good sync it is not ready any more; `None` for never.
    pub max_stale: Option<Duration>,
    pub formats: transit::Formats,
    /// `None` leaves it to the socket's mode and group.
    pub access: Option<Access>,
    pub audit: settings::Audit,
    pub limits: Limits,
}

/// What no client can make the daemon exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one request's body.
    pub request_size: usize,
    /// Bytes of all requests being handled.
    pub inflight_size: usize,
    pub connections: usize,
    /// Items of one batch.
    pub batch: usize,
    /// From the end of one request to the whole head of the next. Over h2, from connecting to the first call.
    pub header_time: Duration,
    /// Over h2, from the end of one call to the next.
    pub idle_time: Duration,
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

    /// Waits until it is known whether there are keys at the start.
    fn first_outcome(&self) -> Answered<'_, ()>;

    /// What a reference to another secret stands for.
    fn resolve<'a>(&'a self, reference: &'a str) -> Answered<'a, Result<resolve::Value, resolve::Refusal>>;

    /// What `GET /status` says of where the keys come from.
    fn describe(&self) -> serde_json::Value;
}

pub type Answered<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Service {
    pub fn new(
        live: Live,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        upstream: Arc<dyn Upstream>,
    ) -> Self {
        let live = ArcSwap::from_pointee(live);
        let (inflight, audit, doors, promotion) = Default::default();
        Self { published, metrics, upstream, live, inflight, audit, doors, promotion }
    }

    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Requests that begin from here on see the new state.
    pub fn change(&self, live: Live) {
        self.live.store(Arc::new(live));
        self.crowd(Door::Socket).room.notify_one();
    }

    /// How many clients are connected to the socket.
    pub fn connections(&self) -> usize {
        self.crowd(Door::Socket).open.load(Ordering::Relaxed)
    }

    /// The keyring; at the start, as soon as the first sync has ended. Somebody who connected while the daemon was starting
    /// anew should not see that it did. `None` when there is none then.
    async fn keyring(&self) -> Option<Arc<Keyring>> {
        if self.published.keyring().is_none() {
            let _ = tokio::time::timeout(FIRST_SYNC_WAIT, self.upstream.first_outcome()).await;
        }
        self.published.keyring()
    }

    /// Looks for newer keys than these, since one is asked for that is not among them. `None` when there are none in time.
    async fn newer_than(&self, keyring: &Arc<Keyring>) -> Option<Arc<Keyring>> {
        let looked = tokio::time::timeout(UNKNOWN_KEY_WAIT, self.upstream.look_for_new_keys()).await;
        self.published.keyring().filter(|newer| looked.is_ok() && !Arc::ptr_eq(newer, keyring))
    }

    const fn crowd(&self, door: Door) -> &Crowd {
        &self.doors[door as usize]
    }
}
