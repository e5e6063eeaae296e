//! The handle of a session with Vault: sends requests with the current token. Reads run concurrently.
//!
//! The sequence after a 403 is here, once: look the token up, have the session's task log in, retry once. A caller that
//! goes away ends its own request only. Logins, renewals and their rules are in `session`.
//! The file is longer than most: each kind of request, and the one sequence after a 403.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::Span;
use url::Url;

use super::{
    error::VaultError,
    login,
    state::{Backoffs, Command, Denied, Grant, SessionName, State},
    transport::{Request, Response, Transport},
};
use crate::{
    secret::Secret,
    settings::{Auth, Server},
};

/// The least time between two attempts of [`Client::until_logged_in`].
const LOGIN_INTERVAL: Duration = Duration::from_millis(250);

/// What the status says of a token that Vault refused.
const REFUSED: &str = "Vault does not know the token any more: it was revoked or has expired";

/// Cheap to clone. The session ends with its last handle.
#[derive(Clone, Debug)]
pub struct Client {
    state: Arc<State>,
    commands: mpsc::Sender<Command>,
}

/// A handle that keeps no session alive.
#[derive(Debug)]
pub(super) struct WeakClient {
    state: Weak<State>,
    commands: mpsc::WeakSender<Command>,
}

/// The capabilities that Vault reports for a path.
pub(super) type Capabilities = (String, Vec<String>);

impl Client {
    pub(super) const fn new(state: Arc<State>, commands: mpsc::Sender<Command>) -> Self {
        Self { state, commands }
    }

    pub(super) fn downgrade(&self) -> WeakClient {
        WeakClient { state: Arc::downgrade(&self.state), commands: self.commands.downgrade() }
    }

    /// Whether both are handles of one session.
    pub fn is_same_session(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    pub fn name(&self) -> &SessionName {
        &self.state.name
    }

    pub fn server(&self) -> &Server {
        &self.state.server
    }

    /// For requests that need no login.
    pub fn transport(&self) -> &Transport {
        &self.state.transport
    }

    /// The session as `GET /status` describes it.
    pub(super) fn describe(&self) -> serde_json::Value {
        let times = *self.state.times();
        let seconds_to = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs();
        serde_json::json!({
            "seconds_to_expiry": times.expiry.map(seconds_to),
            "seconds_to_next_step": times.next_step.map(seconds_to),
            "name": self.state.name.to_string(),
            "vault": self.state.transport.host(),
            "auth_method": self.state.server.auth.name(),
            "logged_in": self.is_logged_in(),
            "login_error": self.login_error(),
        })
    }

    /// Why the last login failed, or that Vault refuses the token; `None` after a success.
    pub(super) fn login_error(&self) -> Option<String> {
        let is_refused = self.state.current().is_some_and(|grant| grant.is_refused.load(Ordering::Relaxed));
        let refused = || is_refused.then(|| REFUSED.to_owned());
        self.state.backoffs().logins.cause().or_else(refused)
    }

    /// Whether there is a token that Vault did not refuse.
    pub(super) fn is_logged_in(&self) -> bool {
        self.state.current().is_some_and(|grant| !grant.is_refused.load(Ordering::Relaxed))
    }

    /// Whether a session with other settings stays in use until this one takes over.
    pub fn is_standby(&self) -> bool {
        self.state.is_standby.load(Ordering::Relaxed)
    }

    /// The session is in use from now on.
    pub fn take_over(&self) {
        self.state.is_standby.store(false, Ordering::Relaxed);
    }

    /// How long until a login may be tried again.
    pub fn cooldown(&self) -> Duration {
        self.state.backoffs().logins.cooldown()
    }

    /// Allows a login at once, whatever failed before: an operator asks for it. A credential that Vault refused is still not
    /// sent more often than its lockout allows.
    pub fn forget_failures(&self) {
        *self.state.backoffs() = Backoffs::default();
        self.state.refusals.forget_lockouts();
    }

    /// Waits for the next successful answer from Vault, whatever the request.
    pub fn answered(&self) -> impl Future<Output = ()> + Send + use<> {
        let answered = Arc::clone(&self.state.answered);
        async move { answered.notified().await }
    }

    /// Whether each request takes a use from a configured token, which the next process needs too.
    pub fn token_has_limited_uses(&self) -> bool {
        matches!(self.state.server.auth, Auth::Token(_)) && self.token_notes().contains(&login::LIMITED_USES)
    }

    /// What operators should know of the token.
    pub fn token_notes(&self) -> Vec<&'static str> {
        self.state.current().map(|grant| grant.notes.clone()).unwrap_or_default()
    }

