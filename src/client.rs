//! The command line's side of the socket: what can be asked of a daemon, and what it answers.
//!
//! How a request gets there is in `exchange`, what references stand for in `resolve`, what the commands print in `cli`, what
//! the daemon answers in `socket`.

mod exchange;
mod resolve;

use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::secret::Secret;
use exchange::PATIENCE;
pub use resolve::Resolved;

/// A daemon, by its socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach keyringd at {socket}: {error}: is it running, and may this user use its socket?")]
    Unreachable { socket: PathBuf, error: std::io::Error },
    #[error("keyringd at {socket} did not answer: {error}")]
    NoAnswer { socket: PathBuf, error: hyper::Error },
    #[error("keyringd at {socket} did not answer within {} s: does it hang?", PATIENCE.as_secs())]
    Silent { socket: PathBuf },
    /// In the daemon's own words: the request is larger than it takes.
    #[error("{0}")]
    TooLarge(String),
    /// In the daemon's own words.
    #[error("{0}")]
    Refused(String),
    #[error("keyringd's answer is not what was expected: {0}")]
    Unexpected(&'static str),
}

/// A data key, as itself and as the keyring wrapped it.
#[derive(Debug)]
pub struct DataKey {
    pub key: Secret<[u8; 32]>,
    pub wrapped: String,
}

/// The fields of a Transit request. Those that say nothing are not sent.
#[derive(Default, Serialize)]
struct Asked<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<u16>,
    #[serde(skip_serializing_if = "String::is_empty")]
    associated_data: String,
}

/// The fields of an answer that the command line has a use for.
#[derive(Deserialize)]
struct Data {
    ciphertext: Option<String>,
    plaintext: Option<Secret<String>>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// `GET /status`.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn status(&self) -> Result<Value, ClientError> {
        parsed(&self.request(Method::GET, "/status", Zeroizing::default()).await?.success()?)
    }

    /// `GET /readyz`: whether it is ready, and what it says of that.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn health(&self) -> Result<(bool, String), ClientError> {
        Ok(self.request(Method::GET, "/readyz", Zeroizing::default()).await?.said())
    }

    /// `POST /keyring/vault/sync`.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn sync(&self) -> Result<(), ClientError> {
        let answer = self.request(Method::POST, "/keyring/vault/sync", Zeroizing::default()).await?;
        answer.success().map(|_| ())
    }

    /// Seals `plaintext` and answers the ciphertext's text form.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn encrypt(&self, plaintext: &[u8], associated_data: &str) -> Result<String, ClientError> {
        let plaintext = Zeroizing::new(BASE64_STANDARD.encode(plaintext));
        let asked = Asked { plaintext: Some(&plaintext), ..Asked::bound_to(associated_data) };
        self.transit("encrypt", &asked).await?.ciphertext()
    }

    /// Opens a ciphertext in its text form.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn decrypt(
        &self,
        ciphertext: &str,
        associated_data: &str,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let asked = Asked { ciphertext: Some(ciphertext), ..Asked::bound_to(associated_data) };
        self.transit("decrypt", &asked).await?.plaintext()
    }

    /// Seals anew under the active key what a ciphertext in its text form holds, and answers that one's text form.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn rewrap(&self, ciphertext: &str, associated_data: &str) -> Result<String, ClientError> {
        let asked = Asked { ciphertext: Some(ciphertext), ..Asked::bound_to(associated_data) };
        self.transit("rewrap", &asked).await?.ciphertext()
    }

    /// A new data key of 256 bits.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn data_key(&self, associated_data: &str) -> Result<DataKey, ClientError> {
        let asked = Asked { bits: Some(256), ..Asked::bound_to(associated_data) };
        let data = self.transit("datakey/plaintext", &asked).await?;
        Ok(DataKey { key: data.plaintext().and_then(|bytes| key(&bytes))?, wrapped: data.ciphertext()? })
    }

    /// The data key that the keyring wrapped.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn unwrap_data_key(
        &self,
        wrapped: &str,
        associated_data: &str,
    ) -> Result<Secret<[u8; 32]>, ClientError> {
        self.decrypt(wrapped, associated_data).await.and_then(|bytes| key(&bytes))
    }

    /// One Transit operation under whatever name the daemon goes by.
    async fn transit(&self, operation: &str, asked: &Asked<'_>) -> Result<Data, ClientError> {
        let path = format!("/v1/transit/{operation}/{}", self.name().await?);
        let answer = self.request(Method::POST, &path, asked.to_json()).await?;
        parsed::<Envelope<Data>>(&answer.success()?).map(|envelope| envelope.data)
    }

    /// What the daemon calls its keyring. `/livez` says it to whoever may connect, `/status` not to everybody.
    async fn name(&self) -> Result<String, ClientError> {
        let answer = self.request(Method::GET, "/livez", Zeroizing::default()).await?;
        answer.name.ok_or(ClientError::Unexpected("no Keyring-Name on /livez; what listens there?"))
    }
}

impl Asked<'_> {
    fn bound_to(associated_data: &str) -> Self {
        Self { associated_data: BASE64_STANDARD.encode(associated_data), ..Self::default() }
    }

    /// Written into a buffer that is wiped, and has the room from the start: base64 and ciphertexts need no escaping.
    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let texts = [self.plaintext, self.ciphertext, Some(&self.associated_data)];
        let room: usize = texts.into_iter().flatten().map(str::len).sum();
        let mut json = Zeroizing::new(Vec::with_capacity(room + 128));
        // Writing texts and numbers into memory cannot fail.
        let _ = serde_json::to_writer(&mut *json, self);
        json
    }
}

impl Data {
    fn ciphertext(self) -> Result<String, ClientError> {
        self.ciphertext.ok_or(ClientError::Unexpected("no ciphertext"))
    }

    fn plaintext(&self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let text = self.plaintext.as_ref().ok_or(ClientError::Unexpected("no plaintext"))?;
        let bytes = BASE64_STANDARD.decode(text.expose());
        bytes.map(Zeroizing::new).map_err(|_| ClientError::Unexpected("the plaintext is not base64"))
    }
}

fn key(bytes: &[u8]) -> Result<Secret<[u8; 32]>, ClientError> {
    let mut key = Secret::new([0; 32]);
    if bytes.len() != key.expose().len() {
        return Err(ClientError::Unexpected("the data key is not 32 bytes long"));
    }
    key.expose_mut().copy_from_slice(bytes);
    Ok(key)
}

fn parsed<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|_| ClientError::Unexpected("not the JSON of keyringd; what listens there?"))
}
