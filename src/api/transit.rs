//! Vault's Transit API: encrypt, decrypt and rewrap, in JSON or as raw bytes, data keys, HMACs, hashes and random
//! bytes.
//!
//! <https://openbao.org/api-docs/secret/transit/>. `request` parses JSON and forms, `raw` handles bodies of raw bytes. Here
//! each item of a JSON request goes through the cipher, and its result is written straight into the response. The file is
//! longer than others: the three operations share one way through a batch.

mod attempt;
mod datakey;
mod error;
mod fields;
mod hmac;
mod raw;
mod request;
mod tools;
mod values;
mod work;

use hyper::StatusCode;

use super::{
    audit::{AuditFields, BatchCount},
    body::Limits,
    context::Call,
    envelope::{self, Warnings, write_json},
    error::ApiError,
    response::{self, Response},
};
use crate::{
    cipher::{self, Format, Message, Nonces, Opened, encoding},
    keyring::{Formats, HeldKey, Keyring, KongFields},
};
pub(super) use attempt::Action;
use attempt::{Attempt, count_sealed, key_of_version, needs_rewrap, write_key};
pub(super) use datakey::{Form, data_key};
use error::ItemError;
use fields::Item;
pub(super) use hmac::{hmac, verify};
use request::{Input, Request, as_json};
pub(super) use tools::{hash, random};
use work::{ITEM_RESPONSE, Turn};

/// `POST /v1/transit/{encrypt,decrypt,rewrap}/{name}`: one attempt on the snapshot, and another one if a newer snapshot may have a key that it lacks.
pub(super) async fn run(call: &mut Call<'_>, action: Action) -> Result<Response, ApiError> {
    work::prepare(call, Some(action)).await?;
    let entry = call.keyring()?;
    let keyring = call.context.snapshot(entry).await?;
    let mut attempt = attempt(call, action, &keyring).await?;
    if attempt.unknown_key {
        let unknown = || attempt.result.as_ref().err().map_or_else(String::new, ToString::to_string);
        match Box::pin(call.context.newer_snapshot(entry, &keyring, unknown)).await {
            Ok(Some(newer)) => attempt = self::attempt(call, action, &newer).await?,
            Err(error) if !attempt.has_results() => attempt.result = Err(error),
            // A batch keeps the results that it has.
            Ok(None) | Err(_) => {}
        }
    }
    call.audit = attempt.audit;
    attempt.result
}

async fn attempt(call: &mut Call<'_>, action: Action, keyring: &Keyring) -> Result<Attempt, ApiError> {
    let turn = Turn::take(call).await?;
    let (formats, limits) = (call.keyring()?.formats, &call.config.limits);
    Ok(turn.work(|| {
        if raw::is_raw(&call.head.headers) {
            raw::run(action, keyring, formats, &call.head.headers, call.body.buffer(), limits.request_size)
        } else {
            let body = as_json(&call.head.headers, call.body.as_bytes());
            run_json(action, keyring, formats, &body, limits)
        }
    }))
}

fn run_json(action: Action, keyring: &Keyring, formats: Formats, body: &[u8], limits: &Limits) -> Attempt {
    let parsed = Request::parse(action.endpoint(), body, limits.batch).map_err(ApiError::invalid);
    let ready = parsed.and_then(|request| Ok((format(action, &request, formats)?, request)));
    let (format, request) = match ready {
        Ok(ready) => ready,
        Err(error) => return Attempt::failed(error),
    };
    let sealed = if action == Action::Decrypt { 0 } else { request.items().len() };
    match Nonces::draw(sealed, format) {
        Ok(nonces) => {
            let max_request = limits.request_size;
            Run { action, keyring, formats, format, nonces, max_request }.all(&request, body.len())
        }
        Err(error) => Attempt::failed(ApiError::failed(error.to_string())),
    }
}

/// The format to write: the configured one, or what the request asks for, if the settings allow it.
fn format(action: Action, request: &Request<'_>, formats: Formats) -> Result<Format, ApiError> {
    let Some(wanted) = request.format.as_deref() else { return Ok(formats.write) };
    Err(ApiError::invalid(match wanted {
        _ if action == Action::Decrypt => "format is for encrypt and rewrap: decrypt reads every format",
        "native" => return Ok(Format::Native),
        "transit" if formats.write == Format::Transit => return Ok(Format::Transit),
        "transit" => "format transit needs keyring_ciphertext_format = transit",
        "kong" if formats.kong_fields == KongFields::Accept => return Ok(Format::Kong),
        "kong" => "format kong needs keyring_kong_fields = on",
        _ => "format must be native, transit or kong",
    }))
}

