//! What is sealed: a plaintext in the buffer in which it will be sealed, and nonces for one request.
//!
//! What the formats make of it is in their files.

use super::{Format, NoRandomness, SealError, TAG_LEN, kong, native, transit};
use crate::keyring::HeldKey;

/// Nonces for one request, drawn from the operating system in one call and never kept beyond it: a buffer of them would
/// be used twice by a cloned virtual machine.
pub struct Nonces {
    drawn: Vec<u8>,
    taken: usize,
}

/// A message being sealed in place: `free ‖ nonce ‖ plaintext`, then `free ‖ nonce ‖ ct ‖ tag`.
pub struct Message {
    format: Format,
    buffer: Vec<u8>,
}

impl Nonces {
    /// As many as there are messages to seal.
    ///
    /// # Errors
    /// [`NoRandomness`] when the operating system has none to give.
    pub fn draw(count: usize, format: Format) -> Result<Self, NoRandomness> {
        let mut drawn = vec![0; count * format.nonce_len()];
        getrandom::fill(&mut drawn)?;
        Ok(Self { drawn, taken: 0 })
    }

    /// # Panics
    /// When more are taken than were drawn: a nonce must never be made up.
    #[expect(clippy::expect_used, reason = "a missing nonce must stop the request, whatever else happens")]
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let rest = &self.drawn[self.taken..];
        let nonce = *rest.first_chunk().expect("as many nonces are drawn as messages are sealed");
        self.taken += N;
        nonce
    }
}

#[cfg(test)]
impl Nonces {
    /// Nonces of known answers.
    pub(super) fn given(drawn: &[u8]) -> Self {
        Self { drawn: drawn.to_vec(), taken: 0 }
    }
}

impl Message {
    /// Room for a plaintext of `len` bytes. `fill` appends it; whatever it appended is what gets sealed.
    ///
    /// # Errors
    /// What `fill` answers.
    pub fn new<E>(
        format: Format,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buffer = Vec::with_capacity(format.nonce_len() + len + TAG_LEN);
        buffer.resize(format.nonce_len(), 0);
        fill(&mut buffer)?;
        Ok(Self { format, buffer })
    }

    /// Seals and appends the text form to `out`, in ASCII that needs no escaping in JSON.
    ///
    /// # Errors
    /// [`SealError`]: the format cannot hold what it was given.
    pub fn seal_text(
        self,
        held: &HeldKey,
        nonces: &mut Nonces,
        associated_data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let Self { format, buffer } = self;
        match format {
            Format::Native => native::seal_text(&held.key, buffer, nonces.take(), associated_data, out),
            Format::Transit if held.mapped => return Err(SealError::TransitMap(held.key.id().clone())),
            Format::Transit => transit::seal_text(held, buffer, nonces.take(), associated_data, out),
            Format::Kong if !associated_data.is_empty() => return Err(SealError::KongAssociatedData),
            Format::Kong => kong::seal_text(&held.key, buffer, nonces.take(), out)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nonces_do_not_repeat() {
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let mut nonces = Nonces::draw(100, Format::Native).unwrap();
            assert!((0..100).all(|_| seen.insert(nonces.take::<24>())));
        }
    }

    #[test]
    #[should_panic(expected = "as many nonces are drawn")]
    fn a_nonce_is_never_made_up() {
        let mut nonces = Nonces::draw(1, Format::Transit).unwrap();
        let _: ([u8; 12], [u8; 12]) = (nonces.take(), nonces.take());
    }
}
