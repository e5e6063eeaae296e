//! Answers: a status, a body and the few headers that go with them, in the shapes of Vault's API.

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::metrics;

pub type Body = Full<Bytes>;

/// How long a client should wait when there are no keys yet. The first retries towards Vault are as close.
const RETRY_AFTER_SECONDS: &str = "2";

#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    /// A JSON text that is not secret.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self::written(status, body.into())
    }

    /// JSON that is written already. It is wiped once it was sent.
    pub fn wiped_json(status: u16, body: Zeroizing<Vec<u8>>) -> Self {
        Self::written(status, Bytes::from_owner(body))
    }

    fn written(status: u16, body: Bytes) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self { headers: vec![(header::CONTENT_TYPE, json)], ..Self::plain(status, body) }
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
        Self::errors(503, message).with(header::RETRY_AFTER, RETRY_AFTER_SECONDS)
    }

    pub fn not_allowed(methods: &'static str) -> Self {
        Self::errors(405, format!("this path takes {methods} alone")).with(header::ALLOW, methods)
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

    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }

    fn plain(status: u16, body: Bytes) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, body, headers: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }
}
