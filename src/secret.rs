//! `Secret<T>`: a value that is wiped when dropped and never printed; and wiping the stack that secrets went over.
//!
//! Every token, key text and key goes from where it is read to where it is used inside this type. There is one door,
//! [`Secret::expose`], so `grep expose(` lists every use of a secret in the program. Nothing else lives here.

use std::fmt;

use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize;

/// A secret: no `Clone`, no `Display`, no `Serialize`, a redacted `Debug`, wiped on drop.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The one door. Borrow for as long as the use lasts and copy nothing out.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The same door for filling a secret in place.
    pub const fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// In constant time for texts of one length.
impl PartialEq for Secret<String> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret<String> {}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de, T: Zeroize + Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

/// As much of the stack as a call that handles keys may have used, several times over.
const STACK: usize = 128 << 10;

/// Overwrites what calls that have returned left on this thread's stack: a value that is moved is copied, and nothing
/// wipes where it was. To be called where those calls were made.
#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "it is the stack that is to be overwritten")]
pub fn wipe_stack() {
    let mut stack = [0_u8; STACK];
    std::hint::black_box(&mut stack);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_redacted_at_every_depth() {
        let nested = Some(vec![Secret::new("hvs.planted".to_owned())]);
        let printed = format!("{nested:?} {nested:#?}");
        assert!(!printed.contains("planted"), "{printed}");
        assert!(printed.contains("[redacted]"));
    }

    #[test]
    fn a_dropped_secret_is_wiped() {
        struct Probe<'a>(&'a std::cell::Cell<bool>);
        impl Zeroize for Probe<'_> {
            fn zeroize(&mut self) {
                self.0.set(true);
            }
        }
        let wiped = std::cell::Cell::new(false);
        drop(Secret::new(Probe(&wiped)));
        assert!(wiped.get());
    }
}
