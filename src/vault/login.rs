//! Logging in: settings in, a token and its lease out. One file per auth method.
//!
//! What they share is in `method`. When to log in is up to `session`.

mod approle;
mod cert;
mod jwt;
mod kubernetes;
mod method;
mod token;

use super::{
    error::VaultError,
    lease::Lease,
    state::{Fingerprint, Grant, State},
    transport::Transport,
};
use crate::{
    metrics::Metrics,
    secret::Secret,
    settings::{Auth, Server, server::AppRole},
};
pub(super) use approle::Memory;
pub(super) use method::Granted;

/// What a login gave.
pub(super) struct Login {
    pub(super) token: Secret<String>,
    pub(super) lease: Lease,
    /// What to send the token with.
    pub(super) transport: Transport,
}

pub(super) async fn log_in(state: &State, memory: &Memory, metrics: &Metrics) -> Result<Login, VaultError> {
    let State { name, server, transport, .. } = state;
    let names = server.names;
    let (token, lease) = match &server.auth {
        Auth::Token(credential) => token::log_in(transport, names, credential).await?,
        Auth::Kubernetes(settings) => kubernetes::log_in(transport, names, settings).await?,
        Auth::Jwt(settings) => jwt::log_in(transport, server, settings).await?,
        Auth::AppRole(settings) => {
            let alarm = approle::Alarm { session: name, metrics };
            approle::log_in(transport, names, settings, memory, alarm).await?
        }
        Auth::Cert(settings) => {
            let transport = cert::transport(server, settings)?;
            let (token, lease) = cert::log_in(&transport, names, settings).await?;
            return Ok(Login { token, lease, transport });
        }
    };
    Ok(Login { token, lease, transport: transport.clone() })
}

/// Checks a response-wrapped secret ID without unwrapping it.
pub(super) async fn check_wrapping(state: &State, settings: &AppRole) -> Result<(), VaultError> {
    let alarm = approle::Alarm { session: &state.name, metrics: &Metrics::default() };
    approle::check_wrapping(&state.transport, settings, alarm).await
}

/// The fingerprint of the client certificate, as its files hold it now.
pub(super) fn fingerprint(server: &Server) -> Option<Fingerprint> {
    match &server.auth {
        Auth::Cert(settings) => cert::fingerprint(settings),
        _ => None,
    }
}

/// Whether the credential differs from the one that gave `grant`. One that cannot be read has not changed, and neither has
/// one that matters at the login only.
pub(super) fn credential_changed(server: &Server, grant: &Grant) -> bool {
    match &server.auth {
        Auth::Token(credential) => token::has_changed(credential, &grant.token),
        Auth::Cert(_) => fingerprint(server).is_some_and(|now| Some(now) != grant.certificate),
        Auth::Kubernetes(_) | Auth::AppRole(_) | Auth::Jwt(_) => false,
    }
}
