//! Vault or OpenBao: logging in, sending requests, and reading responses.
//!
//! [`Sessions`] creates one [`Client`] per session, the handle that others use. `session` is the task that owns login,
//! renewal and re-login by `lease` and `backoff`; `login` has the auth methods. [`kv`] reads the KV secrets engine.
//! `transport` sends one request over the TLS that `tls` configures.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

pub mod backoff;
mod client;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod kv;
mod lease;
mod login;
mod refusals;
mod session;
mod state;
mod tls;
pub mod transport;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{metrics::Metrics, settings::Server};
pub use client::Client;
use client::WeakClient;
pub use error::VaultError;
pub use kv::Kv;
use login::Memory;
use refusals::Refusals;
use session::Session;
pub use state::SessionName;
use state::State;
use transport::TransportError;

/// Commands that may wait for a session's task. Further callers wait to send theirs.
const MAX_COMMANDS: usize = 64;

/// The sessions in use: one per name and settings. A session with other settings inherits what the one before it
/// unwrapped. When it takes over is up to the caller.
#[derive(Debug)]
pub struct Sessions {
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
    refusals: Arc<Refusals>,
    /// Cancelled when a session panics again and again.
    crashed: CancellationToken,
    open: Mutex<Vec<Open>>,
}

#[derive(Debug)]
struct Open {
    client: WeakClient,
    memory: Memory,
}

impl Sessions {
    /// Sessions that end at `stop` at the latest.
    pub fn new(metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        let (tasks, crashed) = (TaskTracker::new(), CancellationToken::new());
        Self { metrics, tasks, stop, crashed, refusals: Arc::default(), open: Mutex::default() }
    }

    /// The session of this name with these settings, or a new one. No request is sent yet.
    pub fn client(&self, name: SessionName, server: Server) -> Result<Client, TransportError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|one| one.client.upgrade().is_some());
        let alike: Vec<_> = open
            .iter()
            .filter_map(|one| Some((one.client.upgrade()?, one.memory.clone())))
            .filter(|(client, _)| *client.name() == name)
            .collect();
        if let Some((client, _)) = alike.iter().find(|(client, _)| *client.server() == server) {
            client.forget_failures();
            return Ok(client.clone());
        }
        let is_standby = alike.iter().any(|(client, _)| client.is_logged_in());
        let memory = alike.into_iter().last().map_or_else(Memory::default, |(_, memory)| memory);
        let transport = login::initial_transport(&server)?;
        let refusals = Arc::clone(&self.refusals);
        let state = Arc::new(State::new(name, server, transport, refusals, is_standby));
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let session = Session::new(Arc::clone(&state), memory.clone(), Arc::clone(&self.metrics));
        let (running, crashed) =
            (session.run(commands, self.stop.clone()), self.crashed.clone().drop_guard());
        self.tasks.spawn(async move {
            running.await;
            drop(crashed.disarm());
        });
        let client = Client::new(state, sender);
        open.push(Open { client: client.downgrade(), memory });
        drop(open);
        Ok(client)
    }

    /// The sessions in use, as `GET /status` describes them.
    pub fn describe(&self) -> Vec<serde_json::Value> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(|one| Some(one.client.upgrade()?.describe())).collect()
    }

    /// Whether a session has logged in. The error is why none has, without secrets.
    pub fn health(&self) -> Result<(), String> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let clients: Vec<_> = open.iter().filter_map(|one| one.client.upgrade()).collect();
        drop(open);
        if clients.iter().any(Client::is_logged_in) {
            return Ok(());
        }
        let cause = clients.iter().find_map(Client::login_error);
        Err(cause.map_or_else(
            || "the first login is under way".to_owned(),
            |cause| format!("not logged in: {cause}"),
        ))
    }

    /// Waits until a session panicked more often than it is restarted, or for ever.
    pub async fn crashed(&self) {
        self.crashed.cancelled().await;
    }

    /// Ends all sessions: a token that a login gave is revoked.
    pub async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
