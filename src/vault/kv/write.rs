//! Writing a secret: a new version by check-and-set on version 2, the one record on version 1.
//!
//! <https://openbao.org/api-docs/secret/kv/kv-v2/#create-update-secret>: `POST /v1/{mount}/data/{path}` with `options.cas`;
//! on version 1, `POST /v1/{mount}/{path}`. Only operators write, with a token of their own.

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Kv;
use crate::{secret::Secret, settings::KvVersion, vault::error::VaultError};

/// Why a secret was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("{path} has changed meanwhile, so nothing was written: another rotation runs; try again")]
    Changed { path: String },
    #[error(
        "Vault denies writing {path}: the token's policy needs `create` and `update` on it; \
         `keyringd policy --rotate` prints that policy"
    )]
    Denied { path: String },
    #[error(
        "{path} was written, but no version of it was made: the engine is of version 1, where that is another secret; \
         delete it, and set keyring_vault_kv = v1"
    )]
    NotVersioned { path: String },
    #[error("Vault refused the new version of {path}{message}")]
    Refused { path: String, message: String },
}

/// The body for version 2.
#[derive(Serialize)]
struct Version2<'a> {
    options: Options,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Options {
    /// The version that the new one follows; 0 for a secret that does not exist.
    cas: u64,
}

#[derive(Deserialize)]
struct Written {
    version: u64,
}

impl Kv<'_> {
    /// Writes these fields, a JSON object, after version `expected`. Returns the new version; `None` on version 1, which has
    /// neither versions nor check-and-set.
    pub async fn write(&self, fields: &Secret<String>, expected: u64) -> Result<Option<u64>, WriteError> {
        let endpoint = (self.secret.kv == KvVersion::V2).then_some("data");
        let segments = self.secret.mount.segments().chain(endpoint).chain(self.secret.path.segments());
        let Ok(data) = serde_json::from_str::<&RawValue>(fields.expose()) else {
            let (path, message) = (self.secret.path.to_string(), ": the record is no JSON".to_owned());
            return Err(WriteError::Refused { path, message });
        };
        let response = match self.secret.kv {
            KvVersion::V1 => self.client.post(segments, data, fields).await?,
            KvVersion::V2 => {
                let body = Version2 { options: Options { cas: expected }, data };
                self.client.post(segments, &body, fields).await?
            }
        };
        let (path, message) = (response.path.clone(), response.message.clone());
        match response.status {
            status if status.is_success() => match response.data() {
                Some(Written { version }) => Ok(Some(version)),
                None if self.secret.kv == KvVersion::V2 => Err(WriteError::NotVersioned { path }),
                None => Ok(None),
            },
            StatusCode::BAD_REQUEST if message.contains("check-and-set") => Err(WriteError::Changed { path }),
            StatusCode::FORBIDDEN => Err(WriteError::Denied { path }),
            StatusCode::NOT_FOUND => Err(self.not_found(response).into()),
            _ => Err(WriteError::Refused { path, message }),
        }
    }
}
