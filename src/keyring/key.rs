//! One key: its ID, its derivation from a record's key text, and the KV versions that carry it.
//!
//! The key text is derived to the 32-byte key K (Kong's rule, or base64), and K to the key of the native format. The
//! bytes of the ciphertext formats are in `cipher`.
//! The file is longer than most: every derivation from K is here.

use std::{
    borrow::Borrow,
    fmt,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use aes_gcm::KeyInit as _;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, Zeroizing};

use super::{
    kdf::{STACK, expand},
    xaes::{Aes256Gcm, Xaes256Gcm},
};
use crate::secret::{Secret, wipe_stack};

/// A key ID: 1 to 64 of `A-Z a-z 0-9 _ . -`. The word `active` is reserved for a path of the API.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

/// The derivation of the 32-byte key K from a record's `key` text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyDerivation {
    /// K = SHA-256(text), as in Kong's vault strategy.
    #[default]
    Sha256,
    /// K = base64-decode(text), exactly 32 bytes: the export format of Kong's cluster strategy and of Transit.
    Raw,
}

impl KeyDerivation {
    /// The name in settings and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Raw => "raw",
        }
    }
}

/// K, AES-256-GCM under K, and the cipher of the native format under HKDF-SHA256(K, no salt, info
/// `keyringd kr1 xaes-256-gcm`, 32 bytes) (RFC 5869). Wiped on drop.
pub struct Key {
    id: KeyId,
    k: Secret<[u8; 32]>,
    aes: Aes256Gcm,
    xaes: Xaes256Gcm,
    /// HKDF-SHA256(K, no salt, info `keyringd krm1 hmac`, 32 bytes), or the record's.
    hmac: Secret<Vec<u8>>,
    has_own_hmac: bool,
    kms: Xaes256Gcm,
    /// See [`Key::fingerprint`].
    fingerprint: [u8; 3],
    /// Messages that this process sealed with [`Key::aes`] and 96-bit nonces.
    messages: AtomicU64,
}

/// What is derived from K.
#[derive(Default, Zeroize)]
struct DerivedKeys {
    xaes: [u8; 32],
    kms: [u8; 32],
    hmac: [u8; 32],
    fingerprint: [u8; 3],
}

/// A KV version. The number alone is ambiguous: a secret that was deleted and recreated counts from 1 again. The order
/// is by number, because the clocks of Vault nodes may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionId {
    pub number: u64,
    pub created: SystemTime,
}

/// A key and the KV versions that carry it.
#[derive(Debug)]
pub struct HeldKey {
    pub key: Arc<Key>,
    /// The newest KV version that carries this key; 1 on KV v1, which has no versions.
    pub version: u64,
    pub earlier_versions: Vec<VersionId>,
    /// When `version` was written.
    pub created: SystemTime,
    /// Whether `version` uses the map form.
    pub mapped: bool,
    /// Vault no longer lists a version with this key. The key stays until the process ends.
    pub retired: bool,
}

impl HeldKey {
    pub fn new(key: Arc<Key>, version: u64, created: SystemTime) -> Self {
        Self { key, version, earlier_versions: Vec::new(), created, mapped: false, retired: false }
    }

    pub(super) const fn newest(&self) -> VersionId {
        VersionId { number: self.version, created: self.created }
    }
}

/// The limit of messages per key with random 96-bit nonces (NIST SP 800-38D, 8.3), summed over all holders of the key.
pub(crate) const MESSAGE_BUDGET: u64 = 1 << 32;

/// Half of the budget: the daemon warns and asks for a rotation.
pub(crate) const MESSAGES_TO_WARN_FROM: u64 = MESSAGE_BUDGET / 2;

/// The warning above that threshold.
pub(crate) const TOO_MANY_MESSAGES: &str = "this process sealed more than 2^31 messages with 96-bit nonces under this key; the \
limit for all holders of the key is 2^32; write a new key to Vault";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("`id` must be 1 to 64 of A-Z a-z 0-9 _ . - and must not be `active`")]
    Id,
    #[error("`key` is empty")]
    Empty,
    #[error("`key` must be base64 of exactly 32 bytes with keyring_key_derivation = raw")]
    NotRaw,
    #[error("`hmac_key` must be base64 of 16 to 512 bytes")]
    HmacKey,
}

/// How long an HMAC key of a record may be: those of Transit are 32 bytes, unless they were imported.
const HMAC_KEY_LEN: RangeInclusive<usize> = 16..=512;

