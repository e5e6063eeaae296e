//! Vault's answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::vault_answers(bytes));
