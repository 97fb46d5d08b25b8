//! The header of a sealed record.

use bytes::BufMut;

use super::PacketKind;
use crate::varint;
use crate::wire::DecodeError;

/// What stands in clear before the ciphertext of a record:
/// `kind: byte | epoch: varint | number: varint`, where the kind is that of the packet.
///
/// These very bytes are the associated data under which the record is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// [`PacketKind::Reliable`] or [`PacketKind::Unreliable`]; each counts its own numbers.
    pub kind: PacketKind,
    /// Which keys seal it: 0 at first, one more after each KEY_UPDATE.
    pub epoch: u64,
    /// The number of the record within its kind and direction, over all epochs, from 0.
    pub number: u64,
}

impl RecordHeader {
    /// The longest header, in bytes.
    pub const MAX_LEN: usize = 1 + 8 + 8;

    /// How many bytes [`put`](Self::put) writes.
    pub fn encoded_len(&self) -> usize {
        1 + varint::size(self.epoch) + varint::size(self.number)
    }

    /// Appends the header.
    pub fn put(&self, buf: &mut impl BufMut) {
        let Self {
            kind,
            epoch,
            number,
        } = *self;
        buf.put_u8(kind.code());
        varint::put(buf, epoch);
        varint::put(buf, number);
    }

    /// The header at the start of a record (kind byte included) and its length: the first so
    /// many bytes are the associated data, what follows is ciphertext and tag.
    ///
    /// # Errors
    /// [`DecodeError`] where it is cut short, of another kind, or holds an integer that is not
    /// in its shortest form (so that a header is the same however it is got at: from the wire,
    /// or written again from its values).
    pub fn parse(record: &[u8]) -> Result<(RecordHeader, usize), DecodeError> {
        let (&code, body) = record.split_first().ok_or(DecodeError::Truncated {
            what: "RecordHeader.kind",
        })?;
        let kind = PacketKind::from_code(code).ok_or(DecodeError::InvalidValue {
            what: "RecordHeader.kind",
        })?;
        let (header, len) = Self::parse_body(kind, body)?;
        Ok((header, len + 1))
    }

    /// The same where the kind has been taken off already, as in a [`Packet`](super::Packet):
    /// the length does not count it. [`aad`](Self::aad) gives the associated data.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_body(kind: PacketKind, body: &[u8]) -> Result<(RecordHeader, usize), DecodeError> {
        if !matches!(kind, PacketKind::Reliable | PacketKind::Unreliable) {
            return Err(DecodeError::InvalidValue {
                what: "RecordHeader.kind",
            });
        }
        let (epoch, epoch_len) = shortest(body, "RecordHeader.epoch")?;
        let (number, number_len) = shortest(&body[epoch_len..], "RecordHeader.number")?;
        let header = RecordHeader {
            kind,
            epoch,
            number,
        };
        Ok((header, epoch_len + number_len))
    }

    /// The header's bytes in a buffer of their own: its array and how many of it count.
    pub fn aad(&self) -> ([u8; Self::MAX_LEN], usize) {
        let mut bytes = [0; Self::MAX_LEN];
        let mut rest = &mut bytes[..];
        self.put(&mut rest);
        let len = Self::MAX_LEN - rest.len();
        (bytes, len)
    }
}

fn shortest(bytes: &[u8], what: &'static str) -> Result<(u64, usize), DecodeError> {
    let (value, len) = varint::get_slice(bytes).map_err(|_| DecodeError::Truncated { what })?;
    if len != varint::size(value) {
        return Err(DecodeError::InvalidValue { what });
    }
    Ok((value, len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::varint::VARINT_MAX;

    #[test]
    fn sample() {
        let header = RecordHeader {
            kind: PacketKind::Reliable,
            epoch: 1,
            number: 70_000,
        };
        let record = b"\x07\x01\x80\x01\x11\x70ciphertext";
        assert_eq!(RecordHeader::parse(record), Ok((header, 6)));
    }

    #[test]
    fn only_one_way_to_write_a_header() {
        for (bytes, what) in [
            (&b"\x07\x40\x01\x02"[..], "RecordHeader.epoch"),
            (b"\x07\x01\x40\x02", "RecordHeader.number"),
            (b"\x01\x01\x02", "RecordHeader.kind"),
            (b"\xff\x01\x02", "RecordHeader.kind"),
        ] {
            assert_eq!(
                RecordHeader::parse(bytes),
                Err(DecodeError::InvalidValue { what })
            );
        }
    }

    proptest! {
        #[test]
        fn round_trip(reliable: bool, epoch in 0..=VARINT_MAX, shift in 2..64u32, raw: u64) {
            let kind = if reliable { PacketKind::Reliable } else { PacketKind::Unreliable };
            let header = RecordHeader { kind, epoch, number: raw >> shift };
            let mut bytes = Vec::new();
            header.put(&mut bytes);
            prop_assert_eq!(bytes.len(), header.encoded_len());
            let (aad, len) = header.aad();
            prop_assert_eq!(&aad[..len], &bytes[..]);
            prop_assert_eq!(RecordHeader::parse(&bytes), Ok((header, len)));
            prop_assert_eq!(RecordHeader::parse_body(kind, &bytes[1..]), Ok((header, len - 1)));
            for cut in 0..bytes.len() {
                prop_assert!(RecordHeader::parse(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes(bytes: Vec<u8>) {
            if let Ok((header, len)) = RecordHeader::parse(&bytes) {
                let (aad, aad_len) = header.aad();
                prop_assert_eq!(&bytes[..len], &aad[..aad_len]);
            }
        }
    }
}
