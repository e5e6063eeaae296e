//! Kong's format for encrypted fields: AES-256-GCM under K without the tag, so it is not authenticated.
//!
//! Text: `$ke$1$-<id>-<nonce, 24 hex digits>-<ct in hex>`, without associated data. It exists for migration from and to
//! Kong. A wrong key gives garbage and no error.

use aes_gcm::aead::AeadInOut as _;
use hex_simd::AsciiCase;

use super::{
    aead::{OpenError, Opened, OpenedText, STACK, SealError, find},
    transit::NONCE_LEN,
};
use crate::{
    keyring::{Format, HeldKey, Key, Keyring},
    secret::wipe_stack,
};

pub(super) const TEXT_PREFIX: &str = "$ke$1$-";

/// Seals the plaintext in place and appends the text form to `out`.
pub(super) fn seal_text(
    key: &Key,
    plaintext: &mut [u8],
    nonce: [u8; NONCE_LEN],
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    let id = key.id();
    if id.as_str().contains('-') {
        return Err(SealError::KongKeyId(id.clone()));
    }
    apply_keystream(key, &nonce, plaintext);
    out.extend_from_slice(TEXT_PREFIX.as_bytes());
    out.extend_from_slice(id.as_str().as_bytes());
    for part in [nonce.as_slice(), plaintext] {
        out.push(b'-');
        hex_simd::encode_append(part, out, AsciiCase::Lower);
    }
    Ok(())
}

/// The key of the text, its nonce, and where its ciphertext begins. It splits from the right, because an ID may contain `-`.
pub(super) fn find_text<'k>(
    keyring: &'k Keyring,
    text: &[u8],
) -> Result<(&'k HeldKey, [u8; NONCE_LEN], usize), OpenError> {
    let mut parts = text[TEXT_PREFIX.len()..].rsplitn(3, |byte| *byte == b'-');
    let (Some(sealed), Some(nonce), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(OpenError::NotACiphertext);
    };
    let nonce = hex_simd::decode_to_vec(nonce).ok().and_then(|nonce| nonce.try_into().ok());
    let nonce: [u8; NONCE_LEN] = nonce.ok_or(OpenError::NotAuthentic)?;
    let id = str::from_utf8(id).map_err(|_| OpenError::NotAuthentic)?;
    Ok((find(keyring, id)?, nonce, text.len() - sealed.len()))
}

/// Opens the text form in place.
pub(super) fn open_text<'k>(keyring: &'k Keyring, text: &mut [u8]) -> Result<OpenedText<'k>, OpenError> {
    let (held, nonce, at) = find_text(keyring, text)?;
    let sealed = hex_simd::decode_inplace(&mut text[at..]).map_err(|_| OpenError::NotAuthentic)?;
    apply_keystream(&held.key, &nonce, sealed);
    let plaintext = at..at + sealed.len();
    Ok(Opened { held, format: Format::Kong, plaintext })
}

/// XORs the keystream of AES-256-GCM: seals without the tag, and opens.
fn apply_keystream(key: &Key, nonce: &[u8; NONCE_LEN], text: &mut [u8]) {
    let tag = key.aes().encrypt_inout_detached(nonce.into(), &[], text.into());
    tag.unwrap_or_else(|_| unreachable!("a request is smaller than AES-GCM's limit of 64 GiB"));
    wipe_stack::<STACK>();
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{
        super::{KongFields, testing::*},
        *,
    };
    use crate::{
        keyring::{KeyDerivation, KeyId},
        secret::Secret,
    };

    #[derive(Deserialize)]
    struct File {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        derivation: String,
        id: String,
        key: String,
        field: String,
        plaintext: String,
    }

    #[test]
    fn known_answers_two_of_them_published_by_kong() {
        let file: File = serde_json::from_str(include_str!("../../tests/vectors/kong-fields.json")).unwrap();
        assert_eq!(file.vectors.len(), 4);
        for vector in file.vectors {
            let derivation =
                if vector.derivation == "raw" { KeyDerivation::Raw } else { KeyDerivation::Sha256 };
            let id = KeyId::parse(&vector.id).unwrap();
            let keyring = keyring(Key::derive(id, &Secret::new(vector.key), derivation).unwrap());
            let opened = opened(&keyring, &vector.field, b"", KongFields::Accept).unwrap();
            assert_eq!(opened.plaintext.as_bytes(), vector.plaintext.as_bytes());
            let nonce = unhex(vector.field.rsplit('-').nth(1).unwrap());
            let sealed = sealed(&keyring, Format::Kong, &nonce, b"", vector.plaintext.as_bytes());
            assert_eq!(sealed.unwrap(), vector.field);
        }
    }

    #[test]
    fn the_id_may_contain_hyphens() {
        let keyring = keyring(key("a-b", 7));
        let field = format!("$ke$1$-a-b-{}-00ff", "00".repeat(12));
        assert_eq!(opened(&keyring, &field, b"", KongFields::Accept).unwrap().plaintext.as_bytes().len(), 2);
        for bad in ["$ke$1$-a-b-00-00", &field[..field.len() - 1], &format!("{field}g")] {
            assert_eq!(
                opened(&keyring, bad, b"", KongFields::Accept).err(),
                Some(OpenError::NotAuthentic),
                "{bad}"
            );
        }
        let unknown = opened(&keyring, &field.replace("a-b", "c"), b"", KongFields::Accept).err();
        assert_eq!(unknown, Some(OpenError::UnknownKey(KeyId::parse("c").unwrap())));
    }

    #[test]
    fn an_id_with_a_hyphen_is_not_sealed() {
        let refused = sealed(&keyring(key("a-b", 7)), Format::Kong, &[1; 12], b"", b"x");
        assert_eq!(refused, Err(SealError::KongKeyId(KeyId::parse("a-b").unwrap())));
    }
}
