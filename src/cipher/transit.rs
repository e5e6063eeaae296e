//! Transit's format: AES-256-GCM under K, compatible with the Transit engine of Vault and OpenBao.
//!
//! Text: `vault:v<KV version>:<base64(nonce[12] ‖ ct ‖ tag[16])>` with the caller's associated data. Random 96-bit nonces
//! limit a key to 2³² messages over all its holders (NIST SP 800-38D, 8.3), so messages are counted.
//! <https://openbao.org/api-docs/secret/transit/>

use std::sync::Arc;

use super::{
    Batch, Binding,
    aead::{self, OpenError, Opened, OpenedText, seal_base64},
    encoding,
};
use crate::keyring::{Format, HeldKey, Keyring};

pub(super) const TEXT_PREFIX: &str = "vault:v";
pub(super) const NONCE_LEN: usize = 12;

/// Seals the plaintext in place and appends the text form to `out`.
pub(super) fn seal_text(
    held: &HeldKey,
    plaintext: &mut [u8],
    batch: &mut Batch,
    associated_data: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(TEXT_PREFIX.as_bytes());
    out.extend_from_slice(held.version.to_string().as_bytes());
    out.push(b':');
    seal_base64(held.key.aes(), plaintext, &batch.short_nonce().into(), associated_data, out);
}

/// The maximum number of keys of one version to try. A map may hold any number of keys.
const MAX_TRIED: usize = 8;

/// The keys of the text's version, and where its base64 begins.
pub(super) fn find_text<'k>(
    keyring: &'k Keyring,
    text: &[u8],
) -> Result<(&'k [Arc<HeldKey>], usize), OpenError> {
    let rest = &text[TEXT_PREFIX.len()..];
    let end = rest.iter().position(|byte| *byte == b':').ok_or(OpenError::NotACiphertext)?;
    let version = str::from_utf8(&rest[..end]).map_err(|_| OpenError::NotACiphertext)?;
    let canonical = !version.starts_with(['0', '+']);
    let version = version.parse().ok().filter(|_| canonical).ok_or(OpenError::NotACiphertext)?;
    let keys = keyring.keys_of_version(version);
    if keys.is_empty() {
        return Err(OpenError::UnknownVersion(version));
    }
    Ok((keys, TEXT_PREFIX.len() + end + 1))
}

/// Opens the text form in place. If the version holds a map, it tries several keys: a single record may have become a map.
pub(super) fn open_text<'k>(
    keyring: &'k Keyring,
    text: &mut [u8],
    Binding { associated_data, context }: Binding<'_>,
) -> Result<OpenedText<'k>, OpenError> {
    let (keys, at) = find_text(keyring, text)?;
    let sealed = encoding::decode_in_place(&mut text[at..]).map_err(|_| OpenError::NotAuthentic)?;
    for held in keys.iter().take(MAX_TRIED) {
        let opened = if context.is_empty() {
            aead::open(held.key.aes(), sealed, associated_data)
        } else {
            aead::open(held.key.in_transit_context(context).aes(), sealed, associated_data)
        };
        if let Ok(plaintext) = opened {
            let plaintext = at + plaintext.start..at + plaintext.end;
            return Ok(Opened { held, format: Format::Transit, plaintext });
        }
    }
    Err(OpenError::NotAuthentic)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::{
        super::{KongFields, testing::*},
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
                    changed == sealed || opened(&keyring, &changed, b"aad", KongFields::Refuse).is_err(),
                    "{changed}"
                );
            }
            assert!(opened(&keyring, &sealed[..at], b"aad", KongFields::Refuse).is_err(), "cut at {at}");
        }
        for foreign in ["vault:v01:", "vault:v+1:", "vault:v-1:", "vault:v99999999999999999999:", "vault:v1"]
        {
            let changed = sealed.replace("vault:v1:", foreign);
            assert_eq!(
                opened(&keyring, &changed, b"aad", KongFields::Refuse).err(),
                Some(OpenError::NotACiphertext),
                "{changed}"
            );
        }
    }

    #[test]
    fn a_version_that_is_not_held_is_a_separate_error() {
        let ours = keyring(key("a", 7));
        let sealed = seal(&ours, b"x").replace("vault:v1:", "vault:v7:");
        assert_eq!(
            opened(&ours, &sealed, b"aad", KongFields::Refuse).err(),
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
        let opened = opened(&keyring, &sealed, b"aad", KongFields::Refuse).unwrap();
        assert_eq!((opened.held.key.id().as_str(), opened.plaintext.as_bytes()), ("a", b"old".as_slice()));
        assert!(seal(&keyring, b"new").starts_with("vault:v3:"));
    }
}
