//! Byte-exact samples: each message states its own, tests and the specification use them.

use super::Fields;

/// A message with byte-exact samples: values and their bytes as hex digits, spaces between
/// the fields.
pub(crate) trait Sampled: Fields {
    /// The samples; the first one stands in the specification.
    fn samples() -> Vec<(Self, &'static str)>;
}

/// One message of the specification.
pub(crate) struct Sample {
    /// `family Name`, the tag of its block in the specification.
    pub(crate) tag: String,
    /// Type code and place, then the fields.
    pub(crate) layout: Vec<String>,
    /// Values in debug format with their bytes in hex digits.
    pub(crate) values: Vec<(String, &'static str)>,
}

impl Sample {
    /// The sample of one message, checked against what `encode` writes.
    pub(crate) fn of<M: Sampled + std::fmt::Debug>(
        family: &str,
        name: &str,
        heading: String,
        encode: impl Fn(&M, &mut Vec<u8>),
    ) -> Sample {
        let values = M::samples()
            .iter()
            .map(|(value, hex)| {
                let mut written = Vec::new();
                encode(value, &mut written);
                assert_eq!(written, bytes_of(hex), "{value:?} is written otherwise");
                (format!("{value:?}"), *hex)
            })
            .collect();
        let mut layout = vec![heading];
        layout.extend(M::layout());
        Sample {
            tag: format!("{family} {name}"),
            layout,
            values,
        }
    }
}

/// `type 0x06 or 0x07, in A, B`
pub(crate) fn heading(codes: &[u64], places: &[&str]) -> String {
    let codes: Vec<_> = codes.iter().map(|code| format!("{code:#04x}")).collect();
    format!("type {}, in {}", codes.join(" or "), places.join(", "))
}

/// The bytes of hex digits with spaces anywhere.
pub(crate) fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hex digit") as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {hex:?}");
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
