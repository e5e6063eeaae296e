//! Encrypt, decrypt and rewrap in the shapes of Vault's Transit API, and in files of their own data keys, what is told of
//! the keys, and bodies that are bytes and nothing else.
//!
//! <https://openbao.org/api-docs/secret/transit/>. `request` reads the JSON; here each item goes through the cipher
//! and its result is written straight into the answer. Pure: bytes and a keyring in, an answer out. The file is longer
//! than most: the three operations share one way through a batch.

pub mod datakey;
pub mod keys;
pub mod octets;
mod request;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use base64_simd::STANDARD as BASE64;
use serde::Serialize;

use super::{Limits, answer::Answer, audit::Facts};
use crate::{
    cipher::{self, Format, Message, Nonces, OpenError, Opened, SealError},
    keyring::{HeldKey, Keyring, key},
};
use request::{Input, Item, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Encrypt,
    Decrypt,
    Rewrap,
}

/// Which ciphertexts are written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// What encrypt writes: native or transit.
    pub write: Format,
    /// Whether Kong's own fields are read, and written on request.
    pub kong_fields: bool,
}

/// The answer, and whether a key that was named is not held: then it is worth looking for newer keys.
pub struct Outcome {
    pub answer: Answer,
    pub unknown_key: bool,
}

/// Why one item failed. These words reach the caller.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    #[error("missing {0}")]
    Missing(&'static str),
    #[error("{0} is not base64 (standard alphabet, with padding)")]
    NotBase64(&'static str),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(
        "the ciphertext would be too large to be sent back and opened (keyring_max_request_size): send less, or a stream"
    )]
    TooLarge,
}

impl Operation {
    /// Runs a request on one keyring from start to end.
    pub fn run(self, keyring: &Keyring, formats: Formats, body: &[u8], limits: &Limits) -> Outcome {
        let parsed = Request::parse(body, limits.batch);
        let ready = parsed.and_then(|request| Ok((self.format(&request, formats)?, request)));
        let (format, request) = match ready {
            Ok(ready) => ready,
            Err(message) => return Outcome::known(Answer::errors(400, message)),
        };
        let items = match &request.input {
            Input::One(item) => std::slice::from_ref(item),
            Input::Batch(items) => items,
        };
        let sealed = if self == Self::Decrypt { 0 } else { items.len() };
        match Nonces::draw(sealed, format) {
            Ok(nonces) => {
                let most = limits.request_size;
                let mut run = Run { operation: self, keyring, formats, format, nonces, most };
                run.over(&request, items, body.len())
            }
            Err(error) => Outcome::known(Answer::errors(500, error.to_string())),
        }
    }

    /// The format to write: the configured one, or what the request asks for within what the settings allow.
    fn format(self, request: &Request<'_>, formats: Formats) -> Result<Format, &'static str> {
        let Some(wanted) = request.format.as_deref() else { return Ok(formats.write) };
        match wanted {
            _ if self == Self::Decrypt => Err("format is for encrypt and rewrap: decrypt reads every format"),
            "native" => Ok(Format::Native),
            "transit" if formats.write == Format::Transit => Ok(Format::Transit),
            "transit" => Err("format transit is written only with keyring_ciphertext_format = transit"),
            "kong" if formats.kong_fields => Ok(Format::Kong),
            "kong" => Err("format kong is written only with keyring_kong_fields = on"),
            _ => Err("format must be native, transit or kong"),
        }
    }
}

impl Outcome {
    /// Nothing that newer keys would change.
    pub const fn known(answer: Answer) -> Self {
        Self { answer, unknown_key: false }
    }
}

/// An operation under way, with the nonces that were drawn for it.
struct Run<'k> {
    operation: Operation,
    keyring: &'k Keyring,
    formats: Formats,
    format: Format,
    nonces: Nonces,
    /// The longest body of a request, in which a ciphertext must fit to be opened.
    most: usize,
}

