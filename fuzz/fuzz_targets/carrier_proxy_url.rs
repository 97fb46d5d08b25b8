//! See `underpass_carrier::fuzzing::proxy_url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_carrier::fuzzing::proxy_url(data));
