//! The sealed copy of the keyrings: `KRC1 ‖ nonce[24] ‖ XAES-256-GCM(K_c, nonce, associated data, payload)`.
//!
//! K_c = HKDF-SHA256(cache key, no salt, info `keyringd krc1 cache`, 32 bytes). The payload is the JSON of
//! [`CopyContents`], with blanks up to a multiple of 4 KiB. Associated data: `KRC1`, then host, namespace, mount, path and KV
//! version of the default keyring, each behind its length as u32, big-endian. So a copy opens for one place in Vault only.

use std::fmt;

use aes_gcm::KeyInit as _;
use zeroize::Zeroizing;

use super::{
    aead::{NoRandomness, open_in_place, seal_in_place},
    native::NONCE_LEN,
};
use crate::{
    keyring::{SecretLocation, Xaes256Gcm, copy::CopyContents, kdf::expand, key::decode_32_bytes},
    secret::{Secret, wipe_stack},
};

/// What every copy begins with.
pub const MAGIC: &[u8; 4] = b"KRC1";

/// The payload is padded to a multiple of this many bytes, so that its length says little about the keys.
const BLOCK: usize = 4096;

/// Several times the stack use of deriving a key, and of writing and parsing JSON.
const STACK: usize = 128 << 10;

/// K_c. The cache key itself is not kept.
pub struct CopyKey(Xaes256Gcm);

/// A copy opens in one way, and fails in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is torn or was changed, or it was sealed under another key or for another host, namespace, mount, path or KV version"
)]
pub struct NotOpened;

impl CopyKey {
    /// From the base64 of the cache key; `None` if that is not 32 bytes.
    pub fn derive(text: &Secret<String>) -> Option<Box<Self>> {
        let key = Self::derive_on_stack(text);
        wipe_stack::<STACK>();
        key
    }

    #[inline(never)]
    fn derive_on_stack(text: &Secret<String>) -> Option<Box<Self>> {
        let cache_key = decode_32_bytes(text.expose())?;
        let mut okm = Zeroizing::new([0; 32]);
        expand(cache_key.expose(), &mut [(&[b"keyringd krc1 cache"], okm.as_mut_slice())]);
        Some(Self::with_derived(&okm))
    }

    /// On the stack that [`expand`] wiped.
    #[inline(never)]
    fn with_derived(okm: &[u8; 32]) -> Box<Self> {
        Box::new(Self(Xaes256Gcm::new(okm.into())))
    }

    /// The bytes of the file, with a new nonce.
    pub fn seal(&self, contents: &CopyContents, location: &SecretLocation) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        Ok(self.seal_with(nonce, contents, location))
    }

    fn seal_with(
        &self,
        nonce: [u8; NONCE_LEN],
        contents: &CopyContents,
        location: &SecretLocation,
    ) -> Vec<u8> {
        let mut buffer = [MAGIC.as_slice(), &nonce].concat();
        let head = buffer.len();
        contents.write_to(&mut buffer);
        let padded = (buffer.len() - head).next_multiple_of(BLOCK);
        buffer.resize(head + padded, b' ');
        seal_in_place(&self.0, &mut buffer, MAGIC.len(), &nonce.into(), &associated_data(location));
        wipe_stack::<STACK>();
        buffer
    }

    /// What a file of these bytes holds.
    pub fn open(&self, sealed: Vec<u8>, location: &SecretLocation) -> Result<CopyContents, NotOpened> {
        if !sealed.starts_with(MAGIC) {
            return Err(NotOpened);
        }
        let payload = open_in_place(&self.0, sealed, MAGIC.len(), &associated_data(location));
        let payload = payload.map_err(|_| NotOpened)?;
        let contents = CopyContents::parse(payload.as_bytes(), location).map_err(|_| NotOpened);
        wipe_stack::<STACK>();
        contents
    }
}

impl fmt::Debug for CopyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CopyKey([redacted])")
    }
}

