//! `POST /v1/resolve`: the values of references to other secrets, one or a batch, in the shapes of Transit's requests.
//!
//! The side that talks to Vault resolves them. Here are the request, the response and the audit, which gets the references
//! and never their values.

use std::borrow::Cow;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    audit::{AuditFields, BatchCount},
    context::{Call, ResolvedValue, Upstream},
    envelope::{self, Warnings},
    error::{ApiError, ErrorKind},
    response::{self, Response},
};

/// The limit on references in one batch: the audit names each.
const MAX_BATCH: usize = 100;

/// The limit on the length of a reference. Vault's own paths are shorter.
const MAX_REFERENCE: usize = 1024;

const FORM: &str =
    r#"the body must be JSON: {"reference": "…"}, or {"batch_input": [{"reference": "…"}, …]}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveRequest<'a> {
    #[serde(borrow)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    batch_input: Option<Vec<ResolveItem<'a>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveItem<'a> {
    #[serde(borrow)]
    reference: Cow<'a, str>,
}

#[derive(Serialize)]
struct BatchResults<'a> {
    batch_results: Vec<ItemResult<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ItemResult<'a> {
    Value {
        value: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        stale_seconds: Option<u64>,
    },
    Error {
        error: &'a str,
    },
}

pub(super) async fn resolve(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let request = serde_json::from_slice::<ResolveRequest<'_>>(call.body.as_bytes());
    let upstream = call.context.upstream.as_ref();
    match request {
        Ok(ResolveRequest { reference: Some(reference), batch_input: None }) => {
            let names = [&*reference];
            let mut results = resolve_all(upstream, &names).await;
            call.audit.references = references(&names, &results);
            let value = results.remove(0)?;
            Ok(written(StatusCode::OK, value.text.expose().len(), &item_result(&Ok(value))))
        }
        Ok(ResolveRequest { reference: None, batch_input: Some(batch) }) if batch.is_empty() => {
            Err(ApiError::invalid("batch_input is empty"))
        }
        Ok(ResolveRequest { reference: None, batch_input: Some(batch) }) if batch.len() > MAX_BATCH => {
            Err(ApiError::invalid(format!("batch_input has more than {MAX_BATCH} references")))
        }
        Ok(ResolveRequest { reference: None, batch_input: Some(batch) }) => {
            let (response, audit) = resolve_batch(upstream, &batch).await;
            call.audit = audit;
            Ok(response)
        }
        _ => Err(ApiError::invalid(FORM)),
    }
}

/// A failed item makes the status 400, as in Transit; one that failed because of Vault makes it 503, as without a batch.
async fn resolve_batch(upstream: &dyn Upstream, batch: &[ResolveItem<'_>]) -> (Response, AuditFields) {
    let names: Vec<_> = batch.iter().map(|item| &*item.reference).collect();
    let results = resolve_all(upstream, &names).await;
    let (items, failed) = (results.len(), results.iter().filter(|result| result.is_err()).count());
    let audit = AuditFields {
        references: references(&names, &results),
        batch: Some(BatchCount { items, failed }),
        ..AuditFields::default()
    };
    let len = results.iter().flatten().map(|value| value.text.expose().len()).sum();
    let is_unavailable = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .any(|error| error.kind == ErrorKind::Unavailable);
    let status = match failed {
        0 => StatusCode::OK,
        _ if is_unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let batch_results = results.iter().map(item_result).collect();
    (written(status, len, &BatchResults { batch_results }), audit)
}

/// A result for each reference.
async fn resolve_all(upstream: &dyn Upstream, names: &[&str]) -> Vec<Result<ResolvedValue, ApiError>> {
    let fits = |name: &&str| name.len() <= MAX_REFERENCE;
    let fitting: Vec<_> = names.iter().copied().filter(fits).collect();
    let mut resolved = upstream.resolve(&fitting).await.into_iter();
    let result = |name| {
        let found = if fits(name) { resolved.next() } else { None };
        found.unwrap_or_else(|| {
            let message = format!("the text is longer than {MAX_REFERENCE} bytes, the limit for a reference");
            Err(ApiError::new(ErrorKind::NotAReference, message))
        })
    };
    names.iter().map(result).collect()
}

fn item_result(result: &Result<ResolvedValue, ApiError>) -> ItemResult<'_> {
    match result {
        Ok(ResolvedValue { text, stale }) => {
            ItemResult::Value { value: text.expose(), stale_seconds: stale.map(|stale| stale.as_secs()) }
        }
        Err(error) => ItemResult::Error { error: &error.message },
    }
}

/// For the audit: the texts that are references.
fn references(names: &[&str], results: &[Result<ResolvedValue, ApiError>]) -> Option<Box<str>> {
    let is_reference = |result: &Result<ResolvedValue, ApiError>| {
        result.as_ref().err().is_none_or(|error| error.kind != ErrorKind::NotAReference)
    };
    let pairs = names.iter().zip(results).filter(|(_, result)| is_reference(result));
    let escaped: Vec<_> = pairs.map(|(name, _)| name.escape_debug().to_string()).collect();
    (!escaped.is_empty()).then(|| escaped.join(" ").into())
}

/// Serialises into one buffer with capacity for the values and their escaped line breaks, so that no copy is left behind.
fn written(status: StatusCode, values: usize, data: &impl Serialize) -> Response {
    let mut json = Vec::with_capacity(values + values / 8 + (16 << 10));
    envelope::open(&mut json);
    envelope::write_json(data, &mut json);
    envelope::close(&Warnings::default(), &mut json);
    response::written(status, json)
}