/// A JSON request on one snapshot, with the nonces that were drawn for it.
struct Run<'k> {
    action: Action,
    keyring: &'k Keyring,
    formats: Formats,
    format: Format,
    nonces: Nonces,
    /// The limit on a request's body: a ciphertext must fit into one to be decrypted.
    max_request: usize,
}

impl<'k> Run<'k> {
    fn all(&mut self, request: &Request<'_>, body_len: usize) -> Attempt {
        let items = request.items();
        // base64 grows a ciphertext's 40 bytes of nonce and tag by a third; with names and braces, 200 bytes per item.
        // A field of Kong's takes two digits per byte.
        let growth = if self.format == Format::Kong { 2 } else { 1 };
        let mut out = Vec::with_capacity(growth * body_len + ITEM_RESPONSE * items.len() + envelope::LEN);
        envelope::open(&mut out);
        match &request.input {
            Input::One(item) => self.single(item, &request.warnings, out),
            Input::Batch(_) => {
                let (failed, unknown_key) = self.batch(items, &mut out);
                let mut warnings = request.warnings.clone();
                let status = match failed {
                    // Transit reports the failed items of a rewrap in the items only.
                    _ if self.action == Action::Rewrap || failed == 0 => StatusCode::OK,
                    _ if failed == items.len() => StatusCode::BAD_REQUEST,
                    _ => request.partial_failure_status.unwrap_or_else(|| {
                        warnings
                            .push("partial_failure_response_code is no status that has a body: 400 is used");
                        StatusCode::BAD_REQUEST
                    }),
                };
                envelope::close(&warnings, &mut out);
                let batch = Some(BatchCount { items: items.len(), failed });
                let audit = AuditFields { batch, ..AuditFields::default() };
                Attempt { result: Ok(response::written(status, out)), audit, unknown_key }
            }
        }
    }

    fn single(&mut self, item: &Item<'_>, warnings: &Warnings, mut out: Vec<u8>) -> Attempt {
        out.push(b'{');
        match self.one(item, &mut out) {
            Ok(held) => {
                out.push(b'}');
                envelope::close(warnings, &mut out);
                let audit = AuditFields::from_key(held.key.id());
                Attempt { result: Ok(response::written(StatusCode::OK, out)), audit, unknown_key: false }
            }
            Err(error) => {
                let unknown_key = error.is_unknown_key();
                Attempt { audit: error.audit(), result: Err(error.into()), unknown_key }
            }
        }
    }