    /// Logs in unless that is done.
    pub async fn log_in(&self) -> Result<(), VaultError> {
        self.grant().await.map(drop)
    }

    /// Retries the login until it succeeds or the session ends. `failed` gets the error of each attempt.
    pub async fn until_logged_in(&self, mut failed: impl FnMut(&VaultError)) {
        loop {
            match self.log_in().await {
                Ok(()) | Err(VaultError::Stopping) => return,
                Err(VaultError::LoginWaits { .. }) => {}
                Err(error) => failed(&error),
            }
            tokio::time::sleep(self.cooldown().max(LOGIN_INTERVAL)).await;
        }
    }

    /// `GET /v1/<segments>`, with one parameter of a query. The caller interprets statuses 200 and 404. The outcome of a `token` from
    /// elsewhere changes nothing in the session.
    pub(super) async fn get(
        &self,
        segments: impl IntoIterator<Item = &str>,
        query: Option<(&str, &str)>,
        token: Option<&Secret<String>>,
    ) -> Result<Response, VaultError> {
        let mut url = self.state.transport.url(segments);
        if let Some((name, value)) = query {
            url.query_pairs_mut().append_pair(name, value);
        }
        if let Some(token) = token {
            let grant = self.state.current();
            let transport = grant.as_ref().map_or(&self.state.transport, |grant| &grant.transport);
            return read(transport, &url, token).await;
        }
        let grant = self.grant().await?;
        let path = match read(&grant.transport, &url, &grant.token).await {
            Err(VaultError::Denied { path }) => path,
            Ok(response) => {
                if grant.is_refused.swap(false, Ordering::Relaxed) {
                    let _ = self.commands.try_send(Command::TokenAccepted); // the next renewal records it too
                }
                self.state.answered.notify_waiters();
                return Ok(response);
            }
            Err(error) => return Err(error),
        };
        let grant = self.after_denial(&grant, &path).await?;
        let response = read(&grant.transport, &url, &grant.token).await?;
        self.state.backoffs().login_helped(&path);
        self.state.answered.notify_waiters();
        Ok(response)
    }

    /// `POST /v1/<segments>`, for what operators write. The caller interprets 400, 403 and 404. The body holds `secret`.
    pub(super) async fn post(
        &self,
        segments: impl IntoIterator<Item = &str>,
        body: &(impl Serialize + ?Sized + Sync),
        secret: &Secret<String>,
    ) -> Result<Response, VaultError> {
        let grant = self.grant().await?;
        let url = grant.transport.url(segments);
        grant.transport.send(Request::post(url, &body).token(&grant.token).holding(secret)).await
    }

