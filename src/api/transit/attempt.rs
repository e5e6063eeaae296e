//! What the handlers share: the outcome of one attempt on one snapshot, the key of a version, the
//! JSON of a key, and the count of messages with short nonces.

use super::{error::ItemError, fields::Endpoint};
use crate::{
    api::{audit::AuditFields, envelope::write_json, error::ApiError, response::Response},
    cipher::{Format, OpenError, Opened},
    keyring::{HeldKey, Keyring, key},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Action {
    Encrypt,
    Decrypt,
    Rewrap,
}

impl Action {
    pub(super) const fn endpoint(self) -> Endpoint {
        match self {
            Self::Encrypt => Endpoint::Encrypt,
            Self::Decrypt => Endpoint::Decrypt,
            Self::Rewrap => Endpoint::Rewrap,
        }
    }
}

/// The key of a version, which is the active one for none and for 0. Versions that Vault no longer lists only decrypt.
pub(super) fn key_of_version(keyring: &Keyring, version: Option<i64>) -> Result<&HeldKey, ItemError> {
    let version = match version {
        None | Some(0) => return Ok(keyring.active()),
        Some(version) => version,
    };
    let number = u64::try_from(version).map_err(|_| ItemError::NegativeVersion)?;
    let latest = keyring.active().version;
    match keyring.keys_of_version(number).first() {
        Some(held) if held.retired => Err(ItemError::RetiredVersion(version)),
        Some(held) => Ok(held),
        None if number > latest => Err(ItemError::NewerVersion(version, latest)),
        None => Err(ItemError::RemovedVersion(version)),
    }
}

/// A request run on one snapshot.
pub(super) struct Attempt {
    pub(super) result: Result<Response, ApiError>,
    pub(super) audit: AuditFields,
    /// The snapshot lacks a key that a ciphertext names, a newer snapshot may have it, and the body is as it was.
    pub(super) unknown_key: Option<OpenError>,
}

/// What becomes of a ciphertext whose key is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownKey {
    /// It ends the attempt, before anything is changed in the body.
    Report,
    /// Its item fails.
    Fail,
}

impl Attempt {
    /// Whether an item of it succeeded.
    pub(super) fn has_results(&self) -> bool {
        self.result.is_ok() && self.audit.batch.is_none_or(|batch| batch.failed < batch.items)
    }

    pub(super) fn failed(error: ApiError) -> Self {
        Self { result: Err(error), audit: AuditFields::default(), unknown_key: None }
    }

    pub(super) fn unknown_key(error: OpenError) -> Self {
        let failed = Self::failed(ApiError::invalid(error.to_string()));
        Self { unknown_key: Some(error), ..failed }
    }
}

/// Whether a rewrap would change the key or the format.
pub(super) fn needs_rewrap<P>(opened: &Opened<'_, P>, keyring: &Keyring, write: Format) -> bool {
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

/// The end of an item's result in a batch.
pub(super) fn end_item(reference: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#","reference":"#);
    write_json(reference, out);
    out.push(b'}');
}
