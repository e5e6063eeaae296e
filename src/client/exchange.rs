//! One request over HTTP/1.1 on the socket, and one answer.
//!
//! A body goes out once the daemon has said `100 Continue` (RFC 9110, section 10.1.1): a daemon that does not want one
//! answers at once, and closes a connection on which more of it would arrive.

use std::{convert::Infallible, sync::Arc, time::Duration};

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

use super::{Client, ClientError};

/// How long an answer may take: longer than a sync with a Vault that is slow in every way.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Answer {
    status: u16,
    /// What the daemon calls its keyring, where it says so.
    pub name: Option<String>,
    body: Zeroizing<Vec<u8>>,
}

/// A refusal has no data, but for a batch's.
#[derive(Deserialize)]
struct Refused {
    data: Option<IgnoredAny>,
}

impl Answer {
    /// Whether it is a success, and its text, where that is for people in any case.
    pub fn said(&self) -> (bool, String) {
        ((200..300).contains(&self.status), String::from_utf8_lossy(&self.body).into_owned())
    }

    /// The body of a batch: each of its results says for itself how it went.
    pub fn results(self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let results = serde_json::from_slice::<Refused>(&self.body).is_ok_and(|body| body.data.is_some());
        if self.status == 400 && results { Ok(self.body) } else { self.success() }
    }

    /// The body of a success, or the daemon's own words.
    pub fn success(self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let said = serde_json::from_slice::<Value>(&self.body).ok().and_then(|body| {
            let one = body.get("error").or_else(|| body.get("errors")?.get(0))?;
            one.as_str().map(str::to_owned)
        });
        let said = said.unwrap_or_else(|| format!("keyringd answered with status {}", self.status));
        Err(if self.status == 413 { ClientError::TooLarge(said) } else { ClientError::Refused(said) })
    }
}

impl Client {
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, ClientError> {
        let answered = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        answered.unwrap_or_else(|_| Err(ClientError::Silent { socket: self.socket.clone() }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream =
            stream.map_err(|error| ClientError::Unreachable { socket: self.socket.clone(), error })?;
        let no_answer = |error| ClientError::NoAnswer { socket: self.socket.clone(), error };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        let connection = tokio::spawn(connection);
        let request = request(method, path, body)
            .map_err(|_| ClientError::Unexpected("its name does not fit into a path"))?;
        let response = sender.send_request(request).await.map_err(no_answer)?;
        let status = response.status().as_u16();
        let name = response.headers().get("keyring-name").and_then(|name| name.to_str().ok());
        let name = name.map(str::to_owned);
        let collected = response.into_body().collect().await.map_err(no_answer)?;
        connection.abort();
        Ok(Answer { status, name, body: Zeroizing::new(collected.to_bytes().to_vec()) })
    }
}

fn request(
    method: Method,
    path: &str,
    body: Zeroizing<Vec<u8>>,
) -> hyper::http::Result<Request<impl Body<Data = Bytes, Error = Infallible> + Send + 'static>> {
    let go_ahead = Arc::new(Notify::new());
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_LENGTH, body.len());
    if body.is_empty() {
        go_ahead.notify_one();
    } else {
        builder = builder.header(header::EXPECT, "100-continue");
    }
    let told = Arc::clone(&go_ahead);
    let body = stream::once(async move {
        told.notified().await;
        Ok(Frame::data(Bytes::from_owner(body)))
    });
    let mut request = builder.body(StreamBody::new(body))?;
    on_informational(&mut request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            go_ahead.notify_one();
        }
    });
    Ok(request)
}