fn associated_data(location: &SecretLocation) -> Vec<u8> {
    let SecretLocation { host, namespace, mount, path, versioned, derivation: _ } = location;
    let mut data = MAGIC.to_vec();
    let kv = if *versioned { "v2" } else { "v1" };
    for part in [host.as_str(), namespace, mount, path, kv] {
        let len = u32::try_from(part.len()).unwrap_or_else(|_| unreachable!("a setting is far below 4 GiB"));
        data.extend_from_slice(&len.to_be_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::{cipher::testing::unhex, keyring::KeyDerivation};

    #[derive(Deserialize)]
    struct File {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        about: String,
        cache_key: Secret<String>,
        nonce: String,
        place: Place,
        payload: Value,
        file: String,
    }

    #[derive(Deserialize)]
    struct Place {
        host: String,
        namespace: String,
        mount: String,
        path: String,
        kv: String,
    }

    impl Vector {
        fn location(&self) -> SecretLocation {
            let Place { host, namespace, mount, path, kv } = &self.place;
            SecretLocation {
                host: host.clone(),
                namespace: namespace.clone(),
                mount: mount.clone(),
                path: path.clone(),
                versioned: kv == "v2",
                derivation: KeyDerivation::Sha256,
            }
        }

        fn key(&self) -> Box<CopyKey> {
            CopyKey::derive(&self.cache_key).unwrap()
        }

        fn file(&self) -> Vec<u8> {
            BASE64_STANDARD.decode(&self.file).unwrap()
        }
    }

    fn vectors() -> Vec<Vector> {
        let file: File = serde_json::from_str(include_str!("../../tests/vectors/krc1.json")).unwrap();
        assert_eq!(file.vectors.len(), 2);
        file.vectors
    }

    #[test]
    fn known_answers_open_and_seal_to_the_same_bytes() {
        for vector in vectors() {
            let (key, location) = (vector.key(), vector.location());
            let contents = key.open(vector.file(), &location).expect(&vector.about);
            let mut json = Vec::new();
            contents.write_to(&mut json);
            assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), vector.payload, "{}", vector.about);
            let nonce = unhex(&vector.nonce).try_into().unwrap();
            assert_eq!(key.seal_with(nonce, &contents, &location), vector.file(), "{}", vector.about);
        }
    }

    #[test]
    fn a_copy_has_a_new_nonce_and_a_length_of_whole_blocks() {
        let [vector, _] = &vectors()[..] else { panic!() };
        let (key, location) = (vector.key(), vector.location());
        let contents = key.open(vector.file(), &location).unwrap();
        let [one, other] = [0; 2].map(|_| key.seal(&contents, &location).unwrap());
        assert_ne!(one[4..28], other[4..28]);
        assert_eq!(one.len(), 4 + 24 + BLOCK + 16);
        assert!(key.open(one, &location).is_ok());
    }

    #[test]
    fn no_changed_byte_and_no_other_length_opens() {
        let [vector, _] = &vectors()[..] else { panic!() };
        let (key, location, file) = (vector.key(), vector.location(), vector.file());
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1 << (at % 8);
            assert_eq!(key.open(changed, &location).err(), Some(NotOpened), "byte {at}");
            assert_eq!(key.open(file[..at].to_vec(), &location).err(), Some(NotOpened), "length {at}");
        }
        assert!(key.open([file.as_slice(), b"\0"].concat(), &location).is_err());
        assert!(key.open(file, &location).is_ok());
    }

    #[test]
    fn another_key_and_another_place_do_not_open_it() {
        let [vector, other] = &vectors()[..] else { panic!() };
        let (key, location) = (vector.key(), vector.location());
        assert!(other.key().open(vector.file(), &location).is_err());
        let changes: [fn(&mut SecretLocation); 6] = [
            |place| place.host.push('0'),
            |place| place.namespace.push('a'),
            |place| place.mount = "kv".to_owned(),
            |place| place.path.push('2'),
            |place| place.versioned = false,
            // The same text, cut elsewhere.
            |place| (place.mount, place.path) = ("secretk".to_owned(), "eyring".to_owned()),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut elsewhere = location.clone();
            change(&mut elsewhere);
            assert!(key.open(vector.file(), &elsewhere).is_err(), "change {at}");
        }
    }

    #[test]
    fn a_cache_key_is_32_bytes() {
        for bytes in [31, 33] {
            assert!(CopyKey::derive(&Secret::new(BASE64_STANDARD.encode(vec![1; bytes]))).is_none());
        }
        let key = CopyKey::derive(&Secret::new(BASE64_STANDARD.encode([1; 32]))).unwrap();
        assert_eq!(format!("{key:?}"), "CopyKey([redacted])");
    }
}
