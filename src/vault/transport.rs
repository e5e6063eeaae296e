//! One request, one response: bounded in time and size, never redirected, never through a proxy of the environment.
//!
//! Here is what a status means to every caller: a redirect, a sealed server, a failing server. The rest is up to the
//! caller. `message` holds what is sent and what may be quoted of the outcome.
//! The file is longer than most: the request and each way in which it fails.

mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod simulated;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use reqwest::{
    StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use tokio::net::TcpStream;
use url::Url;
use zeroize::Zeroizing;

use super::{
    error::{CONNECT_TIMEOUT, MAX_BODY, REQUEST_TIMEOUT, VaultError},
    tls::{self, Identity, TlsError},
};
use crate::{secret::Secret, settings};
pub use message::Request;
pub(super) use message::quotable;
use message::{causes, printable, repeats, response_message, source_of};

/// How long the node that a standby redirects to may take to accept a connection.
const LEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// A standby that has not caught up yet answers 412: that many attempts, and the time between them.
const REPLICATION_ATTEMPTS: u32 = 4;
const REPLICATION_INTERVAL: Duration = Duration::from_millis(250);

/// The plaintext response of a Go server to plain HTTP on its TLS port.
const HTTP_TO_HTTPS: &[u8] = b"Client sent an HTTP request to an HTTPS server";

/// The HTTP client, the server and the namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transport {
    http: reqwest::Client,
    host: Url,
    namespace: Option<HeaderValue>,
    /// The setting that names the server.
    setting: Arc<str>,
    /// The setting with its protocol.
    protocol: Arc<str>,
    /// The setting of the client certificate, if the server can be given one.
    certificate_setting: Option<Arc<str>>,
}

/// Why the HTTP client could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the HTTP client cannot be configured: {0}")]
    Client(#[from] reqwest::Error),
}

/// A response that its caller interprets: a success, or 400, 401, 403, 404. No `Debug`: its body may hold secrets.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// The path that was requested.
    pub(crate) path: String,
    /// The server's error message, as `: …`, where it can be quoted.
    pub(crate) message: String,
    /// The server's clock, by its `Date`.
    pub(crate) date: Option<SystemTime>,
}

impl Response {
    /// The JSON of the body.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The JSON in `data`, where Vault's responses hold the outcome.
    pub(super) fn data<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            data: Option<T>,
        }
        self.json::<Envelope<T>>()?.data
    }
}

impl Transport {
    pub(super) fn new(
        settings: &settings::Server,
        identity: Option<Identity>,
    ) -> Result<Self, TransportError> {
        let namespace = settings.namespace.as_deref().and_then(|name| HeaderValue::from_str(name).ok());
        Ok(Self {
            http: client(&settings.host, &settings.tls, identity)?,
            host: settings.host.clone(),
            namespace,
            setting: settings.names.host.into(),
            protocol: settings.names.protocol.into(),
            certificate_setting: Some(settings.names.setting("cert_auth_cert").into()),
        })
    }

    /// For a server that is not Vault, which `setting` names: the same trust, no namespace.
    pub(super) fn for_other_server(
        url: &Url,
        tls: &settings::Tls,
        setting: &str,
    ) -> Result<Self, TransportError> {
        Ok(Self {
            http: client(url, tls, None)?,
            host: url.clone(),
            namespace: None,
            setting: setting.into(),
            protocol: setting.into(),
            certificate_setting: None,
        })
    }

    /// The same server outside any namespace, where requests about the server itself belong.
    pub(crate) fn without_namespace(&self) -> Self {
        Self { namespace: None, ..self.clone() }
    }

    /// `/v1/<segments>`, each segment percent-encoded.
    pub(crate) fn url(&self, segments: impl IntoIterator<Item = impl AsRef<str>>) -> Url {
        let mut url = self.host.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }

    /// The server, for messages.
    pub(crate) fn host(&self) -> String {
        self.host.origin().ascii_serialization()
    }

