//! Seal and open: bytes in, bytes out, under the keys of one keyring.
//!
//! Here: the choice of the format, messages and their nonces. One file per format; `aead` is their base. `stream` seals
//! payloads that do not fit into a request. The API decodes JSON and base64.

mod aead;
pub(crate) mod encoding;
mod kong;
pub(crate) mod mac;
mod native;
pub mod stream;
mod transit;

pub use crate::keyring::{Format, KongFields};
use crate::keyring::{HeldKey, Keyring};
pub use aead::{NoRandomness, OpenError, Opened, Payload, SealError};
pub use native::{ROOM, TAG_LEN, binary_key_id, is_binary, open_kms, overhead};

/// Opens the text form of any format. The prefix determines the format.
pub fn open_text<'k>(
    keyring: &'k Keyring,
    text: &str,
    associated_data: &[u8],
    kong_fields: KongFields,
) -> Result<Opened<'k>, OpenError> {
    if let Some(rest) = text.strip_prefix(native::TEXT_PREFIX) {
        native::open_text(keyring, rest, associated_data)
    } else if let Some(rest) = text.strip_prefix(transit::TEXT_PREFIX) {
        match kong_fields {
            // Both formats use one key and cipher: without its tag, any Transit ciphertext would open as a field.
            KongFields::Accept => Err(OpenError::TransitWithKongFields),
            KongFields::Refuse => transit::open_text(keyring, rest, associated_data),
        }
    } else if let Some(rest) = text.strip_prefix(kong::TEXT_PREFIX) {
        match (kong_fields, associated_data.is_empty()) {
            (KongFields::Refuse, _) => Err(OpenError::KongFieldsOff),
            (KongFields::Accept, false) => Err(OpenError::KongAssociatedData),
            (KongFields::Accept, true) => kong::open_text(keyring, rest),
        }
    } else {
        Err(OpenError::NotAuthentic)
    }
}

/// Seals `buffer[ROOM..]` in place into the binary form of the native format. The first [`ROOM`] bytes are free.
pub fn seal_binary(held: &HeldKey, buffer: Vec<u8>, nonces: &mut Nonces, associated_data: &[u8]) -> Payload {
    native::seal_binary(&held.key, buffer, nonces.take(), associated_data)
}

/// The same for Kubernetes: applications cannot open the result.
pub fn seal_kms(held: &HeldKey, buffer: Vec<u8>, nonces: &mut Nonces, associated_data: &[u8]) -> Payload {
    native::seal_kms(&held.key, buffer, nonces.take(), associated_data)
}

/// Opens `sealed[start..]`: the binary form, or the text form of any format. It takes the bytes only when it has found a key,
/// so the caller can retry after a sync.
pub fn open_bytes<'k>(
    keyring: &'k Keyring,
    sealed: &mut Vec<u8>,
    start: usize,
    associated_data: &[u8],
    kong_fields: KongFields,
) -> Result<Opened<'k>, OpenError> {
    if is_binary(&sealed[start..]) {
        return native::open_binary(keyring, sealed, start, associated_data);
    }
    let text = str::from_utf8(&sealed[start..]).map_err(|_| OpenError::NotAuthentic)?;
    open_text(keyring, text.trim_ascii_end(), associated_data, kong_fields)
}

/// A plaintext in the buffer in which it is sealed: `<room for the nonce> ‖ plaintext`.
pub struct Message {
    format: Format,
    buffer: Vec<u8>,
}

impl Message {
    /// Reserves room for `len` bytes. `fill` appends the plaintext to the buffer.
    pub fn new<E>(
        format: Format,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buffer = Vec::with_capacity(nonce_len(format) + len + TAG_LEN);
        buffer.resize(nonce_len(format), 0);
        fill(&mut buffer)?;
        Ok(Self { format, buffer })
    }

    /// Seals and appends the text form to `out`: ASCII that JSON does not escape.
    pub fn seal_text(
        self,
        held: &HeldKey,
        nonces: &mut Nonces,
        associated_data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let Self { format, buffer } = self;
        match format {
            Format::Native => native::seal_text(&held.key, buffer, nonces.take(), associated_data, out),
            Format::Transit if held.mapped => return Err(SealError::TransitMap(held.key.id().clone())),
            Format::Transit => transit::seal_text(held, buffer, nonces.take(), associated_data, out),
            Format::Kong if !associated_data.is_empty() => return Err(SealError::KongAssociatedData),
            Format::Kong => kong::seal_text(&held.key, buffer, nonces.take(), out)?,
        }
        Ok(())
    }
}

const fn nonce_len(format: Format) -> usize {
    match format {
        Format::Native => native::NONCE_LEN,
        Format::Transit | Format::Kong => transit::NONCE_LEN,
    }
}

/// Nonces for one request, drawn from the operating system in one call. They are never kept for later requests: a clone of
/// the virtual machine would reuse them.
pub struct Nonces {
    drawn: Vec<u8>,
    taken: usize,
}