impl Run<'_> {
    fn over(&mut self, request: &Request<'_>, items: &[Item<'_>], body_len: usize) -> Outcome {
        // base64 grows a ciphertext's 40 bytes of nonce and tag by a third; with names and braces, 200 bytes an item.
        // A field of Kong's takes two digits a byte.
        let growth = if self.format == Format::Kong { 2 } else { 1 };
        let mut out = Vec::with_capacity(growth * body_len + 200 * items.len() + 64);
        let mut failed = 0;
        let mut unknown_key = false;
        let mut facts = Facts::default();
        let batch = matches!(request.input, Input::Batch(_));
        out.extend_from_slice(if batch { br#"{"data":{"batch_results":["# } else { br#"{"data":{"# });
        for (at, item) in items.iter().enumerate() {
            if batch {
                out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            }
            match self.one(item, &mut out) {
                Ok(held) if !batch => facts.key_id = Some(held.key.id().clone()),
                Ok(_) => {}
                Err(error) => {
                    unknown_key |= error.is_unknown_key();
                    if !batch {
                        return Outcome { answer: error.answer(), unknown_key };
                    }
                    failed += 1;
                    out.extend_from_slice(br#""error":"#);
                    write_json(&error.to_string(), &mut out);
                }
            }
            if batch {
                out.extend_from_slice(br#","reference":"#);
                write_json(item.reference.as_deref().unwrap_or(""), &mut out);
                out.push(b'}');
            }
        }
        out.extend_from_slice(if batch { b"]}}" } else { b"}}" });
        let status = match failed {
            0 => 200,
            _ if failed < items.len() => request.partial_failure_status,
            _ => 400,
        };
        if batch {
            facts = facts.of_batch(items.len(), failed);
        }
        if self.operation != Operation::Decrypt {
            count(self.keyring.active(), self.format, items.len() - failed);
        }
        Outcome { answer: Answer::written(status, out).about(facts), unknown_key }
    }

    /// Appends one item's result to `out` and answers its key, or appends nothing when it fails.
    fn one(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&HeldKey, ItemError> {
        match self.operation {
            Operation::Encrypt => self.encrypt(item, out),
            Operation::Decrypt => self.decrypt(item, out),
            Operation::Rewrap => self.rewrap(item, out),
        }
    }

    /// `ciphertext`, `key_id`, `key_version`. The plaintext is decoded into the buffer that it is sealed in.
    fn encrypt(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&HeldKey, ItemError> {
        let plaintext = item.plaintext.as_deref().ok_or(ItemError::Missing("plaintext"))?;
        let associated_data = associated_data(item)?;
        let len = BASE64.estimated_decoded_length(plaintext.len());
        let message = Message::new(self.format, len, |buffer| {
            BASE64
                .decode_append(plaintext, buffer)
                .or_else(|_| BASE64.decode_append(without_line_breaks(plaintext).as_str(), buffer))
                .map_err(|_| ItemError::NotBase64("plaintext"))
        })?;
        self.seal(message, &associated_data, out)
    }

    /// `plaintext`, `key_id`, `key_version`, `needs_rewrap`.
    fn decrypt(&self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&HeldKey, ItemError> {
        let opened = self.open(item, &associated_data(item)?)?;
        out.extend_from_slice(br#""plaintext":""#);
        BASE64.encode_append(opened.plaintext.as_bytes(), out);
        out.push(b'"');
        write_key(opened.held, out);
        let needs_rewrap = needs_rewrap(&opened, self.keyring, self.formats);
        out.extend_from_slice(br#","needs_rewrap":"#);
        out.extend_from_slice(if needs_rewrap { b"true" } else { b"false" });
        Ok(opened.held)
    }

    /// As encrypt, from whatever can be opened to the format to write, under the active key.
    fn rewrap(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&HeldKey, ItemError> {
        let associated_data = associated_data(item)?;
        let opened = self.open(item, &associated_data)?;
        let plaintext = opened.plaintext.as_bytes();
        let message = Message::new(self.format, plaintext.len(), |buffer| {
            buffer.extend_from_slice(plaintext);
            Ok::<_, ItemError>(())
        })?;
        self.seal(message, &associated_data, out)
    }

    fn seal(
        &mut self,
        message: Message,
        associated_data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<&HeldKey, ItemError> {
        let (active, before) = (self.keyring.active(), out.len());
        out.extend_from_slice(br#""ciphertext":""#);
        if let Err(error) = message.seal_text(active, &mut self.nonces, associated_data, out) {
            out.truncate(before);
            return Err(error.into());
        }
        out.push(b'"');
        if to_open(out.len() - before, associated_data.len()) > self.most {
            out.truncate(before);
            return Err(ItemError::TooLarge);
        }
        write_key(active, out);
        Ok(active)
    }

    fn open(&self, item: &Item<'_>, associated_data: &[u8]) -> Result<Opened<'_>, ItemError> {
        let ciphertext = item.ciphertext.as_deref().ok_or(ItemError::Missing("ciphertext"))?;
        Ok(cipher::open_text(self.keyring, ciphertext, associated_data, self.formats.kong_fields)?)
    }
}

impl ItemError {
    /// The answer to a request of one item.
    fn answer(&self) -> Answer {
        let key_id = match self {
            Self::Open(OpenError::UnknownKey(id)) => Some(id.clone()),
            _ => None,
        };
        let status = if matches!(self, Self::TooLarge) { 413 } else { 400 };
        Answer::errors(status, self.to_string()).about(Facts { key_id, ..Facts::default() })
    }

    const fn is_unknown_key(&self) -> bool {
        matches!(self, Self::Open(error) if error.is_unknown_key())
    }
}

/// How long a request is that opens one ciphertext: its field, and that of the associated data if there are any.
const fn to_open(field: usize, associated_data: usize) -> usize {
    let bound = if associated_data == 0 {
        0
    } else {
        r#","associated_data":"""#.len() + associated_data.div_ceil(3) * 4
    };
    "{}".len() + field + bound
}

/// Whether a rewrap would change more than the nonce: another key is active by now, or another format configured.
fn needs_rewrap(opened: &Opened<'_>, keyring: &Keyring, formats: Formats) -> bool {
    opened.held.key.id() != keyring.active().key.id() || opened.format != formats.write
}

/// Counts what was sealed with short nonces, and says so when it becomes too much.
fn count(held: &HeldKey, format: Format, sealed: usize) {
    if !format.counts_messages() {
        return;
    }
    let before = held.key.count_messages(sealed as u64);
    let after = before.saturating_add(sealed as u64);
    let crossed = |mark| before < mark && mark <= after;
    if crossed(key::MESSAGES_TO_WARN_FROM) || crossed(key::MESSAGE_BUDGET) {
        tracing::warn!(key_id = %held.key.id(), messages = after, "{}", key::TOO_MANY_MESSAGES);
    }
}

fn associated_data(item: &Item<'_>) -> Result<Vec<u8>, ItemError> {
    item.associated_data.as_deref().map_or_else(|| Ok(Vec::new()), decode_associated_data)
}

fn decode_associated_data(text: &str) -> Result<Vec<u8>, ItemError> {
    BASE64_STANDARD
        .decode(text)
        .or_else(|_| BASE64_STANDARD.decode(without_line_breaks(text).as_str()))
        .map_err(|_| ItemError::NotBase64("associated_data"))
}

/// Transit passes over line breaks in base64, which base64(1) puts there.
fn without_line_breaks(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

fn write_key(held: &HeldKey, out: &mut Vec<u8>) {
    // A key ID is made of characters that JSON does not escape.
    out.extend_from_slice(br#","key_id":""#);
    out.extend_from_slice(held.key.id().as_str().as_bytes());
    out.extend_from_slice(br#"","key_version":"#);
    write_json(&held.version, out);
}

fn write_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    // Writing a text or a number into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::{
        keyring::{Key, KeyId},
        secret::Secret,
    };

    #[test]
    fn messages_with_short_nonces_are_counted_and_no_others() {
        let id = KeyId::parse("a").unwrap();
        let key = Arc::new(Key::new(id.clone(), Secret::new([7; 32])));
        let keyring = Keyring::new([HeldKey::new(Arc::clone(&key), 1, SystemTime::now())], &id).unwrap();
        let limits = Limits {
            request_size: 1 << 10,
            inflight_size: 1 << 10,
            connections: 1,
            batch: 10,
            header_time: Duration::ZERO,
            idle_time: Duration::ZERO,
            body_time: Duration::ZERO,
            write_time: Duration::ZERO,
        };
        let body = br#"{"batch_input": [{"plaintext": "YQ=="}, {"plaintext": "YQ=="}, {"plaintext": "!"}]}"#;
        for (write, expected) in [(Format::Native, 0), (Format::Transit, 2)] {
            let formats = Formats { write, kong_fields: false };
            drop(Operation::Encrypt.run(&keyring, formats, body, &limits));
            assert_eq!(key.messages(), expected);
        }
    }
}
