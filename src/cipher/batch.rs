//! What the messages of one request share: their nonces, and the last derived keys.
//!
//! XAES-256-GCM derives a key from the first 12 bytes of the nonce. The messages of a request have one random first half, and
//! random second halves of their own: one derivation serves them all. Two requests share a first half with a probability of
//! 2⁻⁹⁶. If they do not, two of 10,000 messages of a request share a nonce with a probability of 2⁻⁷⁰.

use super::{aead::NoRandomness, native, transit::NONCE_LEN};
use crate::{keyring::LastDerived, secret::wipe_stack};

/// More than the stack use of all messages: the block cipher copies blocks of plaintext there. Without optimisation frames
/// are larger.
const STACK: usize = if cfg!(debug_assertions) { 16 << 10 } else { 8 << 10 };

/// For the messages of one request. It is never kept for a later one: a clone of the virtual machine would reuse the nonces.
/// On drop the derived keys are wiped, and the stack that the messages used.
pub struct Batch {
    nonces: Nonces,
    pub(super) sealing: LastDerived,
    pub(super) opening: LastDerived,
}

/// Nonces, drawn from the operating system in one call.
struct Nonces {
    /// The first half of all 192-bit nonces.
    shared: [u8; NONCE_LEN],
    /// The second halves, or whole 96-bit nonces.
    own: Vec<[u8; NONCE_LEN]>,
}

impl Batch {
    /// For messages to open only.
    pub fn to_open() -> Self {
        Self::with_nonces([0; NONCE_LEN], Vec::new())
    }

    /// For this number of messages to seal, and any number to open.
    ///
    /// # Errors
    /// [`NoRandomness`]
    pub fn to_seal(count: usize) -> Result<Self, NoRandomness> {
        if count == 0 {
            return Ok(Self::to_open());
        }
        let (mut shared, mut own) = ([0; NONCE_LEN], vec![[0; NONCE_LEN]; count + 1]);
        getrandom::fill(own.as_flattened_mut())?;
        if let Some(last) = own.pop() {
            shared = last;
        }
        Ok(Self::with_nonces(shared, own))
    }

    fn with_nonces(shared: [u8; NONCE_LEN], own: Vec<[u8; NONCE_LEN]>) -> Self {
        Self {
            nonces: Nonces { shared, own },
            sealing: LastDerived::default(),
            opening: LastDerived::default(),
        }
    }

    /// # Panics
    /// If all nonces are used: a nonce must never be invented.
    #[expect(clippy::expect_used, reason = "a missing nonce must stop the request")]
    pub(super) fn short_nonce(&mut self) -> [u8; NONCE_LEN] {
        self.nonces.own.pop().expect("one nonce is drawn per message")
    }

    /// A nonce of the native format.
    ///
    /// # Panics
    /// As above.
    pub(super) fn nonce(&mut self) -> [u8; native::NONCE_LEN] {
        let mut nonce = [0; native::NONCE_LEN];
        let (shared, own) = nonce.split_at_mut(NONCE_LEN);
        shared.copy_from_slice(&self.nonces.shared);
        own.copy_from_slice(&self.short_nonce());
        nonce
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        wipe_stack::<STACK>();
    }
}

#[cfg(test)]
impl Batch {
    /// One nonce of a known answer: 24 bytes, or 12.
    pub(super) fn fixed(nonce: &[u8]) -> Self {
        let (shared, own) = nonce.split_at(nonce.len() - NONCE_LEN);
        let shared = shared.try_into().unwrap_or_default();
        Self::with_nonces(shared, vec![own.try_into().unwrap()])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        cipher::{
            Binding, KongFields, open_bound, seal_text,
            testing::{key, keyring},
        },
        keyring::Format,
    };

    #[test]
    fn nonces_do_not_repeat() {
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let mut batch = Batch::to_seal(100).unwrap();
            assert!((0..100).all(|_| seen.insert(batch.nonce())));
        }
        let first_halves: HashSet<_> = seen.iter().map(|nonce| &nonce[..NONCE_LEN]).collect();
        assert_eq!(first_halves.len(), 1000, "one for each batch");
    }

    #[test]
    #[should_panic(expected = "one nonce is drawn per message")]
    fn a_missing_nonce_panics() {
        let mut batch = Batch::to_seal(1).unwrap();
        let _ = (batch.nonce(), batch.nonce());
    }

    #[test]
    fn messages_of_several_keys_and_batches_open_in_one_batch_in_any_order() {
        let keyrings = [keyring(key("a", 1)), keyring(key("b", 2))];
        let mut texts = Vec::new();
        for _ in 0..2 {
            let mut batch = Batch::to_seal(8).unwrap();
            for at in 0..8_u8 {
                let (keyring, mut out) = (&keyrings[usize::from(at) % 2], Vec::new());
                let mut plaintext = [at; 5];
                seal_text(keyring.active(), Format::Native, &mut plaintext, &mut batch, b"aad", &mut out)
                    .unwrap();
                texts.push((keyring, out, [at; 5]));
            }
        }
        let (in_order, mixed) = (texts.iter(), texts.iter().step_by(3));
        let mut batch = Batch::to_open();
        for (keyring, text, plaintext) in in_order.chain(mixed) {
            let (mut text, binding) = (text.clone(), Binding { associated_data: b"aad", context: b"" });
            let opened = open_bound(keyring, &mut text, binding, KongFields::Refuse, &mut batch).unwrap();
            assert_eq!(text[opened.plaintext], *plaintext);
        }
    }
}
