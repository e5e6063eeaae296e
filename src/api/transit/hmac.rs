//! HMACs under the keyring's keys: made and verified in Transit's wire format.
//!
//! Paths: `/v1/transit/hmac/{name}[/{algorithm}]`, `/v1/transit/verify/{name}[/{algorithm}]`. A batch is always 200, and its
//! items fail by themselves. <https://openbao.org/api-docs/secret/transit/#generate-hmac>

use hyper::StatusCode;

use super::{
    attempt::key_of_version,
    error::ItemError,
    fields::{Endpoint, Item, decode},
    request::{Input, Request, as_json},
    values::Text,
    work::{self, Turn},
};
use crate::{
    api::{
        audit::{AuditFields, BatchCount},
        context::Call,
        envelope::{self, write_json},
        error::ApiError,
        response::{self, Response},
    },
    cipher::mac::{self, HashAlgorithm},
    keyring::Keyring,
};

/// `POST /v1/transit/hmac/{name}[/{algorithm}]`
pub(in crate::api) async fn hmac(call: &mut Call<'_>) -> Result<Response, ApiError> {
    run(call, Endpoint::Hmac).await
}

/// `POST /v1/transit/verify/{name}[/{algorithm}]`
pub(in crate::api) async fn verify(call: &mut Call<'_>) -> Result<Response, ApiError> {
    run(call, Endpoint::Verify).await
}

async fn run(call: &mut Call<'_>, endpoint: Endpoint) -> Result<Response, ApiError> {
    work::prepare(call, None).await?;
    let keyring = call.context.snapshot(call.keyring()?).await?;
    Turn::take(call).await?.work(|| respond(call, endpoint, &keyring))
}

fn respond(call: &mut Call<'_>, endpoint: Endpoint, keyring: &Keyring) -> Result<Response, ApiError> {
    let body = as_json(&call.head.headers, call.body.as_bytes()).map_err(ApiError::invalid)?;
    let request = Request::parse(endpoint, &body, call.config.limits.batch).map_err(ApiError::invalid)?;
    let algorithm = algorithm(call.tail, &request)?;
    if endpoint == Endpoint::Verify {
        check_kind(&request)?;
    } else {
        // An item's own version does not count, so one that does not exist fails them all.
        key_of_version(keyring, request.items()[0].key_version)?;
    }
    let mut out = Vec::with_capacity(envelope::LEN + 200 * request.items().len());
    envelope::open(&mut out);
    out.push(b'{');
    match &request.input {
        Input::One(item) => one(endpoint, keyring, algorithm, item, &mut out)?,
        Input::Batch(items) => {
            let failed = batch(endpoint, keyring, algorithm, items, &mut out);
            let batch = Some(BatchCount { items: items.len(), failed });
            call.audit = AuditFields { batch, ..AuditFields::default() };
        }
    }
    out.push(b'}');
    envelope::close(&request.warnings, &mut out);
    Ok(response::written(StatusCode::OK, out))
}

/// The path's algorithm, else the body's, else SHA-256.
pub(super) fn algorithm(path: &str, request: &Request<'_>) -> Result<HashAlgorithm, ApiError> {
    let name = if path.is_empty() { request.algorithm.as_deref().unwrap_or("sha2-256") } else { path };
    HashAlgorithm::parse(name).ok_or_else(|| {
        ApiError::invalid(
            "unsupported algorithm: sha2-224, sha2-256, sha2-384, sha2-512 and the same of sha3 are",
        )
    })
}

/// Signatures are of asymmetric keys.
fn check_kind(request: &Request<'_>) -> Result<(), ApiError> {
    let items = request.items();
    if items.iter().any(|item| item.signed) {
        return Err(ApiError::invalid("a symmetric key has no signatures: verify takes hmac"));
    }
    if items.iter().all(|item| item.sealed.is_none()) {
        return Err(ApiError::invalid("missing hmac: no signature or HMAC was given to verify"));
    }
    Ok(())
}

/// Returns how many items failed.
fn batch(
    endpoint: Endpoint,
    keyring: &Keyring,
    algorithm: HashAlgorithm,
    items: &[Item<Text<'_>>],
    out: &mut Vec<u8>,
) -> usize {
    let mut failed = 0;
    out.extend_from_slice(br#""batch_results":["#);
    for (at, item) in items.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
        let outcome = match (endpoint, &item.clear) {
            (Endpoint::Verify, None) => Err(ItemError::Missing("input")),
            _ => one(endpoint, keyring, algorithm, item, out),
        };
        if let Err(error) = outcome {
            failed += 1;
            out.extend_from_slice(br#""error":"#);
            write_json(&error.to_string(), out);
        }
        out.extend_from_slice(br#","reference":"#);
        write_json(item.reference.as_deref().unwrap_or(""), out);
        out.push(b'}');
    }
    out.push(b']');
    failed
}

/// Appends one item's result to `out`. A failure appends nothing.
fn one(
    endpoint: Endpoint,
    keyring: &Keyring,
    algorithm: HashAlgorithm,
    item: &Item<Text<'_>>,
    out: &mut Vec<u8>,
) -> Result<(), ItemError> {
    if endpoint == Endpoint::Verify {
        let input = decode("input", item.clear.as_deref().unwrap_or(""))?;
        let hmac = item.sealed.as_deref().ok_or(ItemError::Missing("hmac"))?;
        let valid = mac::verify_mac(keyring, algorithm, &input, hmac)?;
        out.extend_from_slice(if valid { br#""valid":true"# } else { br#""valid":false"# });
        return Ok(());
    }
    let input = decode("input", item.clear.as_deref().ok_or(ItemError::Missing("input"))?)?;
    let held = key_of_version(keyring, item.key_version)?;
    out.extend_from_slice(br#""hmac":""#);
    mac::write_mac(held, algorithm, &input, out);
    out.push(b'"');
    Ok(())
}
