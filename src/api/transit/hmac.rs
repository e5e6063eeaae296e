//! HMACs under the keyring's keys: made and verified in Transit's wire format; and blind indexes of columns, which are asked
//! for with a label (`associated_data`) and a width (`bits`).
//!
//! Paths: `/v1/transit/hmac/{name}[/{algorithm}]`, `/v1/transit/verify/{name}[/{algorithm}]`. A batch is always 200, and its
//! items fail by themselves. <https://openbao.org/api-docs/secret/transit/#generate-hmac>

use hyper::StatusCode;

use super::{
    attempt::{end_item, key_of_version, write_key},
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
        envelope,
        error::ApiError,
        response::{self, Response},
    },
    cipher::mac::{self, HashAlgorithm},
    keyring::{Format, HeldKey, KeyId, Keyring},
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
    let (algorithm, entry) = (algorithm(call.tail, &request)?, call.keyring()?);
    let macs = Macs {
        endpoint,
        keyring,
        algorithm,
        format: entry.formats_of(keyring).write,
        index_key: entry.index_key_of(keyring),
        defaults: &request.defaults,
    };
    if endpoint == Endpoint::Verify {
        check_kind(&request)?;
    } else {
        // A version for all items that does not exist fails them all.
        key_of_version(keyring, request.defaults.key_version)?;
    }
    let mut out = Vec::with_capacity(envelope::LEN + 200 * request.items().len());
    envelope::open(&mut out);
    out.push(b'{');
    match &request.input {
        Input::One(item) => macs.one(item, item.key_version, &mut out)?,
        Input::Batch(items) => {
            let failed = macs.batch(items, &mut out);
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

/// A request on one snapshot.
struct Macs<'r> {
    endpoint: Endpoint,
    keyring: &'r Keyring,
    algorithm: HashAlgorithm,
    format: Format,
    /// The record that makes blind indexes unless a version is given.
    index_key: Option<&'r KeyId>,
    /// For the items of a batch that do not say otherwise.
    defaults: &'r Item<Text<'r>>,
}

/// Which index is asked for.
struct Index {
    label: Vec<u8>,
    bits: usize,
}

impl Macs<'_> {
    /// Returns how many items failed.
    fn batch(&self, items: &[Item<Text<'_>>], out: &mut Vec<u8>) -> usize {
        let mut failed = 0;
        out.extend_from_slice(br#""batch_results":["#);
        for (at, item) in items.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            let outcome = match (self.endpoint, &item.clear) {
                (Endpoint::Verify, None) => Err(ItemError::Missing("input")),
                // Of an HMAC an item's own version does not count, as in Transit.
                _ => self.one(item, self.defaults.key_version, out),
            };
            if let Err(error) = outcome {
                failed += 1;
                error.write(out);
            }
            end_item(item.reference.as_deref().unwrap_or(""), out);
        }
        out.push(b']');
        failed
    }

    /// Appends one item's result to `out`. A failure appends nothing. `version` is that of an HMAC.
    fn one(&self, item: &Item<Text<'_>>, version: Option<i64>, out: &mut Vec<u8>) -> Result<(), ItemError> {
        let context = item.decoded_context()?;
        if self.endpoint == Endpoint::Verify {
            let input = decode("input", item.clear.as_deref().unwrap_or(""))?;
            let hmac = item.sealed.as_deref().ok_or(ItemError::Missing("hmac"))?;
            let valid = mac::verify_mac(self.keyring, self.algorithm, &context, &input, hmac)?;
            out.extend_from_slice(if valid { br#""valid":true"# } else { br#""valid":false"# });
            return Ok(());
        }
        let input = decode("input", item.clear.as_deref().ok_or(ItemError::Missing("input"))?)?;
        if let Some(index) = self.index(item)? {
            return self.write_index(item, &index, &context, &input, out);
        }
        let held = key_of_version(self.keyring, version)?;
        let before = out.len();
        out.extend_from_slice(br#""hmac":""#);
        if let Err(error) = mac::write_mac(held, self.format, self.algorithm, &context, &input, out) {
            out.truncate(before);
            return Err(error.into());
        }
        out.push(b'"');
        Ok(())
    }

    /// `None` for an HMAC.
    fn index(&self, item: &Item<Text<'_>>) -> Result<Option<Index>, ItemError> {
        let label = item.associated_data.as_deref().or(self.defaults.associated_data.as_deref());
        let (label, bits) = match (label, item.bits.or(self.defaults.bits)) {
            (None, None) => return Ok(None),
            (Some(label), Some(bits)) => (decode("associated_data", label)?, bits),
            _ => return Err(ItemError::HalfAnIndex),
        };
        let bits = usize::try_from(bits).ok().filter(|bits| mac::INDEX_BITS.contains(bits));
        let bits = bits.ok_or(ItemError::IndexBits)?;
        if self.algorithm != HashAlgorithm::Sha2_256 {
            return Err(ItemError::IndexAlgorithm);
        }
        Ok(Some(Index { label, bits }))
    }

    /// `index`, `key_id`, `key_version`
    fn write_index(
        &self,
        item: &Item<Text<'_>>,
        Index { label, bits }: &Index,
        context: &[u8],
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        let held = self.index_key(item.key_version.or(self.defaults.key_version))?;
        let index = if context.is_empty() {
            mac::index(&held.key, label, *bits, input)
        } else {
            mac::index(&*mac::in_context(&held.key, context)?, label, *bits, input)
        };
        out.extend_from_slice(br#""index":""#);
        hex_simd::encode_append(&index, out, hex_simd::AsciiCase::Lower);
        out.push(b'"');
        write_key(held, out);
        Ok(())
    }

    /// Never the active key: after a rotation nothing would be found, and hosts would differ until all have synced.
    fn index_key(&self, version: Option<i64>) -> Result<&HeldKey, ItemError> {
        match version {
            None | Some(0) => {
                let id = self.index_key.ok_or(ItemError::NoIndexKey)?;
                self.keyring.get(id.as_str()).ok_or_else(|| ItemError::IndexKeyMissing(id.clone()))
            }
            // A version that Vault no longer lists still finds its rows.
            Some(version) => {
                match u64::try_from(version).map(|number| self.keyring.keys_of_version(number)) {
                    Ok([one]) => Ok(one),
                    Ok([_, _, ..]) => Err(ItemError::SeveralIndexKeys(version)),
                    _ => key_of_version(self.keyring, Some(version)),
                }
            }
        }
    }
}
