//! The session with Vault: logged in, and staying so.
//!
//! One owner drives it, so there is one login at a time. A lease is renewed early and kept when that fails; a login that
//! failed is not tried again before its backoff is over. When what is due is `lease`'s rule, how to log in is `login`'s.
//! The file is longer than most: it is one state, and all that changes it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Access, VaultError,
    backoff::{self, Attempts},
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

/// Between two calls of [`Session::maintain`] there is at least this much, whatever comes of them.
const MAINTENANCE_REST: Duration = Duration::from_millis(250);

/// A session, logged in or not.
#[derive(Debug)]
pub struct Session {
    settings: settings::Vault,
    transport: Transport,
    /// Of the certificate that the transport shows.
    shown: Option<Fingerprint>,
    lease: Option<Lease>,
    memory: Memory,
    logins: Attempts,
    renewals: Attempts,
    /// Logins after a denial that did not help.
    denials: Attempts,
    maintained: Instant,
    metrics: Arc<Metrics>,
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
            logins: Attempts::default(),
            renewals: Attempts::default(),
            denials: Attempts::default(),
            maintained: Instant::now(),
            metrics,
        })
    }

    pub const fn settings(&self) -> &settings::Vault {
        &self.settings
    }

    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The right to ask, after a login if there is none yet, or if what we log in with has changed.
    ///
    /// # Errors
    /// [`VaultError`] of the login.
    pub async fn access(&mut self) -> Result<Access<'_>, VaultError> {
        if self.lease.is_none() {
            self.log_in().await?;
        } else if self.credential_changed()
            && self.logins.waiting().is_none()
            && let Err(error) = self.log_in().await
        {
            tracing::warn!(
                "what we log in with has changed and gives no login, the session before goes on: {error}"
            );
        }
        match &self.lease {
            Some(lease) => Ok(self.access_with(&lease.token)),
            None => Err(VaultError::no_credential(self.settings.auth.name(), "there is no lease".to_owned())),
        }
    }

    /// Access under a token that somebody brought along.
    pub const fn access_with<'a>(&'a self, token: &'a Secret<String>) -> Access<'a> {
        Access::new(&self.transport, token)
    }

    /// The access that was given did what it should: a denial from here on is worth a login at once.
    pub fn proved(&mut self) {
        self.denials.clear();
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
        if matches!(self.settings.auth, Auth::Token(_)) && !self.credential_changed() {
            return Err(VaultError::BadToken(self.settings.named_in.token));
        }
        if let Some((wait, why)) = self.denials.waiting() {
            return Err(VaultError::LoginWaits { wait, why: why.to_owned() });
        }
        self.log_in().await?;
        // Should the new token be denied too, the next login waits: one that helps is `proved`.
        self.denials.failed(
            format!("{path} is denied to a new token too: its policy lacks `read` on that path"),
            None,
        );
        Ok(())
    }

    /// How long it takes until a login may be tried again.
    pub fn rest(&self) -> Duration {
        let wait = |attempts: &Attempts| attempts.waiting().map_or(Duration::ZERO, |(wait, _)| wait);
        wait(&self.logins).max(wait(&self.denials))
    }

    /// When [`Session::maintain`] wants to be called next; `None` while nothing is due.
    pub fn next_maintenance(&self) -> Option<Instant> {
        let lease = self.lease.as_ref()?;
        let login = lease.login_due()?.max(self.logins.not_before());
        let due = match lease.next()? {
            (renewal, Step::Renew) => renewal.max(self.renewals.not_before()).min(login),
            _ => login,
        };
        Some(due.max(self.maintained + MAINTENANCE_REST))
    }

    /// Renews the lease or logs in anew, if that is due. A failure leaves the lease as it is.
    pub async fn maintain(&mut self) {
        self.maintained = Instant::now();
        let step = self.lease.as_ref().map_or(Step::Rest, |lease| lease.step(Instant::now()));
        let outcome = match step {
            Step::Renew if self.renewals.waiting().is_none() => self.renew().await,
            Step::LogIn if self.is_out_of_credentials() => Ok(()),
            Step::LogIn if self.logins.waiting().is_none() => self.log_in().await,
            _ => return,
        };
        if let Err(error) = outcome {
            let seconds_left = self
                .lease
                .as_ref()
                .and_then(|lease| lease.remaining(Instant::now()))
                .map(|left| left.as_secs());
            tracing::warn!(
                seconds_left,
                "the token could not be kept alive, and is kept for as long as it lives: {error}"
            );
        }
    }

    /// A configured token near its end, with no other in its place, is the last: it is said once.
    fn is_out_of_credentials(&mut self) -> bool {
        if !matches!(self.settings.auth, Auth::Token(_)) || self.credential_changed() {
            return false;
        }
        if let Some(lease) = &mut self.lease {
            let seconds_left = lease.remaining(Instant::now()).map(|left| left.as_secs());
            tracing::warn!(
                seconds_left,
                "the token expires and cannot be renewed: put a new one into {}",
                self.settings.named_in.token
            );
            lease.last();
        }
        true
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
                self.renewals.clear();
                self.note_expiry();
            }
            // Refused, which OpenBao does with 500 at the end of a token's longest life: from now on the rule for leases
            // that cannot be renewed holds.
            (Ok(_) | Err(VaultError::Status { status: 500, .. }), None, Some(lease)) => lease.not_renewable(),
            (Err(error), ..) => {
                self.renewals.failed(error.to_string(), error.retry_after());
                return Err(error);
            }
            _ => {}
        }
        Ok(())
    }

    /// One login, unless the last one failed a moment ago. What there was before stays when it fails, and is revoked when
    /// it is replaced.
    async fn log_in(&mut self) -> Result<(), VaultError> {
        if let Some((wait, why)) = self.logins.waiting() {
            return Err(VaultError::LoginWaits { wait, why: why.to_owned() });
        }
        let outcome = self.try_to_log_in().await;
        self.metrics.logged_in(Outcome::from_result(&outcome));
        match outcome {
            Ok(lease) => {
                tracing::info!(method = self.settings.auth.name(), "logged in to Vault");
                let before = self.lease.replace(lease.with_haste(backoff::random()));
                self.logins.clear();
                self.renewals.clear();
                self.note_expiry();
                if let Some(before) = before {
                    self.revoke(before).await;
                }
                Ok(())
            }
            Err(error) => {
                self.logins.failed(error.to_string(), error.retry_after());
                Err(error)
            }
        }
    }

    async fn try_to_log_in(&mut self) -> Result<Lease, VaultError> {
        match &self.settings.auth {
            Auth::Token(credential) => {
                token::log_in(&self.transport, credential, self.settings.named_in.token).await
            }
            Auth::Kubernetes(settings) => kubernetes::log_in(&self.transport, settings).await,
            Auth::AppRole(settings) => {
                approle::log_in(&self.transport, settings, &mut self.memory, &self.metrics).await
            }
            Auth::Jwt(settings) => jwt::log_in(&self.transport, &self.settings, settings).await,
            Auth::Cert(settings) => {
                let (identity, shown) = cert::identity(settings)?;
                let transport = Transport::new(&self.settings, Some(identity))
                    .map_err(|error| VaultError::no_credential("cert", error.to_string()))?;
                let lease = cert::log_in(&transport, settings).await?;
                (self.transport, self.shown) = (transport, Some(shown));
                Ok(lease)
            }
        }
    }

    /// Whether the files hold another certificate than the one that is shown, or another token than the one in use.
    fn credential_changed(&self) -> bool {
        match (&self.settings.auth, &self.lease) {
            (Auth::Cert(settings), _) => {
                cert::identity(settings).is_ok_and(|(_, now)| Some(now) != self.shown)
            }
            (Auth::Token(credential), Some(lease)) => {
                credential.read().is_ok_and(|now| now.expose() != lease.token.expose())
            }
            _ => false,
        }
    }

    fn note_expiry(&self) {
        let left = self.lease.as_ref().and_then(|lease| lease.remaining(Instant::now()));
        self.metrics.token_expires(left.and_then(|left| SystemTime::now().checked_add(left)));
    }

    /// Ends the session: a token that we logged in for is revoked, a configured one never.
    pub async fn end(mut self) {
        if let Some(lease) = self.lease.take() {
            self.revoke(lease).await;
        }
    }

    async fn revoke(&self, lease: Lease) {
        let over = lease.remaining(Instant::now()).is_some_and(|left| left.is_zero());
        if !lease.ours || over {
            return;
        }
        let url = self.transport.url(["auth", "token", "revoke-self"]);
        let request = Request::post(url, &serde_json::json!({})).token(&lease.token);
        let revoked = tokio::time::timeout(REVOKE_TIME, self.transport.send_once(&request)).await;
        if !matches!(revoked, Ok(Ok(answer)) if answer.status.is_success()) {
            tracing::info!("a token that is no longer used could not be revoked; it expires by itself");
        }
    }
}

fn granted(answer: &Answer) -> Option<Granted> {
    #[derive(serde::Deserialize)]
    struct Renewed {
        auth: Granted,
    }
    if answer.status.is_success() { answer.json::<Renewed>().map(|renewed| renewed.auth) } else { None }
}
