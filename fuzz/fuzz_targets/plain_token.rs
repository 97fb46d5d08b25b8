//! See `underpass_relay::plain::fuzzing::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_relay::plain::fuzzing::token(data));
