//! Responses: a status, a body that is complete in memory, and a few headers. [`error`] is the one place that renders an
//! [`ApiError`], in the shape of the route's family.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    StatusCode,
    body::{Bytes, Frame, SizeHint},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde_json::json;

use super::error::{ApiError, ErrorKind, GrpcCode};

/// How long a client should wait when there are no keys yet, or a limit is reached. The first retries towards Vault are as
/// close together.
const RETRY_AFTER_SECONDS: &str = "2";

pub(super) type Response = hyper::Response<Body>;

/// The shape of errors in one family of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorFormat {
    /// `{"errors": ["…"]}`
    Vault,
    /// `{"error": "…"}`
    Kong,
    /// The message and a line break.
    Text,
    /// A gRPC status in the headers; HTTP's is always 200.
    Grpc,
}

/// Bytes that are complete.
#[derive(Debug, Default)]
pub struct Body {
    pub(super) bytes: Bytes,
    /// gRPC's status OK follows as a trailer.
    has_trailer: bool,
}

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a `grpc-message` has percent-encoded, besides what is not ASCII (gRPC over HTTP/2, "Percent-Encoded").
const NOT_IN_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Renders an error.
pub(super) fn error(error: ApiError, format: ErrorFormat) -> Response {
    let (status, code, message) = (error.status(), error.grpc_code(), error.message);
    let mut response = match format {
        ErrorFormat::Vault => json(status, &json!({ "errors": [message] })),
        ErrorFormat::Kong => json(status, &json!({ "error": message })),
        ErrorFormat::Text => text(status, format!("{message}\n")),
        ErrorFormat::Grpc => {
            let mut response = typed(StatusCode::OK, Bytes::new(), GRPC);
            response.headers_mut().insert(GRPC_STATUS, (code as u16).into());
            let message = utf8_percent_encode(&message, NOT_IN_MESSAGE).to_string();
            set_header(&mut response, GRPC_MESSAGE, &message);
            return response;
        }
    };
    let headers = response.headers_mut();
    match error.kind {
        ErrorKind::Method(methods) => {
            headers
                .extend(HeaderValue::from_str(&methods.join(", ")).ok().map(|value| (header::ALLOW, value)));
        }
        ErrorKind::Busy | ErrorKind::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        _ => {}
    }
    if error.closes_connection {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A value as JSON. It must not be secret: serialising it leaves copies.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    written(status, serde_json::to_vec(value).unwrap_or_default())
}

/// JSON that is serialised already.
pub(super) fn written(status: StatusCode, json: Vec<u8>) -> Response {
    typed(status, json.into(), "application/json")
}

pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    typed(status, text.into().into(), "text/plain; charset=utf-8")
}

/// A body with its content type.
pub(super) fn typed(status: StatusCode, bytes: Bytes, content_type: &'static str) -> Response {
    let mut response = empty(status);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.body_mut().bytes = bytes;
    response
}

/// A framed gRPC message with the status OK.
pub(super) fn grpc(frame: Bytes) -> Response {
    let mut response = typed(StatusCode::OK, frame, GRPC);
    response.body_mut().has_trailer = true;
    response
}

pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Sets a header, unless the text does not fit into one.
pub(super) fn set_header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
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
            let status = (GRPC_STATUS, HeaderValue::from(GrpcCode::Ok as u16));
            std::mem::take(&mut self.has_trailer).then(|| Frame::trailers(HeaderMap::from_iter([status])))
        } else {
            Some(Frame::data(std::mem::take(&mut self.bytes)))
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && !self.has_trailer
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_one_rendering_per_family() {
        let rendered = |format| error(ApiError::unavailable("no keys"), format);
        for (format, body) in [
            (ErrorFormat::Vault, r#"{"errors":["no keys"]}"#),
            (ErrorFormat::Kong, r#"{"error":"no keys"}"#),
            (ErrorFormat::Text, "no keys\n"),
        ] {
            let response = rendered(format);
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["retry-after"], "2");
            assert_eq!(response.into_body().bytes, body);
        }
        let grpc = rendered(ErrorFormat::Grpc);
        assert_eq!(grpc.status(), StatusCode::OK);
        assert_eq!(grpc.headers()["content-type"], "application/grpc");
        assert_eq!(grpc.headers()["grpc-status"], "14");
        assert_eq!(grpc.headers()["grpc-message"], "no keys");
        let escaped = error(ApiError::invalid("50%\n…"), ErrorFormat::Grpc);
        assert_eq!(escaped.headers()["grpc-message"], "50%25%0A%E2%80%A6");
    }
}
