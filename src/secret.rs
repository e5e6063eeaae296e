//! `Secret<T>`: a value that is wiped on drop and never printed. And [`wipe_stack`], which clears copies on the stack.
//!
//! Every token, key text and key is inside this type from reading to use. [`Secret::expose`] is the only access, so
//! `grep expose(` lists all uses of secrets.

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

    /// Borrow for the duration of the use, and copy nothing out.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// For filling a secret in place.
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

/// Overwrites `SIZE` bytes of the stack below the caller's frame: moving a value leaves a copy that no destructor wipes.
/// Call it in the function that made the calls.
#[inline(never)]
pub fn wipe_stack<const SIZE: usize>() {
    let mut stack = [0_u8; SIZE];
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
