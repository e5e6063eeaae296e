//! The native format: XAES-256-GCM with an authenticated key ID.
//!
//! Text: `kr1:<id>:<base64(nonce[24] ‖ ct ‖ tag[16])>`. Binary: `KR1 ‖ len(id) as u8 ‖ id ‖ nonce[24] ‖ ct ‖ tag[16]`.
//! Associated data: `KR1 ‖ len(id) as u8 ‖ id ‖ the caller's associated data`. XAES-256-GCM is a C2SP standard
//! (c2sp.org/XAES-256-GCM); its 192-bit nonces may be random for any number of messages per key.

use std::borrow::Cow;

use aes_gcm::aead::{AeadInOut, Nonce};

use super::{
    Batch, Binding,
    aead::{self, OpenError, Opened, OpenedText, Payload, find, open_in_place, seal_base64, seal_in_place},
    encoding,
};
use crate::keyring::{Format, HeldKey, Key, KeyId, Keyring};

pub(super) const TEXT_PREFIX: &str = "kr1:";
pub(super) const NONCE_LEN: usize = 24;
pub const TAG_LEN: usize = 16;

const BINARY_PREFIX: &[u8; 3] = b"KR1";

/// The free bytes before a plaintext that `seal_binary` seals in place: the length of the longest head.
pub const ROOM: usize = BINARY_PREFIX.len() + 1 + KeyId::MAX_LEN + NONCE_LEN;

/// The length of the binary form minus the length of its plaintext.
pub fn overhead(key: &Key) -> usize {
    BINARY_PREFIX.len() + 1 + key.id().as_str().len() + NONCE_LEN + TAG_LEN
}

/// Seals the plaintext in place and appends the text form to `out`.
pub(super) fn seal_text(
    key: &Key,
    plaintext: &mut [u8],
    batch: &mut Batch,
    associated_data: &[u8],
    out: &mut Vec<u8>,
) {
    let id = key.id().as_str();
    out.extend_from_slice(TEXT_PREFIX.as_bytes());
    out.extend_from_slice(id.as_bytes());
    out.push(b':');
    let head = Head::from_id(id);
    let nonce = batch.nonce();
    let ([kdf_input, gcm_nonce], []) = nonce.as_chunks() else { unreachable!("the halves of a nonce") };
    let aes = key.xaes().derived(kdf_input, &mut batch.sealing);
    encoding::encode(kdf_input, out); // without padding: the base64 of the parts is that of the whole
    seal_base64(aes, plaintext, gcm_nonce.into(), &head.associated_data(associated_data), out);
}

/// Seals `buffer[ROOM..]` in place into the binary form.
pub(super) fn seal_binary(
    key: &Key,
    buffer: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    associated_data: &[u8],
) -> Payload {
    seal_binary_under(key.xaes(), key, buffer, nonce, associated_data)
}

/// The same for Kubernetes, under the key of its own.
pub(super) fn seal_kms(
    key: &Key,
    buffer: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    associated_data: &[u8],
) -> Payload {
    seal_binary_under(key.kms(), key, buffer, nonce, associated_data)
}

fn seal_binary_under<A: AeadInOut>(
    aead: &A,
    key: &Key,
    mut buffer: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    associated_data: &[u8],
) -> Payload
where
    Nonce<A>: From<[u8; NONCE_LEN]>,
{
    let head = Head::from_id(key.id().as_str());
    let at = ROOM - NONCE_LEN;
    seal_in_place(aead, &mut buffer, at, &nonce.into(), &head.associated_data(associated_data));
    let start = at - head.as_bytes().len();
    buffer[start..at].copy_from_slice(head.as_bytes());
    Payload { start, end: buffer.len(), buffer }
}

/// The key of the text form, and where its base64 begins.
pub(super) fn find_text<'k>(keyring: &'k Keyring, text: &[u8]) -> Result<(&'k HeldKey, usize), OpenError> {
    let rest = &text[TEXT_PREFIX.len()..];
    let end = rest.iter().position(|byte| *byte == b':').ok_or(OpenError::NotACiphertext)?;
    let id = str::from_utf8(&rest[..end]).map_err(|_| OpenError::NotAuthentic)?;
    Ok((find(keyring, id)?, TEXT_PREFIX.len() + end + 1))
}

