//! Vault's envelope: the fields around the data of every successful response below `/v1/`.
//!
//! It is written around data that are serialised already. <https://developer.hashicorp.com/vault/api-docs>

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use hex_simd::{AsOut as _, AsciiCase};
use hyper::StatusCode;
use serde::Serialize;

use super::response::{self, Response};

/// The bytes that the envelope adds, without warnings.
pub(super) const LEN: usize = 224;

/// What the client should know of a request that succeeded.
#[derive(Clone, Debug, Default)]
pub(super) struct Warnings(Vec<String>);

impl Warnings {
    pub(super) fn push(&mut self, warning: impl Into<String>) {
        self.0.push(warning.into());
    }
}

/// Writes what is before the data.
pub(super) fn open(out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"request_id":""#);
    write_request_id(out);
    out.extend_from_slice(br#"","lease_id":"","renewable":false,"lease_duration":0,"data":"#);
}

/// Writes what is behind the data.
pub(super) fn close(warnings: &Warnings, out: &mut Vec<u8>) {
    out.extend_from_slice(br#","wrap_info":null,"warnings":"#);
    if warnings.0.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        write_json(&warnings.0, out);
    }
    out.extend_from_slice(br#","auth":null,"mount_type":"transit"}"#);
}

/// A response with these data, which must not be secret: serialising them leaves copies.
pub(super) fn response(data: &impl Serialize, warnings: &Warnings) -> Response {
    let mut out = Vec::with_capacity(LEN + 512);
    open(&mut out);
    write_json(data, &mut out);
    close(warnings, &mut out);
    response::written(StatusCode::OK, out)
}

pub(super) fn write_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    // Writing texts and numbers into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// Writes a UUID that this process has not written before (RFC 9562, version 4 in form). It is not secret: a random half of
/// each process, and a count that an odd factor spreads over 62 bits.
fn write_request_id(out: &mut Vec<u8>) {
    static SEED: LazyLock<[u64; 2]> = LazyLock::new(|| [random(), random()]);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const LOW_62: u64 = u64::MAX >> 2;
    let spread = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let high = SEED[0] & !0xf000 | 0x4000;
    let low = (SEED[1] ^ spread) & LOW_62 | 1 << 63;
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let mut hex = [0; 32];
    let hex = hex_simd::encode(&bytes, hex.as_mut_slice().as_out(), AsciiCase::Lower);
    for (at, range) in [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().enumerate() {
        if at > 0 {
            out.push(b'-');
        }
        out.extend_from_slice(&hex[range]);
    }
}

fn random() -> u64 {
    // Uniqueness in this process needs no randomness.
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn request_ids_are_uuids_and_unique() {
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let mut id = Vec::new();
            write_request_id(&mut id);
            let dashes: Vec<_> =
                id.iter().enumerate().filter(|(_, b)| **b == b'-').map(|(at, _)| at).collect();
            assert_eq!((id.len(), dashes.as_slice(), id[14]), (36, [8, 13, 18, 23].as_slice(), b'4'));
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn the_envelope_is_vaults() {
        let mut out = Vec::new();
        open(&mut out);
        out.extend_from_slice(b"{}");
        let mut warnings = Warnings::default();
        close(&warnings, &mut out);
        assert!(out.len() <= LEN + 2, "{}", out.len());
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&json["warnings"], &json["lease_duration"]), (&serde_json::Value::Null, &0.into()));
        warnings.push("a \"warning\"");
        let response = response(&1, &warnings);
        let json: serde_json::Value = serde_json::from_slice(&response.into_body().bytes).unwrap();
        assert_eq!((&json["warnings"][0], &json["data"]), (&"a \"warning\"".into(), &1.into()));
    }
}
