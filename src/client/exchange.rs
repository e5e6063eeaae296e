//! One HTTP/1.1 request on the daemon's socket, and its response.
//!
//! The client sends a body after `100 Continue` (RFC 9110, section 10.1.1). So a daemon that refuses the request can
//! respond first, instead of closing a connection with unread data.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes, Frame},
    client::conn::http1,
    ext::on_informational,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use tokio::{net::UnixStream, sync::Notify};
use zeroize::Zeroizing;

/// A client of one daemon.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot reach keyringd at {socket}: {error}; check that it runs and that this user may use the socket"
    )]
    Unreachable { socket: PathBuf, error: std::io::Error },
    #[error("no response from keyringd at {socket}: {error}")]
    NoResponse { socket: PathBuf, error: hyper::Error },
    #[error("no response from keyringd at {socket} within {} s", TIMEOUT.as_secs())]
    Timeout { socket: PathBuf },
    /// The daemon's message: the request exceeds its size limit.
    #[error("{0}")]
    TooLarge(String),
    /// The daemon's message.
    #[error("{0}")]
    Refused(String),
    #[error(
        "the daemon serves references only: set keyring_enabled = on and the keyring_vault_* settings for a keyring"
    )]
    NoKeyring,
    #[error("unexpected response: {0}; check that keyringd listens on this socket")]
    Unexpected(&'static str),
}

/// The time for a response. A sync with a slow Vault takes less.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Response {
    status: u16,
    /// The header `Keyring-Name`.
    pub keyring_name: Option<String>,
    body: Zeroizing<Vec<u8>>,
}

/// Only the response of a batch has an error status and data.
#[derive(Deserialize)]
struct BatchData {
    data: Option<IgnoredAny>,
}

impl Response {
    /// Whether the status is a success, and the body as text.
    pub(super) fn text(&self) -> (bool, String) {
        (self.is_success(), String::from_utf8_lossy(&self.body).into_owned())
    }

    /// The JSON of a batch, in which each result has its own error.
    pub(super) fn batch_json<T: for<'de> Deserialize<'de>>(self) -> Result<T, ClientError> {
        let is_batch = serde_json::from_slice::<BatchData>(&self.body).is_ok_and(|body| body.data.is_some());
        if self.status == 400 && is_batch { parse(&self.body) } else { self.json() }
    }

    /// The JSON of a success.
    pub(super) fn json<T: for<'de> Deserialize<'de>>(self) -> Result<T, ClientError> {
        parse(&self.success()?)
    }

    /// The body of a success.
    pub(super) fn success(self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        if self.is_success() {
            return Ok(self.body);
        }
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let message = body.pointer("/error").or_else(|| body.pointer("/errors/0")).and_then(Value::as_str);
        let message =
            message.map_or_else(|| format!("keyringd responded with status {}", self.status), str::to_owned);
        Err(if self.status == 413 { ClientError::TooLarge(message) } else { ClientError::Refused(message) })
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|_| ClientError::Unexpected("not the expected JSON"))
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Response, ClientError> {
        self.request(Method::GET, path, Zeroizing::default()).await
    }

    pub(super) async fn post(&self, path: &str, body: Zeroizing<Vec<u8>>) -> Result<Response, ClientError> {
        self.request(Method::POST, path, body).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Response, ClientError> {
        let response = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await;
        response.unwrap_or_else(|_| Err(ClientError::Timeout { socket: self.socket.clone() }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Response, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream =
            stream.map_err(|error| ClientError::Unreachable { socket: self.socket.clone(), error })?;
        let no_response = |error| ClientError::NoResponse { socket: self.socket.clone(), error };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_response)?;
        let connection = tokio::spawn(connection);
        let request = request(method, path, body)
            .map_err(|_| ClientError::Unexpected("the name of the keyring is not valid in a path"))?;
        let response = sender.send_request(request).await.map_err(no_response)?;
        let status = response.status().as_u16();
        let name = response.headers().get("keyring-name").and_then(|name| name.to_str().ok());
        let keyring_name = name.map(str::to_owned);
        let collected = response.into_body().collect().await.map_err(no_response)?;
        connection.abort();
        Ok(Response { status, keyring_name, body: Zeroizing::new(collected.to_bytes().to_vec()) })
    }
}

fn request(
    method: Method,
    path: &str,
    body: Zeroizing<Vec<u8>>,
) -> hyper::http::Result<Request<impl Body<Data = Bytes, Error = Infallible> + Send + 'static>> {
    let may_send = Arc::new(Notify::new());
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_LENGTH, body.len());
    if body.is_empty() {
        may_send.notify_one();
    } else {
        builder = builder.header(header::EXPECT, "100-continue");
    }
    let continued = Arc::clone(&may_send);
    let body = stream::once(async move {
        continued.notified().await;
        Ok(Frame::data(Bytes::from_owner(body)))
    });
    let mut request = builder.body(StreamBody::new(body))?;
    on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            may_send.notify_one();
        }
    });
    Ok(request)
}
