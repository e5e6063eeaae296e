//! HMACs and hashes as Vault's Transit computes them.
//!
//! Text of an HMAC: `vault:v<KV version>:<base64(HMAC(K', input))>` (RFC 2104), where K' is the key's HMAC key. The
//! algorithms are SHA-2 (FIPS 180-4) and SHA-3 (FIPS 202). <https://openbao.org/api-docs/secret/transit/#generate-hmac>

use hmac::{KeyInit as _, Mac as _, SimpleHmac};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512, digest::common::BlockSizeUser};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};
use subtle::ConstantTimeEq as _;

use super::{encoding, transit::TEXT_PREFIX};
use crate::keyring::{HeldKey, Keyring};

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
    #[error("the HMAC has no prefix vault:v")]
    Prefix,
    #[error("the HMAC has no version and base64 after its prefix")]
    Fields,
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

    fn mac(self, key: &[u8], input: &[u8]) -> Vec<u8> {
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

/// Appends the text of the input's HMAC under `held` to `out`, in ASCII that JSON does not escape.
pub(crate) fn write_mac(held: &HeldKey, algorithm: HashAlgorithm, input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(TEXT_PREFIX.as_bytes());
    out.extend_from_slice(held.version.to_string().as_bytes());
    out.push(b':');
    encoding::encode(&algorithm.mac(held.key.hmac(), input), out);
}

/// Whether `text` is the input's HMAC under the key of its version. It compares in constant time.
///
/// # Errors
/// [`MacError`]: no key of this keyring can have made it.
pub(crate) fn verify_mac(
    keyring: &Keyring,
    algorithm: HashAlgorithm,
    input: &[u8],
    text: &str,
) -> Result<bool, MacError> {
    let rest = text.strip_prefix(TEXT_PREFIX).ok_or(MacError::Prefix)?;
    let (version, encoded) = rest.split_once(':').ok_or(MacError::Fields)?;
    let version: i64 = version.parse().map_err(|_| MacError::Version)?;
    let version = u64::try_from(version).map_err(|_| MacError::TooOld)?;
    let newest = keyring.active().version;
    let keys = keyring.keys_of_version(version);
    if keys.is_empty() {
        return Err(if version > newest { MacError::TooNew } else { MacError::TooOld });
    }
    let mut given = encoded.as_bytes().to_vec();
    let given = &*encoding::decode_in_place(&mut given).map_err(|_| MacError::NotBase64)?;
    let valid = |held: &HeldKey| bool::from(algorithm.mac(held.key.hmac(), input).ct_eq(given));
    Ok(keys.iter().any(|held| valid(held)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{key, keyring},
        *,
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
        write_mac(ours.active(), HashAlgorithm::Sha2_256, b"input", &mut text);
        let text = String::from_utf8(text).unwrap();
        let verify =
            |keyring, algorithm, input: &[u8], text: &str| verify_mac(keyring, algorithm, input, text);
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
        ] {
            assert_eq!(verify(&ours, HashAlgorithm::Sha2_256, b"input", text), Err(expected), "{text}");
        }
    }
}
