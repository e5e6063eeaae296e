//! Seal and open: bytes in, bytes out, under the keys of one keyring.
//!
//! One file a format; this one holds what they share: payloads that never leave their buffer, nonces, and which format
//! a ciphertext is of. `stream` holds what no single request can. Which key is active is the keyring's business, JSON and
//! base64 of the payload the socket's.

mod kong;
mod message;
mod native;
pub mod stream;
mod transit;

use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use zeroize::Zeroize as _;

pub use crate::keyring::Format;
use crate::keyring::{HeldKey, KeyId, Keyring};
pub use message::{Message, Nonces};
pub use native::{ROOM, TAG_LEN, is_binary, open_binary_with, overhead};

/// Bytes in the buffer that they were sealed or opened in, and never moved. The program's allocator wipes it when it is freed.
pub struct Payload {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// An opened ciphertext, and what it was sealed with.
pub struct Opened<'k> {
    pub held: &'k HeldKey,
    pub format: Format,
    pub plaintext: Payload,
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
    #[error(
        "no key of version {0} in the keyring: it is not in Vault, was removed there, or has not been synced yet"
    )]
    UnknownVersion(u64),
    #[error("a field of Kong's, which nothing authenticates, is read only with keyring_kong_fields = on")]
    KongFieldsOff,
    #[error("a field of Kong's has no associated data: nothing could tell whether they differ")]
    KongAssociatedData,
}

/// Why a plaintext was not sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("a field of Kong's has no place for associated data")]
    KongAssociatedData,
    #[error(
        "Transit's format names a version of one key, and the key {0:?} stands in a map: write one record a version, or set \
         keyring_ciphertext_format = native"
    )]
    TransitMap(KeyId),
    #[error("a field of Kong's cannot name the key {0:?}: Kong splits it at every -")]
    KongKeyId(KeyId),
}

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

impl OpenError {
    /// Whether newer keys may change it.
    pub const fn is_unknown_key(&self) -> bool {
        matches!(self, Self::UnknownKey(_) | Self::UnknownVersion(_))
    }
}

impl Format {
    /// The name that settings and requests have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Transit => "transit",
            Self::Kong => "kong",
        }
    }

    const fn nonce_len(self) -> usize {
        match self {
            Self::Native => native::NONCE_LEN,
            Self::Transit | Self::Kong => transit::NONCE_LEN,
        }
    }

    /// Whether its nonces are so short that messages under one key must be counted.
    pub const fn counts_messages(self) -> bool {
        !matches!(self, Self::Native)
    }
}

/// Opens the text form of any format, told by its prefix; fields of Kong's only if they are `allowed`.
///
/// # Errors
/// [`OpenError::UnknownKey`] and [`OpenError::UnknownVersion`] when its key is not held, [`OpenError::NotAuthentic`] for
/// whatever else is wrong with it.
pub fn open_text<'k>(
    keyring: &'k Keyring,
    text: &str,
    associated_data: &[u8],
    kong_fields: bool,
) -> Result<Opened<'k>, OpenError> {
    if let Some(rest) = text.strip_prefix(native::TEXT_PREFIX) {
        native::open_text(keyring, rest, associated_data)
    } else if let Some(rest) = text.strip_prefix(transit::TEXT_PREFIX) {
        transit::open_text(keyring, rest, associated_data)
    } else if let Some(rest) = text.strip_prefix(kong::TEXT_PREFIX) {
        match (kong_fields, associated_data.is_empty()) {
            (false, _) => Err(OpenError::KongFieldsOff),
            (true, false) => Err(OpenError::KongAssociatedData),
            (true, true) => kong::open_text(keyring, rest),
        }
    } else {
        Err(OpenError::NotAuthentic)
    }
}

/// Seals the plaintext that stands behind [`ROOM`] free bytes into the native format's binary form, where it is.
pub fn seal_binary(held: &HeldKey, buffer: Vec<u8>, nonces: &mut Nonces, associated_data: &[u8]) -> Payload {
    native::seal_binary(&held.key, buffer, nonces.take(), associated_data)
}

/// Opens `sealed[start..]`: the binary form, or the text form of any format. The buffer is taken once a key is found, and
/// stays for another try until then.
///
/// # Errors
/// As [`open_text`].
pub fn open_bytes<'k>(
    keyring: &'k Keyring,
    sealed: &mut Vec<u8>,
    start: usize,
    associated_data: &[u8],
    kong_fields: bool,
) -> Result<Opened<'k>, OpenError> {
    if is_binary(&sealed[start..]) {
        return native::open_binary(keyring, sealed, start, associated_data);
    }
    let text = str::from_utf8(&sealed[start..]).map_err(|_| OpenError::NotAuthentic)?;
    open_text(keyring, text.trim_ascii_end(), associated_data, kong_fields)
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

fn find<'k>(keyring: &'k Keyring, id: &str) -> Result<&'k HeldKey, OpenError> {
    keyring.get(id).ok_or_else(|| KeyId::parse(id).map_or(OpenError::NotAuthentic, OpenError::UnknownKey))
}

