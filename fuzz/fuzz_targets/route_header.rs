//! See `underpass_proto::fuzzing::route_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_proto::fuzzing::route_header(data));
