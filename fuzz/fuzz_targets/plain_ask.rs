//! See `underpass_relay::plain::fuzzing::ask`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_relay::plain::fuzzing::ask(data));
