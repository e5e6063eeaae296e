//! HTTP/1.1 on the daemon's socket: a connection, its requests and their responses.
//!
//! The client sends a body after `100 Continue` (RFC 9110, section 10.1.1). So a daemon that refuses the request can
//! respond first, instead of closing a connection with unread data.

mod permission;

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Frame},
    client::conn::http1::{self, SendRequest},
    ext::on_informational,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use tokio::{net::UnixStream, sync::Notify, task::JoinHandle};
use zeroize::Zeroizing;

/// A client of one daemon, and of one of its keyrings.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// `None` is the default one.
    pub(super) keyring: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("there is no socket {socket}: keyringd does not run, or serves on another path (--socket)")]
    NoSocket { socket: PathBuf },
    #[error("nothing listens on {socket}: the keyringd that made it has ended; start it again")]
    Stale { socket: PathBuf },
    #[error("{socket} is not a socket: name that of keyringd with --socket")]
    NotASocket { socket: PathBuf },
    #[error("permission denied for {socket}: {cure}")]
    Forbidden { socket: PathBuf, cure: String },
    #[error("cannot reach keyringd at {socket}: {error}")]
    Unreachable { socket: PathBuf, error: io::Error },
    #[error("no response from keyringd at {socket}: {error}")]
    NoResponse { socket: PathBuf, error: hyper::Error },
    #[error("no response from keyringd at {socket} within {} s", TIMEOUT.as_secs())]
    Timeout { socket: PathBuf },
    /// The daemon's message: the request exceeds its size limit.
    #[error("{0}")]
    TooLarge(String),
    /// The daemon's message: the request is wrong, or what it asks for.
    #[error("{0}")]
    Invalid(String),
    /// The daemon's message: it is at a limit that others share.
    #[error("{0}")]
    Busy(String),
    /// The daemon's message: it has no keyring of this name.
    #[error("{0}")]
    NotFound(String),
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
        Err(match self.status {
            413 => ClientError::TooLarge(message),
            429 => ClientError::Busy(message),
            400 => ClientError::Invalid(message),
            404 => ClientError::NotFound(message),
            _ => ClientError::Refused(message),
        })
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
        Self { socket: socket.to_owned(), keyring: None }
    }

    /// The same for the keyring of this name.
    pub(crate) fn with_keyring(self, keyring: Option<String>) -> Self {
        Self { keyring, ..self }
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
        self.connect().await?.request(method, path, body).await
    }

    pub(super) async fn connect(&self) -> Result<Connection, ClientError> {
        let socket = self.socket.clone();
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(error) => return Err(connect_error(socket, error)),
        };
        match http1::handshake(TokioIo::new(stream)).await {
            Ok((sender, connection)) => {
                let task = tokio::spawn(async move { drop(connection.await) });
                Ok(Connection { socket, sender, task })
            }
            Err(error) => Err(ClientError::NoResponse { socket, error }),
        }
    }
}

fn connect_error(socket: PathBuf, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ClientError::NoSocket { socket },
        io::ErrorKind::ConnectionRefused if is_socket(&socket) => ClientError::Stale { socket },
        io::ErrorKind::ConnectionRefused => ClientError::NotASocket { socket },
        io::ErrorKind::PermissionDenied => {
            let cure = permission::cure(&socket);
            ClientError::Forbidden { socket, cure }
        }
        _ => ClientError::Unreachable { socket, error },
    }
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// An open connection. It carries one request after another.
pub(super) struct Connection {
    socket: PathBuf,
    sender: SendRequest<RequestBody>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    pub(super) async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Response, ClientError> {
        let response = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await;
        response.unwrap_or_else(|_| Err(ClientError::Timeout { socket: self.socket.clone() }))
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Response, ClientError> {
        let socket = self.socket.clone();
        let no_response = |error| ClientError::NoResponse { socket: socket.clone(), error };
        let request = request(method, path, body)
            .map_err(|_| ClientError::Unexpected("the name of the keyring is not valid in a path"))?;
        self.sender.ready().await.map_err(no_response)?;
        let response = self.sender.send_request(request).await.map_err(no_response)?;
        let status = response.status().as_u16();
        let name = response.headers().get("keyring-name").and_then(|name| name.to_str().ok());
        let keyring_name = name.map(str::to_owned);
        let collected = response.into_body().collect().await.map_err(no_response)?;
        Ok(Response { status, keyring_name, body: Zeroizing::new(collected.to_bytes().to_vec()) })
    }
}

type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

fn request(
    method: Method,
    path: &str,
    body: Zeroizing<Vec<u8>>,
) -> hyper::http::Result<Request<RequestBody>> {
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
    let mut request = builder.body(StreamBody::new(body).boxed_unsync())?;
    on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            may_send.notify_one();
        }
    });
    Ok(request)
}