    /// Returns how many items failed, and whether one names an unknown key.
    fn batch(&mut self, items: &[Item<'_>], out: &mut Vec<u8>) -> (usize, bool) {
        let (mut failed, mut unknown_key) = (0, false);
        out.extend_from_slice(br#"{"batch_results":["#);
        for (at, item) in items.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            if let Err(error) = self.one(item, out) {
                unknown_key |= error.is_unknown_key();
                failed += 1;
                if self.action == Action::Decrypt {
                    out.extend_from_slice(br#""plaintext":"","#); // as Transit has it
                }
                out.extend_from_slice(br#""error":"#);
                write_json(&error.to_string(), out);
            }
            out.extend_from_slice(br#","reference":"#);
            write_json(item.reference.as_deref().unwrap_or(""), out);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
        (failed, unknown_key)
    }

    /// Appends one item's result to `out` and returns its key. A failure appends nothing.
    fn one(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&'k HeldKey, ItemError> {
        match self.action {
            Action::Encrypt => self.encrypt(item, out),
            Action::Decrypt => self.decrypt(item, out),
            Action::Rewrap => self.rewrap(item, out),
        }
    }

    /// `ciphertext`, `key_id`, `key_version`. The plaintext is decoded into the buffer that it is encrypted in.
    fn encrypt(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&'k HeldKey, ItemError> {
        let plaintext = item.clear.as_deref().ok_or(ItemError::Missing("plaintext"))?;
        let held = key_of_version(self.keyring, item.key_version)?;
        let associated_data = item.decoded_associated_data()?;
        let message = Message::new(self.format, encoding::max_decoded_len(plaintext), |buffer| {
            encoding::decode(plaintext, buffer).map_err(|_| ItemError::NotBase64("plaintext"))
        })?;
        self.seal(held, message, &associated_data, out)
    }

    /// `plaintext`, `key_id`, `key_version`, `needs_rewrap`.
    fn decrypt(&self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&'k HeldKey, ItemError> {
        let opened = self.open(item, &item.decoded_associated_data()?)?;
        out.extend_from_slice(br#""plaintext":""#);
        encoding::encode(opened.plaintext.as_bytes(), out);
        out.push(b'"');
        write_key(opened.held, out);
        let needs_rewrap = needs_rewrap(&opened, self.keyring, self.formats.write);
        out.extend_from_slice(br#","needs_rewrap":"#);
        out.extend_from_slice(if needs_rewrap { b"true" } else { b"false" });
        Ok(opened.held)
    }

    /// As encrypt, from any readable format to the one to write.
    fn rewrap(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Result<&'k HeldKey, ItemError> {
        let held = key_of_version(self.keyring, item.key_version)?;
        let associated_data = item.decoded_associated_data()?;
        let opened = self.open(item, &associated_data)?;
        let plaintext = opened.plaintext.as_bytes();
        let message = Message::new(self.format, plaintext.len(), |buffer| {
            buffer.extend_from_slice(plaintext);
            Ok::<_, ItemError>(())
        })?;
        self.seal(held, message, &associated_data, out)
    }

    fn seal(
        &mut self,
        held: &'k HeldKey,
        message: Message,
        associated_data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<&'k HeldKey, ItemError> {
        let before = out.len();
        out.extend_from_slice(br#""ciphertext":""#);
        if let Err(error) = message.seal_text(held, &mut self.nonces, associated_data, out) {
            out.truncate(before);
            return Err(error.into());
        }
        out.push(b'"');
        if decrypt_request_len(out.len() - before, associated_data.len()) > self.max_request {
            out.truncate(before);
            return Err(ItemError::TooLarge);
        }
        write_key(held, out);
        count_sealed(held, self.format, 1);
        Ok(held)
    }

    fn open(&self, item: &Item<'_>, associated_data: &[u8]) -> Result<Opened<'k>, ItemError> {
        let ciphertext = item.sealed.as_deref().ok_or(ItemError::Missing("ciphertext"))?;
        Ok(cipher::open_text(self.keyring, ciphertext, associated_data, self.formats.kong_fields)?)
    }
}

/// The length of a request that decrypts one ciphertext: its field, and the associated data's if there are any.
const fn decrypt_request_len(ciphertext_field: usize, associated_data: usize) -> usize {
    let associated_data_field = if associated_data == 0 {
        0
    } else {
        r#","associated_data":"""#.len() + associated_data.div_ceil(3) * 4
    };
    "{}".len() + ciphertext_field + associated_data_field
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        keyring::{Key, KeyId, KongFields},
        secret::Secret,
    };

    #[test]
    fn only_messages_with_short_nonces_are_counted() {
        let id = KeyId::parse("a").unwrap();
        let key = Arc::new(Key::new(id.clone(), Secret::new([7; 32])));
        let keyring = Keyring::new([HeldKey::new(Arc::clone(&key), 1, SystemTime::now())], &id).unwrap();
        let limits = Limits::new(1 << 10, 1 << 10, 10);
        let body = br#"{"batch_input": [{"plaintext": "YQ=="}, {"plaintext": "YQ=="}, {"plaintext": "!"}]}"#;
        for (write, expected) in [(Format::Native, 0), (Format::Transit, 2)] {
            let formats = Formats { write, kong_fields: KongFields::Refuse };
            let response = run_json(Action::Encrypt, &keyring, formats, body, &limits).result.unwrap();
            let json: serde_json::Value = serde_json::from_slice(&response.into_body().bytes).unwrap();
            assert_eq!(json["data"]["batch_results"][1]["key_version"], 1, "{json}");
            assert!(json["data"]["batch_results"][2]["error"].is_string(), "{json}");
            assert_eq!(key.messages(), expected);
        }
    }
}
