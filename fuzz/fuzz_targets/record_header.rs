//! See `underpass_proto::fuzzing::record_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_proto::fuzzing::record_header(data));
