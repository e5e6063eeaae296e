//! HMACs and hashes as Vault's Transit computes them.
//!
//! Text of an HMAC: `krm1:<id>:<base64(HMAC(K_mac, input))>` (RFC 2104), or `vault:v<KV version>:…` with the transit format. A
//! blind index is the leftmost bits of HMAC-SHA256(K_idx, input), K_idx = HKDF-SHA256(K_mac, no salt, info `keyringd kri1
//! index` ‖ 0x00 ‖ label, 32). K_mac is the key's HMAC key. The algorithms are SHA-2 (FIPS 180-4) and SHA-3 (FIPS 202). <https://openbao.org/api-docs/secret/transit/#generate-hmac>

use std::{ops::RangeInclusive, sync::Arc};

use hmac::{KeyInit as _, Mac as _, SimpleHmac};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512, digest::common::BlockSizeUser};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{encoding, transit::TEXT_PREFIX as TRANSIT_PREFIX};
use crate::keyring::{Format, HeldKey, Key, Keyring, kdf::expand};

const NATIVE_PREFIX: &str = "krm1:";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashAlgorithm {
    Sha2_224,
    Sha2_256,
    Sha2_384,
    Sha2_512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

/// Why a text is no HMAC that a key of this keyring can have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MacError {
    #[error("the HMAC has no prefix vault:v or krm1:")]
    Prefix,
    #[error("the HMAC has no version or key id, and base64, after its prefix")]
    Fields,
    #[error("the key of the HMAC is not in the keyring")]
    UnknownKey,
    #[error("a context does not apply to HMACs here: the record has an hmac_key, which is not derived")]
    Context,
    #[error("the version of the HMAC is no number")]
    Version,
    #[error("the version of the HMAC is newer than the newest key version")]
    TooNew,
    #[error("the version of the HMAC is older than the oldest key version")]
    TooOld,
    #[error("the HMAC is not base64 (standard alphabet, with padding)")]
    NotBase64,
}

impl HashAlgorithm {
    /// Transit's name for it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "sha2-224" => Self::Sha2_224,
            "sha2-256" => Self::Sha2_256,
            "sha2-384" => Self::Sha2_384,
            "sha2-512" => Self::Sha2_512,
            "sha3-224" => Self::Sha3_224,
            "sha3-256" => Self::Sha3_256,
            "sha3-384" => Self::Sha3_384,
            "sha3-512" => Self::Sha3_512,
            _ => return None,
        })
    }

    pub(crate) fn hash(self, input: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha2_224 => Sha224::digest(input).to_vec(),
            Self::Sha2_256 => Sha256::digest(input).to_vec(),
            Self::Sha2_384 => Sha384::digest(input).to_vec(),
            Self::Sha2_512 => Sha512::digest(input).to_vec(),
            Self::Sha3_224 => Sha3_224::digest(input).to_vec(),
            Self::Sha3_256 => Sha3_256::digest(input).to_vec(),
            Self::Sha3_384 => Sha3_384::digest(input).to_vec(),
            Self::Sha3_512 => Sha3_512::digest(input).to_vec(),
        }
    }

    pub(super) fn mac(self, key: &[u8], input: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha2_224 => mac::<Sha224>(key, input),
            Self::Sha2_256 => mac::<Sha256>(key, input),
            Self::Sha2_384 => mac::<Sha384>(key, input),
            Self::Sha2_512 => mac::<Sha512>(key, input),
            Self::Sha3_224 => mac::<Sha3_224>(key, input),
            Self::Sha3_256 => mac::<Sha3_256>(key, input),
            Self::Sha3_384 => mac::<Sha3_384>(key, input),
            Self::Sha3_512 => mac::<Sha3_512>(key, input),
        }
    }
}

fn mac<D: Digest + BlockSizeUser>(key: &[u8], input: &[u8]) -> Vec<u8> {
    let mac = SimpleHmac::<D>::new_from_slice(key);
    let mac = mac.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.chain_update(input).finalize().into_bytes().to_vec()
}

/// The HMAC key for a context, in place of the key's own.
///
/// # Errors
/// [`MacError::Context`]
pub(crate) fn in_context(key: &Key, context: &[u8]) -> Result<Arc<Key>, MacError> {
    if key.has_own_hmac() { Err(MacError::Context) } else { Ok(key.in_context(context)) }
}

fn mac_of(key: &Key, algorithm: HashAlgorithm, context: &[u8], input: &[u8]) -> Result<Vec<u8>, MacError> {
    if context.is_empty() {
        return Ok(algorithm.mac(key.hmac(), input));
    }
    Ok(algorithm.mac(in_context(key, context)?.hmac(), input))
}

