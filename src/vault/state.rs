//! What a session's handles and its task share: the settings, the current token, and the login backoff. It is a leaf:
//! `client` reads it, `session` writes it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tracing::Span;

use super::{
    backoff::Backoff,
    error::VaultError,
    refusals::{Fingerprint, Refusals},
    transport::Transport,
};
use crate::{metrics::SessionKind, secret::Secret, settings::Server};

/// The most paths whose denials are counted. More than that are forgotten, which costs a login each.
const MAX_DENIED_PATHS: usize = 256;

/// Which session it is, in every log line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionName {
    Keyring,
    Hcv,
    /// An APISIX object, by its ID.
    Object(String),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) name: SessionName,
    pub(super) server: Server,
    /// For requests that need no login.
    pub(super) transport: Transport,
    /// Whether a session with other settings stays in use until this one takes over.
    pub(super) is_standby: AtomicBool,
    pub(super) grant: ArcSwapOption<Grant>,
    /// Wakes those that wait for Vault to answer again.
    pub(super) answered: Arc<Notify>,
    pub(super) refusals: Arc<Refusals>,
    backoffs: Mutex<Backoffs>,
    times: Mutex<TokenTimes>,
}

/// The times of the current token, for the status.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenTimes {
    /// `None` for a token that does not expire.
    pub(super) expiry: Option<Instant>,
    /// When it is renewed or replaced.
    pub(super) next_step: Option<Instant>,
}

/// What a login gave.
#[derive(Debug)]
pub(super) struct Grant {
    /// Counts the logins of the session.
    pub(super) generation: u64,
    pub(super) token: Secret<String>,
    /// With the client certificate that the token belongs to, if there is one.
    pub(super) transport: Transport,
    /// What a lookup showed that operators should know.
    pub(super) notes: Vec<&'static str>,
    /// Of the client certificate, if that is the credential.
    pub(super) certificate: Option<Fingerprint>,
    /// Whether Vault refused the token since, and accepted nothing of it after that.
    pub(super) is_refused: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Backoffs {
    pub(super) logins: Backoff,
    /// By path: logins after a denial that did not help.
    denials: HashMap<String, Backoff>,
}

/// What a handle asks of the session's task.
#[derive(Debug)]
pub(super) enum Command {
    /// Log in if there is no token, or after a denial.
    LogIn {
        denied: Option<Denied>,
        done: oneshot::Sender<Result<(), VaultError>>,
        /// What it is for, in the log.
        cause: Span,
    },
    /// Log in if that is possible: the credential's file has changed.
    UseChangedCredential,
    /// Vault does not know the token of this generation any more.
    TokenRefused(u64),
    /// It does: the refusal was about something else.
    TokenAccepted,
}

/// A request that was denied.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) generation: u64,
    pub(super) path: String,
}

impl SessionName {
    pub(super) const fn kind(&self) -> SessionKind {
        match self {
            Self::Keyring => SessionKind::Keyring,
            Self::Hcv => SessionKind::References,
            Self::Object(_) => SessionKind::Objects,
        }
    }
}

impl State {
    pub(super) fn new(
        name: SessionName,
        server: Server,
        transport: Transport,
        refusals: Arc<Refusals>,
        is_standby: bool,
    ) -> Self {
        Self {
            refusals,
            name,
            server,
            transport,
            is_standby: is_standby.into(),
            grant: ArcSwapOption::empty(),
            answered: Arc::default(),
            backoffs: Mutex::default(),
            times: Mutex::default(),
        }
    }

    pub(super) fn times(&self) -> MutexGuard<'_, TokenTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn backoffs(&self) -> MutexGuard<'_, Backoffs> {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.grant.load().as_ref().is_some_and(|grant| grant.generation == generation)
    }

    pub(super) fn current(&self) -> Option<Arc<Grant>> {
        self.grant.load_full()
    }
}

impl Backoffs {
    /// [`VaultError::LoginWaits`] while no login is allowed after a denial of `path`.
    pub(super) fn check_denial(&self, path: &str) -> Result<(), VaultError> {
        self.denials.get(path).map_or(Ok(()), Backoff::check)
    }

    /// A login followed a denial of `path`. Should the new token be denied too, the next login waits.
    pub(super) fn logged_in_after_denial(&mut self, path: String) {
        if self.denials.len() >= MAX_DENIED_PATHS {
            self.denials.clear();
        }
        let cause = format!("{path} is denied to a new token too: its policy lacks `read` on that path");
        self.denials.entry(path).or_default().failed(cause, None);
    }

    /// The login after a denial of `path` helped.
    pub(super) fn login_helped(&mut self, path: &str) {
        self.denials.remove(path);
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyring => f.write_str("keyring"),
            Self::Hcv => f.write_str("vault_hcv"),
            Self::Object(id) => write!(f, "keyring_secret_objects {id}"),
        }
    }
}