/// Opens the text form in place.
pub(super) fn open_text<'k>(
    keyring: &'k Keyring,
    text: &mut [u8],
    Binding { associated_data, context }: Binding<'_>,
    batch: &mut Batch,
) -> Result<OpenedText<'k>, OpenError> {
    let (held, at) = find_text(keyring, text)?;
    let sealed = encoding::decode_canonical_in_place(&mut text[at..]).map_err(|_| OpenError::NotAuthentic)?;
    let head = Head::from_id(held.key.id().as_str());
    let associated_data = head.associated_data(associated_data);
    let (kdf_input, rest) = sealed.split_first_chunk_mut().ok_or(OpenError::NotAuthentic)?;
    let aes = if context.is_empty() {
        held.key.xaes().derived(kdf_input, &mut batch.opening)
    } else {
        held.key.in_context(context).xaes().derived(kdf_input, &mut batch.opening)
    };
    let plaintext = aead::open(aes, rest, &associated_data)?;
    let at = at + kdf_input.len();
    let plaintext = at + plaintext.start..at + plaintext.end;
    Ok(Opened { held, format: Format::Native, plaintext })
}

pub fn is_binary(sealed: &[u8]) -> bool {
    sealed.starts_with(BINARY_PREFIX)
}

/// Opens `sealed[start..]` in place: the binary form. It takes the bytes only when it has found the key.
pub(super) fn open_binary<'k>(
    keyring: &'k Keyring,
    sealed: &mut Vec<u8>,
    start: usize,
    associated_data: &[u8],
) -> Result<Opened<'k>, OpenError> {
    let (id, nonce) = head(&sealed[start..])?;
    let held = find(keyring, id)?;
    open(held, std::mem::take(sealed), start + nonce, associated_data)
}

/// Opens Kubernetes' binary form in place with this key only, under the key of its own.
pub fn open_kms<'k>(
    held: &'k HeldKey,
    sealed: Vec<u8>,
    associated_data: &[u8],
) -> Result<Opened<'k>, OpenError> {
    let (id, start) = head(&sealed)?;
    if id != held.key.id().as_str() {
        return Err(OpenError::NotAuthentic);
    }
    open_under(held.key.kms(), held, sealed, start, associated_data)
}

/// The key ID in the binary form; `None` for anything else.
pub fn binary_key_id(sealed: &[u8]) -> Option<&str> {
    head(sealed).ok().map(|(id, _)| id)
}

/// The key ID, and the position of the nonce.
fn head(sealed: &[u8]) -> Result<(&str, usize), OpenError> {
    sealed
        .strip_prefix(BINARY_PREFIX)
        .and_then(<[u8]>::split_first)
        .and_then(|(len, rest)| rest.get(..usize::from(*len)))
        .and_then(|id| Some((str::from_utf8(id).ok()?, BINARY_PREFIX.len() + 1 + id.len())))
        .ok_or(OpenError::NotAuthentic)
}

/// Opens `buffer[start..]`, which is `nonce ‖ ct ‖ tag`.
fn open<'k>(
    held: &'k HeldKey,
    buffer: Vec<u8>,
    start: usize,
    associated_data: &[u8],
) -> Result<Opened<'k>, OpenError> {
    open_under(held.key.xaes(), held, buffer, start, associated_data)
}

fn open_under<'k, A: AeadInOut>(
    aead: &A,
    held: &'k HeldKey,
    buffer: Vec<u8>,
    start: usize,
    associated_data: &[u8],
) -> Result<Opened<'k>, OpenError> {
    let head = Head::from_id(held.key.id().as_str());
    let plaintext = open_in_place(aead, buffer, start, &head.associated_data(associated_data))?;
    Ok(Opened { held, format: Format::Native, plaintext })
}

