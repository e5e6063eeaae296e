//! The task of a session: logs in, renews the token, and logs in again. One task, so there is one login at a time.
//!
//! A lease is renewed early and kept when that fails. After a failed login the next one waits for its backoff. `lease`
//! decides what is due, `login` how to log in. Requests are sent by `client`.
//! The file is longer than most: one task, every state of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    backoff::{self, Backoff},
    error::VaultError,
    lease::{Lease, Step, TokenOrigin},
    login::{self, Granted, Login, Memory},
    refusals::Fingerprint,
    state::{Command, Grant, State, TokenTimes},
    transport::Request,
};
use crate::{
    clock,
    logging::NOTICE,
    metrics::{BackgroundTask, Metrics, Outcome},
    settings::Auth,
    supervise::supervise,
};

/// How long a revocation may take.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a login in progress at the stop may take: a login that is cut off leaves its token behind.
const LAST_LOGIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait after a failed login. What must not be sent so often is in `refusals`.
const LONGEST_LOGIN_WAIT: Duration = Duration::from_secs(15);

/// How often a credential that Vault refused is checked for a change.
const CREDENTIAL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two steps of maintenance, whatever their outcome.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Session {
    state: Arc<State>,
    held: Option<Held>,
    /// Replaced by a login, and not revoked yet.
    replaced: Option<Held>,
    generation: u64,
    renewals: Backoff,
    maintained: Instant,
    /// The credential of the last login, if Vault refused it.
    refused: Option<Fingerprint>,
    /// The last failure that was logged: each is logged once.
    logged_failure: Option<String>,
    memory: Memory,
    metrics: Arc<Metrics>,
}

/// The current token and its lease.
struct Held {
    lease: Lease,
    grant: Arc<Grant>,
}

impl Session {
    pub(super) fn new(state: Arc<State>, memory: Memory, metrics: Arc<Metrics>) -> Self {
        Self {
            state,
            held: None,
            replaced: None,
            generation: 0,
            renewals: Backoff::default(),
            maintained: Instant::now(),
            refused: None,
            logged_failure: None,
            memory,
            metrics,
        }
    }

