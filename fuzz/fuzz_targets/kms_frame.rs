//! The frame of a KMS call.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::kms_frame(bytes));
