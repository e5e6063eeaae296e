//! Why one item of a Transit request failed. The messages are for the caller and quote no value.

use crate::{
    api::{
        audit::AuditFields,
        envelope::write_json,
        error::{ApiError, ErrorKind},
    },
    cipher::{OpenError, SealError, mac::MacError},
    keyring::KeyId,
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
    #[error("a blind index needs both associated_data, its label, and bits, its width")]
    HalfAnIndex,
    #[error("bits of a blind index must be from 8 to 256")]
    IndexBits,
    #[error("a blind index is made with sha2-256 only")]
    IndexAlgorithm,
    #[error(
        "no record is chosen for blind indexes, which must not follow the active key: set keyring_index_key or the secret's \
         custom_metadata keyringd_index_key to the id of a record, or give key_version"
    )]
    NoIndexKey,
    #[error(
        "the record {0} for blind indexes (keyring_index_key, or keyringd_index_key) is not in the keyring: write it back, or \
         choose another one and index again"
    )]
    IndexKeyMissing(KeyId),
    #[error("key_version {0} holds several keys: choose one for blind indexes by keyring_index_key")]
    SeveralIndexKeys(i64),
    #[error(
        "the ciphertext would be too large to decrypt here (keyring_max_request_size): send less, or a stream"
    )]
    TooLarge,
}

impl ItemError {
    /// Appends it as the field of an item's result.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#""error":"#);
        write_json(&self.to_string(), out);
    }

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
