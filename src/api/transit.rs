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
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hmac;
mod place;
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
    envelope::{self, Warnings},
    error::ApiError,
    response::{self, Response},
};
use crate::{
    cipher::{self, Batch, Binding, Format, OpenedText, encoding},
    keyring::{Formats, HeldKey, Keyring, KongFields},
};
pub(super) use attempt::Action;
use attempt::{Attempt, UnknownKey, count_sealed, end_item, key_of_version, needs_rewrap, write_key};
pub(super) use datakey::{Form, data_key};
use error::ItemError;
use fields::{Item, decode};
pub(super) use hmac::{hmac, verify};
use place::{Place, bytes_of_both};
use request::{Input, Request, form_as_json, is_form};
pub(super) use tools::{hash, random};
use work::{ITEM_RESPONSE, Turn};

/// `POST /v1/transit/{encrypt,decrypt,rewrap}/{name}`: on the snapshot, or on a newer one that may have a key that it lacks.
pub(super) async fn run(call: &mut Call<'_>, action: Action) -> Result<Response, ApiError> {
    work::prepare(call, Some(action)).await?;
    let entry = call.keyring()?;
    let mut keyring = call.context.snapshot(entry).await?;
    let mut unavailable = None;
    let mut attempt = attempt(call, action, &keyring, UnknownKey::Report).await?;
    if let Some(unknown) = attempt.unknown_key.take() {
        match Box::pin(call.context.newer_snapshot(entry, &keyring, || unknown.to_string())).await {
            Ok(newer) => keyring = newer.unwrap_or(keyring),
            Err(error) => unavailable = Some(error),
        }
        attempt = self::attempt(call, action, &keyring, UnknownKey::Fail).await?;
    }
    // A batch keeps the results that it has.
    let unavailable = unavailable.filter(|_| !attempt.has_results());
    call.audit = attempt.audit;
    unavailable.map_or(attempt.result, Err)
}

async fn attempt(
    call: &mut Call<'_>,
    action: Action,
    keyring: &Keyring,
    unknown_key: UnknownKey,
) -> Result<Attempt, ApiError> {
    let turn = Turn::take(call).await?;
    let (limits, headers) = (&call.config.limits, &call.head.headers);
    let formats = call.keyring()?.formats_of(keyring);
    let json = Json { action, keyring, formats, limits, unknown_key };
    Ok(turn.work(|| {
        if raw::is_raw(headers) {
            raw::run(action, keyring, formats, headers, call.body.buffer(), limits.request_size)
        } else if is_form(headers, call.body.as_bytes()) {
            match form_as_json(call.body.as_bytes()) {
                Ok(mut body) => json.run(&mut body),
                Err(message) => Attempt::failed(ApiError::invalid(message)),
            }
        } else {
            json.run(call.body.as_bytes_mut())
        }
    }))
}

/// A JSON request to be run on one snapshot.
struct Json<'k> {
    action: Action,
    keyring: &'k Keyring,
    formats: Formats,
    limits: &'k Limits,
    unknown_key: UnknownKey,
}

