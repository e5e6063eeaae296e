//! Seal and open: bytes in, bytes out, under the keys of one keyring.
//!
//! One file a format; this one holds what they share. Which key is active is the keyring's business, JSON and base64 of
//! the payload the socket's.

pub mod native;

use zeroize::Zeroizing;

use crate::keyring::KeyId;

/// Plaintext in the buffer that it was opened in: wiped when dropped, and never moved.
pub struct Plaintext {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Plaintext {
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

/// Why a ciphertext was not opened. A damaged one, a foreign one and one with other associated data are the same to the
/// caller; a key that is not held is told apart, since an operator can do something about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the ciphertext cannot be opened: it is not one of this keyring's, or was changed, or its associated data differ"
    )]
    NotAuthentic,
    #[error("no key {0:?} in the keyring: it is not in Vault, was removed there, or has not been synced yet")]
    UnknownKey(KeyId),
}

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);
