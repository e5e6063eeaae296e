//! Encrypt and decrypt of raw bytes: `application/octet-stream` in and out, in the buffer that the body was read into.
//!
//! The associated data are in a header. Encrypt writes the native format's binary form, whatever format texts have; decrypt
//! reads any form that its first bytes identify.

use hyper::{
    StatusCode,
    body::Bytes,
    header::{self, HeaderMap, HeaderName},
};

use super::{
    attempt::{Action, Attempt, needs_rewrap},
    error::ItemError,
    fields::decode,
};
use crate::{
    api::{
        audit::AuditFields,
        body::RequestBody,
        error::{ApiError, ErrorKind},
        response::{self, Response},
    },
    cipher::{self, Batch, Format, Payload},
    keyring::{Formats, HeldKey, Keyring},
};

const CONTENT_TYPE: &str = "application/octet-stream";
const ASSOCIATED_DATA: HeaderName = HeaderName::from_static("keyring-associated-data");
const KEY_ID: HeaderName = HeaderName::from_static("keyring-key-id");
const KEY_VERSION: HeaderName = HeaderName::from_static("keyring-key-version");
const NEEDS_REWRAP: HeaderName = HeaderName::from_static("keyring-needs-rewrap");

pub(super) fn is_raw(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    if value == CONTENT_TYPE.as_bytes() {
        return true;
    }
    let media_type = value.split(|b| *b == b';').next().unwrap_or(value).trim_ascii();
    media_type.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
}

/// Runs a request on one snapshot. The body stays for another attempt if its key is unknown. What decrypt takes is at most
/// `max_request` bytes long, so encrypt makes no more.
pub(super) fn run(
    action: Action,
    keyring: &Keyring,
    formats: Formats,
    headers: &HeaderMap,
    body: &mut Vec<u8>,
    max_request: usize,
) -> Attempt {
    let associated_data = match associated_data(headers) {
        Ok(associated_data) => associated_data,
        Err(error) => return Attempt::failed(error),
    };
    match action {
        Action::Encrypt if body.len() + cipher::TAG_LEN > max_request => {
            Attempt::failed(ItemError::TooLarge.into())
        }
        Action::Encrypt => encrypt(keyring, &associated_data, body),
        Action::Decrypt => decrypt(keyring, formats, &associated_data, body),
        Action::Rewrap => Attempt::failed(ApiError::new(
            ErrorKind::MediaType,
            "rewrap takes JSON: send a text, or decrypt and encrypt the bytes",
        )),
    }
}

fn encrypt(keyring: &Keyring, associated_data: &[u8], body: &mut Vec<u8>) -> Attempt {
    let mut batch = match Batch::to_seal(1) {
        Ok(batch) => batch,
        Err(error) => return Attempt::failed(ApiError::failed(error.to_string())),
    };
    let (held, body) = (keyring.active(), std::mem::take(body));
    succeeded(held, raw_response(cipher::seal_binary(held, body, &mut batch, associated_data), held))
}

fn decrypt(keyring: &Keyring, formats: Formats, associated_data: &[u8], body: &mut Vec<u8>) -> Attempt {
    let start = RequestBody::HEADROOM;
    // Binary ciphertexts have one format: a rewrap can only change their key.
    let write = if cipher::is_binary(&body[start..]) { Format::Native } else { formats.write };
    match cipher::open_bytes(keyring, body, start, associated_data, formats.kong_fields) {
        Ok(opened) => {
            let needs_rewrap = needs_rewrap(&opened, keyring, write);
            let mut response = raw_response(opened.plaintext, opened.held);
            response::set_header(&mut response, NEEDS_REWRAP, if needs_rewrap { "true" } else { "false" });
            succeeded(opened.held, response)
        }
        Err(error) if error.is_unknown_key() => Attempt::unknown_key(error),
        Err(error) => Attempt::failed(ApiError::invalid(error.to_string())),
    }
}

fn succeeded(held: &HeldKey, response: Response) -> Attempt {
    Attempt { result: Ok(response), audit: AuditFields::from_key(held.key.id()), unknown_key: None }
}

fn raw_response(payload: Payload, held: &HeldKey) -> Response {
    let mut response = response::typed(StatusCode::OK, Bytes::from_owner(payload), CONTENT_TYPE);
    response::set_header(&mut response, KEY_ID, held.key.id().as_str());
    response.headers_mut().insert(KEY_VERSION, held.version.into());
    response
}

fn associated_data(headers: &HeaderMap) -> Result<Vec<u8>, ApiError> {
    let mut values = headers.get_all(ASSOCIATED_DATA).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(Vec::new()),
        // A value that is not ASCII is not base64 either.
        (Some(value), None) => Ok(decode("Keyring-Associated-Data", value.to_str().unwrap_or("?"))?),
        _ => Err(ApiError::invalid("Keyring-Associated-Data is set twice")),
    }
}
