//! The base of all formats: AEAD in place on one buffer, and the types of the results.
//!
//! The formats are in sibling files. The bytes of a format are not known here.

use std::ops::Range;

use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use base64_simd::STANDARD as BASE64;
use zeroize::Zeroize as _;

use crate::{
    keyring::{Format, HeldKey, KeyId, Keyring},
    secret::wipe_stack,
};

/// More than the stack use of the block cipher, which copies blocks of plaintext there. Without optimisation frames are larger.
pub(super) const STACK: usize = if cfg!(debug_assertions) { 8 << 10 } else { 4 << 10 };

/// A result inside the buffer that it was sealed or opened in: it is never copied. The allocator wipes freed memory.
pub struct Payload {
    pub(super) buffer: Vec<u8>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A plaintext, and the key and format of its ciphertext.
pub struct Opened<'k, P = Payload> {
    pub held: &'k HeldKey,
    pub format: Format,
    pub plaintext: P,
}

/// One whose plaintext is in this range of its text.
pub type OpenedText<'k> = Opened<'k, Range<usize>>;

/// What the text forms look like.
pub const TEXT_FORMS: &str =
    "kr1:<id>:<base64>, vault:v<version>:<base64>, or $ke$1$-<id>-<nonce>-<hexadecimal digits> of Kong";

/// Decryption fails in one way, whatever is wrong with the ciphertext. A missing key is a separate error, because an
/// operator can act on it, and so is a text that has the form of no ciphertext, which everybody can see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "decryption failed: the ciphertext was changed, is not from this keyring, or has other associated data"
    )]
    NotAuthentic,
    #[error("not a ciphertext: expected {}", TEXT_FORMS)]
    NotACiphertext,
    #[error(
        "key {0:?} is not in the keyring: it is missing in Vault, was removed there, or is not synced yet"
    )]
    UnknownKey(KeyId),
    #[error(
        "version {0} is not in the keyring: it is missing in Vault, was removed there, or is not synced yet"
    )]
    UnknownVersion(u64),
    #[error(
        "ciphertexts of the form vault:v… are refused with keyring_kong_fields = on: both forms use the same key, and one \
         could be changed into the other; decrypt them with a daemon that has keyring_kong_fields = off"
    )]
    TransitWithKongFields,
    #[error("Kong's encrypted fields are not authenticated; set keyring_kong_fields = on to decrypt them")]
    KongFieldsOff,
    #[error("Kong's encrypted fields do not authenticate associated data; omit it")]
    KongAssociatedData,
    #[error("Kong's encrypted fields have no context; omit it")]
    KongContext,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("Kong's encrypted fields do not support associated data; omit it or use another format")]
    KongAssociatedData,
    #[error("Kong's encrypted fields do not support a context; omit it or use another format")]
    KongContext,
    #[error(
        "the transit format needs one key per version, and key {0:?} is in the map form; write one record per version, or \
         set keyring_ciphertext_format = native"
    )]
    TransitMap(KeyId),
    #[error("key {0:?} cannot be used for Kong's encrypted fields: Kong does not accept `-` in a key id")]
    KongKeyId(KeyId),
}

#[derive(Debug, thiserror::Error)]
#[error("the operating system returned no random bytes: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

impl OpenError {
    /// Whether a sync may fix it.
    pub const fn is_unknown_key(&self) -> bool {
        matches!(self, Self::UnknownKey(_) | Self::UnknownVersion(_))
    }
}

impl Payload {
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The key with this ID.
pub(super) fn find<'k>(keyring: &'k Keyring, id: &str) -> Result<&'k HeldKey, OpenError> {
    keyring.get(id).ok_or_else(|| KeyId::parse(id).map_or(OpenError::NotAuthentic, OpenError::UnknownKey))
}

/// Seals `buffer[start..]`: `<room for the nonce> ‖ plaintext` becomes `nonce ‖ ct ‖ tag`. The caller wipes
/// the stack, as [`Batch`](super::Batch) does.
pub(super) fn seal_in_place<A: AeadInOut>(
    aead: &A,
    buffer: &mut Vec<u8>,
    start: usize,
    nonce: &Nonce<A>,
    associated_data: &[u8],
) {
    let (head, plaintext) = buffer.split_at_mut(start + nonce.len());
    head[start..].copy_from_slice(nonce);
    let tag = seal(aead, plaintext, nonce, associated_data);
    buffer.extend_from_slice(&tag);
}

/// Seals the plaintext in place and returns the tag.
fn seal<A: AeadInOut>(aead: &A, plaintext: &mut [u8], nonce: &Nonce<A>, associated_data: &[u8]) -> Tag<A> {
    aead.encrypt_inout_detached(nonce, associated_data, plaintext.into())
        .unwrap_or_else(|_| unreachable!("a request is smaller than AES-GCM's limit of 64 GiB"))
}

/// Seals the plaintext in place, and appends the base64 of `nonce ‖ ct ‖ tag` to `out`. The nonce's length is a multiple of
/// three, so that the base64 of the parts is that of the whole. The caller's [`Batch`](super::Batch) wipes the stack.
pub(super) fn seal_base64<A: AeadInOut>(
    aead: &A,
    plaintext: &mut [u8],
    nonce: &Nonce<A>,
    associated_data: &[u8],
    out: &mut Vec<u8>,
) {
    let tag = seal(aead, plaintext, nonce, associated_data);
    let (most, rest) = plaintext.split_at(plaintext.len() / 3 * 3);
    let mut end = [0; 2 + 16];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()..][..tag.len()].copy_from_slice(&tag);
    for part in [nonce, most, &end[..rest.len() + tag.len()]] {
        BASE64.encode_append(part, out);
    }
}

/// Opens `buffer[start..]`, which is `nonce ‖ ct ‖ tag`. Wipes the buffer if that fails.
pub(super) fn open_in_place<A: AeadInOut>(
    aead: &A,
    mut buffer: Vec<u8>,
    start: usize,
    associated_data: &[u8],
) -> Result<Payload, OpenError> {
    let opened = open(aead, &mut buffer[start..], associated_data);
    wipe_stack::<STACK>();
    match opened {
        Ok(plaintext) => Ok(Payload { buffer, start: start + plaintext.start, end: start + plaintext.end }),
        Err(error) => {
            buffer.zeroize();
            Err(error)
        }
    }
}

/// Opens `nonce ‖ ct ‖ tag` in place, and returns where the plaintext is. On an error the bytes are as they were. The
/// caller wipes the stack.
pub(super) fn open<A: AeadInOut>(
    aead: &A,
    sealed: &mut [u8],
    associated_data: &[u8],
) -> Result<Range<usize>, OpenError> {
    let start = Nonce::<A>::default().len();
    let end = sealed.len().checked_sub(Tag::<A>::default().len()).filter(|end| start <= *end);
    let end = end.ok_or(OpenError::NotAuthentic)?;
    let (head, tag) = sealed.split_at_mut(end);
    let (nonce, ciphertext) = head.split_at_mut(start);
    let (Ok(nonce), Ok(tag)) = (Nonce::<A>::try_from(&*nonce), Tag::<A>::try_from(&*tag)) else {
        return Err(OpenError::NotAuthentic);
    };
    let opened = aead.decrypt_inout_detached(&nonce, associated_data, ciphertext.into(), &tag);
    opened.map(|()| start..end).map_err(|_| OpenError::NotAuthentic)
}
