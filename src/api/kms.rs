//! Kubernetes' KMS v2: gRPC calls of an API server, whose storage keys keyringd encrypts.
//!
//! <https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/>. `v2` is generated from the messages, `promotion` chooses
//! the key that encrypts. A ciphertext is the native format's binary form with Kubernetes' `key_id` as associated data: it
//! decrypts under that `key_id` only, and no application's ciphertext decrypts here. tonic frames and decodes the messages;
//! an [`ApiError`] passes through it as the source of a [`Status`].

#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    unreachable_pub,
    reason = "generated"
)]
pub mod v2;

use std::{
    collections::HashMap,
    error::Error,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, Response, Status, codegen::Service as _};

use super::{
    audit::AuditFields,
    context::{Call, Context},
    error::{ApiError, ErrorKind},
    promotion, response,
};
use crate::{
    cipher::{self, Format, Nonces},
    keyring::{HeldKey, Keyring, KeyringEntry},
};
use v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
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

/// `POST /v2.KeyManagementService/{call}`, for all three calls.
pub(super) async fn call(call: &mut Call<'_>) -> Result<response::Response, ApiError> {
    let service = KmsService { context: Arc::clone(call.context), keyring: Arc::clone(call.keyring) };
    let mut request = hyper::Request::new(Full::new(std::mem::take(&mut call.body).into_bytes()));
    (*request.uri_mut(), *request.headers_mut()) = (call.head.uri.clone(), call.head.headers.clone());
    let Ok(response) = KeyManagementServiceServer::new(service).call(request).await;
    let (mut head, body) = response.into_parts();
    if let Some(status) = head.extensions.get::<Status>() {
        return Err(api_error(status));
    }
    call.audit = head.extensions.remove().unwrap_or_default();
    let collected = body.collect().await.map_err(|status| api_error(&status))?;
    let trailers = collected.trailers().cloned().map(Box::new);
    let mut response = response::Response::new(response::Body { bytes: collected.to_bytes(), trailers });
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// The error that a handler gave to tonic, or tonic's own for a message that it cannot decode.
fn api_error(status: &Status) -> ApiError {
    match status.source().and_then(|source| source.downcast_ref::<ApiError>()) {
        Some(error) => ApiError::new(error.kind, error.message.clone()),
        None if status.code() == Code::Unimplemented => {
            ApiError::new(ErrorKind::NoRoute, status.message().to_owned())
        }
        None => ApiError::invalid(status.message().to_owned()),
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut status = Self::new(error.grpc_code(), error.message.clone());
        status.set_source(Arc::new(error));
        status
    }
}

/// The service, for one call.
struct KmsService {
    context: Arc<Context>,
    keyring: Arc<KeyringEntry>,
}

#[tonic::async_trait]
impl KeyManagementService for KmsService {
    /// Announces the active key, without a request to Vault: an API server asks every minute.
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let keyring = self.keyring.published.keyring();
        let health = self.keyring.health(SystemTime::now());
        let key_id = keyring.as_ref().map(|keyring| self.announce(keyring)).unwrap_or_default();
        let healthz = health.err().unwrap_or_else(|| "ok".to_owned());
        let status = StatusResponse { version: VERSION.to_owned(), healthz, key_id };
        Ok(match &keyring {
            Some(keyring) => with_audit(status, keyring.active()),
            None => Response::new(status),
        })
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let EncryptRequest { plaintext, uid } = request.into_inner();
        let encrypted = self.encrypt_message(&plaintext, &uid);
        let key_id = encrypted.as_ref().map_or("", |encrypted| &encrypted.get_ref().key_id);
        log("encrypt", &uid, key_id, encrypted.as_ref().err());
        Ok(encrypted?)
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let request = request.into_inner();
        let decrypted = self.decrypt_message(&request).await;
        log("decrypt", &request.uid, &request.key_id, decrypted.as_ref().err());
        Ok(decrypted?)
    }
}

impl KmsService {
    fn announce(&self, keyring: &Keyring) -> String {
        let (name, held) = (keyring.names().active(), keyring.active());
        if self.context.promotion.announce(keyring, Instant::now()) {
            let (hash, version) = (hash(name), held.version);
            tracing::info!(
                key_id = %held.key.id(), version, kms_key_id = name, key_id_hash = hash, "Kubernetes encrypts with this key"
            );
        }
        name.to_owned()
    }

