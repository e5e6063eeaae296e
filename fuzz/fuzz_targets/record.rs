//! The fields of a secret, as Vault answers them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::record(bytes));