impl Nonces {
    /// One nonce per message.
    pub fn draw(count: usize, format: Format) -> Result<Self, NoRandomness> {
        let mut drawn = vec![0; count * nonce_len(format)];
        getrandom::fill(&mut drawn)?;
        Ok(Self { drawn, taken: 0 })
    }

    /// # Panics
    /// If all nonces are used: a nonce must never be invented.
    #[expect(clippy::expect_used, reason = "a missing nonce must stop the request")]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let rest = &self.drawn[self.taken..];
        let nonce = *rest.first_chunk().expect("one nonce is drawn per message");
        self.taken += N;
        nonce
    }
}

#[cfg(test)]
impl Nonces {
    /// Nonces of known answers.
    fn fixed(drawn: &[u8]) -> Self {
        Self { drawn: drawn.to_vec(), taken: 0 }
    }
}

/// Helpers of the formats' tests.
#[cfg(test)]
mod testing {
    use std::{convert::Infallible, time::SystemTime};

    use super::*;
    use crate::{
        keyring::{Key, KeyId},
        secret::Secret,
    };

    pub(super) fn unhex(hex: &str) -> Vec<u8> {
        hex_simd::decode_to_vec(hex).unwrap()
    }

    pub(super) fn key(id: &str, k: u8) -> Key {
        Key::new(KeyId::parse(id).unwrap(), Secret::new([k; 32]))
    }

    /// A keyring with one key in version 1.
    pub(super) fn keyring(key: Key) -> Keyring {
        let id = key.id().clone();
        Keyring::new([HeldKey::new(key.into(), 1, SystemTime::UNIX_EPOCH)], &id).unwrap()
    }

    pub(super) fn filled(format: Format, plaintext: &[u8]) -> Message {
        let fill = |buffer: &mut Vec<u8>| {
            buffer.extend_from_slice(plaintext);
            Ok::<_, Infallible>(())
        };
        let Ok(message) = Message::new(format, plaintext.len(), fill);
        message
    }

    /// The text form under the active key with a fixed nonce.
    pub(super) fn sealed(
        keyring: &Keyring,
        format: Format,
        nonce: &[u8],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> Result<String, SealError> {
        let mut nonces = Nonces::fixed(nonce);
        let mut out = Vec::new();
        filled(format, plaintext).seal_text(keyring.active(), &mut nonces, associated_data, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::{testing::*, *};

    #[test]
    fn kong_fields_open_only_if_accepted_and_without_associated_data() {
        let keyring = keyring(key("a", 7));
        let field = sealed(&keyring, Format::Kong, &[1; 12], b"", b"hello").unwrap();
        assert_eq!(
            open_text(&keyring, &field, b"", KongFields::Refuse).err(),
            Some(OpenError::KongFieldsOff)
        );
        assert_eq!(
            open_text(&keyring, &field, b"x", KongFields::Accept).err(),
            Some(OpenError::KongAssociatedData)
        );
        assert_eq!(
            open_text(&keyring, &field, b"", KongFields::Accept).unwrap().plaintext.as_bytes(),
            b"hello"
        );
        let refused = sealed(&keyring, Format::Kong, &[1; 12], b"x", b"hello");
        assert_eq!(refused, Err(SealError::KongAssociatedData));
    }

    #[test]
    fn nonces_do_not_repeat() {
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let mut nonces = Nonces::draw(100, Format::Native).unwrap();
            assert!((0..100).all(|_| seen.insert(nonces.take::<24>())));
        }
    }

    #[test]
    #[should_panic(expected = "one nonce is drawn per message")]
    fn a_missing_nonce_panics() {
        let mut nonces = Nonces::draw(1, Format::Transit).unwrap();
        let _: ([u8; 12], [u8; 12]) = (nonces.take(), nonces.take());
    }

    proptest! {
        #[test]
        fn a_sealed_text_opens_again(
            plaintext: Vec<u8>, aad: Vec<u8>, nonce: [u8; 24], format in prop_oneof![Just(Format::Native), Just(Format::Transit)]
        ) {
            let keyring = keyring(key("some.id", 7));
            let text = sealed(&keyring, format, &nonce, &aad, &plaintext).unwrap();
            let opened = open_text(&keyring, &text, &aad, KongFields::Refuse).unwrap();
            prop_assert_eq!((opened.plaintext.as_bytes(), opened.format), (plaintext.as_slice(), format));
        }

        #[test]
        fn no_text_panics(text: String, prefix in prop_oneof![Just(""), Just("kr1:"), Just("vault:v"), Just("$ke$1$-")]) {
            let keyring = keyring(key("some.id", 7));
            let opened = open_text(&keyring, &[prefix, &text].concat(), b"", KongFields::Accept);
            prop_assert!(opened.is_err());
        }
    }
}