    fn encrypt_message(&self, plaintext: &[u8], uid: &str) -> Result<Response<EncryptResponse>, ApiError> {
        check_uid(uid)?;
        let announced = self.context.promotion.announced();
        let keyring = self.snapshot()?;
        let (name, held) = promotion::encryption_key(announced.as_deref(), &keyring, Instant::now());
        let max = MAX_CIPHERTEXT - cipher::overhead(&held.key);
        if plaintext.len() > max {
            let len = plaintext.len();
            return Err(ApiError::invalid(format!(
                "plaintext: {len} bytes, and at most {max} fit into a ciphertext of {MAX_CIPHERTEXT}"
            )));
        }
        let mut nonces =
            Nonces::draw(1, Format::Native).map_err(|error| ApiError::failed(error.to_string()))?;
        let mut buffer = Vec::with_capacity(cipher::ROOM + MAX_CIPHERTEXT);
        buffer.resize(cipher::ROOM, 0);
        buffer.extend_from_slice(plaintext);
        let sealed = cipher::seal_binary(held, buffer, &mut nonces, name.as_bytes());
        let ciphertext = Bytes::from_owner(sealed);
        let response = EncryptResponse { ciphertext, key_id: name.to_owned(), annotations: HashMap::new() };
        Ok(with_audit(response, held))
    }

    /// Decrypts with the key that `key_id` names, and no other.
    async fn decrypt_message(&self, request: &DecryptRequest) -> Result<Response<DecryptResponse>, ApiError> {
        check(request)?;
        let mut keyring = self.snapshot()?;
        if keyring.names().get(&request.key_id).is_none()
            && let Some(newer) = self.context.newer_snapshot(&self.keyring, &keyring).await
        {
            keyring = newer;
        }
        let held = keyring.names().get(&request.key_id).ok_or_else(|| {
            let message =
                "key_id: no key of this name: it was removed from Vault, or its secret has another path";
            ApiError::new(ErrorKind::NotFound, message)
        })?;
        let ciphertext = request.ciphertext.to_vec();
        let opened = cipher::open_binary_with(held, ciphertext, request.key_id.as_bytes())
            .map_err(|error| ApiError::invalid(format!("ciphertext: {error}")))?;
        let plaintext = Bytes::from_owner(opened.plaintext);
        Ok(with_audit(DecryptResponse { plaintext }, held))
    }

    /// Without waiting: an API server has its own retries.
    fn snapshot(&self) -> Result<Arc<Keyring>, ApiError> {
        self.keyring.published.keyring().ok_or_else(|| ApiError::unavailable(self.keyring.no_keys()))
    }
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

fn with_audit<T>(message: T, held: &HeldKey) -> Response<T> {
    let mut response = Response::new(message);
    response.extensions_mut().insert(AuditFields::from_key(held.key.id()));
    response
}

/// A line that can be joined with the API server's logs by the uid, and with its metrics by the hash.
fn log(call: &'static str, uid: &str, key_id: &str, error: Option<&ApiError>) {
    let code = error.map_or(Code::Ok, ApiError::grpc_code);
    tracing::debug!(call, uid = printable(uid), key_id_hash = hash(key_id), ?code, "Kubernetes");
}

/// The form of a key_id in the API server's metrics.
fn hash(key_id: &str) -> String {
    let digest = hex_simd::encode_to_string(Sha256::digest(key_id.as_bytes()), hex_simd::AsciiCase::Lower);
    if key_id.is_empty() { String::new() } else { format!("sha256:{digest}") }
}

fn printable(text: &str) -> String {
    text.chars().take(MAX_LOGGED_UID).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_the_form_of_the_api_servers_metrics() {
        assert_eq!(hash("1"), "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b");
        assert_eq!(hash(""), "");
    }

    #[test]
    fn a_logged_uid_has_no_control_characters_and_a_limit() {
        assert_eq!(printable("a b\nc\x1b[1m\u{202e}"), "a?b?c?[1m?");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_LOGGED_UID);
    }
}