impl Json<'_> {
    /// Parses the body and runs it where it is. It stays as it was if an unknown key is to be reported.
    fn run(&self, body: &mut [u8]) -> Attempt {
        let &Self { action, keyring, formats, limits, unknown_key } = self;
        let parsed = Request::parse(action.endpoint(), body, limits.batch).map_err(ApiError::invalid);
        let ready = parsed.and_then(|request| Ok((format(action, &request, formats)?, request)));
        let (format, request) = match ready {
            Ok(ready) => ready,
            Err(error) => return Attempt::failed(error),
        };
        let Request { input, warnings, partial_failure_status, .. } = request;
        let input = input.map(|text| Place::find(text, body));
        let items = input.items();
        if action != Action::Encrypt && unknown_key == UnknownKey::Report {
            let mut texts = items.iter().filter_map(|item| Some(item.sealed.as_ref()?.bytes(body)));
            let unknown = texts.find_map(|text| cipher::unknown_key(keyring, text, formats.kong_fields));
            if let Some(unknown) = unknown {
                return Attempt::unknown_key(unknown);
            }
        }
        let sealed = if action == Action::Decrypt { 0 } else { items.len() };
        match Batch::to_seal(sealed) {
            Ok(mut batch) => {
                let (batch, max_request) = (&mut batch, limits.request_size);
                let mut run = Run { action, keyring, formats, format, batch, max_request };
                run.all(input, body, warnings, partial_failure_status)
            }
            Err(error) => Attempt::failed(ApiError::failed(error.to_string())),
        }
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

/// A JSON request on one snapshot. Texts are handled where they are in the body.
struct Run<'k, 'b> {
    action: Action,
    keyring: &'k Keyring,
    formats: Formats,
    format: Format,
    batch: &'b mut Batch,
    /// The limit on a request's body: a ciphertext must fit into one to be decrypted.
    max_request: usize,
}

impl<'k> Run<'k, '_> {
    fn all(
        &mut self,
        input: Input<Place>,
        body: &mut [u8],
        mut warnings: Warnings,
        status: Option<StatusCode>,
    ) -> Attempt {
        let mut out = Vec::with_capacity(envelope::LEN + self.response_len(input.items()));
        envelope::open(&mut out);
        match input {
            Input::One(item) => self.single(item, body, &warnings, out),
            Input::Batch(items) => {
                let count = items.len();
                let failed = self.batch(items, body, &mut out);
                let status = match failed {
                    // Transit reports the failed items of a rewrap in the items only.
                    _ if self.action == Action::Rewrap || failed == 0 => StatusCode::OK,
                    _ if failed == count => StatusCode::BAD_REQUEST,
                    _ => status.unwrap_or_else(|| {
                        warnings
                            .push("partial_failure_response_code is no status that has a body: 400 is used");
                        StatusCode::BAD_REQUEST
                    }),
                };
                envelope::close(&warnings, &mut out);
                let batch = Some(BatchCount { items: count, failed });
                let audit = AuditFields { batch, ..AuditFields::default() };
                Attempt { result: Ok(response::written(status, out)), audit, unknown_key: None }
            }
        }
    }

    /// The most bytes of the response without its envelope. A field of Kong's takes two digits per byte.
    fn response_len(&self, items: &[Item<Place>]) -> usize {
        let len = |place: &Option<Place>| place.as_ref().map_or(0, Place::len);
        let of_item = |item: &Item<Place>| {
            let payload = len(if self.action == Action::Encrypt { &item.clear } else { &item.sealed });
            let payload = if self.format == Format::Kong { payload.div_ceil(2) * 3 } else { payload };
            payload + len(&item.reference) + ITEM_RESPONSE
        };
        items.iter().map(of_item).sum()
    }

    fn single(
        &mut self,
        item: Item<Place>,
        body: &mut [u8],
        warnings: &Warnings,
        mut out: Vec<u8>,
    ) -> Attempt {
        out.push(b'{');
        match self.one(item, body, &mut out) {
            Ok(held) => {
                out.push(b'}');
                envelope::close(warnings, &mut out);
                let audit = AuditFields::from_key(held.key.id());
                Attempt { result: Ok(response::written(StatusCode::OK, out)), audit, unknown_key: None }
            }
            Err(error) => Attempt { audit: error.audit(), result: Err(error.into()), unknown_key: None },
        }
    }

    /// Returns how many items failed.
    fn batch(&mut self, items: Vec<Item<Place>>, body: &mut [u8], out: &mut Vec<u8>) -> usize {
        let mut failed = 0;
        out.extend_from_slice(br#"{"batch_results":["#);
        for (at, mut item) in items.into_iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            let reference = item.reference.take();
            if let Err(error) = self.one(item, body, out) {
                failed += 1;
                if self.action == Action::Decrypt {
                    out.extend_from_slice(br#""plaintext":"","#); // as Transit has it
                }
                error.write(out);
            }
            let reference = reference.as_ref().map_or(&b""[..], |place| place.bytes(body));
            end_item(str::from_utf8(reference).unwrap_or_default(), out);
        }
        out.extend_from_slice(b"]}");
        failed
    }

    /// Appends one item's result to `out` and returns its key. A failure appends nothing.
    fn one(
        &mut self,
        item: Item<Place>,
        body: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<&'k HeldKey, ItemError> {
        let Item { clear, sealed, mut associated_data, context, key_version, .. } = item;
        let context = context.as_ref().map_or(&b""[..], |place| place.bytes(body));
        let context = decode("context", str::from_utf8(context).unwrap_or_default())?;
        let (name, payload) = match self.action {
            Action::Encrypt => ("plaintext", clear),
            Action::Decrypt | Action::Rewrap => ("ciphertext", sealed),
        };
        let mut payload = payload.ok_or(ItemError::Missing(name))?;
        let (payload, associated_data) = bytes_of_both(body, &mut payload, &mut associated_data);
        let associated_data = encoding::decode_in_place(associated_data)
            .map_err(|_| ItemError::NotBase64("associated_data"))?;
        let binding = Binding { associated_data, context: &context };
        if self.action == Action::Decrypt {
            return self.decrypt(payload, binding, out);
        }
        let held = key_of_version(self.keyring, key_version)?;
        let plaintext = if self.action == Action::Rewrap {
            let plaintext = self.open(payload, binding)?.plaintext;
            &mut payload[plaintext]
        } else {
            encoding::decode_in_place(payload).map_err(|_| ItemError::NotBase64(name))?
        };
        self.seal(held, plaintext, binding, out)
    }

    /// `plaintext`, `key_id`, `key_version`, `needs_rewrap`.
    fn decrypt(
        &mut self,
        ciphertext: &mut [u8],
        binding: Binding<'_>,
        out: &mut Vec<u8>,
    ) -> Result<&'k HeldKey, ItemError> {
        let opened = self.open(ciphertext, binding)?;
        out.extend_from_slice(br#""plaintext":""#);
        encoding::encode(&ciphertext[opened.plaintext.clone()], out);
        out.push(b'"');
        write_key(opened.held, out);
        let needs_rewrap = needs_rewrap(&opened, self.keyring, self.formats.write);
        out.extend_from_slice(br#","needs_rewrap":"#);
        out.extend_from_slice(if needs_rewrap { b"true" } else { b"false" });
        Ok(opened.held)
    }

    /// `ciphertext`, `key_id`, `key_version`.
    fn seal(
        &mut self,
        held: &'k HeldKey,
        plaintext: &mut [u8],
        Binding { associated_data, context }: Binding<'_>,
        out: &mut Vec<u8>,
    ) -> Result<&'k HeldKey, ItemError> {
        let derived =
            (!context.is_empty()).then(|| cipher::in_context(held, self.format, context)).transpose()?;
        let before = out.len();
        out.extend_from_slice(br#""ciphertext":""#);
        let under = derived.as_ref().unwrap_or(held);
        let sealed = cipher::seal_text(under, self.format, plaintext, self.batch, associated_data, out);
        if let Err(error) = sealed {
            out.truncate(before);
            return Err(error.into());
        }
        out.push(b'"');
        if decrypt_request_len(out.len() - before, [associated_data.len(), context.len()]) > self.max_request
        {
            out.truncate(before);
            return Err(ItemError::TooLarge);
        }
        write_key(held, out);
        count_sealed(held, self.format, 1);
        Ok(held)
    }

    fn open(&mut self, ciphertext: &mut [u8], binding: Binding<'_>) -> Result<OpenedText<'k>, ItemError> {
        Ok(cipher::open_bound(self.keyring, ciphertext, binding, self.formats.kong_fields, self.batch)?)
    }
}

/// The length of a request that decrypts one ciphertext: its field, and those of what it is bound to.
fn decrypt_request_len(ciphertext_field: usize, bound: [usize; 2]) -> usize {
    let field = |bytes: usize| match bytes {
        0 => 0,
        _ => r#","associated_data":"""#.len() + bytes.div_ceil(3) * 4,
    };
    "{}".len() + ciphertext_field + bound.map(field).iter().sum::<usize>()
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
        let body = r#"{"batch_input": [{"plaintext": "YQ=="}, {"plaintext": "YQ=="}, {"plaintext": "!"}]}"#;
        for (write, expected) in [(Format::Native, 0), (Format::Transit, 2)] {
            let formats = Formats { write, kong_fields: KongFields::Refuse };
            let json = Json {
                action: Action::Encrypt,
                keyring: &keyring,
                formats,
                limits: &limits,
                unknown_key: UnknownKey::Report,
            };
            let response = json.run(&mut body.as_bytes().to_vec()).result.unwrap();
            let json: serde_json::Value = serde_json::from_slice(&response.into_body().bytes).unwrap();
            assert_eq!(json["data"]["batch_results"][1]["key_version"], 1, "{json}");
            assert!(json["data"]["batch_results"][2]["error"].is_string(), "{json}");
            assert_eq!(key.messages(), expected);
        }
    }
}
