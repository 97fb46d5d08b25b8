//! See `underpass_carrier::fuzzing::coding`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_carrier::fuzzing::coding(data));
