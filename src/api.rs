//! The API: what can be asked, by whom, and the response. `server` brings the requests and knows [`Api`] only.
//!
//! `handle` is the way of one request: `routes` has the table of endpoints, `access` the permissions, `body` the bytes and
//! their budget, `response` the rendering, `audit` the log lines. A file per endpoint family has the handlers, which get
//! `context`. An [`ApiError`] is the one error. Vault is behind the trait [`Upstream`].
#![expect(
    clippy::unused_async,
    clippy::needless_pass_by_ref_mut,
    reason = "handlers have one signature, whether they wait and write or not"
)]

mod access;
mod audit;
mod body;
mod budget;
mod context;
mod envelope;
mod error;
mod handle;
mod headers;
mod keyring;
pub mod kms;
mod kms_recovery;
mod promotion;
mod resolve;
mod response;
mod routes;
mod status;
mod sys;
mod target;
mod token_limit;
mod transit;

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use hyper::{Request, body::Incoming};

use crate::metrics::Metrics;
pub use access::{Caller, ListenerKind, Peer};
pub use body::Limits;
use context::Context;
#[cfg(any(test, fuzzing))]
pub(crate) use context::testing;
pub use context::{ResolvedValue, RuntimeConfig, Upstream, UpstreamFuture};
pub use error::{ApiError, ErrorKind};
pub use response::Body;
#[cfg(any(test, fuzzing))]
pub(crate) use transit::fuzzing;

pub struct Api(Arc<Context>);

impl Api {
    pub fn new(config: RuntimeConfig, metrics: Arc<Metrics>, upstream: Arc<dyn Upstream>) -> Self {
        let config = ArcSwap::from_pointee(config);
        let (budget, audit, promotion, tokens, moved_keys) = Default::default();
        Self(Arc::new(Context {
            metrics,
            upstream,
            config,
            budget,
            audit,
            promotion,
            moved_keys,
            tokens,
            started: Instant::now(),
            turns: Context::turns(),
        }))
    }

    /// Swaps the configuration. Requests in flight keep theirs.
    pub fn change(&self, config: RuntimeConfig) {
        self.0.config.store(Arc::new(config));
    }

    /// Answers one request, counts it and audits it.
    pub async fn handle(&self, caller: &Caller, request: Request<Incoming>) -> hyper::Response<Body> {
        handle::handle(&self.0, caller, request).await
    }

    /// Whether the caller may do anything that needs a permission.
    pub fn has_any_permission(&self, caller: &Caller) -> bool {
        caller.has_any_permission(self.0.config.load().access.as_ref())
    }

    /// Logs the folded failures of the audit while `serving` runs, and the rest at its end.
    pub async fn audit_during<T>(&self, serving: impl Future<Output = T>) -> T {
        self.0.audit.during(serving).await
    }
}

#[cfg(test)]
impl Api {
    /// One for the server's tests.
    pub(crate) fn without_vault(metrics: Arc<Metrics>) -> Self {
        Self::new(testing::config(), metrics, Arc::new(testing::Nowhere))
    }
}