/// Appends the text of the input's HMAC under `held` to `out`, in ASCII that JSON does not escape. An empty context is none.
pub(crate) fn write_mac(
    held: &HeldKey,
    format: Format,
    algorithm: HashAlgorithm,
    context: &[u8],
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), MacError> {
    let mac = mac_of(&held.key, algorithm, context, input)?;
    let (prefix, name) = match format {
        Format::Transit => (TRANSIT_PREFIX, held.version.to_string()),
        Format::Native | Format::Kong => (NATIVE_PREFIX, held.key.id().to_string()),
    };
    for part in [prefix, &name, ":"] {
        out.extend_from_slice(part.as_bytes());
    }
    encoding::encode(&mac, out);
    Ok(())
}

/// Whether `text`, in either form, is the input's HMAC under the key that it names. It compares in constant time.
///
/// # Errors
/// [`MacError`]: no key of this keyring can have made it.
pub(crate) fn verify_mac(
    keyring: &Keyring,
    algorithm: HashAlgorithm,
    context: &[u8],
    input: &[u8],
    text: &str,
) -> Result<bool, MacError> {
    let (keys, encoded): (Vec<&HeldKey>, _) = if let Some(rest) = text.strip_prefix(NATIVE_PREFIX) {
        let (id, encoded) = rest.split_once(':').ok_or(MacError::Fields)?;
        (vec![keyring.get(id).ok_or(MacError::UnknownKey)?], encoded)
    } else {
        let rest = text.strip_prefix(TRANSIT_PREFIX).ok_or(MacError::Prefix)?;
        let (version, encoded) = rest.split_once(':').ok_or(MacError::Fields)?;
        let version: i64 = version.parse().map_err(|_| MacError::Version)?;
        let version = u64::try_from(version).map_err(|_| MacError::TooOld)?;
        let keys = keyring.keys_of_version(version);
        if keys.is_empty() {
            return Err(if version > keyring.active().version { MacError::TooNew } else { MacError::TooOld });
        }
        (keys.iter().map(AsRef::as_ref).collect(), encoded)
    };
    let mut given = encoded.as_bytes().to_vec();
    let given = &*encoding::decode_in_place(&mut given).map_err(|_| MacError::NotBase64)?;
    let mut valid = false;
    for held in keys {
        valid |= bool::from(mac_of(&held.key, algorithm, context, input)?.ct_eq(given));
    }
    Ok(valid)
}

/// The widths of a blind index, in bits.
pub(crate) const INDEX_BITS: RangeInclusive<usize> = 8..=256;

