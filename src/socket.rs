//! The socket: HTTP/1.1 on a Unix listener, for applications and operators.
//!
//! [`listen`] makes the socket file, [`accept`] lets clients in, `route` says which request goes where, `access` who may,
//! `request` goes from a head to an answer, which [`transit`] and [`admin`] give, `body`, `inflight` and [`answer`] carry
//! bytes in and out, and [`audit`] tells of it. Here: what all of that shares. The caller brings the listener and the stop;
//! Vault is not known here, and the keyring only as the published snapshot.

pub mod accept;
mod access;
pub mod admin;
pub mod answer;
pub mod audit;
mod body;
mod inflight;
pub mod listen;
mod request;
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
    keyring::Published,
    metrics::Metrics,
    secret::Secret,
    settings::{self, Access},
};
use accept::{Crowd, Door};
pub use accept::{Heartbeat, Listeners, serve};
use audit::Audit;
use inflight::InFlight;

/// What a request is answered from.
pub struct Service {
    pub published: Arc<Published>,
    pub metrics: Arc<Metrics>,
    pub upstream: Arc<dyn Upstream>,
    live: ArcSwap<Live>,
    inflight: Arc<InFlight>,
    audit: Audit,
    doors: [Crowd; 2],
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

impl Service {
    pub fn new(
        live: Live,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        upstream: Arc<dyn Upstream>,
    ) -> Self {
        let live = ArcSwap::from_pointee(live);
        let (inflight, audit, doors) = Default::default();
        Self { published, metrics, upstream, live, inflight, audit, doors }
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

    const fn crowd(&self, door: Door) -> &Crowd {
        &self.doors[door as usize]
    }
}
