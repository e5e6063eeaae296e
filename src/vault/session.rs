//! The session with Vault: logged in, and staying so.
//!
//! One owner drives it, so there is one login at a time. A lease is renewed early and kept when that fails; a login that
//! failed is not tried again before its backoff is over. When what is due is `lease`'s rule, how to log in is `login`'s.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    VaultError, backoff,
    lease::{Lease, Step},
    login::{
        Granted,
        approle::{self, Memory},
        cert::{self, Fingerprint},
        jwt, kubernetes, token,
    },
    transport::{Answer, Request, Transport, TransportError},
};
use crate::{
    metrics::{Metrics, Outcome},
    secret::Secret,
    settings::{self, Auth},
};

/// How long the goodbye at shutdown may take.
const REVOKE_TIME: Duration = Duration::from_secs(2);

/// A session, logged in or not.
#[derive(Debug)]
pub struct Session {
    settings: settings::Vault,
    transport: Transport,
    /// Of the certificate that the transport shows.
    shown: Option<Fingerprint>,
    lease: Option<Lease>,
    memory: Memory,
    failed: Option<Failed>,
    metrics: Arc<Metrics>,
}

/// Logins that failed since the last good one.
#[derive(Debug)]
struct Failed {
    times: u32,
    not_before: Instant,
    why: String,
}

/// The right to ask: the way to the server, and a token. It lasts for one piece of work.
#[derive(Debug)]
pub struct Access<'a> {
    transport: &'a Transport,
    token: &'a Secret<String>,
}

impl Session {
    /// # Errors
    /// [`TransportError`] when the settings' certificates cannot be used. No request is sent yet.
    pub fn new(settings: settings::Vault, metrics: Arc<Metrics>) -> Result<Self, TransportError> {
        let transport = Transport::new(&settings, None)?;
        Ok(Self {
            settings,
            transport,
            shown: None,
            lease: None,
            memory: Memory::default(),
            failed: None,
            metrics,
        })
    }

