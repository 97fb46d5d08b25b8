//! Variable-length integers as in QUIC (RFC 9000 §16).
//!
//! The two highest bits of the first byte tell the length (1, 2, 4 or 8 bytes), the rest is
//! the value, most significant byte first. As in QUIC a value need not be written in its
//! shortest form to be understood; [`put`] always writes the shortest.

use bytes::{Buf, BufMut, Bytes};

use crate::wire::DecodeError;

/// The largest value that can be written: 2^62 - 1 (RFC 9000 §16).
pub const VARINT_MAX: u64 = (1 << 62) - 1;

const TRUNCATED: DecodeError = DecodeError::Truncated { what: "an integer" };

/// How many bytes [`put`] writes for `value`: 1, 2, 4 or 8.
pub fn size(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Writes `value` in its shortest form.
///
/// `value` must not exceed [`VARINT_MAX`]; a larger one is a mistake of the caller, which a
/// debug build reports and any other build writes as [`VARINT_MAX`].
pub fn put(buf: &mut impl BufMut, value: u64) {
    debug_assert!(
        value <= VARINT_MAX,
        "{value} does not fit an integer of 62 bits"
    );
    match value {
        0..=0x3f => buf.put_u8(value as u8),
        0x40..=0x3fff => buf.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => buf.put_u32(0x8000_0000 | value as u32),
        _ => buf.put_u64(0xc000_0000_0000_0000 | value.min(VARINT_MAX)),
    }
}

/// Reads one integer from the front of `buf` and takes it off.
///
/// # Errors
/// [`DecodeError::Truncated`] when `buf` ends before the integer does; `buf` is then unchanged.
pub fn get(buf: &mut Bytes) -> Result<u64, DecodeError> {
    let (value, len) = get_slice(buf)?;
    buf.advance(len);
    Ok(value)
}

/// Reads one integer from the front of `bytes`; returns it and how many bytes it took.
///
/// # Errors
/// [`DecodeError::Truncated`] when `bytes` ends before the integer does.
pub fn get_slice(bytes: &[u8]) -> Result<(u64, usize), DecodeError> {
    let first = *bytes.first().ok_or(TRUNCATED)?;
    let len = 1usize << (first >> 6);
    let rest = bytes.get(1..len).ok_or(TRUNCATED)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| {
        value << 8 | u64::from(*byte)
    });
    Ok((value, len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: u64) -> Vec<u8> {
        let mut buf = Vec::new();
        put(&mut buf, value);
        buf
    }

    #[test]
    fn samples_of_rfc_9000_appendix_a1() {
        let samples: [(&[u8], u64); 5] = [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in samples {
            assert_eq!(get_slice(bytes), Ok((value, bytes.len())));
        }
        for (bytes, value) in &samples[..4] {
            assert_eq!(written(*value), *bytes);
        }
    }

    #[test]
    fn boundaries_take_the_shortest_form() {
        for (value, len) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (16_383, 2),
            (16_384, 4),
            ((1 << 30) - 1, 4),
            (1 << 30, 8),
            (VARINT_MAX, 8),
        ] {
            assert_eq!(size(value), len);
            assert_eq!(written(value).len(), len);
        }
    }

    proptest! {
        #[test]
        fn round_trip(shift in 2u32..64, raw: u64, tail: Vec<u8>) {
            let value = raw >> shift;
            let mut bytes = written(value);
            prop_assert_eq!(bytes.len(), size(value));
            for cut in 0..bytes.len() {
                prop_assert_eq!(get_slice(&bytes[..cut]), Err(TRUNCATED));
            }
            bytes.extend_from_slice(&tail);
            let mut buf = Bytes::from(bytes);
            prop_assert_eq!(get(&mut buf), Ok(value));
            prop_assert_eq!(&buf[..], &tail[..]);
        }

        #[test]
        fn arbitrary_bytes(bytes: Vec<u8>) {
            if let Ok((value, len)) = get_slice(&bytes) {
                prop_assert!(value <= VARINT_MAX);
                prop_assert!(len <= bytes.len());
                prop_assert!(size(value) <= len);
            }
        }
    }
}
