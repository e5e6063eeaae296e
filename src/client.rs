//! The CLI's client of the socket: one method per endpoint. `exchange` sends the requests, `batch` those of many values.

mod batch;
mod exchange;

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::secret::Secret;
pub(crate) use batch::{BatchItem, BatchOperation, Batches};
pub(crate) use exchange::{Client, ClientError};

/// A data key, in plaintext and wrapped by the keyring.
#[derive(Debug)]
pub(crate) struct DataKey {
    pub key: Secret<[u8; 32]>,
    pub wrapped: String,
}

#[derive(Default, Serialize)]
struct TransitRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u16>,
    #[serde(skip_serializing_if = "String::is_empty")]
    associated_data: String,
}

#[derive(Deserialize)]
struct Response<T> {
    data: T,
}

#[derive(Deserialize)]
struct TransitData {
    ciphertext: Option<String>,
    plaintext: Option<Secret<String>>,
}

/// The value of a reference.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub value: Secret<String>,
    /// The time since expiry, if the value is expired and Vault cannot be read.
    pub stale: Option<Duration>,
}

/// The daemon's limit of references per request.
const BATCH_SIZE: usize = 100;

#[derive(Deserialize)]
struct BatchData {
    batch_results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    value: Option<Secret<String>>,
    stale_seconds: Option<u64>,
    error: Option<String>,
}

impl Client {
    /// `GET /status`
    pub(crate) async fn status(&self) -> Result<Value, ClientError> {
        self.get(&self.of_keyring("/status")).await?.json()
    }

    /// All keys as `/status` describes them, the newest first.
    pub(crate) async fn keys(&self) -> Result<Vec<Value>, ClientError> {
        let mut keys = Vec::new();
        for page in 1_u32.. {
            let path = self.of_keyring("/status");
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut status: Value = self.get(&format!("{path}{separator}page={page}")).await?.json()?;
            match status.pointer_mut("/keyring/keys").map(Value::take) {
                Some(Value::Array(listed)) if !listed.is_empty() => keys.extend(listed),
                _ => break,
            }
        }
        Ok(keys)
    }

    /// `GET /readyz`: whether the keyring is ready, and its message.
    pub(crate) async fn health(&self) -> Result<(bool, String), ClientError> {
        Ok(self.get(&self.of_keyring("/readyz")).await?.text())
    }

    /// `POST /keyring/vault/sync`
    pub(crate) async fn sync(&self) -> Result<(), ClientError> {
        let path = self.of_keyring("/keyring/vault/sync");
        self.post(&path, Zeroizing::default()).await?.success().map(drop)
    }

    /// `POST /reload`: what changed, or the mistakes as lines.
    pub(crate) async fn reload(&self) -> Result<Value, ClientError> {
        self.post("/reload", Zeroizing::default()).await?.json()
    }

    pub(crate) async fn encrypt(
        &self,
        plaintext: &[u8],
        associated_data: &str,
    ) -> Result<String, ClientError> {
        let plaintext = Zeroizing::new(BASE64_STANDARD.encode(plaintext));
        let request = TransitRequest {
            plaintext: Some(&plaintext),
            ..TransitRequest::with_associated_data(associated_data)
        };
        self.transit("encrypt", &request).await?.ciphertext()
    }

    pub(crate) async fn decrypt(
        &self,
        ciphertext: &str,
        associated_data: &str,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let request = TransitRequest::from_ciphertext(ciphertext, associated_data);
        self.transit("decrypt", &request).await?.plaintext()
    }

    /// Re-encrypts under the active key, text form to text form.
    pub(crate) async fn rewrap(
        &self,
        ciphertext: &str,
        associated_data: &str,
    ) -> Result<String, ClientError> {
        let request = TransitRequest::from_ciphertext(ciphertext, associated_data);
        self.transit("rewrap", &request).await?.ciphertext()
    }

    /// A new data key of 256 bits.
    pub(crate) async fn data_key(&self, associated_data: &str) -> Result<DataKey, ClientError> {
        let request =
            TransitRequest { bits: Some(256), ..TransitRequest::with_associated_data(associated_data) };
        let data = self.transit("datakey/plaintext", &request).await?;
        Ok(DataKey { key: data.plaintext().and_then(|bytes| key(&bytes))?, wrapped: data.ciphertext()? })
    }

