//! XAES-256-GCM (c2sp.org/XAES-256-GCM): Kx = CMAC-KDF(K, N[..12]); AES-256-GCM(Kx, N[12..]).
//!
//! Own code instead of the crate `xaes-256-gcm` for speed: the key schedule dominates the cost of small messages, and an
//! encrypt-only AES needs half of it and half of the wiping. A test compares both.

use std::mem::ManuallyDrop;

use aes_gcm::{
    AesGcm,
    aead::{
        AeadCore, AeadInOut, Error, Key, KeyInit, KeySizeUser, Nonce, Tag, TagPosition,
        array::Array,
        consts::{U12, U16, U24, U32},
        inout::InOutBuf,
    },
    aes::{Aes256Enc, Block, cipher::BlockCipherEncrypt as _},
};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// AES-256-GCM uses the block cipher in encrypt direction only.
pub(crate) type Aes256Gcm = AesGcm<Aes256Enc, U12>;

/// The cipher of one message, or of the messages of one request. The program's allocator wipes it when it is freed: that is
/// one fill of memory, where `zeroize` takes as many instructions as the message itself.
type MessageCipher = Box<ManuallyDrop<Aes256Gcm>>;

/// Its 192-bit nonces may be random for any number of messages.
pub struct Xaes256Gcm {
    aes: Aes256Enc,
    /// The CMAC subkey K1 (NIST SP 800-38B, 6.1) for the key derivation (NIST SP 800-108r1, 4.1).
    k1: Block,
}

impl Xaes256Gcm {
    /// AES-256-GCM under Kx, derived from the first half of the nonce. The frame that it is made in is one of those that
    /// [`wipe_stack`](crate::secret::wipe_stack) wipes for the caller.
    #[inline(never)]
    fn derived_cipher(&self, nonce: &[u8; 12]) -> MessageCipher {
        let input = |counter| {
            let mut block = self.k1;
            for (byte, input) in block.iter_mut().zip([0, counter, b'X', 0].iter().chain(nonce)) {
                *byte ^= input;
            }
            block
        };
        let mut blocks = [input(1), input(2)];
        self.aes.encrypt_blocks(&mut blocks);
        let mut key = Key::<Aes256Gcm>::default();
        for (half, block) in key.chunks_exact_mut(blocks[0].len()).zip(&mut blocks) {
            half.copy_from_slice(block);
            block.zeroize();
        }
        let aes = Box::new(ManuallyDrop::new(Aes256Gcm::new(&key)));
        key.zeroize();
        aes
    }

    /// The same, from `last` if it is that one. Its nonces are the second halves.
    pub(crate) fn derived<'l>(&self, kdf_input: &[u8; 12], last: &'l mut LastDerived) -> &'l Aes256Gcm {
        if last.0.as_ref().is_some_and(|last| !last.is_of(self, kdf_input)) {
            last.0 = None;
        }
        let derive = || Derived { k1: self.k1, kdf_input: *kdf_input, aes: self.derived_cipher(kdf_input) };
        &last.0.get_or_insert_with(derive).aes
    }
}

/// AES-256-GCM under the key that was derived last, for messages that share the first half of their nonces. Wiped on drop.
#[derive(Default)]
pub(crate) struct LastDerived(Option<Derived>);

struct Derived {
    /// Tells the keys apart: two have the same with a probability of 2⁻¹²⁸.
    k1: Block,
    kdf_input: [u8; 12],
    aes: MessageCipher,
}

impl Derived {
    fn is_of(&self, xaes: &Xaes256Gcm, kdf_input: &[u8; 12]) -> bool {
        self.kdf_input == *kdf_input && bool::from(self.k1.as_slice().ct_eq(xaes.k1.as_slice()))
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        self.k1.zeroize();
    }
}

impl KeySizeUser for Xaes256Gcm {
    type KeySize = U32;
}

impl KeyInit for Xaes256Gcm {
    fn new(key: &Key<Self>) -> Self {
        let aes = Aes256Enc::new(key);
        let mut block = Block::default();
        aes.encrypt_block(&mut block);
        let l = u128::from_be_bytes(block.into());
        // Doubled in GF(2^128), in constant time.
        let k1 = (l << 1) ^ ((l >> 127) * 0b1000_0111);
        block.zeroize();
        Self { aes, k1: Array(k1.to_be_bytes()) }
    }
}

impl AeadCore for Xaes256Gcm {
    type NonceSize = U24;
    type TagSize = U16;
    const TAG_POSITION: TagPosition = TagPosition::Postfix;
}

impl AeadInOut for Xaes256Gcm {
    fn encrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
    ) -> Result<Tag<Self>, Error> {
        let (kdf_input, gcm_nonce) = halves(nonce);
        self.derived_cipher(kdf_input).encrypt_inout_detached(&gcm_nonce, associated_data, buffer)
    }

    fn decrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &Tag<Self>,
    ) -> Result<(), Error> {
        let (kdf_input, gcm_nonce) = halves(nonce);
        self.derived_cipher(kdf_input).decrypt_inout_detached(&gcm_nonce, associated_data, buffer, tag)
    }
}

impl Drop for Xaes256Gcm {
    fn drop(&mut self) {
        self.k1.zeroize();
    }
}

/// The input of the key derivation, and the nonce of AES-256-GCM.
fn halves(nonce: &Nonce<Xaes256Gcm>) -> (&[u8; 12], Nonce<Aes256Gcm>) {
    let (kdf_input, gcm_nonce) = nonce.split_ref::<U12>();
    (kdf_input.into(), *gcm_nonce)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct File {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        key: String,
        nonce: String,
        aad: String,
        plaintext: String,
        ciphertext: String,
    }

    fn unhex(hex: &str) -> Vec<u8> {
        hex_simd::decode_to_vec(hex).unwrap()
    }

    #[test]
    fn known_answers_of_c2sp() {
        let file: File =
            serde_json::from_str(include_str!("../../tests/vectors/c2sp-xaes-256-gcm.json")).unwrap();
        assert_eq!(file.vectors.len(), 2);
        for vector in file.vectors {
            let xaes = Xaes256Gcm::new_from_slice(&unhex(&vector.key)).unwrap();
            let nonce = vector.nonce.as_bytes().try_into().unwrap();
            let mut buffer = vector.plaintext.clone().into_bytes();
            let aad = vector.aad.as_bytes();
            let tag = xaes.encrypt_inout_detached(&nonce, aad, buffer.as_mut_slice().into()).unwrap();
            assert_eq!([&buffer[..], &tag].concat(), unhex(&vector.ciphertext));
            xaes.decrypt_inout_detached(&nonce, aad, buffer.as_mut_slice().into(), &tag).unwrap();
            assert_eq!(buffer, vector.plaintext.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn it_equals_the_cipher_of_rustcrypto(key: [u8; 32], nonce: [u8; 24], aad: Vec<u8>, plaintext: Vec<u8>) {
            let reference = xaes_256_gcm::Xaes256Gcm::new(&key.into());
            let (mut expected, mut buffer) = (plaintext.clone(), plaintext);
            let expected_tag = reference.encrypt_inout_detached(&nonce.into(), &aad, expected.as_mut_slice().into()).unwrap();
            let ours = Xaes256Gcm::new(&key.into());
            let tag = ours.encrypt_inout_detached(&nonce.into(), &aad, buffer.as_mut_slice().into()).unwrap();
            prop_assert_eq!((buffer, tag), (expected, expected_tag));
        }
    }
}