    pub const fn settings(&self) -> &settings::Vault {
        &self.settings
    }

    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The right to ask, after a login if there is none yet or if the client certificate has changed.
    ///
    /// # Errors
    /// [`VaultError`] of the login.
    pub async fn access(&mut self) -> Result<Access<'_>, VaultError> {
        if self.lease.is_none() || self.certificate_changed() {
            let outcome = self.log_in().await;
            if let (Err(error), Some(_)) = (&outcome, &self.lease) {
                tracing::warn!(
                    "the new client certificate gave no login, the session goes on with the old one: {error}"
                );
            } else {
                outcome?;
            }
        }
        self.held().ok_or_else(|| VaultError::LoginWaits { wait: Duration::ZERO, why: "no lease".to_owned() })
    }

    /// Access under a token that somebody brought along.
    pub const fn access_with<'a>(&'a self, token: &'a Secret<String>) -> Access<'a> {
        Access { transport: &self.transport, token }
    }

    fn held(&self) -> Option<Access<'_>> {
        self.lease.as_ref().map(|lease| self.access_with(&lease.token))
    }

    /// After a request that Vault denied: `Ok` when there is a new login, and the request is worth another try.
    ///
    /// # Errors
    /// What the denial means: a policy that lacks a right, a token that is no good, a login that failed.
    pub async fn after_denial(&mut self, path: String) -> Result<(), VaultError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let url = self.transport.url(["auth", "token", "lookup-self"]);
        let looked = self.transport.send(Request::get(url).token(&lease.token)).await?;
        if looked.status.is_success() {
            return Err(VaultError::Policy { path });
        }
        if let Auth::Token(credential) = &self.settings.auth {
            let unchanged = credential.read().is_ok_and(|now| now.expose() == lease.token.expose());
            if unchanged {
                return Err(VaultError::BadToken(token::SETTING));
            }
        }
        self.log_in().await
    }

    /// How long it takes until a login may be tried again.
    pub fn rest(&self) -> Duration {
        let not_before = self.failed.as_ref().map(|failed| failed.not_before);
        not_before.map_or(Duration::ZERO, |not_before| not_before.saturating_duration_since(Instant::now()))
    }

    /// When [`Session::maintain`] wants to be called next; `None` while nothing is due.
    pub fn next_maintenance(&self) -> Option<Instant> {
        let (due, _) = self.lease.as_ref()?.next()?;
        let not_before = self.failed.as_ref().map(|failed| failed.not_before);
        Some(not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// Renews the lease or logs in anew, if that is due. A failure leaves the lease as it is.
    pub async fn maintain(&mut self) {
        let step = self.lease.as_ref().map_or(Step::Rest, |lease| lease.step(Instant::now()));
        let outcome = match step {
            Step::Rest => return,
            Step::Renew => self.renew().await,
            Step::LogIn => self.log_in().await,
        };
        if let Err(error) = outcome {
            let left = self.lease.as_ref().and_then(|lease| lease.remaining(Instant::now()));
            let seconds_left = left.map(|left| left.as_secs());
            tracing::warn!(
                seconds_left,
                "the token could not be kept alive, and is kept for as long as it lives: {error}"
            );
        }
    }

    async fn renew(&mut self) -> Result<(), VaultError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let url = self.transport.url(["auth", "token", "renew-self"]);
        let answer =
            self.transport.send(Request::post(url, &serde_json::json!({})).token(&lease.token)).await;
        let granted = answer.as_ref().ok().and_then(granted);
        self.metrics.renewed(if granted.is_some() { Outcome::Success } else { Outcome::Failure });
        match (answer, granted, &mut self.lease) {
            (_, Some(granted), Some(lease)) => {
                lease.renewed(Duration::from_secs(granted.lease_duration), granted.renewable, Instant::now());
                self.failed = None;
                self.note_expiry();
                Ok(())
            }
            // Refused: from now on the rule for leases that cannot be renewed holds.
            (Ok(_), None, Some(lease)) => {
                lease.not_renewable();
                Ok(())
            }
            (Err(error), ..) => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    /// One login, unless the last one failed a moment ago. What there was before stays when it fails.
    async fn log_in(&mut self) -> Result<(), VaultError> {
        let wait = self.rest();
        if let (Some(failed), false) = (&self.failed, wait.is_zero()) {
            return Err(VaultError::LoginWaits { wait, why: failed.why.clone() });
        }
        let outcome = self.try_to_log_in().await;
        self.metrics.logged_in(Outcome::of(&outcome));
        match outcome {
            Ok(lease) => {
                self.lease = Some(lease);
                self.failed = None;
                self.note_expiry();
                tracing::info!(method = self.settings.auth.name(), "logged in to Vault");
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn try_to_log_in(&mut self) -> Result<Lease, VaultError> {
        match &self.settings.auth {
            Auth::Token(credential) => token::log_in(&self.transport, credential).await,
            Auth::Kubernetes(settings) => kubernetes::log_in(&self.transport, settings).await,
            Auth::AppRole(settings) => {
                approle::log_in(&self.transport, settings, &mut self.memory, &self.metrics).await
            }
            Auth::Jwt(settings) => jwt::log_in(&self.transport, &self.settings, settings).await,
            Auth::Cert(settings) => {
                let (identity, shown) = cert::identity(settings)?;
                let transport = Transport::new(&self.settings, Some(identity))
                    .map_err(|error| VaultError::NoCredential { method: "cert", why: error.to_string() })?;
                let lease = cert::log_in(&transport, settings).await?;
                (self.transport, self.shown) = (transport, Some(shown));
                Ok(lease)
            }
        }
    }

    /// Whether the files hold another certificate than the one that is shown.
    fn certificate_changed(&self) -> bool {
        match &self.settings.auth {
            Auth::Cert(settings) => cert::identity(settings).is_ok_and(|(_, now)| Some(now) != self.shown),
            _ => false,
        }
    }

    fn failed(&mut self, error: VaultError) -> VaultError {
        let times = self.failed.as_ref().map_or(0, |failed| failed.times).saturating_add(1);
        let wait = backoff::after_failure(times, error.retry_after(), backoff::random());
        self.failed = Some(Failed { times, not_before: Instant::now() + wait, why: error.to_string() });
        error
    }

    fn note_expiry(&self) {
        let left = self.lease.as_ref().and_then(|lease| lease.remaining(Instant::now()));
        self.metrics.token_expires(left.and_then(|left| SystemTime::now().checked_add(left)));
    }

    /// Ends the session: a token that we logged in for is revoked, a configured one never.
    pub async fn end(self) {
        let Some(lease) = self.lease.filter(|lease| lease.ours) else { return };
        let url = self.transport.url(["auth", "token", "revoke-self"]);
        let request = Request::post(url, &serde_json::json!({})).token(&lease.token);
        let revoked = tokio::time::timeout(REVOKE_TIME, self.transport.send_once(&request)).await;
        if !matches!(revoked, Ok(Ok(answer)) if answer.status.is_success()) {
            tracing::warn!("the token could not be revoked; it expires by itself");
        }
    }
}

impl Access<'_> {
    /// `GET /v1/<segments>?version=<version>`. Answers of 200 and 404 are for the caller to read.
    ///
    /// # Errors
    /// [`VaultError`] for anything else.
    pub async fn get(
        &self,
        segments: impl IntoIterator<Item = &str>,
        version: Option<u64>,
    ) -> Result<Answer, VaultError> {
        let mut url = self.transport.url(segments);
        if let Some(version) = version {
            url.query_pairs_mut().append_pair("version", &version.to_string());
        }
        let answer = self.transport.send(Request::get(url).token(self.token)).await?;
        match answer.status.as_u16() {
            200 | 404 => Ok(answer),
            403 => Err(VaultError::Denied { path: answer.path }),
            status => {
                Err(VaultError::Status { path: answer.path, status, message: answer.said, retry_after: None })
            }
        }
    }

    /// Which of the paths the token may read, of those given, and what Vault says of the others
    /// (`POST sys/capabilities-self`).
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn capabilities(&self, paths: &[String]) -> Result<Vec<(String, Vec<String>)>, VaultError> {
        let url = self.transport.url(["sys", "capabilities-self"]);
        let request = Request::post(url, &serde_json::json!({ "paths": paths })).token(self.token);
        let answer = self.transport.send(request).await?;
        let data: Option<serde_json::Value> = answer.json();
        let Some(data) = data.filter(|_| answer.status.is_success()) else {
            return Err(VaultError::Denied { path: answer.path });
        };
        let of = |path: &String| {
            let given =
                data.pointer("/data").and_then(|data| data.get(path)).and_then(|given| given.as_array());
            let given = given.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned));
            (path.clone(), given.collect())
        };
        Ok(paths.iter().map(of).collect())
    }
}

fn granted(answer: &Answer) -> Option<Granted> {
    #[derive(serde::Deserialize)]
    struct Renewed {
        auth: Granted,
    }
    if answer.status.is_success() { answer.json::<Renewed>().map(|renewed| renewed.auth) } else { None }
}
