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
    refusals::{self, Fingerprint},
    state::{Grant, State},
    transport::{Transport, TransportError},
};
use crate::{
    metrics::Metrics,
    secret::Secret,
    settings::{
        Auth, Server,
        credential::Credential,
        server::{AppRole, JwtSource},
    },
};
pub(super) use approle::Memory;
use method::Issued;
pub(super) use method::{Granted, LIMITED_USES};

/// What a login gave.
pub(super) struct Login {
    pub(super) token: Secret<String>,
    pub(super) lease: Lease,
    /// What operators should know of the token.
    pub(super) notes: Vec<&'static str>,
    /// What to send the token with.
    pub(super) transport: Transport,
}

pub(super) async fn log_in(state: &State, memory: &Memory, metrics: &Metrics) -> Result<Login, VaultError> {
    let State { name, server, .. } = state;
    let names = server.names;
    let transport = match &server.identity {
        Some(identity) => cert::transport(server, identity)?,
        None => state.transport.clone(),
    };
    let Issued { token, lease, notes } = match &server.auth {
        Auth::Token(credential) => token::log_in(&transport, names, credential).await?,
        Auth::Kubernetes(settings) => kubernetes::log_in(&transport, names, settings).await?,
        Auth::Jwt(settings) => jwt::log_in(&transport, server, settings).await?,
        Auth::AppRole(settings) => {
            let alarm = approle::Alarm { session: name, metrics };
            let secret_id = approle::secret_id(&transport, settings, memory, alarm).await?;
            approle::log_in(&transport, server, settings, &secret_id, &state.refusals).await?
        }
        Auth::Cert(settings) => cert::log_in(&transport, names, settings).await?,
    };
    Ok(Login { token, lease, notes, transport })
}

/// For requests before the first login. A client certificate that cannot be used yet is reported at the login.
pub(super) fn initial_transport(server: &Server) -> Result<Transport, TransportError> {
    let identity = server.identity.as_ref().and_then(|identity| cert::transport(server, identity).ok());
    identity.map_or_else(|| Transport::new(server, None), Ok)
}

/// Checks a response-wrapped secret ID without unwrapping it.
pub(super) async fn check_wrapping(state: &State, settings: &AppRole) -> Result<(), VaultError> {
    let alarm = approle::Alarm { session: &state.name, metrics: &Metrics::default() };
    approle::check_wrapping(&state.transport, settings, alarm).await
}

/// The fingerprint of the client certificate, as its files hold it now.
pub(super) fn fingerprint(server: &Server) -> Option<Fingerprint> {
    server.identity.as_ref().and_then(|identity| digest([&identity.certificate, &identity.key]))
}

/// Whether the credential differs from the one that gave `grant`. One that cannot be read has not changed, and neither has
/// one that matters at the login only.
pub(super) fn credential_changed(server: &Server, grant: &Grant) -> bool {
    match &server.auth {
        Auth::Token(credential) if token::has_changed(credential, &grant.token) => true,
        _ => fingerprint(server).is_some_and(|now| Some(now) != grant.certificate),
    }
}

/// The fingerprint of everything that the next login would send, as its files hold it now.
pub(super) fn credential(server: &Server) -> Option<Fingerprint> {
    let identity = server.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
    let secret = match &server.auth {
        Auth::Token(token) => Some(token),
        Auth::Kubernetes(settings) => Some(&settings.jwt),
        Auth::AppRole(settings) => Some(&settings.secret_id),
        Auth::Jwt(settings) => match &settings.source {
            JwtSource::File(file) => Some(file),
            JwtSource::Endpoint(client) => Some(&client.client_secret),
        },
        Auth::Cert(_) => None,
    };
    digest(identity.chain(secret))
}

/// `None` if one of them cannot be read.
fn digest<'a>(credentials: impl IntoIterator<Item = &'a Credential>) -> Option<Fingerprint> {
    let texts: Vec<_> = credentials.into_iter().map(Credential::read).collect::<Result<_, _>>().ok()?;
    Some(refusals::fingerprint(texts.iter().map(|text: &Secret<String>| text.expose().as_str())))
}
