//! The body of a Transit request.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyringd::fuzzing::transit_request(bytes));