impl KeyId {
    pub const MAX_LEN: usize = 64;

    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if Self::is_valid(text) { Ok(Self(text.into())) } else { Err(KeyError::Id) }
    }

    pub fn is_valid(text: &str) -> bool {
        (1..=Self::MAX_LEN).contains(&text.len())
            && text != "active"
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    }

    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl Key {
    /// The error never contains the text.
    pub fn derive(id: KeyId, text: &Secret<String>, derivation: KeyDerivation) -> Result<Self, KeyError> {
        let text = text.expose();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let k = match derivation {
            KeyDerivation::Sha256 => {
                let (mut k, mut digest) = (Secret::new([0; 32]), Sha256::digest(text.as_bytes()));
                k.expose_mut().copy_from_slice(&digest);
                digest.as_mut_slice().zeroize();
                k
            }
            KeyDerivation::Raw => {
                decode_32_bytes(text.trim_end_matches(['\r', '\n'])).ok_or(KeyError::NotRaw)?
            }
        };
        Ok(Self::new(id, k))
    }

    /// A key from K itself.
    pub fn new(id: KeyId, k: Secret<[u8; 32]>) -> Self {
        let mut derived = Zeroizing::new(DerivedKeys::default());
        let DerivedKeys { xaes, kms, hmac, fingerprint } = &mut *derived;
        expand(
            k.expose(),
            &mut [
                (&[b"keyringd kr1 xaes-256-gcm"], xaes),
                (&[b"keyringd kr1 kms"], kms),
                (&[b"keyringd krm1 hmac"], hmac),
                (&[b"keyringd fingerprint"], fingerprint),
            ],
        );
        Self::with_derived(id, k, &derived)
    }

    /// On the stack that [`expand`] wiped.
    #[inline(never)]
    fn with_derived(id: KeyId, k: Secret<[u8; 32]>, derived: &DerivedKeys) -> Self {
        Self {
            id,
            aes: Aes256Gcm::new(k.expose().into()),
            k,
            xaes: Xaes256Gcm::new(&derived.xaes.into()),
            kms: Xaes256Gcm::new(&derived.kms.into()),
            hmac: Secret::new(derived.hmac.to_vec()),
            has_own_hmac: false,
            fingerprint: derived.fingerprint,
            messages: AtomicU64::new(0),
        }
    }

    /// The key for one context in K's place: HKDF-SHA256(K, no salt, info `keyringd kr1 context` ‖ 0x00 ‖ context, 32). An HMAC
    /// key of the record does not follow.
    pub(crate) fn in_context(&self, context: &[u8]) -> Arc<Self> {
        self.derived(&[b"keyringd kr1 context\0", context])
    }

    /// The same as Transit's derived keys have it: HKDF-SHA256(K, no salt, info = context, 32).
    pub(crate) fn in_transit_context(&self, context: &[u8]) -> Arc<Self> {
        self.derived(&[context])
    }

    fn derived(&self, info: &[&[u8]]) -> Arc<Self> {
        let key = self.derived_on_stack(info);
        wipe_stack::<STACK>();
        key
    }

    #[inline(never)]
    fn derived_on_stack(&self, info: &[&[u8]]) -> Arc<Self> {
        let mut k = Secret::new([0; 32]);
        expand(self.k.expose(), &mut [(info, k.expose_mut())]);
        Arc::new(Self::new(self.id.clone(), k))
    }

    /// The same key with an exported HMAC key of Transit in the place of the derived one. A sealed copy names the derived one too,
    /// which stays derived.
    ///
    /// # Errors
    /// [`KeyError::HmacKey`]
    pub(crate) fn with_hmac_key(mut self, text: &Secret<String>) -> Result<Self, KeyError> {
        let text = text.expose();
        // A buffer of known size is never reallocated.
        let mut decoded = Secret::new(vec![0; text.len() / 4 * 3 + 3]);
        let len = BASE64_STANDARD.decode_slice(text, decoded.expose_mut()).map_err(|_| KeyError::HmacKey)?;
        if !HMAC_KEY_LEN.contains(&len) {
            return Err(KeyError::HmacKey);
        }
        decoded.expose_mut().truncate(len);
        self.has_own_hmac = !bool::from(self.hmac.expose().ct_eq(decoded.expose()));
        self.hmac = decoded;
        Ok(self)
    }

    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// To compare the keys of several hosts: HKDF-SHA256(K, no salt, info `keyringd fingerprint`, 3 bytes), in hexadecimal.
    /// It is public, so it is short: one guess of a weak key text in 2^24 has it, so it proves no guess.
    pub fn fingerprint(&self) -> String {
        let [first, second, third] = self.fingerprint;
        format!("{first:02x}{second:02x}{third:02x}")
    }

    /// K itself, for the sealed copy alone.
    pub(super) const fn k(&self) -> &[u8; 32] {
        self.k.expose()
    }

    /// The key of its HMACs.
    pub(crate) fn hmac(&self) -> &[u8] {
        self.hmac.expose()
    }

    /// Whether the record brings an HMAC key, which does not follow a context.
    pub(crate) const fn has_own_hmac(&self) -> bool {
        self.has_own_hmac
    }

    pub const fn aes(&self) -> &Aes256Gcm {
        &self.aes
    }

    pub const fn xaes(&self) -> &Xaes256Gcm {
        &self.xaes
    }

    /// The cipher of Kubernetes' ciphertexts, under a key of their own: HKDF-SHA256(K, no salt, info `keyringd kr1 kms`).
    /// Applications can neither open nor forge one.
    pub const fn kms(&self) -> &Xaes256Gcm {
        &self.kms
    }

    /// Messages that this process sealed under K with random 96-bit nonces.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Adds to that count and returns the previous count.
    pub fn count_messages(&self, more: u64) -> u64 {
        self.messages.fetch_add(more, Ordering::Relaxed)
    }

    /// Compares the 32 bytes in constant time.
    pub fn same_key(&self, other: &Self) -> bool {
        self.k.expose().ct_eq(other.k.expose()).into()
    }

    /// Whether both hold the same HMAC key, in constant time.
    pub(crate) fn same_hmac_key(&self, other: &Self) -> bool {
        self.hmac.expose().ct_eq(other.hmac.expose()).into()
    }
}

