//! Kubernetes' KMS v2: what an API server asks of a plugin that seals the keys of its storage, in gRPC.
//!
//! <https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/>. `v2` is generated from the messages, `call` answers
//! the three calls from keyring and cipher, `promotion` says which key seals. Here: from a request to an answer in gRPC,
//! and between its codes and the statuses that all else here speaks in. Who may is decided before, as for every request.

mod call;
mod promotion;
#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated"
)]
pub mod v2;

use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    body::Bytes,
    header,
    http::{Version, request::Parts},
};
use tonic::{Code, Status, codegen::Service as _};

use super::{Live, Service, answer::Answer, audit::Facts};
use call::Calls;
pub use promotion::Promotion;
use v2::key_management_service_server::{KeyManagementServiceServer, SERVICE_NAME};

/// What stands in the paths.
pub const SERVICE: &str = SERVICE_NAME;

/// The most bytes of one request: a ciphertext of 1 KiB, annotations of 32 KiB, and their names.
pub const MAX_MESSAGE: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Status,
    Encrypt,
    Decrypt,
}

impl Call {
    /// From the last part of a path.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "Status" => Some(Self::Status),
            "Encrypt" => Some(Self::Encrypt),
            "Decrypt" => Some(Self::Decrypt),
            _ => None,
        }
    }
}

/// Whether a request is in gRPC: over h2, and saying so.
pub fn is_grpc(head: &Parts) -> bool {
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    head.version == Version::HTTP_2 && kind.starts_with(b"application/grpc")
}

/// Answers a call whose whole message was read.
pub async fn answer(service: &Arc<Service>, live: &Arc<Live>, head: &Parts, message: Vec<u8>) -> Answer {
    let calls = Calls { service: Arc::clone(service), live: Arc::clone(live) };
    let mut request = Request::new(Full::new(Bytes::from_owner(message)));
    (*request.uri_mut(), *request.headers_mut()) = (head.uri.clone(), head.headers.clone());
    let Ok(response) = KeyManagementServiceServer::new(calls).call(request).await;
    let (mut head, body) = response.into_parts();
    let meant = Status::from_header_map(&head.headers).map_or(200, |status| status_of(status.code()));
    match body.collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            let answer = Answer::grpc(meant, head.headers, collected.to_bytes(), trailers);
            answer.about(head.extensions.remove::<Facts>().unwrap_or_default())
        }
        Err(status) => in_grpc(Answer::errors(500, status.message())),
    }
}

/// A refusal in gRPC's shape. What has it already stays as it is.
pub fn in_grpc(answer: Answer) -> Answer {
    let Some(why) = answer.refusal() else { return answer };
    let response = Status::new(code_of(answer.status()), why).into_http::<()>();
    Answer::grpc(answer.status(), response.into_parts().0.headers, Bytes::new(), None)
}

/// The code of a status with which a request is refused before it is looked into.
const fn code_of(status: u16) -> Code {
    match status {
        400 => Code::InvalidArgument,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        408 => Code::DeadlineExceeded,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// What the metrics and the audit make of a call's code.
const fn status_of(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::PermissionDenied => 403,
        Code::NotFound | Code::Unimplemented => 404,
        Code::ResourceExhausted => 429,
        Code::Unavailable => 503,
        // Among them Internal, with which tonic refuses what is no message.
        _ => 400,
    }
}
