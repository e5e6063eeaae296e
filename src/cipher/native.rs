//! The native format: XAES-256-GCM under the record's key, with the key ID authenticated.
//!
//! Text: `kr1:<id>:<base64(nonce[24] ‖ ct ‖ tag[16])>`. Binary: `KR1 ‖ len(id) as u8 ‖ id ‖ nonce[24] ‖ ct ‖ tag[16]`.
//! Associated data: `KR1 ‖ len(id) as u8 ‖ id ‖ the caller's`. The cipher is C2SP's XAES-256-GCM
//! (c2sp.org/XAES-256-GCM); its 192-bit nonces are safe to draw at random for any number of messages under one key.

use base64_simd::STANDARD as BASE64;
use xaes_256_gcm::{Nonce, Tag, aead::AeadInOut as _};
use zeroize::{Zeroize as _, Zeroizing};

use super::{NoRandomness, OpenError, Plaintext};
use crate::keyring::{HeldKey, Key, KeyId, Keyring};

pub const TEXT_PREFIX: &str = "kr1:";
pub const NONCE_LEN: usize = 24;
pub const TAG_LEN: usize = 16;

const BINARY_PREFIX: &[u8; 3] = b"KR1";

/// Nonces for one request, drawn from the operating system in one call and never kept beyond it: a buffer of them would
/// be used twice by a cloned virtual machine.
pub struct Nonces(std::vec::IntoIter<[u8; NONCE_LEN]>);

impl Nonces {
    /// # Errors
    /// [`NoRandomness`] when the operating system has none to give.
    pub fn draw(count: usize) -> Result<Self, NoRandomness> {
        let mut nonces = vec![[0; NONCE_LEN]; count];
        getrandom::fill(nonces.as_flattened_mut())?;
        Ok(Self(nonces.into_iter()))
    }

    /// # Panics
    /// When more are taken than were drawn: a nonce must never be made up.
    #[expect(clippy::expect_used, reason = "a missing nonce must stop the request, whatever else happens")]
    pub fn take(&mut self) -> [u8; NONCE_LEN] {
        self.0.next().expect("as many nonces are drawn as messages are sealed")
    }
}

/// A message being sealed in place: `free ‖ nonce[24] ‖ plaintext`, then `free ‖ nonce[24] ‖ ct ‖ tag[16]`.
pub struct Message {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
}

impl Message {
    /// Room for a plaintext of `len` bytes. `fill` appends it; whatever it appended is what gets sealed.
    ///
    /// # Errors
    /// What `fill` answers.
    pub fn new<E>(len: usize, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Self, E> {
        Self::with_header(&[], len, fill)
    }

    fn with_header<E>(
        header: &[u8],
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let start = header.len();
        let mut buffer = Zeroizing::new(Vec::with_capacity(start + NONCE_LEN + len + TAG_LEN));
        buffer.extend_from_slice(header);
        buffer.resize(start + NONCE_LEN, 0);
        fill(&mut buffer)?;
        Ok(Self { buffer, start })
    }

    /// Seals and appends the text form to `out`, in ASCII that needs no escaping in JSON.
    pub fn seal_text(mut self, key: &Key, nonce: [u8; NONCE_LEN], associated_data: &[u8], out: &mut Vec<u8>) {
        self.seal(key, nonce, associated_data);
        let id = key.id().as_str().as_bytes();
        let sealed = &self.buffer[self.start..];
        out.reserve(TEXT_PREFIX.len() + id.len() + 1 + BASE64.encoded_length(sealed.len()));
        out.extend_from_slice(TEXT_PREFIX.as_bytes());
        out.extend_from_slice(id);
        out.push(b':');
        BASE64.encode_append(sealed, out);
    }

    fn seal(&mut self, key: &Key, nonce: [u8; NONCE_LEN], associated_data: &[u8]) {
        let (head, plaintext) = self.buffer.split_at_mut(self.start + NONCE_LEN);
        head[self.start..].copy_from_slice(&nonce);
        let tag = key
            .xaes()
            .encrypt_inout_detached(
                &Nonce::from(nonce),
                &bound(key.id().as_str(), associated_data),
                plaintext.into(),
            )
            .unwrap_or_else(|_| unreachable!("a request is far below AES-GCM's limit of 64 GiB"));
        self.buffer.extend_from_slice(&tag);
    }
}

/// Seals `plaintext` into the binary form.
pub fn seal_binary(key: &Key, nonce: [u8; NONCE_LEN], associated_data: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let header = bound(key.id().as_str(), &[]);
    let fill = |buffer: &mut Vec<u8>| {
        buffer.extend_from_slice(plaintext);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(mut message) = Message::with_header(&header, plaintext.len(), fill);
    message.seal(key, nonce, associated_data);
    std::mem::take(&mut *message.buffer)
}

/// Opens the text form.
///
/// # Errors
/// [`OpenError::UnknownKey`] when its key is not held, [`OpenError::NotAuthentic`] for everything else.
pub fn open_text<'k>(
    keyring: &'k Keyring,
    text: &str,
    associated_data: &[u8],
) -> Result<(&'k HeldKey, Plaintext), OpenError> {
    let (id, sealed) = text
        .strip_prefix(TEXT_PREFIX)
        .and_then(|rest| rest.split_once(':'))
        .ok_or(OpenError::NotAuthentic)?;
    let held = find(keyring, id)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(BASE64.estimated_decoded_length(sealed.len())));
    BASE64.decode_append(sealed, &mut *buffer).map_err(|_| OpenError::NotAuthentic)?;
    Ok((held, open(&held.key, buffer, 0, associated_data)?))
}

