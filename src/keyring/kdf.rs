//! HKDF-SHA256 (RFC 5869) without a salt. Its state holds keys, so it is wiped from the stack.

use hkdf::Hkdf;
use sha2::Sha256;

use crate::secret::wipe_stack;

/// More than the stack use of HKDF, and of making a [`Key`](super::Key) after it. Without optimisation frames are larger.
pub(super) const STACK: usize = if cfg!(debug_assertions) { 64 << 10 } else { 16 << 10 };

/// What to derive: the parts of the info, and where the key goes.
pub(crate) type Output<'o> = (&'o [&'o [u8]], &'o mut [u8]);

/// Derives keys of at most 8160 bytes each. Functions that the caller calls afterwards begin on a stack of zeros: a cipher has
/// unused bytes, which keep what the stack held.
pub(crate) fn expand(key: &[u8], outputs: &mut [Output<'_>]) {
    expand_on_stack(key, outputs);
    wipe_stack::<STACK>();
}

#[inline(never)]
fn expand_on_stack(key: &[u8], outputs: &mut [Output<'_>]) {
    let hkdf = Hkdf::<Sha256>::new(None, key);
    for (info, okm) in outputs {
        hkdf.expand_multi_info(info, okm)
            .unwrap_or_else(|_| unreachable!("keys are far below HKDF-SHA256's 8160 bytes"));
    }
}
