//! Data keys: random bytes, encrypted under the active key, for encryption elsewhere.
//!
//! `POST /v1/transit/datakey/plaintext/{name}` returns the key and its ciphertext, `…/wrapped/{name}` the ciphertext only, for
//! a later decrypt. <https://openbao.org/api-docs/secret/transit/#generate-data-key>

use base64_simd::STANDARD as BASE64;
use hyper::StatusCode;
use zeroize::Zeroizing;

use super::{
    attempt::{count_sealed, write_key},
    request::DataKeyRequest,
};
use crate::{
    api::{
        audit::AuditFields,
        context::Call,
        error::ApiError,
        response::{self, Response},
    },
    cipher::{Format, Message, Nonces},
    keyring::HeldKey,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Form {
    Plaintext,
    Wrapped,
}

pub(in crate::api) async fn data_key(call: &mut Call<'_>, form: Form) -> Result<Response, ApiError> {
    let keyring = call.context.snapshot(call.keyring).await?;
    let held = keyring.active();
    let json = generate(form, held, call.keyring.formats.write, call.body.as_bytes())?;
    call.audit = AuditFields::from_key(held.key.id());
    Ok(response::written(StatusCode::OK, json))
}

fn generate(form: Form, held: &HeldKey, format: Format, body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let request = DataKeyRequest::parse(body).map_err(ApiError::invalid)?;
    let len = match request.bits.unwrap_or(256) {
        bits @ (128 | 256 | 512) => usize::from(bits) / 8,
        _ => return Err(ApiError::invalid("bits must be 128, 256 or 512")),
    };
    let associated_data = request.item.decoded_associated_data();
    let associated_data = associated_data.ok_or_else(|| {
        ApiError::invalid("associated_data is not base64 (standard alphabet, with padding)")
    })?;
    let mut key = Zeroizing::new([0; 64]);
    getrandom::fill(&mut key[..len]).map_err(|error| ApiError::failed(error.to_string()))?;
    let mut nonces = Nonces::draw(1, format).map_err(|error| ApiError::failed(error.to_string()))?;

    let message = Message::new(format, len, |buffer| {
        buffer.extend_from_slice(&key[..len]);
        Ok::<_, ApiError>(())
    })?;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(br#"{"data":{"ciphertext":""#);
    message
        .seal_text(held, &mut nonces, &associated_data, &mut out)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    out.push(b'"');
    write_key(held, &mut out);
    if form == Form::Plaintext {
        out.extend_from_slice(br#","plaintext":""#);
        BASE64.encode_append(&key[..len], &mut out);
        out.push(b'"');
    }
    out.extend_from_slice(b"}}");
    count_sealed(held, format, 1);
    Ok(out)
}
