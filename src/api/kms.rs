//! Kubernetes' KMS v2: gRPC calls of an API server, whose storage keys keyringd encrypts.
//!
//! <https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/>. `messages` has the messages and their framing,
//! `promotion` chooses the key that encrypts. A ciphertext is the native format's binary form with Kubernetes' `key_id` as
//! associated data: it decrypts under that `key_id` only, and no application's ciphertext decrypts here.

pub mod messages;

use std::{collections::HashMap, sync::Arc, time::Instant};

use hyper::body::Bytes;

use super::{
    audit::AuditFields,
    context::{Call, Context},
    error::{ApiError, ErrorKind, GrpcCode},
    promotion,
    response::Response,
};
use crate::{
    cipher::{self, Batch},
    keyring::{Keyring, KeyringEntry, name_hash},
    logging::NOTICE,
};
use messages::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse, decode,
    respond,
};

/// The limit on a request: a ciphertext of 1 KiB, annotations of 32 KiB, and their names.
pub(super) const MAX_MESSAGE: usize = 64 << 10;

/// The version of the API. It must not change while an API server runs.
const VERSION: &str = "v2";

/// The API's limits, in bytes.
const MAX_CIPHERTEXT: usize = 1024;
const MAX_KEY_ID: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 << 10;

/// How many characters of a request's uid are logged: the client chooses it.
const MAX_LOGGED_UID: usize = 64;

/// `Status` announces the active key, without a request to Vault: an API server asks every minute.
pub(super) async fn status(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let StatusRequest {} = decode(call.body.take())?;
    let entry = call.keyring()?;
    let (version, healthz, key_id) = (VERSION.to_owned(), entry.no_keys(), String::new());
    let mut status = StatusResponse { version, healthz, key_id };
    // Not `health`: with keys, the calls succeed however old the last sync is.
    if let Some(keyring) = entry.published.keyring() {
        "ok".clone_into(&mut status.healthz);
        status.key_id = announce(call.context, &keyring);
        call.audit = AuditFields::from_key(keyring.active().key.id());
    }
    Ok(respond(&status))
}

pub(super) async fn encrypt(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let request = decode(call.body.take())?;
    let encrypted = encrypt_message(call, &request);
    let key_id = encrypted.as_ref().map_or("", |encrypted| &encrypted.key_id);
    log("encrypt", &request.uid, key_id, encrypted.as_ref().err());
    Ok(respond(&encrypted?))
}

pub(super) async fn decrypt(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let request = decode(call.body.take())?;
    let decrypted = decrypt_message(call, &request).await;
    log("decrypt", &request.uid, &request.key_id, decrypted.as_ref().err());
    Ok(respond(&decrypted?))
}

fn announce(context: &Context, keyring: &Keyring) -> String {
    let (name, held) = (keyring.names().active(), keyring.active());
    if context.promotion.announce(keyring, Instant::now()) {
        let (hash, version) = (name_hash(name), held.version);
        tracing::info!(
            target: NOTICE, key_id = %held.key.id(), version, kms_key_id = name, key_id_hash = hash, "Kubernetes encrypts with this key"
        );
    }
    name.to_owned()
}

fn encrypt_message(call: &mut Call<'_>, request: &EncryptRequest) -> Result<EncryptResponse, ApiError> {
    check_uid(&request.uid)?;
    let announced = call.context.promotion.announced();
    let keyring = snapshot(call.keyring()?)?;
    let (name, held) = promotion::encryption_key(announced.as_deref(), &keyring, Instant::now());
    let (len, max) = (request.plaintext.len(), MAX_CIPHERTEXT - cipher::overhead(&held.key));
    if len > max {
        return Err(ApiError::invalid(format!(
            "plaintext: {len} bytes, and at most {max} fit into a ciphertext of {MAX_CIPHERTEXT}"
        )));
    }
    let mut batch = Batch::to_seal(1).map_err(|error| ApiError::failed(error.to_string()))?;
    let mut buffer = Vec::with_capacity(cipher::ROOM + MAX_CIPHERTEXT);
    buffer.resize(cipher::ROOM, 0);
    buffer.extend_from_slice(&request.plaintext);
    let sealed = cipher::seal_kms(held, buffer, &mut batch, name.as_bytes());
    call.audit = AuditFields::from_key(held.key.id());
    let ciphertext = Bytes::from_owner(sealed);
    Ok(EncryptResponse { ciphertext, key_id: name.to_owned(), annotations: HashMap::new() })
}