/// The 32 bytes whose base64 a text is.
pub(crate) fn decode_32_bytes(text: &str) -> Option<Secret<[u8; 32]>> {
    // A fixed buffer is never reallocated: 44 base64 characters decode to at most 33 bytes.
    let (mut decoded, mut bytes) = (Zeroizing::new([0; 33]), Secret::new([0; 32]));
    match BASE64_STANDARD.decode_slice(text, decoded.as_mut_slice()) {
        Ok(32) => bytes.expose_mut().copy_from_slice(&decoded[..32]),
        _ => return None,
    }
    Some(bytes)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(text: &str, derivation: KeyDerivation) -> Result<Key, KeyError> {
        Key::derive(KeyId::parse("a").unwrap(), &Secret::new(text.to_owned()), derivation)
    }

    #[test]
    fn ids_are_1_to_64_of_the_documented_characters() {
        for good in ["a", "8zgITLQh", "a.b_c-D", "Active", &"x".repeat(64)] {
            assert!(KeyId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "active", "a b", "a:b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert!(KeyId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sha256_accepts_any_text_and_raw_accepts_32_bytes_of_base64() {
        assert!(derive("x", KeyDerivation::Sha256).is_ok());
        assert_eq!(derive("", KeyDerivation::Sha256).unwrap_err(), KeyError::Empty);
        assert!(derive(&BASE64_STANDARD.encode([7; 32]), KeyDerivation::Raw).is_ok());
        for bad in [
            "x",
            "!!!!",
            &BASE64_STANDARD.encode([7; 31]),
            &BASE64_STANDARD.encode([7; 33]),
            &"A".repeat(5000),
        ] {
            assert_eq!(derive(bad, KeyDerivation::Raw).unwrap_err(), KeyError::NotRaw, "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_of_the_key_alone() {
        let fingerprint =
            |id: &str, byte: u8| Key::new(KeyId::parse(id).unwrap(), Secret::new([byte; 32])).fingerprint();
        assert_eq!(fingerprint("a", 7), fingerprint("b", 7));
        assert_ne!(fingerprint("a", 7), fingerprint("a", 8));
        // openssl kdf -keylen 3 -kdfopt digest:SHA256 -kdfopt hexkey:07…07 -kdfopt info:'keyringd fingerprint' HKDF
        assert_eq!(fingerprint("a", 7), "a621f0");
    }

    #[test]
    fn the_two_derivations_differ_and_equal_texts_give_equal_keys() {
        let text = BASE64_STANDARD.encode([7; 32]);
        let (one, two) =
            (derive(&text, KeyDerivation::Raw).unwrap(), derive(&text, KeyDerivation::Raw).unwrap());
        assert!(one.same_key(&two));
        assert!(!one.same_key(&derive(&text, KeyDerivation::Sha256).unwrap()));
    }
}