    pub(crate) async fn unwrap_data_key(
        &self,
        wrapped: &str,
        associated_data: &str,
    ) -> Result<Secret<[u8; 32]>, ClientError> {
        self.decrypt(wrapped, associated_data).await.and_then(|bytes| key(&bytes))
    }

    /// `POST /v1/resolve`: the values of references to Vault secrets, in their order, or the first error.
    pub(crate) async fn resolve(&self, references: &[&str]) -> Result<Vec<Resolved>, ClientError> {
        let mut resolved = Vec::new();
        for batch in references.chunks(BATCH_SIZE) {
            resolved.extend(self.resolve_batch(batch).await?);
        }
        Ok(resolved)
    }

    async fn resolve_batch(&self, references: &[&str]) -> Result<Vec<Resolved>, ClientError> {
        let batch: Vec<_> = references.iter().map(|reference| json!({ "reference": reference })).collect();
        let request = Zeroizing::new(json!({ "batch_input": batch }).to_string().into_bytes());
        let response = self.post("/v1/resolve", request).await?;
        let Response { data: BatchData { batch_results } } = response.batch_json()?;
        if batch_results.len() != references.len() {
            return Err(ClientError::Unexpected(
                "the number of results differs from the number of references",
            ));
        }
        let resolved = batch_results.into_iter().map(|one| match one {
            BatchResult { value: Some(value), stale_seconds, .. } => {
                Ok(Resolved { value, stale: stale_seconds.map(Duration::from_secs) })
            }
            BatchResult { error, .. } => {
                Err(error.map_or(ClientError::Unexpected("no field value"), ClientError::Refused))
            }
        });
        resolved.collect()
    }

    async fn transit(
        &self,
        operation: &str,
        request: &TransitRequest<'_>,
    ) -> Result<TransitData, ClientError> {
        let path = format!("/v1/transit/{operation}/{}", self.keyring_name().await?);
        self.post(&path, request.to_json()).await?.json().map(|Response { data }| data)
    }

    /// The name of the keyring. `/livez`, which has that of the default one, needs no permission, other than `/status`.
    pub(crate) async fn keyring_name(&self) -> Result<String, ClientError> {
        match &self.keyring {
            Some(name) => Ok(name.clone()),
            None => self.get("/livez").await?.keyring_name.ok_or(ClientError::NoKeyring),
        }
    }

    /// A path about the keyring. Its name needs no escaping.
    fn of_keyring(&self, path: &str) -> String {
        self.keyring.as_ref().map_or_else(|| path.to_owned(), |name| format!("{path}?name={name}"))
    }
}

impl<'a> TransitRequest<'a> {
    fn with_associated_data(associated_data: &str) -> Self {
        Self { associated_data: BASE64_STANDARD.encode(associated_data), ..Self::default() }
    }

    fn from_ciphertext(ciphertext: &'a str, associated_data: &str) -> Self {
        Self { ciphertext: Some(ciphertext), ..Self::with_associated_data(associated_data) }
    }

    /// Allocated once, so that no copy remains: base64 and ciphertexts need no escaping.
    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let texts = [self.plaintext, self.ciphertext, Some(&self.associated_data)];
        let room: usize = texts.into_iter().flatten().map(str::len).sum();
        let mut json = Zeroizing::new(Vec::with_capacity(room + 128));
        // Serialising strings and numbers into memory cannot fail.
        let _ = serde_json::to_writer(&mut *json, self);
        json
    }
}

impl TransitData {
    fn ciphertext(self) -> Result<String, ClientError> {
        self.ciphertext.ok_or(ClientError::Unexpected("no field ciphertext"))
    }

    fn plaintext(&self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let text = self.plaintext.as_ref().ok_or(ClientError::Unexpected("no field plaintext"))?;
        let bytes = BASE64_STANDARD.decode(text.expose());
        bytes.map(Zeroizing::new).map_err(|_| ClientError::Unexpected("the plaintext is not base64"))
    }
}

fn key(bytes: &[u8]) -> Result<Secret<[u8; 32]>, ClientError> {
    let mut key = Secret::new([0; 32]);
    if bytes.len() != key.expose().len() {
        return Err(ClientError::Unexpected("the data key does not have 32 bytes"));
    }
    key.expose_mut().copy_from_slice(bytes);
    Ok(key)
}
