//! The one error of the API: what is at fault, and a message for the caller. It is rendered in `response`, once, at the
//! edge. Messages name settings and fields, and never quote a payload or a secret.

use std::borrow::Cow;

use hyper::StatusCode;

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub kind: ErrorKind,
    pub message: Cow<'static, str>,
    /// Part of the request's body was not read, so that the connection cannot carry another request.
    pub closes_connection: bool,
}

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request, or a ciphertext in it.
    Invalid,
    /// A text in the place of a reference. It may be a secret, so the audit must not name it.
    NotAReference,
    /// The peer lacks a permission.
    Denied,
    /// No route, no such keyring, or a compressed gRPC message.
    NoRoute,
    /// The route serves these methods.
    Method(&'static [&'static str]),
    /// The key or secret that was asked for does not exist.
    NotFound,
    /// The body arrived too slowly.
    TooSlow,
    /// Over a size limit.
    TooLarge,
    /// The content type does not fit the operation.
    MediaType,
    /// The daemon is at a limit that others share.
    Busy,
    /// There are no keys yet, or Vault does not answer.
    Unavailable,
    /// The daemon, or Vault for an explicit sync.
    Failed,
}

/// gRPC's status codes, as far as they are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), closes_connection: false }
    }

    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    pub(super) fn closing_connection(self) -> Self {
        Self { closes_connection: true, ..self }
    }

    pub const fn status(&self) -> StatusCode {
        self.row().0
    }

    pub const fn grpc_code(&self) -> GrpcCode {
        self.row().1
    }

    const fn row(&self) -> (StatusCode, GrpcCode) {
        match self.kind {
            ErrorKind::Invalid | ErrorKind::NotAReference => {
                (StatusCode::BAD_REQUEST, GrpcCode::InvalidArgument)
            }
            ErrorKind::Denied => (StatusCode::FORBIDDEN, GrpcCode::PermissionDenied),
            ErrorKind::NoRoute => (StatusCode::NOT_FOUND, GrpcCode::Unimplemented),
            ErrorKind::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, GrpcCode::Unimplemented),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, GrpcCode::NotFound),
            ErrorKind::TooSlow => (StatusCode::REQUEST_TIMEOUT, GrpcCode::DeadlineExceeded),
            ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, GrpcCode::ResourceExhausted),
            ErrorKind::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, GrpcCode::InvalidArgument),
            ErrorKind::Busy => (StatusCode::TOO_MANY_REQUESTS, GrpcCode::ResourceExhausted),
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, GrpcCode::Unavailable),
            ErrorKind::Failed => (StatusCode::INTERNAL_SERVER_ERROR, GrpcCode::Internal),
        }
    }
}