    /// What is optional: `None` for any answer but 200. It starts no login, and needs a token that is there.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) async fn get_if_allowed(
        &self,
        token: Option<&Secret<String>>,
        segments: impl IntoIterator<Item = &str>,
    ) -> Result<Option<Response>, VaultError> {
        let Some(grant) = self.state.current() else { return Ok(None) };
        let request = Request::get(grant.transport.url(segments)).token(token.unwrap_or(&grant.token));
        let response = grant.transport.send(request).await?;
        Ok(Some(response).filter(|response| response.status.is_success()))
    }

    /// What the token may do at `paths` (`POST sys/capabilities-self`).
    pub async fn capabilities(&self, paths: &[String]) -> Result<Vec<Capabilities>, VaultError> {
        let grant = self.grant().await?;
        let url = grant.transport.url(["sys", "capabilities-self"]);
        let request = Request::post(url, &serde_json::json!({ "paths": paths })).token(&grant.token);
        let response = grant.transport.send(request).await?;
        let data: Option<serde_json::Value> = response.json();
        let Some(data) = data.filter(|_| response.status.is_success()) else {
            return Err(VaultError::Denied { path: response.path });
        };
        let capabilities = |path: &String| {
            let given = data["data"][path].as_array();
            given.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
        };
        Ok(paths.iter().map(|path| (path.clone(), capabilities(path))).collect())
    }

    /// Checks a response-wrapped secret ID without unwrapping it, which works once only. `None` if there is none.
    pub async fn check_wrapped_secret_id(&self) -> Option<Result<(), VaultError>> {
        match &self.state.server.auth {
            Auth::AppRole(settings) if settings.wrapped => {
                Some(login::check_wrapping(&self.state, settings).await)
            }
            _ => None,
        }
    }

    /// The current token, after a login if there is none. A changed credential starts a login, and the request goes on
    /// with the token that there is.
    async fn grant(&self) -> Result<Arc<Grant>, VaultError> {
        let Some(grant) = self.state.current() else { return self.new_grant(None).await };
        if self.credential_changed(&grant) {
            // A full queue means that the task is about to log in or checks again at the next request.
            let _ = self.commands.try_send(Command::UseChangedCredential);
        }
        Ok(grant)
    }

    /// After a denial: a token that is worth one more try.
    async fn after_denial(&self, denied: &Grant, path: &str) -> Result<Arc<Grant>, VaultError> {
        match self.state.current() {
            Some(newer) if newer.generation != denied.generation => return Ok(newer),
            _ => {}
        }
        let url = denied.transport.url(["auth", "token", "lookup-self"]);
        let lookup = denied.transport.send(Request::get(url).token(&denied.token)).await?;
        let is_current = self.state.is_current(denied.generation);
        if lookup.status.is_success() && is_current {
            return Err(VaultError::Policy { path: path.to_owned() });
        }
        let server = &self.state.server;
        if !lookup.status.is_success() && is_current {
            // If the queue is full, the next denial says it again.
            let _ = self.commands.try_send(Command::TokenRefused(denied.generation));
        }
        if matches!(server.auth, Auth::Token(_)) && is_current && !self.credential_changed(denied) {
            return Err(VaultError::BadToken(server.names.token));
        }
        self.new_grant(Some(Denied { generation: denied.generation, path: path.to_owned() })).await
    }

    async fn new_grant(&self, denied: Option<Denied>) -> Result<Arc<Grant>, VaultError> {
        let (done, outcome) = oneshot::channel();
        let sent = self.commands.send(Command::LogIn { denied, done, cause: Span::current() }).await;
        sent.map_err(|_| VaultError::Stopping)?;
        outcome.await.unwrap_or(Err(VaultError::Stopping))?;
        self.state.current().ok_or(VaultError::Stopping)
    }

    fn credential_changed(&self, grant: &Grant) -> bool {
        login::credential_changed(&self.state.server, grant)
    }
}

impl WeakClient {
    pub(super) fn upgrade(&self) -> Option<Client> {
        Some(Client { state: self.state.upgrade()?, commands: self.commands.upgrade()? })
    }
}

async fn read(transport: &Transport, url: &Url, token: &Secret<String>) -> Result<Response, VaultError> {
    let response = transport.send(Request::get(url.clone()).token(token)).await?;
    match response.status.as_u16() {
        200 | 404 => Ok(response),
        403 => Err(VaultError::Denied { path: response.path }),
        status => {
            let (host, path, message) = (transport.host(), response.path, response.message);
            Err(VaultError::Status { host, path, status, message, retry_after: None })
        }
    }
}
