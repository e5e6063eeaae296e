//! Data keys: random bytes, encrypted under the active key, for encryption elsewhere.
//!
//! `POST /v1/transit/datakey/plaintext/{name}` returns the key and its ciphertext, `…/wrapped/{name}` the ciphertext only, for
//! a later decrypt. <https://openbao.org/api-docs/secret/transit/#generate-data-key>

use hyper::StatusCode;
use zeroize::Zeroizing;

use super::{
    attempt::{count_sealed, key_of_version, write_key},
    error::ItemError,
    fields::Endpoint,
    request::{Request, as_json},
};
use crate::{
    api::{
        audit::AuditFields,
        context::Call,
        envelope,
        error::ApiError,
        response::{self, Response},
    },
    cipher::{self, Batch, encoding},
    keyring::{Format, HeldKey, Keyring},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Form {
    Plaintext,
    Wrapped,
}

pub(in crate::api) async fn data_key(call: &mut Call<'_>, form: Form) -> Result<Response, ApiError> {
    let entry = call.keyring()?;
    let keyring = call.context.snapshot(entry).await?;
    let body = as_json(&call.head.headers, call.body.as_bytes()).map_err(ApiError::invalid)?;
    let (held, json) = generate(form, &keyring, entry.formats_of(&keyring).write, &body)?;
    call.audit = AuditFields::from_key(held.key.id());
    Ok(response::written(StatusCode::OK, json))
}

fn generate<'k>(
    form: Form,
    keyring: &'k Keyring,
    format: Format,
    body: &[u8],
) -> Result<(&'k HeldKey, Vec<u8>), ApiError> {
    let request = Request::parse(Endpoint::DataKey, body, 0).map_err(ApiError::invalid)?;
    let item = &request.items()[0];
    let len = match request.count.unwrap_or(256) {
        128 => 16,
        256 => 32,
        512 => 64,
        _ => return Err(ApiError::invalid("bits must be 128, 256 or 512")),
    };
    let held = key_of_version(keyring, item.key_version)?;
    let (associated_data, context) = (item.decoded_associated_data()?, item.decoded_context()?);
    let mut key = Zeroizing::new([0; 64]);
    getrandom::fill(&mut key[..len]).map_err(|error| ApiError::failed(error.to_string()))?;
    let mut batch = Batch::to_seal(1).map_err(|error| ApiError::failed(error.to_string()))?;

    let mut sealed = key.clone();
    let mut out = Vec::with_capacity(envelope::LEN + 512);
    envelope::open(&mut out);
    out.extend_from_slice(br#"{"ciphertext":""#);
    let derived = (!context.is_empty()).then(|| cipher::in_context(held, format, &context)).transpose();
    let derived = derived.map_err(ItemError::from)?;
    let under = derived.as_ref().unwrap_or(held);
    cipher::seal_text(under, format, &mut sealed[..len], &mut batch, &associated_data, &mut out)
        .map_err(ItemError::from)?;
    out.push(b'"');
    write_key(held, &mut out);
    if form == Form::Plaintext {
        out.extend_from_slice(br#","plaintext":""#);
        encoding::encode(&key[..len], &mut out);
        out.push(b'"');
    }
    out.push(b'}');
    envelope::close(&request.warnings, &mut out);
    count_sealed(held, format, 1);
    Ok((held, out))
}
