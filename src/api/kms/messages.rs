//! The messages of KMS v2 in Protocol Buffers, and gRPC's frame around one (gRPC over HTTP/2, "Length-Prefixed-Message").
//!
//! Numbers and types are those of Kubernetes (`tests/integration/kms/v2.proto`). Messages with a plaintext have no `Debug`.

use std::collections::HashMap;

use hyper::body::Bytes;
use prost::Message;

use crate::api::{
    error::{ApiError, ErrorKind},
    response::{self, Response},
};

/// The flag "not compressed" and the length of the message.
const FRAME: usize = 5;

#[derive(Clone, PartialEq, Eq, Message)]
pub struct StatusRequest {}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    /// `ok`, or the reason why not.
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DecryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub ciphertext: Bytes,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(map = "string, bytes", tag = "4")]
    pub annotations: HashMap<String, Bytes>,
}

#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct DecryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    pub plaintext: Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct EncryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub plaintext: Bytes,
    #[prost(string, tag = "2")]
    pub uid: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct EncryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    pub ciphertext: Bytes,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(map = "string, bytes", tag = "3")]
    pub annotations: HashMap<String, Bytes>,
}

/// Decodes the one message of a call.
pub fn decode<M: Message + Default>(mut frame: Bytes) -> Result<M, ApiError> {
    let Some((&[compressed, ref len @ ..], message)) = frame.split_first_chunk::<FRAME>() else {
        return Err(ApiError::invalid("the call has no message"));
    };
    if compressed != 0 {
        return Err(ApiError::new(ErrorKind::NoRoute, "the message is compressed: send it uncompressed"));
    }
    if usize::try_from(u32::from_be_bytes(*len)) != Ok(message.len()) {
        return Err(ApiError::invalid("the body is not one whole message"));
    }
    M::decode(frame.split_off(FRAME))
        .map_err(|error| ApiError::invalid(format!("the message is invalid: {error}")))
}

/// A response with this message. It is shorter than 4 GiB by the limits of the API.
pub(super) fn respond(message: &impl Message) -> Response {
    let len = message.encoded_len();
    let mut frame = Vec::with_capacity(FRAME + len);
    frame.push(0);
    frame.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    // A vector grows as needed, so encoding cannot fail.
    let _ = message.encode(&mut frame);
    response::grpc(frame.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_numbers_and_types_of_kubernetes() {
        let text = str::to_owned;
        let annotations = || HashMap::from([(text("k"), Bytes::from_static(b"v"))]);
        let bytes = Bytes::from_static;
        let status = StatusResponse { version: text("v2"), healthz: text("ok"), key_id: text("a") };
        let (ciphertext, uid, key_id) = (bytes(b"c"), text("u"), text("a"));
        let decrypt = DecryptRequest {
            ciphertext: ciphertext.clone(),
            uid,
            key_id: key_id.clone(),
            annotations: annotations(),
        };
        let encrypted = EncryptResponse { ciphertext, key_id, annotations: annotations() };
        for (encoded, expected) in [
            (StatusRequest {}.encode_to_vec(), &b""[..]),
            (status.encode_to_vec(), b"\x0a\x02v2\x12\x02ok\x1a\x01a"),
            (decrypt.encode_to_vec(), b"\x0a\x01c\x12\x01u\x1a\x01a\x22\x06\x0a\x01k\x12\x01v"),
            (DecryptResponse { plaintext: bytes(b"p") }.encode_to_vec(), b"\x0a\x01p"),
            (
                EncryptRequest { plaintext: bytes(b"p"), uid: text("u") }.encode_to_vec(),
                b"\x0a\x01p\x12\x01u",
            ),
            (encrypted.encode_to_vec(), b"\x0a\x01c\x12\x01a\x1a\x06\x0a\x01k\x12\x01v"),
        ] {
            assert_eq!(encoded, expected);
        }
    }

    #[test]
    fn a_frame_holds_exactly_one_uncompressed_message() {
        let response = respond(&EncryptRequest { plaintext: Bytes::from_static(b"p"), uid: "u".to_owned() });
        let frame = response.into_body().bytes;
        assert_eq!(frame, &b"\0\0\0\0\x06\x0a\x01p\x12\x01u"[..]);
        let decoded = |frame: &[u8]| decode::<EncryptRequest>(Bytes::copy_from_slice(frame));
        assert_eq!(decoded(&frame).ok().map(|request| request.uid), Some("u".to_owned()));
        let code = |frame: &[u8]| decoded(frame).err().map(|error| error.grpc_code() as u32);
        for invalid in
            [b"", &b"\0\0\0\0"[..], &frame[..8], b"\0\0\0\0\x01\xff", &[&frame[..], b"\0"].concat()]
        {
            assert_eq!(code(invalid), Some(3), "{invalid:?}");
        }
        assert_eq!(code(b"\x01\0\0\0\0"), Some(12));
    }
}