    /// Runs until `stop`, or until the last handle is dropped. Then revokes the token if a login gave it.
    pub(super) async fn run(self, commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let metrics = Arc::clone(&self.metrics);
        let session = Mutex::new((self, commands));
        let serving = supervise(BackgroundTask::Session, &metrics, || async {
            let (session, commands) = &mut *session.lock().await;
            session.serve(commands, &stop).await;
        });
        let cut_off = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_LOGIN_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            () = serving => {}
            () = cut_off => {}
        }
        let (mut session, _) = session.into_inner();
        session.state.grant.store(None);
        for held in [session.replaced.take(), session.held.take()].into_iter().flatten() {
            session.revoke(held).await;
        }
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>, stop: &CancellationToken) {
        loop {
            let maintenance = self.next_maintenance();
            let due = async {
                match maintenance {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = due => self.maintain().await,
                command = commands.recv() => match command {
                    None => return,
                    Some(command) => self.execute(command).await,
                },
            }
            if let Some(replaced) = self.replaced.take() {
                self.revoke(replaced).await;
            }
        }
    }

    async fn execute(&mut self, command: Command) {
        match command {
            Command::UseChangedCredential => {
                if self.credential_changed()
                    && self.state.backoffs().logins.check().is_ok()
                    && let Err(error) = self.log_in().await
                {
                    tracing::warn!(
                        session = %self.state.name,
                        %error,
                        "login with the changed credential failed; keeping the current token"
                    );
                }
            }
            Command::TokenRefused(generation) if generation == self.generation => {
                if let Some(held) = &self.held {
                    held.grant.is_refused.store(true, Ordering::Relaxed);
                    *self.state.times() = TokenTimes::default();
                    self.metrics.token_expires(self.state.name.kind(), Some(clock::wall()));
                }
            }
            Command::TokenRefused(_) => {}
            Command::TokenAccepted => self.record_expiry(),
            Command::LogIn { denied: None, done, cause } => {
                let outcome =
                    if self.held.is_some() { Ok(()) } else { self.log_in().instrument(cause).await };
                let _ = done.send(outcome); // the caller may have gone
            }
            Command::LogIn { denied: Some(denied), done, cause } => {
                let is_outdated = denied.generation != self.generation;
                let login = self.log_in_after_denial(denied.path).instrument(cause);
                let outcome = if is_outdated { Ok(()) } else { login.await };
                let _ = done.send(outcome);
            }
        }
    }

    async fn log_in_after_denial(&mut self, path: String) -> Result<(), VaultError> {
        self.state.backoffs().check_denial(&path)?;
        self.log_in().await?;
        self.state.backoffs().logged_in_after_denial(path);
        Ok(())
    }

    /// When [`Session::maintain`] is due next; `None` while nothing is.
    fn next_maintenance(&self) -> Option<Instant> {
        let check = self.refused.and_then(|_| self.maintained.checked_add(CREDENTIAL_CHECK_INTERVAL));
        self.next_step().into_iter().chain(check).min()
    }

    fn next_step(&self) -> Option<Instant> {
        let lease = &self.held.as_ref()?.lease;
        let login = lease.login_due()?.max(self.state.backoffs().logins.not_before());
        let due = match lease.next()? {
            (renewal, Step::Renew) => renewal.max(self.renewals.not_before()).min(login),
            _ => login,
        };
        Some(due.max(self.maintained.checked_add(MAINTENANCE_INTERVAL)?))
    }

    /// Renews the lease or logs in again if that is due. A failure leaves the lease as it is.
    async fn maintain(&mut self) {
        self.maintained = Instant::now();
        if self.refused.is_some() && self.refused != login::credential(&self.state.server) {
            self.refused = None;
            self.state.backoffs().logins.clear();
            let outcome = self.log_in().await;
            return self.log_failure("login with the changed credential failed", outcome);
        }
        let step = self.held.as_ref().map_or(Step::Wait, |held| held.lease.step(Instant::now()));
        let login_allowed = self.state.backoffs().logins.check().is_ok();
        let (outcome, failure) = match step {
            Step::Renew if self.renewals.check().is_ok() => {
                (self.renew().await, "token renewal failed; using the token until it expires")
            }
            Step::LogIn if self.is_out_of_credentials() => return,
            Step::LogIn if login_allowed => {
                (self.log_in().await, "login failed; using the current token until it expires")
            }
            _ => return,
        };
        self.log_failure(failure, outcome);
    }

    /// Logs a failure of maintenance, unless it is the one that was logged last.
    fn log_failure(&mut self, failure: &str, outcome: Result<(), VaultError>) {
        let logged = outcome.as_ref().err().map(|error| format!("{failure}: {error}"));
        if let Err(error) = outcome
            && self.logged_failure != logged
        {
            let (session, seconds_left) = (&self.state.name, self.seconds_left());
            tracing::warn!(%session, seconds_left, %error, "{failure}");
        }
        self.logged_failure = logged;
    }

    /// Whether a configured token is near its end and no other was configured. That is logged once.
    fn is_out_of_credentials(&mut self) -> bool {
        if !matches!(self.state.server.auth, Auth::Token(_)) || self.credential_changed() {
            return false;
        }
        let (seconds_left, setting) = (self.seconds_left(), self.state.server.names.token);
        if let Some(held) = &mut self.held {
            tracing::warn!(
                session = %self.state.name,
                seconds_left,
                "the token expires and cannot be renewed: set a valid token in {setting}"
            );
            held.lease.keep_until_expiry();
        }
        true
    }

    async fn renew(&mut self) -> Result<(), VaultError> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let Grant { transport, token, .. } = &*held.grant;
        let url = transport.url(["auth", "token", "renew-self"]);
        let response = transport.send(Request::post(url, &serde_json::json!({})).token(token)).await;
        let granted = response.as_ref().ok().and_then(Granted::from_response);
        let outcome = if granted.is_some() { Outcome::Success } else { Outcome::Failure };
        self.metrics.renewed(self.state.name.kind(), outcome);
        match (response, granted) {
            (_, Some(granted)) => {
                held.lease.renewed(granted.ttl(), granted.renewal(), Instant::now());
                self.renewals.clear();
                self.record_expiry();
                self.state.answered.notify_waiters();
            }
            // Refused, which OpenBao does with 500 at the end of a token's longest life: from now on the rule for leases
            // that cannot be renewed applies.
            (Ok(_) | Err(VaultError::Status { status: 500, .. }), None) => held.lease.not_renewable(),
            (Err(error), None) => {
                self.renewals.failed(error.to_string(), error.retry_after());
                return Err(error);
            }
        }
        Ok(())
    }

    /// One login, unless the backoff of the last one forbids it. A failure leaves the current token.
    async fn log_in(&mut self) -> Result<(), VaultError> {
        self.state.backoffs().logins.check()?;
        let server = &self.state.server;
        // Before the files are read for the login: a change between the two leads to one more login, not to none.
        let certificate = login::fingerprint(server);
        let outcome = login::log_in(&self.state, &self.memory, &self.metrics).await;
        self.metrics.logged_in(self.state.name.kind(), Outcome::from_result(&outcome));
        let Login { token, lease, notes, transport } = match outcome {
            Ok(login) => login,
            Err(error) => return Err(self.login_failed(error)),
        };
        for note in &notes {
            tracing::warn!(session = %self.state.name, "{note}");
        }
        tracing::info!(target: NOTICE, method = server.auth.name(), session = %self.state.name, "logged in to Vault");
        self.generation = self.generation.saturating_add(1);
        let (generation, is_refused) = (self.generation, AtomicBool::new(false));
        let grant = Arc::new(Grant { generation, token, transport, notes, certificate, is_refused });
        self.state.grant.store(Some(Arc::clone(&grant)));
        self.replaced = self.held.replace(Held { lease: lease.with_jitter(backoff::random()), grant });
        self.state.backoffs().logins.clear();
        (self.refused, self.logged_failure) = (None, None);
        self.renewals.clear();
        self.record_expiry();
        self.state.answered.notify_waiters();
        Ok(())
    }

    fn login_failed(&mut self, error: VaultError) -> VaultError {
        if matches!(
            error,
            VaultError::Login { .. } | VaultError::BadToken(_) | VaultError::RefusedBefore { .. }
        ) {
            self.refused = login::credential(&self.state.server);
        }
        self.state.backoffs().logins.login_failed(&error, LONGEST_LOGIN_WAIT);
        error
    }

    fn credential_changed(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| login::credential_changed(&self.state.server, &held.grant))
    }

    fn remaining(&self) -> Option<Duration> {
        self.held.as_ref()?.lease.remaining(Instant::now())
    }

    fn seconds_left(&self) -> Option<u64> {
        self.remaining().map(|left| left.as_secs())
    }

    fn record_expiry(&self) {
        let expiry = self.remaining().and_then(|left| Instant::now().checked_add(left));
        *self.state.times() = TokenTimes { expiry, next_step: self.next_step() };
        self.metrics.token_expires(
            self.state.name.kind(),
            self.remaining().and_then(|left| clock::wall().checked_add(left)),
        );
    }

    /// Revokes a token that a login gave. A configured token is never revoked.
    async fn revoke(&self, Held { lease, grant }: Held) {
        let is_over = lease.remaining(Instant::now()).is_some_and(|left| left.is_zero());
        if lease.origin == TokenOrigin::Configured || is_over {
            return;
        }
        let url = grant.transport.url(["auth", "token", "revoke-self"]);
        let request = Request::post(url, &serde_json::json!({})).token(&grant.token);
        let revoked = tokio::time::timeout(REVOKE_TIMEOUT, grant.transport.send_once(&request)).await;
        if !matches!(revoked, Ok(Ok(response)) if response.status.is_success()) {
            tracing::info!(session = %self.state.name, "an unused token could not be revoked; it expires by itself");
        }
    }
}
