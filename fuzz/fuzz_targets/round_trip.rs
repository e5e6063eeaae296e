//! What is sealed opens again.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::round_trip(bytes));
