//! The three calls: what an API server asks, answered from one snapshot of the keyring and nothing else.
//!
//! A ciphertext is the native format's binary form, with the `key_id` that Kubernetes keeps beside it as its associated
//! data: it opens under that `key_id` and no other, and nothing that was sealed for an application opens here.

use std::{collections::HashMap, sync::Arc, time::Instant};

use hyper::body::Bytes;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, Response, Status};

use super::{
    promotion,
    v2::{
        DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
        key_management_service_server::KeyManagementService,
    },
};
use crate::{
    cipher::{self, Format, Nonces},
    keyring::{HeldKey, Keyring},
    socket::{Live, Service, admin, audit::Facts},
};

/// The only version that there is of this API. It never changes while an API server runs.
const VERSION: &str = "v2";

/// The bounds of the API, in bytes.
const MAX_CIPHERTEXT: usize = 1024;
const MAX_KEY_ID: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 << 10;

/// How much of a request's uid, which is the client's own text, goes into the log.
const MAX_LOGGED: usize = 64;

/// The service, for one call.
pub struct Calls {
    pub service: Arc<Service>,
    pub live: Arc<Live>,
}

#[tonic::async_trait]
impl KeyManagementService for Calls {
    /// Announces the active key. Costs nothing, and asks nobody.
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let published = &self.service.published;
        let keyring = published.keyring();
        let health = admin::health(published, self.live.max_stale);
        let key_id = keyring.as_ref().map(|keyring| self.announce(keyring)).unwrap_or_default();
        let healthz = health.err().unwrap_or_else(|| "ok".to_owned());
        let answer = Response::new(StatusResponse { version: VERSION.to_owned(), healthz, key_id });
        Ok(match &keyring {
            Some(keyring) => about(answer, keyring.active()),
            None => answer,
        })
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let EncryptRequest { plaintext, uid } = request.into_inner();
        let sealed = self.seal(&plaintext, &uid);
        let key_id = sealed.as_ref().map_or("", |sealed| &sealed.get_ref().key_id);
        log("encrypt", &uid, key_id, sealed.as_ref().err());
        sealed
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let request = request.into_inner();
        let opened = self.open(&request).await;
        log("decrypt", &request.uid, &request.key_id, opened.as_ref().err());
        opened
    }
}

impl Calls {
    fn announce(&self, keyring: &Keyring) -> String {
        let (name, held) = (keyring.names().active(), keyring.active());
        if self.service.promotion.announce(keyring, Instant::now()) {
            let (hash, version) = (hash(name), held.version);
            tracing::info!(key_id = %held.key.id(), version, kms_key_id = name, key_id_hash = hash, "Kubernetes' key");
        }
        name.to_owned()
    }

    fn seal(&self, plaintext: &[u8], uid: &str) -> Result<Response<EncryptResponse>, Status> {
        check_uid(uid)?;
        let announced = self.service.promotion.announced();
        let keyring = self.keyring()?;
        let (name, held) = promotion::sealing(announced.as_deref(), &keyring, Instant::now());
        let most = MAX_CIPHERTEXT - cipher::overhead(&held.key);
        if plaintext.len() > most {
            return Err(Status::invalid_argument(format!(
                "plaintext: {} bytes, and at most {most} fit into a ciphertext of {MAX_CIPHERTEXT}",
                plaintext.len()
            )));
        }
        let mut nonces =
            Nonces::draw(1, Format::Native).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut buffer = Vec::with_capacity(cipher::ROOM + MAX_CIPHERTEXT);
        buffer.resize(cipher::ROOM, 0);
        buffer.extend_from_slice(plaintext);
        let sealed = cipher::seal_binary(held, buffer, &mut nonces, name.as_bytes());
        let ciphertext = Bytes::from_owner(sealed);
        let answer = EncryptResponse { ciphertext, key_id: name.to_owned(), annotations: HashMap::new() };
        Ok(about(Response::new(answer), held))
    }

    /// By exactly the key that `key_id` names.
    async fn open(&self, request: &DecryptRequest) -> Result<Response<DecryptResponse>, Status> {
        check(request)?;
        let mut keyring = self.keyring()?;
        if keyring.names().get(&request.key_id).is_none()
            && let Some(newer) = self.service.newer_than(&keyring).await
        {
            keyring = newer;
        }
        let held = keyring.names().get(&request.key_id).ok_or_else(|| {
            Status::not_found(
                "key_id: no key of this name: it is not in Vault, was removed there, or stands elsewhere",
            )
        })?;
        let envelope = request.ciphertext.to_vec();
        let opened = cipher::open_binary_with(held, envelope, request.key_id.as_bytes())
            .map_err(|error| Status::invalid_argument(format!("ciphertext: {error}")))?;
        let plaintext = Bytes::from_owner(opened.plaintext);
        Ok(about(Response::new(DecryptResponse { plaintext }), held))
    }

    fn keyring(&self) -> Result<Arc<Keyring>, Status> {
        let published = &self.service.published;
        published.keyring().ok_or_else(|| Status::unavailable(admin::why_no_keys(&published.report())))
    }
}

/// What the API says of a decrypt's fields.
fn check(request: &DecryptRequest) -> Result<(), Status> {
    check_uid(&request.uid)?;
    if !(1..=MAX_CIPHERTEXT).contains(&request.ciphertext.len()) {
        return Err(Status::invalid_argument(format!("ciphertext: must have 1 to {MAX_CIPHERTEXT} bytes")));
    }
    if !(1..=MAX_KEY_ID).contains(&request.key_id.len()) {
        return Err(Status::invalid_argument(format!("key_id: must have 1 to {MAX_KEY_ID} bytes")));
    }
    // Ours have none; those of another plugin mean nothing here.
    let annotations: usize = request.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if annotations > MAX_ANNOTATIONS {
        return Err(Status::invalid_argument(format!(
            "annotations: more than {MAX_ANNOTATIONS} bytes in all"
        )));
    }
    Ok(())
}

fn check_uid(uid: &str) -> Result<(), Status> {
    if uid.is_empty() {
        return Err(Status::invalid_argument("uid: is empty, and logs on both sides are joined by it"));
    }
    Ok(())
}

/// With what the audit says of it.
fn about<T>(mut answer: Response<T>, held: &HeldKey) -> Response<T> {
    let key_id = Some(held.key.id().clone());
    answer.extensions_mut().insert(Facts { key_id, ..Facts::default() });
    answer
}

/// A line that joins with the API server's logs, by the uid, and with its metrics, by the hash.
fn log(call: &'static str, uid: &str, key_id: &str, error: Option<&Status>) {
    let code = error.map_or(Code::Ok, Status::code);
    tracing::debug!(call, uid = printable(uid), key_id_hash = hash(key_id), ?code, "Kubernetes");
}

/// How the API server's metrics write a key_id.
fn hash(key_id: &str) -> String {
    let digest = hex_simd::encode_to_string(Sha256::digest(key_id.as_bytes()), hex_simd::AsciiCase::Lower);
    if key_id.is_empty() { String::new() } else { format!("sha256:{digest}") }
}

fn printable(text: &str) -> String {
    text.chars().take(MAX_LOGGED).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_as_the_api_server_writes_it() {
        assert_eq!(hash("1"), "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b");
        assert_eq!(hash(""), "");
    }

    #[test]
    fn a_uid_cannot_make_lines_of_its_own_nor_long_ones() {
        assert_eq!(printable("a b\nc\x1b[1m\u{202e}"), "a?b?c?[1m?");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_LOGGED);
    }
}
