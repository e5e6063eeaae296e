//! One request, one answer: bounded in time and size, never redirected, never through a proxy of the environment.
//!
//! What a status means to one caller is for that caller to say; here is what it means to all: a redirect, a sealed
//! server, a server in trouble. [`request`] says what is sent, `words` what may be said of the outcome.

pub mod request;
mod words;

use std::time::{Duration, SystemTime};

use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{
    VaultError,
    tls::{self, Identity, TlsError},
};
use crate::{secret::Secret, settings};
pub use request::Request;
use words::{causes, message, repeats, source_of};

pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The most that is read of one answer. A secret of 1000 records is about 100 KiB.
pub const MAX_BODY: usize = 4 << 20;

/// A standby that has not caught up yet answers 412; it is asked this many times in all, this far apart.
const REPLICATION_TRIES: u32 = 4;
const REPLICATION_PAUSE: Duration = Duration::from_millis(250);

/// What a server in Go answers, in the clear, to plain HTTP on its TLS port.
const HTTP_TO_HTTPS: &[u8] = b"Client sent an HTTP request to an HTTPS server";

/// The HTTP client, the server and the namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transport {
    http: reqwest::Client,
    host: Url,
    namespace: Option<HeaderValue>,
    /// The setting that names the server.
    setting: &'static str,
}

/// Why the HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// An answer that its caller can make something of: a success, or 400, 401, 403, 404. No `Debug`: its body may hold
/// secrets.
pub struct Answer {
    pub status: StatusCode,
    pub body: Zeroizing<Vec<u8>>,
    /// The path that was asked for.
    pub path: String,
    /// The server's own words about a failure, as `: …`, where they can be quoted.
    pub said: String,
    /// The server's clock, by its `Date`.
    pub date: Option<SystemTime>,
}

impl Answer {
    /// The JSON of the body.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Transport {
    /// # Errors
    /// [`TransportError`] when the settings' certificates cannot be used. No request is sent yet.
    pub fn new(settings: &settings::Vault, identity: Option<Identity>) -> Result<Self, TransportError> {
        let tls = match settings.host.scheme() {
            "https" => tls::client_config(&settings.trusted, settings.verify_depth, identity)?,
            _ => tls::unused()?,
        };
        let namespace = settings.namespace.as_deref().and_then(|name| HeaderValue::from_str(name).ok());
        Ok(Self {
            http: client(tls)?,
            host: settings.host.clone(),
            namespace,
            setting: settings.named_in.host,
        })
    }

    /// The same way of asking, for a server that is not Vault: its own URLs, the same trust, no namespace.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub fn elsewhere(
        url: &Url,
        trusted: &settings::Vault,
        setting: &'static str,
    ) -> Result<Self, TransportError> {
        let tls = match url.scheme() {
            "https" => tls::client_config(&trusted.trusted, trusted.verify_depth, None)?,
            _ => tls::unused()?,
        };
        Ok(Self { http: client(tls)?, host: url.clone(), namespace: None, setting })
    }

    /// The same server outside any namespace, where questions about the server itself are answered.
    pub fn without_namespace(&self) -> Self {
        Self { namespace: None, ..self.clone() }
    }

    /// `/v1/<segments>`, each segment percent-encoded.
    pub fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.host.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }

    /// The server, for people.
    pub fn host(&self) -> String {
        self.host.origin().ascii_serialization()
    }

    /// Sends a request. One that a standby could not answer yet (412) is tried again for a moment.
    ///
    /// # Errors
    /// [`VaultError`] for whatever gives no [`Answer`].
    pub async fn send(&self, request: Request<'_>) -> Result<Answer, VaultError> {
        for _ in 1..REPLICATION_TRIES {
            match self.send_once(&request).await {
                Err(VaultError::Status { status: 412, .. }) => tokio::time::sleep(REPLICATION_PAUSE).await,
                other => return other,
            }
        }
        self.send_once(&request).await
    }

    /// Sends a request that must not be sent twice.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub async fn send_once(&self, request: &Request<'_>) -> Result<Answer, VaultError> {
        let path = request.url.path().to_owned();
        let mut builder = self.http.request(request.method.clone(), request.url.clone());
        if let Some(token) = request.token {
            let Ok(mut token) = HeaderValue::from_str(token.expose()) else {
                return Err(VaultError::Denied { path });
            };
            token.set_sensitive(true);
            builder = builder.header("x-vault-token", token);
        }
        if let Some(namespace) = &self.namespace {
            builder = builder.header("x-vault-namespace", namespace);
        }
        if let Some(body) = &request.body {
            let kind = if request.form { "application/x-www-form-urlencoded" } else { "application/json" };
            // Wiped once it was sent, like the buffer that it is a copy of.
            let body = reqwest::Body::from(hyper::body::Bytes::from_owner(body.clone()));
            builder = builder.header(header::CONTENT_TYPE, kind).body(body);
        }
        let response = builder.send().await.map_err(|error| self.failure(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read_body(response, &path).await?;
        let said = if status.is_success() {
            String::new()
        } else {
            message(&body, &request.secrets).map(|text| format!(": {text}")).unwrap_or_default()
        };
        if status == StatusCode::BAD_REQUEST && body.starts_with(HTTP_TO_HTTPS) {
            let cause = format!("it speaks TLS: write https in {}", self.setting);
            return Err(VaultError::Untrusted { host: self.host(), cause });
        }
        match status.as_u16() {
            200..=299 | 400 | 401 | 403 | 404 => {
                let date = text(&headers, header::DATE).and_then(|date| httpdate(&date));
                Ok(Answer { status, body, path, said, date })
            }
            _ => Err(self.refusal(status, path, said, &headers, &request.secrets)),
        }
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

    fn refusal(
        &self,
        status: StatusCode,
        path: String,
        message: String,
        headers: &HeaderMap,
        secrets: &[&Secret<String>],
    ) -> VaultError {
        let (host, status, retry_after) = (self.host(), status.as_u16(), retry_after(headers));
        match status {
            300..=399 => {
                let to = text(headers, header::LOCATION).filter(|to| !repeats(to, secrets));
                let to = to.unwrap_or_else(|| "a place that is not shown".to_owned());
                VaultError::Redirect { host, status, to, setting: self.setting }
            }
            501 => VaultError::Sealed { host, retry_after },
            503 if message.to_lowercase().contains("sealed") => VaultError::Sealed { host, retry_after },
            _ => VaultError::Status { host, path, status, message, retry_after },
        }
    }

    fn failure(&self, error: &reqwest::Error) -> VaultError {
        let host = self.host();
        if error.is_timeout() {
            return VaultError::Timeout { host };
        }
        match source_of::<rustls::Error>(error) {
            Some(tls) => VaultError::Untrusted { host, cause: tls::cure(tls, self.setting) },
            None => VaultError::Unreachable { host, cause: causes(error) },
        }
    }
}

fn client(tls: rustls::ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    let vault_request = (HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
    reqwest::Client::builder()
        .user_agent(concat!("keyringd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .tls_backend_preconfigured(tls)
        .default_headers(HeaderMap::from_iter([vault_request]))
        .build()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3); Vault sends no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    text(headers, header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

fn httpdate(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}
