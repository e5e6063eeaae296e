//! Data keys: random bytes, sealed under the active key, for what is encrypted elsewhere.
//!
//! `POST /v1/transit/datakey/plaintext/{name}` answers the key and its ciphertext, `…/wrapped/{name}` the ciphertext
//! alone, to be opened later by decrypt. <https://openbao.org/api-docs/secret/transit/#generate-data-key>

use base64_simd::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::{Formats, associated_data, count, request::DataKeyRequest, write_key};
use crate::{
    cipher::{Message, Nonces},
    keyring::Keyring,
    socket::{answer::Answer, audit::Facts},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plaintext,
    Wrapped,
}

impl Form {
    /// Makes a data key under the active key.
    pub fn run(self, keyring: &Keyring, formats: Formats, body: &[u8]) -> Answer {
        self.answer(keyring, formats, body)
            .unwrap_or_else(|(status, message)| Answer::errors(status, message))
    }

    fn answer(self, keyring: &Keyring, formats: Formats, body: &[u8]) -> Result<Answer, (u16, String)> {
        let bad = |message: String| (400, message);
        let request = DataKeyRequest::parse(body).map_err(bad)?;
        let len = match request.bits.unwrap_or(256) {
            bits @ (128 | 256 | 512) => usize::from(bits) / 8,
            _ => return Err(bad("bits must be 128, 256 or 512".to_owned())),
        };
        let associated_data = associated_data(&request.item).map_err(|error| bad(error.to_string()))?;
        let no_randomness = |error: &dyn std::fmt::Display| (500, error.to_string());
        let mut key = Zeroizing::new([0; 64]);
        getrandom::fill(&mut key[..len]).map_err(|error| no_randomness(&error))?;
        let mut nonces = Nonces::draw(1, formats.write).map_err(|error| no_randomness(&error))?;

        let held = keyring.active();
        let message = Message::new(formats.write, len, |buffer| {
            buffer.extend_from_slice(&key[..len]);
            Ok::<_, (u16, String)>(())
        })?;
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"data":{"ciphertext":""#);
        message
            .seal_text(held, &mut nonces, &associated_data, &mut out)
            .map_err(|error| bad(error.to_string()))?;
        out.push(b'"');
        write_key(held, &mut out);
        if self == Self::Plaintext {
            out.extend_from_slice(br#","plaintext":""#);
            BASE64.encode_append(&key[..len], &mut out);
            out.push(b'"');
        }
        out.extend_from_slice(b"}}");
        count(held, formats.write, 1);
        let facts = Facts { key_id: Some(held.key.id().clone()), ..Facts::default() };
        Ok(Answer::written(200, out).about(facts))
    }
}
