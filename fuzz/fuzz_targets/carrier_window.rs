//! See `underpass_carrier::fuzzing::window`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_carrier::fuzzing::window(data));
