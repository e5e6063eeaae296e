//! Version metadata, as Vault answers it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::metadata(bytes));
