//! See `underpass_carrier::fuzzing::uplink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_carrier::fuzzing::uplink(data));