/// Decrypts with the key that `key_id` names. If no version has it, the key that the ciphertext names may have sealed it in
/// another place: authentication under this `key_id` proves that.
async fn decrypt_message(call: &mut Call<'_>, request: &DecryptRequest) -> Result<DecryptResponse, ApiError> {
    check(request)?;
    let entry = call.keyring()?;
    let mut keyring = snapshot(entry)?;
    if keyring.names().get(&request.key_id).is_none() {
        if let Some(response) = decrypt_moved(call, &keyring, request) {
            return Ok(response);
        }
        let unknown = || format!("key_id: no key of this name ({})", name_hash(&request.key_id));
        if let Some(newer) = call.context.newer_snapshot(entry, &keyring, unknown).await? {
            keyring = newer;
        }
    }
    let Some(held) = keyring.names().get(&request.key_id) else {
        return decrypt_moved(call, &keyring, request).ok_or_else(|| missing_key(call, request));
    };
    let opened = cipher::open_kms(held, request.ciphertext.to_vec(), request.key_id.as_bytes())
        .map_err(|error| ApiError::invalid(format!("ciphertext: {error}")))?;
    call.audit = AuditFields::from_key(held.key.id());
    Ok(DecryptResponse { plaintext: Bytes::from_owner(opened.plaintext) })
}

/// With the key whose record ID the ciphertext has, and the request's `key_id` as associated data.
fn decrypt_moved(
    call: &mut Call<'_>,
    keyring: &Keyring,
    request: &DecryptRequest,
) -> Option<DecryptResponse> {
    let held = keyring.get(cipher::binary_key_id(&request.ciphertext)?)?;
    let ciphertext = request.ciphertext.to_vec();
    let opened = cipher::open_kms(held, ciphertext, request.key_id.as_bytes()).ok()?;
    call.context.moved_keys.record(name_hash(&request.key_id), held);
    call.context.metrics.kms_moved_key();
    call.audit = AuditFields::from_key(held.key.id());
    Some(DecryptResponse { plaintext: Bytes::from_owner(opened.plaintext) })
}

fn missing_key(call: &mut Call<'_>, request: &DecryptRequest) -> ApiError {
    let hash = name_hash(&request.key_id);
    call.context.metrics.kms_missing_key(&hash);
    let message = format!(
        "key_id: no key of this name ({hash}): its version was removed from Vault; undelete it, or write the record back"
    );
    call.audit.missing_key = Some(hash.into());
    ApiError::new(ErrorKind::NotFound, message)
}

/// Without waiting: an API server has its own retries.
fn snapshot(entry: &KeyringEntry) -> Result<Arc<Keyring>, ApiError> {
    entry.published.keyring().ok_or_else(|| ApiError::unavailable(entry.no_keys()))
}

/// The API's rules for the fields of a decrypt.
fn check(request: &DecryptRequest) -> Result<(), ApiError> {
    check_uid(&request.uid)?;
    if !(1..=MAX_CIPHERTEXT).contains(&request.ciphertext.len()) {
        return Err(ApiError::invalid(format!("ciphertext: must have 1 to {MAX_CIPHERTEXT} bytes")));
    }
    if !(1..=MAX_KEY_ID).contains(&request.key_id.len()) {
        return Err(ApiError::invalid(format!("key_id: must have 1 to {MAX_KEY_ID} bytes")));
    }
    // keyringd writes no annotations and ignores those of other plugins.
    let annotations: usize = request.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if annotations > MAX_ANNOTATIONS {
        return Err(ApiError::invalid(format!("annotations: more than {MAX_ANNOTATIONS} bytes in all")));
    }
    Ok(())
}

fn check_uid(uid: &str) -> Result<(), ApiError> {
    if uid.is_empty() {
        return Err(ApiError::invalid("uid: must not be empty: the logs of both sides are joined by it"));
    }
    Ok(())
}

/// A line that can be joined with the API server's logs by the uid, and with its metrics by the hash.
fn log(call: &'static str, uid: &str, key_id: &str, error: Option<&ApiError>) {
    let code = error.map_or(GrpcCode::Ok, ApiError::grpc_code);
    tracing::debug!(call, uid = printable(uid), key_id_hash = name_hash(key_id), ?code, "Kubernetes");
}

fn printable(text: &str) -> String {
    text.chars().take(MAX_LOGGED_UID).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_uid_has_no_control_characters_and_a_limit() {
        assert_eq!(printable("a b\nc\x1b[1m\u{202e}"), "a?b?c?[1m?");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_LOGGED_UID);
    }
}
