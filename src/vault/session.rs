//! A session with Vault: the HTTP client and the token that goes along.
//!
//! One request, one answer, bounded in time and size, never redirected, never sent through a proxy that the environment
//! names. What the paths mean is in `kv`; retrying is for `sync`.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{
    VaultError,
    tls::{self, TlsError},
};
use crate::{
    secret::Secret,
    settings::{self, Auth},
};

pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The most that is read of one answer. A secret of 1000 records is about 100 KiB.
pub const MAX_BODY: usize = 4 << 20;

/// A server's own words are quoted up to here.
const MAX_MESSAGE: usize = 200;

/// What a server in Go answers, in the clear, to plain HTTP on its TLS port.
const HTTP_TO_HTTPS: &[u8] = b"Client sent an HTTP request to an HTTPS server";

/// The HTTP client, the server and the token.
#[derive(Debug)]
pub struct Session {
    http: reqwest::Client,
    host: Url,
    token: Secret<String>,
}

/// Why no session could be set up.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// What became of a request that Vault answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Zeroizing<Vec<u8>>,
    pub path: String,
}

impl Session {
    /// # Errors
    /// [`SessionError`] when the settings' certificates cannot be used. No request is sent yet.
    pub fn new(settings: &settings::Vault) -> Result<Self, SessionError> {
        let tls = match settings.host.scheme() {
            "https" => tls::client_config(&settings.trusted)?,
            _ => tls::unused()?,
        };
        let vault_request = (HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        let builder = reqwest::Client::builder()
            .user_agent(concat!("keyringd/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .tls_backend_preconfigured(tls)
            .default_headers(HeaderMap::from_iter([vault_request]));
        let Auth::Token(token) = &settings.auth;
        let token = Secret::new(token.expose().clone());
        Ok(Self { http: builder.build()?, host: settings.host.clone(), token })
    }

    /// The same session under another token.
    pub fn with_token(&self, token: Secret<String>) -> Self {
        Self { http: self.http.clone(), host: self.host.clone(), token }
    }

    /// `GET /v1/<segments>?version=<version>`. Answers of 200 and 404 are for the caller to read.
    ///
    /// # Errors
    /// [`VaultError`] for anything else.
    pub async fn get(
        &self,
        segments: impl IntoIterator<Item = &str>,
        version: Option<u64>,
    ) -> Result<Answer, VaultError> {
        let mut url = self.host.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        if let Some(version) = version {
            url.query_pairs_mut().append_pair("version", &version.to_string());
        }
        let path = url.path().to_owned();
        let Ok(mut token) = HeaderValue::from_str(self.token.expose()) else {
            return Err(VaultError::Denied { path });
        };
        token.set_sensitive(true);
        let request = self.http.get(url).header("x-vault-token", token);
        let response = request.send().await.map_err(|error| self.failure(&error))?;
        let (status, location, retry_after) =
            (response.status(), header_text(&response, header::LOCATION), retry_after(&response));
        let body = self.read_body(response, &path).await?;
        if matches!(status, StatusCode::OK | StatusCode::NOT_FOUND) {
            return Ok(Answer { status, body, path });
        }
        Err(self.refusal(status, path, &body, location, retry_after))
    }

    async fn read_body(&self, mut response: Response, path: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > MAX_BODY {
            return Err(VaultError::TooLarge { path: path.to_owned() });
        }
        // Room for the whole at once: a buffer that grows leaves copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(announced.max(16 << 10)));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(VaultError::TooLarge { path: path.to_owned() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What an answer other than 200 and 404 means.
    fn refusal(
        &self,
        status: StatusCode,
        path: String,
        body: &[u8],
        location: Option<String>,
        retry_after: Option<Duration>,
    ) -> VaultError {
        let host = self.host_name();
        match status.as_u16() {
            300..=399 => VaultError::Redirect {
                host,
                status: status.as_u16(),
                to: location.unwrap_or_else(|| "nowhere".to_owned()),
            },
            400 if body.starts_with(HTTP_TO_HTTPS) => VaultError::Untrusted {
                host,
                cause: "it speaks TLS: write https in keyring_vault_host".to_owned(),
            },
            403 => VaultError::Denied { path },
            501 | 503 => VaultError::Sealed { host },
            status => {
                let message = self.message(body).map(|text| format!(": {text}")).unwrap_or_default();
                VaultError::Status { path, status, message, retry_after }
            }
        }
    }

    /// The server's own words, on one line and shortened. A server that repeats the token is not quoted.
    fn message(&self, body: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<String>,
        }
        let text = match serde_json::from_slice::<Errors>(body) {
            Ok(said) => said.errors.join("; "),
            Err(_) => str::from_utf8(body).ok()?.to_owned(),
        };
        let line: String =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect();
        let line = line.trim();
        (!line.is_empty() && !text.contains(self.token.expose().as_str())).then(|| line.to_owned())
    }

    fn failure(&self, error: &reqwest::Error) -> VaultError {
        let host = self.host_name();
        if error.is_timeout() {
            return VaultError::Timeout { host };
        }
        let cause = causes(error);
        if let Some(tls) = source_of::<rustls::Error>(error) {
            return match tls {
                rustls::Error::InvalidMessage(_) => VaultError::Untrusted {
                    host,
                    cause: "it does not speak TLS: is keyring_vault_host http instead of https?".to_owned(),
                },
                tls => VaultError::Untrusted { host, cause: tls_cure(tls) },
            };
        }
        VaultError::Unreachable { host, cause }
    }

    fn host_name(&self) -> String {
        self.host.origin().ascii_serialization()
    }
}

/// What to do about a TLS error.
fn tls_cure(error: &rustls::Error) -> String {
    use rustls::{CertificateError as Bad, Error};
    let cure = match error {
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate was issued by nobody in lua_ssl_trusted_certificate; add that authority there, and let \
             the server send its intermediate certificates"
        }
        Error::InvalidCertificate(Bad::BadSignature) => {
            "its certificate was not signed by the authority of that name in lua_ssl_trusted_certificate; replace that \
             authority there by the right one"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name; use one of its names in keyring_vault_host"
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "its certificate has expired",
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is this machine's clock right?"
        }
        _ => return error.to_string(),
    };
    format!("{cure} ({error})")
}

/// The error's causes, outermost first, without the URL.
fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, "{}{error}", if text.is_empty() { "" } else { ": " });
        cause = error.source();
    }
    if text.is_empty() { "the connection failed".to_owned() } else { text }
}

fn source_of<'e, E: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An `io::Error` hides the error it carries from `source`.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

fn header_text(response: &Response, name: HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3); Vault sends no dates.
fn retry_after(response: &Response) -> Option<Duration> {
    header_text(response, header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}
