//! A ciphertext of any form.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::ciphertext(bytes));
