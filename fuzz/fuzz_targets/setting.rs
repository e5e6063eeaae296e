//! The texts of settings.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::setting(bytes));
