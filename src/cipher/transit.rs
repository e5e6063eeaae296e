//! Transit's format: AES-256-GCM under K, compatible with the Transit engine of Vault and OpenBao.
//!
//! Text: `vault:v<KV version>:<base64(nonce[12] ‖ ct ‖ tag[16])>` with the caller's associated data. Random 96-bit nonces
//! limit a key to 2³² messages over all its holders (NIST SP 800-38D, 8.3), so messages are counted.
//! <https://openbao.org/api-docs/secret/transit/>

use base64_simd::STANDARD as BASE64;

use super::{
    aead::{OpenError, Opened, open_in_place, seal_in_place},
    encoding,
};
use crate::keyring::{Format, HeldKey, Keyring};

pub(super) const TEXT_PREFIX: &str = "vault:v";
pub(super) const NONCE_LEN: usize = 12;

/// Seals `nonce ‖ plaintext` and appends the text form to `out`.
pub(super) fn seal_text(
    held: &HeldKey,
    mut buffer: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    associated_data: &[u8],
    out: &mut Vec<u8>,
) {
    seal_in_place(held.key.aes(), &mut buffer, 0, &nonce.into(), associated_data);
    out.extend_from_slice(TEXT_PREFIX.as_bytes());
    out.extend_from_slice(held.version.to_string().as_bytes());
    out.push(b':');
    BASE64.encode_append(&buffer, out);
}

/// The maximum number of keys of one version to try. A map may hold any number of keys.
const MAX_TRIED: usize = 8;

/// Opens the text after the prefix. If the version holds a map, it tries several keys: a single record may have become a
/// map.
pub(super) fn open_text<'k>(
    keyring: &'k Keyring,
    text: &str,
    associated_data: &[u8],
) -> Result<Opened<'k>, OpenError> {
    let (version, sealed) = text.split_once(':').ok_or(OpenError::NotAuthentic)?;
    let canonical = !version.starts_with(['0', '+']);
    let version = version.parse().ok().filter(|_| canonical).ok_or(OpenError::NotAuthentic)?;
    let keys = keyring.keys_of_version(version);
    if keys.is_empty() {
        return Err(OpenError::UnknownVersion(version));
    }
    for held in keys.iter().take(MAX_TRIED) {
        let mut buffer = Vec::with_capacity(BASE64.estimated_decoded_length(sealed.len()));
        encoding::decode(sealed, &mut buffer).map_err(|_| OpenError::NotAuthentic)?;
        if let Ok(plaintext) = open_in_place(held.key.aes(), buffer, 0, associated_data) {
            return Ok(Opened { held, format: Format::Transit, plaintext });
        }
    }
    Err(OpenError::NotAuthentic)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::{
        super::{KongFields, open_text, testing::*},
        *,
    };
    use crate::keyring::{KeyId, key::VersionId};

    fn seal(keyring: &Keyring, plaintext: &[u8]) -> String {
        sealed(keyring, Format::Transit, &[3; NONCE_LEN], b"aad", plaintext).unwrap()
    }

    fn held(id: &str, k: u8, version: u64) -> HeldKey {
        HeldKey::new(key(id, k).into(), version, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn every_changed_character_makes_open_fail() {
        let keyring = keyring(key("a", 7));
        // No bits of the base64 are unused: Transit ignores them.
        let sealed = seal(&keyring, b"plaintext!!");
        assert!(sealed.starts_with("vault:v1:"), "{sealed}");
        for at in 0..sealed.len() {
            for other in ["A", "B", "2", ":", "=", "\n", "é", "0"] {
                let changed = [&sealed[..at], other, &sealed[at + 1..]].concat();
                assert!(
                    changed == sealed || open_text(&keyring, &changed, b"aad", KongFields::Refuse).is_err(),
                    "{changed}"
                );
            }
            assert!(open_text(&keyring, &sealed[..at], b"aad", KongFields::Refuse).is_err(), "cut at {at}");
        }
        for foreign in ["vault:v01:", "vault:v+1:", "vault:v-1:", "vault:v99999999999999999999:", "vault:v1"]
        {
            let changed = sealed.replace("vault:v1:", foreign);
            assert_eq!(
                open_text(&keyring, &changed, b"aad", KongFields::Refuse).err(),
                Some(OpenError::NotAuthentic),
                "{changed}"
            );
        }
    }

    #[test]
    fn a_version_that_is_not_held_is_a_separate_error() {
        let ours = keyring(key("a", 7));
        let sealed = seal(&ours, b"x").replace("vault:v1:", "vault:v7:");
        assert_eq!(
            open_text(&ours, &sealed, b"aad", KongFields::Refuse).err(),
            Some(OpenError::UnknownVersion(7))
        );
    }

    #[test]
    fn a_key_is_found_by_each_of_its_versions_and_among_the_keys_of_a_map() {
        let before = Keyring::new([held("a", 1, 1)], &KeyId::parse("a").unwrap()).unwrap();
        let sealed = seal(&before, b"old");
        let first = VersionId { number: 1, created: SystemTime::UNIX_EPOCH };
        let moved = HeldKey { earlier_versions: vec![first], ..held("a", 1, 3) };
        let keys = [moved, held("b", 2, 3), held("c", 3, 1)];
        let keyring = Keyring::new(keys, &KeyId::parse("b").unwrap()).unwrap();
        let opened = open_text(&keyring, &sealed, b"aad", KongFields::Refuse).unwrap();
        assert_eq!((opened.held.key.id().as_str(), opened.plaintext.as_bytes()), ("a", b"old".as_slice()));
        assert!(seal(&keyring, b"new").starts_with("vault:v3:"));
    }
}