/// Opens the binary form, in the buffer it came in.
///
/// # Errors
/// As [`open_text`].
pub fn open_binary<'k>(
    keyring: &'k Keyring,
    envelope: Zeroizing<Vec<u8>>,
    associated_data: &[u8],
) -> Result<(&'k HeldKey, Plaintext), OpenError> {
    let (id, start) = envelope
        .strip_prefix(BINARY_PREFIX)
        .and_then(<[u8]>::split_first)
        .and_then(|(len, rest)| rest.get(..usize::from(*len)))
        .and_then(|id| Some((str::from_utf8(id).ok()?, BINARY_PREFIX.len() + 1 + id.len())))
        .ok_or(OpenError::NotAuthentic)?;
    let held = find(keyring, id)?;
    Ok((held, open(&held.key, envelope, start, associated_data)?))
}

fn find<'k>(keyring: &'k Keyring, id: &str) -> Result<&'k HeldKey, OpenError> {
    keyring.get(id).ok_or_else(|| KeyId::parse(id).map_or(OpenError::NotAuthentic, OpenError::UnknownKey))
}

/// Opens `buffer[start..]`, which is nonce ‖ ct ‖ tag.
fn open(
    key: &Key,
    mut buffer: Zeroizing<Vec<u8>>,
    start: usize,
    associated_data: &[u8],
) -> Result<Plaintext, OpenError> {
    let at = start + NONCE_LEN;
    let end = buffer.len().checked_sub(TAG_LEN).filter(|end| at <= *end).ok_or(OpenError::NotAuthentic)?;
    let (head, tag) = buffer.split_at_mut(end);
    let (head, ciphertext) = head.split_at_mut(at);
    let (Ok(nonce), Ok(tag)) = (Nonce::try_from(&head[start..]), Tag::try_from(&*tag)) else {
        return Err(OpenError::NotAuthentic);
    };
    let associated_data = bound(key.id().as_str(), associated_data);
    match key.xaes().decrypt_inout_detached(&nonce, &associated_data, ciphertext.into(), &tag) {
        Ok(()) => Ok(Plaintext { buffer, start: at, end }),
        Err(_) => {
            buffer.zeroize();
            Err(OpenError::NotAuthentic)
        }
    }
}

