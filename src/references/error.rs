//! Why a reference gives no value. A message follows the reference, or the words "the text" where it may not be quoted.

use crate::{
    settings::{
        reference::{self, apisix},
        resolve::Unresolved,
    },
    vault::VaultError,
};

#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("is not a well-formed reference: {0}")]
    Kong(#[from] reference::Malformed),
    #[error("is not a well-formed reference: {0}")]
    Apisix(#[from] apisix::Malformed),
    #[error("has a path segment of `.`, `..` or a control character, which is not a path in Vault")]
    BadPath,
    #[error("names the unknown backend or prefix {0}: use hcv, env, or a prefix in keyring_hcv_prefixes")]
    UnknownBackend(String),
    #[error("names the ID {0}, which keyring_secret_objects does not have")]
    UnknownObject(String),
    #[error("names a version, but the engine is of version 1, which keeps none")]
    NoVersions,
    #[error("{0}")]
    Variable(#[from] Unresolved),
    #[error(
        "names the variable {0}, which is reserved for the daemon: use `keyringd vault get` or `keyringd exec` for your \
         own variables"
    )]
    OwnVariable(String),
    #[error("names no existing secret: {0}")]
    NoSecret(String),
    #[error("names a secret that has no fields")]
    NoFields,
    #[error("names a secret that has no field {0:?}")]
    NoField(String),
    #[error("names the field {0:?}, which is {1}: a value must be text")]
    NotText(String, &'static str),
    #[error("names the field {0:?}, which is not base64 of text, as vault_hcv_decode_base64 requires")]
    NotBase64(String),
    #[error("cannot be read: {0}")]
    Vault(String),
}

impl ResolveError {
    pub(super) fn from_vault(error: &VaultError) -> Self {
        match error {
            VaultError::NotFound { .. } => Self::NoSecret(error.to_string()),
            _ => Self::Vault(error.to_string()),
        }
    }
}