    /// Sends a request. One that a standby cannot answer yet (412) is retried for a moment.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Response, VaultError> {
        for _ in 1..REPLICATION_ATTEMPTS {
            match self.send_once(&request).await {
                Err(VaultError::Status { status: 412, .. }) => tokio::time::sleep(REPLICATION_INTERVAL).await,
                other => return other,
            }
        }
        self.send_once(&request).await
    }

    /// Sends a request that must not be sent twice.
    pub(crate) async fn send_once(&self, request: &Request<'_>) -> Result<Response, VaultError> {
        let begun = Instant::now();
        let outcome = self.exchange(request).await;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (method, path) = (request.method.as_str(), request.url.path());
        match &outcome {
            Ok(response) => {
                tracing::debug!(method, path, status = response.status.as_u16(), milliseconds, "Vault call");
            }
            Err(error) => tracing::debug!(method, path, milliseconds, %error, "Vault call"),
        }
        outcome
    }

    async fn exchange(&self, request: &Request<'_>) -> Result<Response, VaultError> {
        let path = request.url.path().to_owned();
        let mut builder = self.http.request(request.method.clone(), request.url.clone());
        for (name, scheme, secret) in
            [("x-vault-token", "", request.token), ("authorization", "Basic ", request.basic)]
        {
            let Some(secret) = secret else { continue };
            let value = Zeroizing::new([scheme, secret.expose()].concat());
            let Ok(mut value) = HeaderValue::from_str(&value) else {
                return Err(VaultError::Denied { path });
            };
            value.set_sensitive(true);
            builder = builder.header(name, value);
        }
        if let Some(namespace) = &self.namespace {
            builder = builder.header("x-vault-namespace", namespace);
        }
        if let Some(body) = &request.body {
            let kind = if request.form { "application/x-www-form-urlencoded" } else { "application/json" };
            // Wiped after it was sent, like the buffer that it is a copy of.
            let body = reqwest::Body::from(hyper::body::Bytes::from_owner(body.clone()));
            builder = builder.header(header::CONTENT_TYPE, kind).body(body);
        }
        let response = self.respond(builder).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read_body(response, &path).await?;
        let message = if status.is_success() {
            String::new()
        } else {
            response_message(&body, &request.secrets).map(|text| format!(": {text}")).unwrap_or_default()
        };
        if status == StatusCode::BAD_REQUEST && body.starts_with(HTTP_TO_HTTPS) {
            let cause = format!("the server speaks TLS: use https in {}", self.protocol);
            return Err(VaultError::Untrusted { host: self.host(), cause });
        }
        match status.as_u16() {
            200..=299 | 400 | 401 | 403 | 404 => {
                let date = text(&headers, header::DATE).and_then(|date| httpdate(&date));
                Ok(Response { status, body, path, message, date })
            }
            307 if self.certificate_setting.is_some() && !has_leader(&headers).await => {
                let to = location(&headers, &request.secrets);
                Err(VaultError::NoLeader { host: self.host(), to })
            }
            _ => Err(self.refusal(status, path, message, &headers, &request.secrets)),
        }
    }

    #[cfg(not(any(test, fuzzing)))]
    async fn respond(&self, builder: reqwest::RequestBuilder) -> Result<reqwest::Response, VaultError> {
        builder.send().await.map_err(|error| self.failure(&error))
    }

    #[cfg(any(test, fuzzing))]
    async fn respond(&self, builder: reqwest::RequestBuilder) -> Result<reqwest::Response, VaultError> {
        let Some(network) = simulated::network() else {
            return builder.send().await.map_err(|error| self.failure(&error));
        };
        let request = builder.build().map_err(|error| self.failure(&error))?;
        let host = self.host();
        match tokio::time::timeout(REQUEST_TIMEOUT, network(&request)).await {
            Ok(Ok(response)) => Ok(response.into()),
            Ok(Err(simulated::Loss::Refused)) => Err(VaultError::Unreachable { host, cause: String::new() }),
            Ok(Err(simulated::Loss::Silence)) | Err(_) => Err(VaultError::Timeout { host }),
        }
    }

    async fn read_body(
        &self,
        mut response: reqwest::Response,
        path: &str,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > MAX_BODY {
            return Err(VaultError::TooLarge { path: path.to_owned() });
        }
        // Large enough from the start: a buffer that grows leaves copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(announced.max(16 << 10)));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len().saturating_add(chunk.len()) > MAX_BODY {
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
                let (to, setting) = (location(headers, secrets), self.setting.as_ref().into());
                VaultError::Redirect { host, status, to, setting }
            }
            501 => VaultError::Sealed { host, retry_after },
            503 if message.to_lowercase().contains("sealed") => VaultError::Sealed { host, retry_after },
            _ => VaultError::Status { host, path, status, message, retry_after },
        }
    }

    fn failure(&self, error: &reqwest::Error) -> VaultError {
        let host = self.host();
        if error.is_timeout() && error.is_connect() {
            return VaultError::ConnectTimeout { host, setting: self.setting.as_ref().into() };
        }
        if error.is_timeout() {
            return VaultError::Timeout { host };
        }
        match source_of::<rustls::Error>(error) {
            Some(error) => {
                let cause =
                    tls::cure(error, [&self.setting, &self.protocol], self.certificate_setting.as_deref());
                VaultError::Untrusted { host, cause }
            }
            None if error.is_connect() => {
                let cause = causes(error);
                let cure = format!("check that the server runs, and its address in {}", self.setting);
                VaultError::Unreachable { host, cause: format!("{cause}: {cure}") }
            }
            None => VaultError::Unreachable { host, cause: causes(error) },
        }
    }
}

fn client(
    url: &Url,
    trusted: &settings::Tls,
    identity: Option<Identity>,
) -> Result<reqwest::Client, TransportError> {
    let tls = match url.scheme() {
        "https" => tls::client_config(trusted, identity)?,
        _ => tls::unused()?,
    };
    let vault_request = (HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
    let client = reqwest::Client::builder()
        .user_agent(concat!("keyringd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .tls_backend_preconfigured(tls)
        .default_headers(HeaderMap::from_iter([vault_request]))
        .build()?;
    Ok(client)
}

fn location(headers: &HeaderMap, secrets: &[&Secret<String>]) -> String {
    let to = text(headers, header::LOCATION).filter(|to| !repeats(to, secrets));
    to.map_or_else(|| "a location that is not shown".to_owned(), |to| printable(&to))
}

/// Whether the node that a standby redirects to accepts connections. It gets no request.
async fn has_leader(headers: &HeaderMap) -> bool {
    let url = text(headers, header::LOCATION).and_then(|to| Url::parse(&to).ok());
    let Some((host, port)) =
        url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)))
    else {
        return true;
    };
    let connect = TcpStream::connect((host.trim_matches(['[', ']']), port));
    matches!(tokio::time::timeout(LEADER_TIMEOUT, connect).await, Ok(Ok(_)))
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