/// Seals `buffer[start..]`: `nonce ‖ plaintext` becomes `nonce ‖ ct ‖ tag`, under a nonce that was there as room alone.
fn seal_in_place<A: AeadInOut>(
    aead: &A,
    buffer: &mut Vec<u8>,
    start: usize,
    nonce: &Nonce<A>,
    associated_data: &[u8],
) {
    let (head, plaintext) = buffer.split_at_mut(start + nonce.len());
    head[start..].copy_from_slice(nonce);
    let tag = aead
        .encrypt_inout_detached(nonce, associated_data, plaintext.into())
        .unwrap_or_else(|_| unreachable!("a request is far below AES-GCM's limit of 64 GiB"));
    buffer.extend_from_slice(&tag);
}

/// Opens `buffer[start..]`, which is `nonce ‖ ct ‖ tag`. What does not open is wiped.
fn open_in_place<A: AeadInOut>(
    aead: &A,
    mut buffer: Vec<u8>,
    start: usize,
    associated_data: &[u8],
) -> Result<Payload, OpenError> {
    let at = start + Nonce::<A>::default().len();
    let end = buffer.len().checked_sub(Tag::<A>::default().len()).filter(|end| at <= *end);
    let end = end.ok_or(OpenError::NotAuthentic)?;
    let (head, tag) = buffer.split_at_mut(end);
    let (head, ciphertext) = head.split_at_mut(at);
    let (Ok(nonce), Ok(tag)) = (Nonce::<A>::try_from(&head[start..]), Tag::<A>::try_from(&*tag)) else {
        return Err(OpenError::NotAuthentic);
    };
    match aead.decrypt_inout_detached(&nonce, associated_data, ciphertext.into(), &tag) {
        Ok(()) => Ok(Payload { buffer, start: at, end }),
        Err(_) => {
            buffer.zeroize();
            Err(OpenError::NotAuthentic)
        }
    }
}

/// What the formats' tests share.
#[cfg(test)]
mod testing {
    use std::{convert::Infallible, time::SystemTime};

    use super::*;
    use crate::{keyring::Key, secret::Secret};

    pub fn unhex(hex: &str) -> Vec<u8> {
        hex_simd::decode_to_vec(hex).unwrap()
    }

    pub fn key(id: &str, k: u8) -> Key {
        Key::new(KeyId::parse(id).unwrap(), Secret::new([k; 32]))
    }

    /// A keyring of one key, in version 1.
    pub fn keyring(key: Key) -> Keyring {
        let id = key.id().clone();
        Keyring::new([HeldKey::new(key.into(), 1, SystemTime::UNIX_EPOCH)], &id).unwrap()
    }

    pub fn filled(format: Format, plaintext: &[u8]) -> Message {
        let fill = |buffer: &mut Vec<u8>| {
            buffer.extend_from_slice(plaintext);
            Ok::<_, Infallible>(())
        };
        let Ok(message) = Message::new(format, plaintext.len(), fill);
        message
    }

    /// The text form under the active key, with a given nonce.
    pub fn sealed(
        keyring: &Keyring,
        format: Format,
        nonce: &[u8],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> Result<String, SealError> {
        let mut nonces = Nonces::given(nonce);
        let mut out = Vec::new();
        filled(format, plaintext).seal_text(keyring.active(), &mut nonces, associated_data, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::*, *};

    #[test]
    fn kongs_fields_are_read_only_where_they_are_allowed_and_have_no_associated_data() {
        let keyring = keyring(key("a", 7));
        let field = sealed(&keyring, Format::Kong, &[1; 12], b"", b"hello").unwrap();
        assert_eq!(open_text(&keyring, &field, b"", false).err(), Some(OpenError::KongFieldsOff));
        assert_eq!(open_text(&keyring, &field, b"x", true).err(), Some(OpenError::KongAssociatedData));
        assert_eq!(open_text(&keyring, &field, b"", true).unwrap().plaintext.as_bytes(), b"hello");
        let refused = sealed(&keyring, Format::Kong, &[1; 12], b"x", b"hello");
        assert_eq!(refused, Err(SealError::KongAssociatedData));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_again(
            plaintext: Vec<u8>, aad: Vec<u8>, nonce: [u8; 24], format in prop_oneof![Just(Format::Native), Just(Format::Transit)]
        ) {
            let keyring = keyring(key("some.id", 7));
            let text = sealed(&keyring, format, &nonce, &aad, &plaintext).unwrap();
            let opened = open_text(&keyring, &text, &aad, false).unwrap();
            prop_assert_eq!((opened.plaintext.as_bytes(), opened.format), (plaintext.as_slice(), format));
        }

        #[test]
        fn no_text_panics(text: String, prefix in prop_oneof![Just(""), Just("kr1:"), Just("vault:v"), Just("$ke$1$-")]) {
            let keyring = keyring(key("some.id", 7));
            let opened = open_text(&keyring, &[prefix, &text].concat(), b"", true);
            prop_assert!(opened.is_err());
        }
    }
}
