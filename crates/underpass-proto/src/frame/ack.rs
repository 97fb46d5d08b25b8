//! ACK: which reliable records have arrived (RFC 9000 §19.3 without the ECN counts).

use std::fmt;
use std::ops::RangeInclusive;

use bytes::{BufMut, Bytes};
use smallvec::SmallVec;

use crate::varint::{self, VARINT_MAX};
use crate::wire::{Auto, Codec, DecodeError, Fields};

/// Numbers of records: ranges from the highest down, with at least one missing number between
/// two neighbours.
pub type AckRanges = SmallVec<[RangeInclusive<u64>; 4]>;

/// Says which reliable records have arrived. Acknowledged once means acknowledged for ever;
/// older ranges may be left out.
///
/// On the wire as in QUIC: largest number, delay, count of further ranges, length of the first
/// range minus one, then for each further range the gap (missing numbers minus one) and the
/// length minus one.
#[derive(Clone, PartialEq, Eq)]
pub struct Ack {
    /// How long the receiver waited before it said so, in microseconds; to be taken off a
    /// measured round trip.
    pub delay_us: u64,
    /// What has arrived.
    ///
    /// Only what follows the rule of [`AckRanges`] is written: the first ranges up to
    /// [`Ack::MAX_RANGES`] or to the first one out of order, since to acknowledge less is
    /// always safe. There is no ACK of nothing: without a range the frame must not be encoded.
    pub ranges: AckRanges,
}

impl Ack {
    /// The most ranges in one frame; a frame with more is refused.
    pub const MAX_RANGES: usize = 256;

    /// The ranges that can be written.
    fn sendable(&self) -> &[RangeInclusive<u64>] {
        let mut below = VARINT_MAX + 2;
        let count = self
            .ranges
            .iter()
            .take(Self::MAX_RANGES)
            .take_while(|range| {
                let fits = range.start() <= range.end() && range.end().saturating_add(1) < below;
                below = *range.start();
                fits
            })
            .count();
        &self.ranges[..count]
    }

    /// Feeds every integer of the frame to `each`, in order.
    fn integers(&self, mut each: impl FnMut(u64)) {
        let ranges = self.sendable();
        debug_assert!(!ranges.is_empty(), "an ACK of nothing cannot be written");
        let Some((first, rest)) = ranges.split_first() else {
            return;
        };
        each(*first.end());
        each(self.delay_us);
        each(rest.len() as u64);
        each(first.end() - first.start());
        let mut below = *first.start();
        for range in rest {
            each(below - range.end() - 2);
            each(range.end() - range.start());
            below = *range.start();
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay_us, ranges } = self;
        f.debug_struct("Ack")
            .field("delay_us", delay_us)
            .field("ranges", ranges)
            .finish()
    }
}

impl Fields for Ack {
    fn fields_len(&self) -> usize {
        let mut len = 0;
        self.integers(|value| len += varint::size(value));
        len
    }

    fn put_fields(&self, buf: &mut impl BufMut) {
        self.integers(|value| varint::put(buf, value));
    }

    fn get_fields(_: u64, buf: &mut Bytes) -> Result<Self, DecodeError> {
        fn integer(buf: &mut Bytes, what: &'static str) -> Result<u64, DecodeError> {
            <Auto as Codec<u64>>::get(buf, what)
        }
        fn down(from: u64, by: u64, what: &'static str) -> Result<u64, DecodeError> {
            from.checked_sub(by)
                .ok_or(DecodeError::InvalidValue { what })
        }
        let largest = integer(buf, "Ack.largest")?;
        let delay_us = integer(buf, "Ack.delay_us")?;
        let count = integer(buf, "Ack.count")?;
        if count >= Self::MAX_RANGES as u64 {
            return Err(DecodeError::TooLong {
                what: "Ack.ranges",
                limit: Self::MAX_RANGES,
            });
        }
        let length = integer(buf, "Ack.first")?;
        let mut start = down(largest, length, "Ack.first")?;
        let mut ranges = AckRanges::new();
        ranges.push(start..=largest);
        for _ in 0..count {
            // A gap of n means n + 1 missing numbers (RFC 9000 §19.3.1).
            let end = down(start, integer(buf, "Ack.gap")? + 2, "Ack.gap")?;
            start = down(end, integer(buf, "Ack.length")?, "Ack.length")?;
            ranges.push(start..=end);
        }
        Ok(Ack { delay_us, ranges })
    }

    #[cfg(test)]
    fn layout() -> Vec<String> {
        [
            "largest: varint",
            "delay_us: varint",
            "count: varint, below 256",
            "first: varint",
            "count times (gap: varint, length: varint)",
        ]
        .map(String::from)
        .into()
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        let small = || prop_oneof![0u64..4, 0u64..100_000];
        (
            small(),
            proptest::collection::vec((small(), small()), 1..20),
            small(),
        )
            .prop_map(|(lowest, steps, delay_us)| {
                let mut ranges = AckRanges::new();
                let mut start = lowest;
                for (length, gap) in steps {
                    ranges.push(start..=start + length);
                    start += length + gap + 2;
                }
                ranges.reverse();
                Ack { delay_us, ranges }
            })
            .boxed()
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Ack {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![
            (
                Ack {
                    delay_us: 250,
                    ranges: [1000..=1010, 996..=998, 0..=3].into_iter().collect(),
                },
                "03 43f2 40fa 02 0a 00 02 43df 03",
            ),
            (
                Ack {
                    delay_us: 0,
                    ranges: [0..=0].into_iter().collect(),
                },
                "03 00 00 00 00",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(hex: &str) -> Result<Ack, DecodeError> {
        Ack::decode(&mut Bytes::from(crate::wire::samples::bytes_of(hex)))
    }

    #[test]
    fn ranges_that_run_below_zero_are_refused() {
        for (hex, what) in [
            ("03 05 00 00 06", "Ack.first"),
            ("03 05 00 01 01 03 00", "Ack.gap"),
            ("03 05 00 01 01 01 02", "Ack.length"),
            ("03 05 00 01 01 ffffffffffffffff 00", "Ack.gap"),
        ] {
            assert_eq!(
                decode(hex),
                Err(DecodeError::InvalidValue { what }),
                "{hex}"
            );
        }
    }

    #[test]
    fn more_than_256_ranges_are_refused_before_they_are_read() {
        assert_eq!(
            decode("03 7fff 00 4100"),
            Err(DecodeError::TooLong {
                what: "Ack.ranges",
                limit: 256
            })
        );
    }

    #[test]
    fn what_cannot_be_written_is_left_out() {
        let written = |ranges: &[RangeInclusive<u64>]| {
            let ack = Ack {
                delay_us: 1,
                ranges: ranges.iter().cloned().collect(),
            };
            let mut buf = Vec::new();
            ack.encode(&mut buf);
            assert_eq!(ack.encoded_len(), buf.len());
            Ack::decode(&mut Bytes::from(buf)).unwrap().ranges.to_vec()
        };
        // Neighbours that touch, overlap or rise end the list.
        assert_eq!(written(&[5..=9, 4..=4]), [5..=9]);
        assert_eq!(written(&[5..=9, 3..=6]), [5..=9]);
        assert_eq!(written(&[5..=9, 11..=12]), [5..=9]);
        let many: Vec<_> = (0..300u64).rev().map(|n| n * 2..=n * 2).collect();
        assert_eq!(written(&many), many[..256]);
    }
}
