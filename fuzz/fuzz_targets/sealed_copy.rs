//! The file of the sealed copy.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::sealed_copy(bytes));
