//! See `underpass_carrier::fuzzing::read_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_carrier::fuzzing::read_answer(data));
