//! See `underpass_carrier::fuzzing::login`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_carrier::fuzzing::login(data));