/// `KR1 ‖ len(id) as u8 ‖ id`: the head of the binary form. As associated data it binds both forms to the key ID.
struct Head {
    bytes: [u8; ROOM - NONCE_LEN],
    len: usize,
}

impl Head {
    fn from_id(id: &str) -> Self {
        let len = u8::try_from(id.len()).unwrap_or_else(|_| unreachable!("a key id is at most 64 bytes"));
        let mut head = Self { bytes: [0; ROOM - NONCE_LEN], len: 0 };
        for part in [BINARY_PREFIX.as_slice(), &[len], id.as_bytes()] {
            head.bytes[head.len..][..part.len()].copy_from_slice(part);
            head.len += part.len();
        }
        head
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The head and the caller's associated data.
    fn associated_data(&self, callers: &[u8]) -> Cow<'_, [u8]> {
        if callers.is_empty() { self.as_bytes().into() } else { [self.as_bytes(), callers].concat().into() }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::{
        super::testing::{self, key, keyring, unhex},
        *,
    };
    use crate::{
        keyring::{KeyDerivation, KongFields},
        secret::Secret,
    };

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Native>,
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

    fn unbase64(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text).unwrap()
    }

    fn some_keyring() -> Keyring {
        keyring(key("some.id", 7))
    }

    fn seal_text(
        keyring: &Keyring,
        nonce: [u8; NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> String {
        testing::sealed(keyring, Format::Native, &nonce, associated_data, plaintext).unwrap()
    }

    fn seal_binary(
        keyring: &Keyring,
        nonce: [u8; NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> Vec<u8> {
        let buffer = [&[0; ROOM], plaintext].concat();
        super::seal_binary(&keyring.active().key, buffer, nonce, associated_data).as_bytes().to_vec()
    }

    fn open_text(keyring: &Keyring, text: &str, associated_data: &[u8]) -> Result<Vec<u8>, OpenError> {
        testing::opened(keyring, text, associated_data, KongFields::Refuse)
            .map(|opened| opened.plaintext.as_bytes().to_vec())
    }

    fn open_binary(keyring: &Keyring, sealed: &[u8], associated_data: &[u8]) -> Result<Vec<u8>, OpenError> {
        super::open_binary(keyring, &mut sealed.to_vec(), 0, associated_data)
            .map(|opened| opened.plaintext.as_bytes().to_vec())
    }

    #[test]
    fn known_answers_of_the_native_format() {
        let file: Vectors = serde_json::from_str(include_str!("../../tests/vectors/native.json")).unwrap();
        assert_eq!(file.vectors.len(), 4);
        for vector in file.vectors {
            let derivation =
                if vector.derivation == "raw" { KeyDerivation::Raw } else { KeyDerivation::Sha256 };
            let id = KeyId::parse(&vector.id).unwrap();
            let keyring = keyring(Key::derive(id, &Secret::new(vector.key), derivation).unwrap());
            let nonce = unhex(&vector.nonce).try_into().unwrap();
            let (aad, plaintext) = (unbase64(&vector.associated_data), unbase64(&vector.plaintext));

            assert_eq!(seal_text(&keyring, nonce, &aad, &plaintext), vector.text);
            let binary = seal_binary(&keyring, nonce, &aad, &plaintext);
            assert_eq!(binary, unhex(&vector.binary_hex));
            assert_eq!(open_text(&keyring, &vector.text, &aad).unwrap(), plaintext);
            assert_eq!(open_binary(&keyring, &binary, &aad).unwrap(), plaintext);
        }
    }

    #[test]
    fn every_flipped_bit_of_the_binary_form_makes_open_fail() {
        let keyring = some_keyring();
        let sealed = seal_binary(&keyring, [3; NONCE_LEN], b"aad", b"plaintext");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open_binary(&keyring, &changed, b"aad").is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(open_binary(&keyring, &sealed[..len], b"aad").is_err(), "cut at {len}");
        }
    }

    #[test]
    fn every_changed_character_of_the_text_form_makes_open_fail() {
        let keyring = some_keyring();
        let sealed = seal_text(&keyring, [3; NONCE_LEN], b"", b"plaintext!");
        assert!(sealed.ends_with('='), "base64 padding leaves unused bits, which must be zero: {sealed}");
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

    /// The next letter: at the end of base64 it differs only in an unused bit.
    fn next_letter(letter: &str) -> Option<String> {
        let next = letter.bytes().next()? + 1;
        Some(char::from(next).to_string())
    }

    #[test]
    fn the_same_key_with_another_id_does_not_open() {
        let sealed = seal_text(&some_keyring(), [3; NONCE_LEN], b"", b"plaintext");
        let other = keyring(key("other", 7));
        let renamed = sealed.replace("some.id", "other");
        assert_eq!(open_text(&other, &renamed, b"").err(), Some(OpenError::NotAuthentic));
        let unknown = OpenError::UnknownKey(KeyId::parse("some.id").unwrap());
        assert_eq!(open_text(&other, &sealed, b"").err(), Some(unknown));
    }

    #[test]
    fn kubernetes_ciphertexts_open_with_their_key_only_and_apart_from_those_of_applications() {
        let (keyring, other) = (some_keyring(), keyring(key("other", 7)));
        let held = keyring.active();
        let buffer = [&[0; ROOM], b"plaintext".as_slice()].concat();
        let sealed = seal_kms(&held.key, buffer, [3; NONCE_LEN], b"aad").as_bytes().to_vec();
        assert_eq!(sealed.len(), b"plaintext".len() + overhead(&held.key));
        assert_eq!(open_kms(held, sealed.clone(), b"aad").unwrap().plaintext.as_bytes(), b"plaintext");
        assert_eq!(open_binary(&keyring, &sealed, b"aad").err(), Some(OpenError::NotAuthentic));
        let of_application = seal_binary(&keyring, [3; NONCE_LEN], b"aad", b"plaintext");
        for (held, bytes, associated_data) in [
            (held, &of_application[..], &b"aad"[..]),
            (other.active(), &sealed[..], b"aad"),
            (held, &sealed[..], b""),
            (held, &sealed[..20], b"aad"),
            (held, b"", b"aad"),
        ] {
            let refused = open_kms(held, bytes.to_vec(), associated_data);
            assert_eq!(refused.err(), Some(OpenError::NotAuthentic));
        }
    }

    #[test]
    fn the_binary_form_is_known_by_its_first_bytes() {
        let sealed = seal_binary(&some_keyring(), [0; NONCE_LEN], b"", b"x");
        assert!(is_binary(&sealed) && is_binary(b"KR1"));
        assert!(!is_binary(b"kr1:id:AAAA") && !is_binary(b"KR") && !is_binary(b"vault:v1:AAAA"));
    }

    #[test]
    fn bytes_whose_key_is_not_held_stay_with_the_caller() {
        let mut sealed = seal_binary(&some_keyring(), [3; NONCE_LEN], b"", b"plaintext");
        let other = keyring(key("other", 8));
        assert!(super::open_binary(&other, &mut sealed, 0, b"").is_err());
        assert!(super::open_binary(&some_keyring(), &mut sealed, 0, b"").is_ok());
        assert!(sealed.is_empty());
    }

    proptest! {
        #[test]
        fn what_was_sealed_as_bytes_opens_again(plaintext: Vec<u8>, aad: Vec<u8>, nonce: [u8; NONCE_LEN]) {
            let keyring = some_keyring();
            let binary = seal_binary(&keyring, nonce, &aad, &plaintext);
            prop_assert_eq!(open_binary(&keyring, &binary, &aad).unwrap(), plaintext);
        }

        #[test]
        fn no_bytes_panic(binary: Vec<u8>, tail: Vec<u8>) {
            let keyring = some_keyring();
            prop_assert!(open_binary(&keyring, &binary, b"").is_err());
            prop_assert!(open_binary(&keyring, &[b"KR1\x07some.id", &tail[..]].concat(), b"").is_err());
        }
    }
}
