//! Encrypt and decrypt of a body that is bytes and nothing else: sealed and opened in the buffer that it was read into.
//!
//! `application/octet-stream` in and out; the associated data come in a header. What is sealed is the native format's
//! binary form, whatever format texts are written in; what is opened, any form that can be told by its first bytes.

use hyper::header::{self, HeaderMap, HeaderName};

use super::{Formats, Operation, Outcome, decode_associated_data, needs_rewrap};
use crate::{
    cipher::{self, Format, Nonces},
    keyring::Keyring,
    socket::answer::Answer,
};

/// What must be free ahead of a body that is to be sealed.
pub const ROOM: usize = cipher::ROOM;

const ASSOCIATED_DATA: HeaderName = HeaderName::from_static("keyring-associated-data");

/// Whether a request says that its body is bytes.
pub fn are_meant(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    let kind = kind.split(|b| *b == b';').next().unwrap_or(kind).trim_ascii();
    kind.eq_ignore_ascii_case(b"application/octet-stream")
}

/// Runs a request on one keyring. The body stays for another try when its key is not held. With its room, one that is to be
/// sealed may be `most` bytes long.
pub fn run(
    operation: Operation,
    keyring: &Keyring,
    formats: Formats,
    headers: &HeaderMap,
    body: &mut Vec<u8>,
    most: usize,
) -> Outcome {
    let associated_data = match associated_data(headers) {
        Ok(associated_data) => associated_data,
        Err(message) => return Outcome::known(Answer::errors(400, message)),
    };
    match operation {
        Operation::Encrypt if body.len() + cipher::TAG_LEN > most => {
            let message =
                "the envelope would be too large to be sent back and opened (keyring_max_request_size)";
            Outcome::known(Answer::errors(413, message))
        }
        Operation::Encrypt => encrypt(keyring, &associated_data, body),
        Operation::Decrypt => decrypt(keyring, formats, &associated_data, body),
        Operation::Rewrap => {
            let message = "rewrap takes JSON: send a text, or decrypt and encrypt the bytes";
            Outcome::known(Answer::errors(415, message))
        }
    }
}

fn encrypt(keyring: &Keyring, associated_data: &[u8], body: &mut Vec<u8>) -> Outcome {
    Outcome::known(match Nonces::draw(1, Format::Native) {
        Ok(mut nonces) => {
            let (held, body) = (keyring.active(), std::mem::take(body));
            Answer::octets(cipher::seal_binary(held, body, &mut nonces, associated_data), held)
        }
        Err(error) => Answer::errors(500, error.to_string()),
    })
}

fn decrypt(keyring: &Keyring, formats: Formats, associated_data: &[u8], body: &mut Vec<u8>) -> Outcome {
    // Bytes have one format, so that only their key can be out of date.
    let write = if cipher::is_binary(body) { Format::Native } else { formats.write };
    match cipher::open_bytes(keyring, body, associated_data, formats.kong_fields) {
        Ok(opened) => {
            let needs_rewrap = needs_rewrap(&opened, keyring, Formats { write, ..formats });
            Outcome::known(Answer::octets(opened.plaintext, opened.held).needs_rewrap(needs_rewrap))
        }
        Err(error) => {
            let unknown_key = error.is_unknown_key();
            Outcome { answer: Answer::errors(400, error.to_string()), unknown_key }
        }
    }
}

fn associated_data(headers: &HeaderMap) -> Result<Vec<u8>, &'static str> {
    let mut values = headers.get_all(ASSOCIATED_DATA).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(Vec::new()),
        (Some(value), None) => {
            let text = value.to_str().ok().and_then(|text| decode_associated_data(text).ok());
            text.ok_or("Keyring-Associated-Data is not base64 (standard alphabet, with padding)")
        }
        _ => Err("Keyring-Associated-Data stands twice"),
    }
}
