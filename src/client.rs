//! The command line's side of the socket: one request over HTTP/1.1, one answer.
//!
//! What the commands print is in `cli`; what the daemon answers, in `socket`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// How long an answer may take: longer than a sync with a Vault that is slow in every way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, by its socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach keyringd at {socket}: {error}: is it running, and may this user use its socket?")]
    Unreachable { socket: PathBuf, error: std::io::Error },
    #[error("keyringd at {socket} did not answer: {error}")]
    NoAnswer { socket: PathBuf, error: hyper::Error },
    #[error("keyringd at {socket} did not answer within {} s: does it hang?", PATIENCE.as_secs())]
    Silent { socket: PathBuf },
    #[error("{0}")]
    Refused(String),
    #[error("keyringd's answer is not what was expected: {0}")]
    Unexpected(&'static str),
}

/// An answer: the status and the body.
type Answer = (u16, Zeroizing<Vec<u8>>);

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// `GET /status`.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn status(&self) -> Result<Value, ClientError> {
        let (status, body) = self.request(Method::GET, "/status", Bytes::new()).await?;
        parsed(refused_unless_success(status, &body)?)
    }

    /// `POST /keyring/vault/sync`.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn sync(&self) -> Result<(), ClientError> {
        let (status, body) = self.request(Method::POST, "/keyring/vault/sync", Bytes::new()).await?;
        refused_unless_success(status, &body).map(|_| ())
    }

    /// Seals `plaintext` and answers the ciphertext's text form.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn encrypt(&self, plaintext: &[u8], associated_data: &str) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Data {
            ciphertext: String,
        }
        let plaintext = Zeroizing::new(BASE64_STANDARD.encode(plaintext));
        let data: Data = self.transit("encrypt", "plaintext", &plaintext, associated_data).await?;
        Ok(data.ciphertext)
    }

    /// Opens a ciphertext in its text form.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn decrypt(
        &self,
        ciphertext: &str,
        associated_data: &str,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        #[derive(Deserialize)]
        struct Data {
            plaintext: Secret<String>,
        }
        let data: Data = self.transit("decrypt", "ciphertext", ciphertext, associated_data).await?;
        let plaintext = BASE64_STANDARD.decode(data.plaintext.expose());
        plaintext.map(Zeroizing::new).map_err(|_| ClientError::Unexpected("the plaintext is not base64"))
    }

    /// One Transit operation under whatever name the daemon goes by.
    async fn transit<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &str,
        field: &str,
        value: &str,
        associated_data: &str,
    ) -> Result<T, ClientError> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        let status = self.status().await?;
        let name = status
            .get("name")
            .and_then(Value::as_str)
            .ok_or(ClientError::Unexpected("no name in its status"))?;
        let body = json!({ field: value, "associated_data": BASE64_STANDARD.encode(associated_data) });
        let path = format!("/v1/transit/{operation}/{name}");
        let (status, answer) = self.request(Method::POST, &path, Bytes::from_owner(wiped(&body))).await?;
        parsed::<Envelope<T>>(refused_unless_success(status, &answer)?).map(|envelope| envelope.data)
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let answered = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        answered.unwrap_or_else(|_| Err(ClientError::Silent { socket: self.socket.clone() }))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream =
            stream.map_err(|error| ClientError::Unreachable { socket: self.socket.clone(), error })?;
        let no_answer = |error| ClientError::NoAnswer { socket: self.socket.clone(), error };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Full::new(body))
            .map_err(|_| ClientError::Unexpected("its name does not fit into a path"))?;
        let response = sender.send_request(request).await.map_err(no_answer)?;
        let status = response.status().as_u16();
        let collected = response.into_body().collect().await.map_err(no_answer)?;
        connection.abort();
        Ok((status, Zeroizing::new(collected.to_bytes().to_vec())))
    }
}

fn wiped(body: &Value) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(body.to_string().into_bytes())
}

fn parsed<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|_| ClientError::Unexpected("not the JSON of keyringd; what listens there?"))
}

/// The body of a success, or the daemon's own words.
fn refused_unless_success(status: u16, body: &[u8]) -> Result<&[u8], ClientError> {
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|body| {
        let one = body.get("error").or_else(|| body.get("errors")?.get(0))?;
        one.as_str().map(str::to_owned)
    });
    Err(ClientError::Refused(said.unwrap_or_else(|| format!("keyringd answered with status {status}"))))
}