/// `KR1 ‖ len(id) as u8 ‖ id ‖ associated data`: binds a ciphertext to the format and to its key ID.
fn bound(id: &str, associated_data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(id.len()).unwrap_or_else(|_| unreachable!("a key id is at most 64 bytes"));
    [BINARY_PREFIX, [len].as_slice(), id.as_bytes(), associated_data].concat()
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::SystemTime};

    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use proptest::prelude::*;
    use serde::Deserialize;
    use xaes_256_gcm::{Xaes256Gcm, aead::KeyInit as _};

    use super::*;
    use crate::{keyring::KeyDerivation, secret::Secret};

    #[derive(Deserialize)]
    struct Vectors<T> {
        vectors: Vec<T>,
    }

    #[derive(Deserialize)]
    struct Native {
        derivation: String,
        key: String,
        id: String,
        nonce: String,
        associated_data: String,
        plaintext: String,
        text: String,
        binary_hex: String,
    }

    #[derive(Deserialize)]
    struct Xaes {
        key: String,
        nonce: String,
        aad: String,
        plaintext: String,
        ciphertext: String,
    }

    fn unhex(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn unbase64(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text).unwrap()
    }

    fn keyring(key: Key) -> Keyring {
        let id = key.id().clone();
        let held = HeldKey { key: key.into(), version: 1, created: SystemTime::UNIX_EPOCH, retired: false };
        Keyring::new([held], &id).unwrap()
    }

    fn some_keyring() -> Keyring {
        keyring(Key::new(KeyId::parse("some.id").unwrap(), Secret::new([7; 32])))
    }

    fn seal_text(
        keyring: &Keyring,
        nonce: [u8; NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> String {
        let fill = |buffer: &mut Vec<u8>| {
            buffer.extend_from_slice(plaintext);
            Ok::<_, Infallible>(())
        };
        let mut out = Vec::new();
        let Ok(message) = Message::new(plaintext.len(), fill);
        message.seal_text(&keyring.active().key, nonce, associated_data, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_known_answers_of_the_native_format() {
        let file: Vectors<Native> =
            serde_json::from_str(include_str!("../../tests/vectors/native.json")).unwrap();
        assert_eq!(file.vectors.len(), 4);
        for vector in file.vectors {
            let derivation =
                if vector.derivation == "raw" { KeyDerivation::Raw } else { KeyDerivation::Sha256 };
            let id = KeyId::parse(&vector.id).unwrap();
            let keyring = keyring(Key::derive(id, &Secret::new(vector.key), derivation).unwrap());
            let nonce = unhex(&vector.nonce).try_into().unwrap();
            let (aad, plaintext) = (unbase64(&vector.associated_data), unbase64(&vector.plaintext));

            assert_eq!(seal_text(&keyring, nonce, &aad, &plaintext), vector.text);
            let binary = seal_binary(&keyring.active().key, nonce, &aad, &plaintext);
            assert_eq!(binary, unhex(&vector.binary_hex));
            assert_eq!(open_text(&keyring, &vector.text, &aad).unwrap().1.as_bytes(), plaintext);
            assert_eq!(open_binary(&keyring, binary.into(), &aad).unwrap().1.as_bytes(), plaintext);
        }
    }

    #[test]
    fn the_known_answers_of_c2sp_for_xaes_256_gcm() {
        let file: Vectors<Xaes> =
            serde_json::from_str(include_str!("../../tests/vectors/c2sp-xaes-256-gcm.json")).unwrap();
        assert_eq!(file.vectors.len(), 2);
        for vector in file.vectors {
            let key: [u8; 32] = unhex(&vector.key).try_into().unwrap();
            let nonce: [u8; NONCE_LEN] = vector.nonce.as_bytes().try_into().unwrap();
            let mut buffer = vector.plaintext.into_bytes();
            let tag = Xaes256Gcm::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), vector.aad.as_bytes(), buffer.as_mut_slice().into())
                .unwrap();
            buffer.extend_from_slice(&tag);
            assert_eq!(buffer, unhex(&vector.ciphertext));
        }
    }

    #[test]
    fn every_flipped_bit_of_the_binary_form_makes_open_fail() {
        let keyring = some_keyring();
        let sealed = seal_binary(&keyring.active().key, [3; NONCE_LEN], b"aad", b"plaintext");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open_binary(&keyring, changed.into(), b"aad").is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(open_binary(&keyring, sealed[..len].to_vec().into(), b"aad").is_err(), "cut at {len}");
        }
    }

    #[test]
    fn every_changed_character_of_the_text_form_makes_open_fail() {
        let keyring = some_keyring();
        let sealed = seal_text(&keyring, [3; NONCE_LEN], b"", b"plaintext!");
        assert!(sealed.ends_with('='), "the last characters have unused bits, which must be zero: {sealed}");
        for at in 0..sealed.len() {
            for other in ["A", "B", "1", ":", "=", "\n", "é"]
                .map(str::to_owned)
                .into_iter()
                .chain(next_letter(&sealed[at..=at]))
            {
                let changed = [&sealed[..at], &other, &sealed[at + 1..]].concat();
                assert!(changed == sealed || open_text(&keyring, &changed, b"").is_err(), "{changed}");
            }
            assert!(open_text(&keyring, &sealed[..at], b"").is_err(), "cut at {at}");
        }
    }

    /// The letter after this one: in base64's last place it differs in an unused bit alone.
    fn next_letter(letter: &str) -> Option<String> {
        let next = letter.bytes().next()? + 1;
        Some(char::from(next).to_string())
    }

    #[test]
    fn the_same_key_under_another_id_does_not_open() {
        let sealed = seal_text(&some_keyring(), [3; NONCE_LEN], b"", b"plaintext");
        let other = keyring(Key::new(KeyId::parse("other").unwrap(), Secret::new([7; 32])));
        let renamed = sealed.replace("some.id", "other");
        assert_eq!(open_text(&other, &renamed, b"").err(), Some(OpenError::NotAuthentic));
        let unknown = OpenError::UnknownKey(KeyId::parse("some.id").unwrap());
        assert_eq!(open_text(&other, &sealed, b"").err(), Some(unknown));
    }

    #[test]
    fn nonces_do_not_repeat() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let mut nonces = Nonces::draw(100).unwrap();
            assert!((0..100).all(|_| seen.insert(nonces.take())));
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_again(plaintext: Vec<u8>, associated_data: Vec<u8>, nonce: [u8; NONCE_LEN]) {
            let keyring = some_keyring();
            let text = seal_text(&keyring, nonce, &associated_data, &plaintext);
            let opened = open_text(&keyring, &text, &associated_data).unwrap().1;
            prop_assert_eq!(opened.as_bytes(), &plaintext[..]);
            let binary = seal_binary(&keyring.active().key, nonce, &associated_data, &plaintext);
            let opened = open_binary(&keyring, binary.into(), &associated_data).unwrap().1;
            prop_assert_eq!(opened.as_bytes(), &plaintext[..]);
        }

        #[test]
        fn no_input_panics(text: String, binary: Vec<u8>) {
            let keyring = some_keyring();
            prop_assert!(open_text(&keyring, &text, &binary).is_err());
            let prefixed = format!("kr1:some.id:{text}");
            prop_assert!(open_text(&keyring, &prefixed, &binary).is_err());
            prop_assert!(open_binary(&keyring, binary.into(), text.as_bytes()).is_err());
        }
    }
}