/// The blind index of the input: its leftmost `bits`, with spare low bits zero. The width is not part of the derivation: two
/// widths of one column leak no more than the wider one.
///
/// # Panics
/// Unless `bits` is one of [`INDEX_BITS`].
pub(crate) fn index(key: &Key, label: &[u8], bits: usize, input: &[u8]) -> Vec<u8> {
    assert!(INDEX_BITS.contains(&bits), "the caller checks the width");
    let mut k = Zeroizing::new([0; 32]);
    expand(key.hmac(), &mut [(&[b"keyringd kri1 index\0", label], k.as_mut_slice())]);
    let mut index = mac::<Sha256>(k.as_slice(), input);
    index.truncate(bits.div_ceil(8));
    let spare = index.len() * 8 - bits;
    if let Some(last) = index.last_mut() {
        *last &= u8::MAX << spare;
    }
    index
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::{
        super::testing::{key, keyring},
        *,
    };
    use crate::{
        keyring::{KeyDerivation, KeyId},
        secret::Secret,
    };

    fn hex(bytes: &[u8]) -> String {
        hex_simd::encode_to_string(bytes, hex_simd::AsciiCase::Lower)
    }

    #[test]
    fn known_answers() {
        // RFC 4231, test case 2, and NIST's HMAC-SHA3-256 of the same input.
        let (key, input) = (b"Jefe", b"what do ya want for nothing?");
        for (algorithm, expected) in [
            ("sha2-256", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                "sha2-512",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdca\
                 eab1a34d4a6b4b636e070a38bce737",
            ),
            ("sha3-256", "c7d4072e788877ae3596bbb0da73b887c9171f93095b294ae857fbe2645e1ba5"),
        ] {
            let algorithm = HashAlgorithm::parse(algorithm).unwrap();
            assert_eq!(hex(&algorithm.mac(key, input)), expected, "{algorithm:?}");
        }
        assert_eq!(HashAlgorithm::parse("sha1"), None);
        let sum = HashAlgorithm::Sha3_224.hash(b"hello");
        assert_eq!(hex(&sum), "b87f88c72702fff1748e58b87e9141a42c0dbedc29a78cb0d4a5cd81");
    }

    #[test]
    fn an_hmac_verifies_under_its_own_key_input_and_algorithm_alone() {
        let (ours, other) = (keyring(key("a", 7)), keyring(key("a", 8)));
        let mut text = Vec::new();
        write_mac(ours.active(), Format::Native, HashAlgorithm::Sha2_256, b"", b"input", &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("krm1:a:"), "{text}");
        let verify =
            |keyring, algorithm, input: &[u8], text: &str| verify_mac(keyring, algorithm, b"", input, text);
        let transit = text.replace("krm1:a:", "vault:v1:");
        assert_eq!(verify(&ours, HashAlgorithm::Sha2_256, b"input", &transit), Ok(true));
        let in_context =
            |context: &[u8]| verify_mac(&ours, HashAlgorithm::Sha2_256, context, b"input", &text);
        assert_eq!(in_context(b"tenant"), Ok(false));
        assert_eq!(verify(&ours, HashAlgorithm::Sha2_256, b"input", &text), Ok(true));
        assert_eq!(verify(&ours, HashAlgorithm::Sha2_256, b"inpux", &text), Ok(false));
        assert_eq!(verify(&ours, HashAlgorithm::Sha2_512, b"input", &text), Ok(false));
        assert_eq!(verify(&other, HashAlgorithm::Sha2_256, b"input", &text), Ok(false));
        for (text, expected) in [
            ("", MacError::Prefix),
            ("vault:v1", MacError::Fields),
            ("vault:vx:AAAA", MacError::Version),
            ("vault:v2:AAAA", MacError::TooNew),
            ("vault:v0:AAAA", MacError::TooOld),
            ("vault:v-1:AAAA", MacError::TooOld),
            ("vault:v1:AAA", MacError::NotBase64),
            ("krm1:a", MacError::Fields),
            ("krm1:b:AAAA", MacError::UnknownKey),
            ("krm1:a:AAA", MacError::NotBase64),
        ] {
            assert_eq!(verify(&ours, HashAlgorithm::Sha2_256, b"input", text), Err(expected), "{text}");
        }
    }

    #[derive(Deserialize)]
    struct Vectors {
        id: String,
        key: String,
        input: String,
        label: String,
        #[serde(rename = "vectors")]
        answers: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        derivation: String,
        k_mac: String,
        mac: String,
        index: BTreeMap<usize, String>,
    }

    #[test]
    fn known_answers_of_hmac_and_index() {
        let file: Vectors = serde_json::from_str(include_str!("../../tests/vectors/index.json")).unwrap();
        assert_eq!(file.answers.len(), 2);
        for vector in file.answers {
            let derivation =
                if vector.derivation == "raw" { KeyDerivation::Raw } else { KeyDerivation::Sha256 };
            let id = KeyId::parse(&file.id).unwrap();
            let key = Key::derive(id, &Secret::new(file.key.clone()), derivation).unwrap();
            assert_eq!(hex(key.hmac()), vector.k_mac);
            let input = file.input.as_bytes();
            assert_eq!(hex(&HashAlgorithm::Sha2_256.mac(key.hmac(), input)), vector.mac);
            for (bits, expected) in vector.index {
                assert_eq!(hex(&index(&key, file.label.as_bytes(), bits, input)), expected, "{bits}");
            }
            let whole = index(&key, file.label.as_bytes(), 256, input);
            assert_eq!(whole.len(), 32);
            for bits in INDEX_BITS {
                let part = index(&key, file.label.as_bytes(), bits, input);
                assert_eq!(part.len(), bits.div_ceil(8));
                let (full, rest) = part.split_at(bits / 8);
                assert_eq!(full, &whole[..bits / 8]);
                assert!(
                    rest.first().is_none_or(|last| *last == whole[bits / 8] & !(0xff >> (bits % 8))),
                    "{bits}"
                );
            }
        }
    }

    #[test]
    fn a_context_changes_the_key_unless_the_record_brings_one() {
        let derived = key("a", 7);
        assert_ne!(in_context(&derived, b"tenant").unwrap().hmac(), derived.hmac());
        let own = derived.with_hmac_key(&Secret::new("A".repeat(43) + "=")).unwrap();
        assert_eq!(in_context(&own, b"tenant").err(), Some(MacError::Context));
    }
}
