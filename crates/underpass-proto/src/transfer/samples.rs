//! Byte-exact samples.

use super::*;
use crate::wire::samples::Sampled;

const DIGEST: [u8; 32] = [
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];
const KEY: [u8; 32] = [
    0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
    0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
];

macro_rules! sampled {
    ($($name:ident $value:expr, $hex:literal;)*) => {$(
        impl Sampled for $name {
            fn samples() -> Vec<(Self, &'static str)> {
                vec![($value, $hex)]
            }
        }
    )*};
}

sampled! {
    Offer Offer { version: 1, entries: 3, bytes: 1_048_576 }, "01 01 03 80100000";
    Entry Entry { kind: EntryKind::File, path: "a/b".into(), size: 70, mode: 0o644, modified_s: 1_700_000_000, modified_ns: 5 }, "02 01 03 612f62 4046 41a4 c00000006553f100 05";
    Proof Proof { entry: 2, sha256: DIGEST }, "03 02 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    Start Start { entry: 2, offset: 65_536 }, "04 02 80010000";
    Data Data { bytes: Bytes::from_static(b"abc") }, "05 03 616263";
    Hole Hole { length: 4096 }, "06 5000";
    End End { sha256: DIGEST }, "07 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    Gone Gone { code: 0x67, text: "no".into() }, "08 4067 02 6e6f";
    Whole Whole { sha256: DIGEST }, "09 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    Have Have { entry: 2, length: 65_536 }, "11 02 80010000";
    Declined Declined { entry: 2, code: 0x65, text: "no".into() }, "12 02 4065 02 6e6f";
    Ready Ready { key: KEY }, "13 202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    GoOn GoOn { entry: 2, offset: 65_536, complete: false }, "14 02 80010000 00";
    Got Got { entry: 2, sha256: DIGEST }, "15 02 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    Taken Taken { files: 2, sha256: DIGEST }, "16 02 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    NotTaken NotTaken { code: 0x64, text: "no".into() }, "17 4064 02 6e6f";
}
