//! XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key of each message's own, which the first half of a 192-bit
//! nonce makes of the key; the second half is AES-256-GCM's nonce.
//!
//! Here because of its cost: a message of 64 bytes takes more time for keys than for the message, and a cipher that only
//! ever encrypts blocks needs half of the schedule, and half of the wiping. What is sealed with it is in `cipher`.

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
use zeroize::Zeroize as _;

/// AES-256-GCM, which only ever encrypts blocks.
pub type Aes256Gcm = AesGcm<Aes256Enc, U12>;

/// AES-256-GCM with nonces that are safe to draw at random for any number of messages.
pub struct Xaes256Gcm {
    aes: Aes256Enc,
    /// The subkey of CMAC (NIST SP 800-38B, 6.1), which makes of two blocks a derivation (NIST SP 800-108r1, 4.1).
    k1: Block,
}

impl Xaes256Gcm {
    /// AES-256-GCM under the key of the messages with this first half of a nonce.
    fn of_message(&self, nonce: &[u8; 12]) -> Aes256Gcm {
        let input = |counter| {
            let mut block = self.k1;
            for (byte, of_input) in block.iter_mut().zip([0, counter, b'X', 0].iter().chain(nonce)) {
                *byte ^= of_input;
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
        let aes = Aes256Gcm::new(&key);
        key.zeroize();
        aes
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
        let (of_key, of_message) = halves(nonce);
        self.of_message(of_key).encrypt_inout_detached(&of_message, associated_data, buffer)
    }

    fn decrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &Tag<Self>,
    ) -> Result<(), Error> {
        let (of_key, of_message) = halves(nonce);
        self.of_message(of_key).decrypt_inout_detached(&of_message, associated_data, buffer, tag)
    }
}

impl Drop for Xaes256Gcm {
    fn drop(&mut self) {
        self.k1.zeroize();
    }
}

/// The half that makes the key, and the half that is AES-256-GCM's nonce.
fn halves(nonce: &Nonce<Xaes256Gcm>) -> (&[u8; 12], Nonce<Aes256Gcm>) {
    let (of_key, of_message) = nonce.split_ref::<U12>();
    (of_key.into(), *of_message)
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
    fn the_known_answers_of_c2sp() {
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
        fn it_is_the_cipher_of_rustcrypto(key: [u8; 32], nonce: [u8; 24], aad: Vec<u8>, plaintext: Vec<u8>) {
            let theirs = xaes_256_gcm::Xaes256Gcm::new(&key.into());
            let (mut by_them, mut by_us) = (plaintext.clone(), plaintext);
            let their_tag = theirs.encrypt_inout_detached(&nonce.into(), &aad, by_them.as_mut_slice().into()).unwrap();
            let ours = Xaes256Gcm::new(&key.into());
            let tag = ours.encrypt_inout_detached(&nonce.into(), &aad, by_us.as_mut_slice().into()).unwrap();
            prop_assert_eq!((by_us, tag), (by_them, their_tag));
        }
    }
}
