//! Answers: a status, a body and the few headers that go with them, in the shapes of Vault's API; and as gRPC has them,
//! where the status stands in headers or behind the body, and HTTP's is always 200.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    Response, StatusCode,
    body::{Bytes, Frame, SizeHint},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};

use super::{audit::Facts, inflight::Hold};
use crate::{cipher::Payload, keyring::HeldKey, metrics};

/// How long a client should wait when there are no keys yet, or too much is asked at once. The first retries towards
/// Vault are as close.
const RETRY_AFTER_SECONDS: &str = "2";

/// The headers of an answer that is bytes and nothing else.
const KEY_ID: HeaderName = HeaderName::from_static("keyring-key-id");
const KEY_VERSION: HeaderName = HeaderName::from_static("keyring-key-version");
const NEEDS_REWRAP: HeaderName = HeaderName::from_static("keyring-needs-rewrap");

/// The header that says, without leave to see the status, which name stands in Transit's paths.
const NAME: HeaderName = HeaderName::from_static("keyring-name");

#[derive(Debug)]
pub struct Answer {
    /// What it means, whatever stands on the wire.
    status: StatusCode,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    shape: Shape,
    /// For the audit.
    facts: Facts,
}

#[derive(Debug)]
enum Shape {
    Http,
    /// With what stands behind the body.
    Grpc {
        trailers: Option<Box<HeaderMap>>,
    },
}

/// What goes over the wire: bytes that are there already, and what gRPC sends behind them.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

impl Answer {
    /// A JSON text that is not secret.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self::written(status, body)
    }

    /// JSON that is written already.
    pub fn written(status: u16, body: Vec<u8>) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self { headers: vec![(header::CONTENT_TYPE, json)], ..Self::plain(status, body.into()) }
    }

    /// Bytes as they are, sealed or opened with this key.
    pub fn octets(payload: Payload, held: &HeldKey) -> Self {
        let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let mut answer = Self::plain(200, Bytes::from_owner(payload));
        answer.headers.extend([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
            (KEY_ID, text(held.key.id().as_str())),
            (KEY_VERSION, HeaderValue::from(held.version)),
        ]);
        answer.about(Facts { key_id: Some(held.key.id().clone()), ..Facts::default() })
    }

    /// Whether the ciphertext that was opened should be rewrapped.
    pub fn needs_rewrap(self, needs_rewrap: bool) -> Self {
        self.with(NEEDS_REWRAP, if needs_rewrap { "true" } else { "false" })
    }

    /// Says how the keyring is called.
    pub fn named(mut self, name: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(name).ok().map(|name| (NAME, name)));
        self
    }

    /// `{"errors": ["…"]}`, as Vault answers.
    pub fn errors(status: u16, message: impl AsRef<str>) -> Self {
        Self::json(status, &serde_json::json!({ "errors": [message.as_ref()] }))
    }

    /// `{"error": "…"}`, as the keyring's endpoints answer.
    pub fn error(status: u16, message: impl AsRef<str>) -> Self {
        Self::json(status, &serde_json::json!({ "error": message.as_ref() }))
    }

    /// Try again soon: there are no keys yet.
    pub fn not_yet(message: impl AsRef<str>) -> Self {
        Self::errors(503, message).try_again()
    }

    pub fn try_again(self) -> Self {
        self.with(header::RETRY_AFTER, RETRY_AFTER_SECONDS)
    }

    pub fn not_allowed(methods: &str) -> Self {
        let mut answer = Self::errors(405, format!("this path takes {methods} and nothing else"));
        answer.headers.extend(HeaderValue::from_str(methods).ok().map(|methods| (header::ALLOW, methods)));
        answer
    }

    pub fn text(status: u16, text: impl Into<String>) -> Self {
        let plain = Self::plain(status, text.into().into());
        plain.with(header::CONTENT_TYPE, "text/plain; charset=utf-8")
    }

    /// OpenMetrics text.
    pub fn metrics(text: String) -> Self {
        Self::plain(200, text.into()).with(header::CONTENT_TYPE, metrics::CONTENT_TYPE)
    }

    /// 204.
    pub fn nothing() -> Self {
        Self::plain(204, Bytes::new())
    }

    /// Ends the connection with this answer.
    pub fn and_close(self) -> Self {
        self.with(header::CONNECTION, "close")
    }

    /// What the audit says of it.
    pub fn about(mut self, facts: Facts) -> Self {
        self.facts = facts;
        self
    }

    /// Keeps the request's bytes counted until the answer is sent.
    pub fn holding(mut self, hold: Hold) -> Self {
        self.body = hold.keep(self.body);
        self
    }

    pub const fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Bytes of its body.
    pub const fn body_len(&self) -> usize {
        self.body.len()
    }

    pub fn take_facts(&mut self) -> Facts {
        std::mem::take(&mut self.facts)
    }

    /// Headers, body and trailers as gRPC has them; `status` is what they mean.
    pub fn grpc(status: u16, headers: HeaderMap, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
        let shape = Shape::Grpc { trailers: trailers.map(Box::new) };
        Self { headers, shape, ..Self::plain(status, body) }
    }

    /// The reason of a refusal in the shape of [`Answer::errors`], for saying it in another.
    pub fn refusal(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Errors {
            errors: [String; 1],
        }
        let errors: Errors = match self.shape {
            Shape::Http => serde_json::from_slice(&self.body).ok()?,
            Shape::Grpc { .. } => return None,
        };
        Some(errors.errors.into_iter().collect())
    }

    pub fn into_response(self) -> Response<Body> {
        let (status, trailers) = match self.shape {
            Shape::Http => (self.status, None),
            Shape::Grpc { trailers } => (StatusCode::OK, trailers),
        };
        let mut response = Response::new(Body { bytes: self.body, trailers });
        *response.status_mut() = status;
        response.headers_mut().extend(self.headers);
        response
    }

    fn plain(status: u16, body: Bytes) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, body, headers: Vec::new(), shape: Shape::Http, facts: Facts::default() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = if self.bytes.is_empty() {
            self.trailers.take().map(|trailers| Frame::trailers(*trailers))
        } else {
            Some(Frame::data(std::mem::take(&mut self.bytes)))
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
