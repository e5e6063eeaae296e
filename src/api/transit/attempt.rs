//! What the handlers of ciphertexts share: the outcome of one attempt on one snapshot, the JSON of a key, and the count of
//! messages with short nonces.

use serde::Serialize;

use crate::{
    api::{audit::AuditFields, error::ApiError, response::Response},
    cipher::{Format, Opened},
    keyring::{HeldKey, Keyring, key},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Action {
    Encrypt,
    Decrypt,
    Rewrap,
}

/// A request run on one snapshot.
pub(super) struct Attempt {
    pub(super) result: Result<Response, ApiError>,
    pub(super) audit: AuditFields,
    /// The snapshot lacks a key that a ciphertext names: a newer snapshot may have it.
    pub(super) unknown_key: bool,
}

impl Attempt {
    pub(super) fn failed(error: ApiError) -> Self {
        Self { result: Err(error), audit: AuditFields::default(), unknown_key: false }
    }
}

/// Whether a rewrap would change the key or the format.
pub(super) fn needs_rewrap(opened: &Opened<'_>, keyring: &Keyring, write: Format) -> bool {
    opened.held.key.id() != keyring.active().key.id() || opened.format != write
}

/// Counts messages that were sealed with short nonces, and warns at half of the budget and at all of it.
pub(super) fn count_sealed(held: &HeldKey, format: Format, sealed: usize) {
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

/// `,"key_id":"…","key_version":…`
pub(super) fn write_key(held: &HeldKey, out: &mut Vec<u8>) {
    // JSON escapes no character of a key ID.
    out.extend_from_slice(br#","key_id":""#);
    out.extend_from_slice(held.key.id().as_str().as_bytes());
    out.extend_from_slice(br#"","key_version":"#);
    write_json(&held.version, out);
}

pub(super) fn write_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    // Writing a text or a number into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}
