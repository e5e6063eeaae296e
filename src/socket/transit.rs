//! Encrypt and decrypt in the shapes of Vault's Transit API.
//!
//! <https://openbao.org/api-docs/secret/transit/>. `request` reads the JSON; here each item goes through the cipher
//! and its result is written straight into the answer. Pure: bytes and a keyring in, an answer out.

mod request;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use base64_simd::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::answer::Answer;
use crate::{
    cipher::{
        NoRandomness, OpenError,
        native::{self, Message, Nonces},
    },
    keyring::{HeldKey, Keyring},
};
use request::{Input, Item, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Encrypt,
    Decrypt,
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
}

impl Operation {
    /// The operation that `<operation>/<name>` asks for.
    pub fn of(path: &str, name: &str) -> Result<Self, Answer> {
        let (operation, named) = path.split_once('/').unwrap_or((path, ""));
        let operation = match operation {
            "encrypt" => Self::Encrypt,
            "decrypt" => Self::Decrypt,
            _ => {
                return Err(Answer::errors(
                    404,
                    "no such Transit operation here: encrypt and decrypt are served",
                ));
            }
        };
        if named == name {
            return Ok(operation);
        }
        Err(Answer::errors(
            404,
            format!("no such key name here: this keyring is called {name} (keyring_name)"),
        ))
    }

    /// Runs a request on one keyring from start to end.
    pub fn run(self, keyring: &Keyring, body: &[u8], max_batch: usize) -> Outcome {
        let request = match Request::parse(body, max_batch) {
            Ok(request) => request,
            Err(message) => return Outcome { answer: Answer::errors(400, message), unknown_key: false },
        };
        let items = match &request.input {
            Input::One(item) => std::slice::from_ref(item),
            Input::Batch(items) => items,
        };
        let run = match self {
            Self::Encrypt => {
                Run::encrypting(items.len()).map(|run| run.over(keyring, &request, items, body.len()))
            }
            Self::Decrypt => Ok(Run::Decrypting.over(keyring, &request, items, body.len())),
        };
        run.unwrap_or_else(|error| Outcome {
            answer: Answer::errors(500, error.to_string()),
            unknown_key: false,
        })
    }
}

/// An operation under way, with the nonces that were drawn for it.
enum Run {
    Encrypting(Nonces),
    Decrypting,
}

impl Run {
    fn encrypting(items: usize) -> Result<Self, NoRandomness> {
        Ok(Self::Encrypting(Nonces::draw(items)?))
    }

    fn over(
        mut self,
        keyring: &Keyring,
        request: &Request<'_>,
        items: &[Item<'_>],
        body_len: usize,
    ) -> Outcome {
        // base64 grows a ciphertext's 40 bytes of nonce and tag by a third; with names and braces, 200 bytes an item.
        let mut out = Zeroizing::new(Vec::with_capacity(body_len + 200 * items.len() + 64));
        let mut failed = 0;
        let mut unknown_key = false;
        let batch = matches!(request.input, Input::Batch(_));
        out.extend_from_slice(if batch { br#"{"data":{"batch_results":["# } else { br#"{"data":{"# });
        for (at, item) in items.iter().enumerate() {
            if batch {
                out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            }
            if let Err(error) = self.one(keyring, item, &mut out) {
                unknown_key |= matches!(error, ItemError::Open(OpenError::UnknownKey(_)));
                if !batch {
                    return Outcome { answer: Answer::errors(400, error.to_string()), unknown_key };
                }
                failed += 1;
                out.extend_from_slice(br#""error":"#);
                write_json(&error.to_string(), &mut out);
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
        Outcome { answer: Answer::wiped_json(status, out), unknown_key }
    }

    /// Appends one item's result to `out`, or nothing when it fails.
    fn one(&mut self, keyring: &Keyring, item: &Item<'_>, out: &mut Vec<u8>) -> Result<(), ItemError> {
        match self {
            Self::Encrypting(nonces) => encrypt(keyring, item, nonces, out),
            Self::Decrypting => decrypt(keyring, item, out),
        }
    }
}

/// `ciphertext`, `key_id`, `key_version`. The plaintext is decoded into the buffer that it is sealed in.
fn encrypt(
    keyring: &Keyring,
    item: &Item<'_>,
    nonces: &mut Nonces,
    out: &mut Vec<u8>,
) -> Result<(), ItemError> {
    let plaintext = item.plaintext.as_deref().ok_or(ItemError::Missing("plaintext"))?;
    let associated_data = associated_data(item)?;
    let message = Message::new(BASE64.estimated_decoded_length(plaintext.len()), |buffer| {
        BASE64
            .decode_append(plaintext, buffer)
            .or_else(|_| BASE64.decode_append(without_line_breaks(plaintext).as_str(), buffer))
            .map_err(|_| ItemError::NotBase64("plaintext"))
    })?;
    let active = keyring.active();
    out.extend_from_slice(br#""ciphertext":""#);
    message.seal_text(&active.key, nonces.take(), &associated_data, out);
    out.push(b'"');
    write_key(active, out);
    Ok(())
}

/// `plaintext`, `key_id`, `key_version`, `needs_rewrap`: whether it was sealed under a key that is no longer active.
fn decrypt(keyring: &Keyring, item: &Item<'_>, out: &mut Vec<u8>) -> Result<(), ItemError> {
    let ciphertext = item.ciphertext.as_deref().ok_or(ItemError::Missing("ciphertext"))?;
    let associated_data = associated_data(item)?;
    let (held, plaintext) = native::open_text(keyring, ciphertext, &associated_data)?;
    out.extend_from_slice(br#""plaintext":""#);
    BASE64.encode_append(plaintext.as_bytes(), out);
    out.push(b'"');
    write_key(held, out);
    let needs_rewrap = held.key.id() != keyring.active().key.id();
    out.extend_from_slice(if needs_rewrap {
        br#","needs_rewrap":true"#
    } else {
        br#","needs_rewrap":false"#
    });
    Ok(())
}

fn associated_data(item: &Item<'_>) -> Result<Vec<u8>, ItemError> {
    match item.associated_data.as_deref() {
        None => Ok(Vec::new()),
        Some(text) => BASE64_STANDARD
            .decode(text)
            .or_else(|_| BASE64_STANDARD.decode(without_line_breaks(text).as_str()))
            .map_err(|_| ItemError::NotBase64("associated_data")),
    }
}

/// Transit passes over line breaks in base64, which base64(1) puts there.
fn without_line_breaks(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect())
}

fn write_key(held: &HeldKey, out: &mut Vec<u8>) {
    // A key ID is made of characters that JSON does not escape.
    out.extend_from_slice(br#","key_id":""#);
    out.extend_from_slice(held.key.id().as_str().as_bytes());
    out.extend_from_slice(br#"","key_version":"#);
    out.extend_from_slice(held.version.to_string().as_bytes());
}

fn write_json(text: &str, out: &mut Vec<u8>) {
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}
