//! Why one item of a Transit request failed. The messages are for the caller and quote no value.

use crate::{
    api::{
        audit::AuditFields,
        error::{ApiError, ErrorKind},
    },
    cipher::{OpenError, SealError, mac::MacError},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum ItemError {
    #[error("missing {0}")]
    Missing(&'static str),
    #[error("{0} is not base64 (standard alphabet, with padding)")]
    NotBase64(&'static str),
    #[error("key_version is negative")]
    NegativeVersion,
    #[error("key_version {0} does not exist: the latest key version is {1}")]
    NewerVersion(i64, u64),
    #[error("key_version {0} is not in the keyring: it was removed in Vault")]
    RemovedVersion(i64),
    #[error("key_version {0} is too old: Vault does not list it any more, so it only decrypts")]
    RetiredVersion(i64),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Mac(#[from] MacError),
    #[error(
        "the ciphertext would be too large to decrypt here (keyring_max_request_size): send less, or a stream"
    )]
    TooLarge,
}

impl ItemError {
    pub(super) fn audit(&self) -> AuditFields {
        match self {
            Self::Open(OpenError::UnknownKey(id)) => AuditFields::from_key(id),
            _ => AuditFields::default(),
        }
    }
}

impl From<ItemError> for ApiError {
    fn from(error: ItemError) -> Self {
        let kind =
            if matches!(error, ItemError::TooLarge) { ErrorKind::TooLarge } else { ErrorKind::Invalid };
        Self::new(kind, error.to_string())
    }
}
