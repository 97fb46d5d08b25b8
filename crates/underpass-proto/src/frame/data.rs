//! DATA: bytes of a stream channel, and its end (RFC 9000 §19.8).

use std::fmt;

use bytes::{BufMut, Bytes};

use super::{ChannelId, FrameType};
use crate::varint::{self, VARINT_MAX};
use crate::wire::{Auto, Codec, Counted, DecodeError, Fields};

/// Bytes of a stream at an absolute offset; receiving them twice is harmless.
///
/// Type 0x06, or 0x07 where the stream ends after these bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    /// The channel.
    pub channel: ChannelId,
    /// Where in the stream the bytes belong, counted from 0. The end must not lie beyond
    /// 2^62 - 1.
    pub offset: u64,
    /// The sender will send nothing after these bytes.
    pub fin: bool,
    /// The bytes; may be empty where `fin` is set.
    pub data: Bytes,
}

impl Data {
    /// How many bytes [`put_header`](Self::put_header) writes.
    pub fn header_len(channel: ChannelId, offset: u64, len: usize) -> usize {
        1 + varint::size(channel.0) + varint::size(offset) + varint::size(len as u64)
    }

    /// Writes all of the frame but the bytes themselves, so that a sender can copy `len` bytes
    /// of payload straight behind it.
    pub fn put_header(
        buf: &mut impl BufMut,
        channel: ChannelId,
        offset: u64,
        fin: bool,
        len: usize,
    ) {
        varint::put(buf, FrameType::Data.code() | u64::from(fin));
        varint::put(buf, channel.0);
        varint::put(buf, offset);
        varint::put(buf, len as u64);
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            channel,
            offset,
            fin,
            data,
        } = self;
        f.debug_struct("Data")
            .field("channel", channel)
            .field("offset", offset)
            .field("fin", fin)
            .field("data", &<Counted as Codec<Bytes>>::show(data))
            .finish()
    }
}

impl Fields for Data {
    fn fields_len(&self) -> usize {
        let Self {
            channel,
            offset,
            fin: _,
            data,
        } = self;
        Self::header_len(*channel, *offset, data.len()) - 1 + data.len()
    }

    fn put_fields(&self, buf: &mut impl BufMut) {
        let Self {
            channel,
            offset,
            fin: _,
            data,
        } = self;
        varint::put(buf, channel.0);
        varint::put(buf, *offset);
        <Counted as Codec<Bytes>>::put(data, buf);
    }

    fn get_fields(code: u64, buf: &mut Bytes) -> Result<Self, DecodeError> {
        let channel = <Auto as Codec<ChannelId>>::get(buf, "Data.channel")?;
        let offset = <Auto as Codec<u64>>::get(buf, "Data.offset")?;
        let data = <Counted as Codec<Bytes>>::get(buf, "Data.data")?;
        if data.len() as u64 > VARINT_MAX - offset {
            return Err(DecodeError::InvalidValue {
                what: "Data.offset",
            });
        }
        Ok(Data {
            channel,
            offset,
            fin: code & 1 == 1,
            data,
        })
    }

    fn code_bits(&self) -> u64 {
        u64::from(self.fin)
    }

    #[cfg(test)]
    fn layout() -> Vec<String> {
        vec![
            "channel: varint".into(),
            "offset: varint".into(),
            format!("data: {}", <Counted as Codec<Bytes>>::layout()),
        ]
    }

    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self> {
        use proptest::prelude::*;
        (
            <Auto as Codec<ChannelId>>::any(),
            <Auto as Codec<u64>>::any(),
            any::<bool>(),
            <Counted as Codec<Bytes>>::any(),
        )
            .prop_map(|(channel, offset, fin, data)| Data {
                channel,
                offset: offset.min(VARINT_MAX - data.len() as u64),
                fin,
                data,
            })
            .boxed()
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Data {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![
            (
                Data {
                    channel: ChannelId(2),
                    offset: 70_000,
                    fin: false,
                    data: Bytes::from_static(b"hello"),
                },
                "06 02 80011170 05 68656c6c6f",
            ),
            (
                Data {
                    channel: ChannelId(2),
                    offset: 70_005,
                    fin: true,
                    data: Bytes::new(),
                },
                "07 02 80011175 00",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_payload_make_the_frame() {
        let frame = Data {
            channel: ChannelId(65),
            offset: 1 << 40,
            fin: true,
            data: Bytes::from_static(b"abc"),
        };
        let mut whole = Vec::new();
        frame.encode(&mut whole);
        let mut parts = Vec::new();
        Data::put_header(&mut parts, ChannelId(65), 1 << 40, true, 3);
        assert_eq!(parts.len(), Data::header_len(ChannelId(65), 1 << 40, 3));
        parts.extend_from_slice(b"abc");
        assert_eq!(parts, whole);
    }

    #[test]
    fn data_is_a_slice_of_the_input() {
        let mut input = Bytes::copy_from_slice(b"\x06\x02\x00\x05hello\x01\x00");
        let payload = input[4..9].as_ptr();
        let frame = Data::decode(&mut input).unwrap();
        assert_eq!(frame.data.as_ptr(), payload);
        assert_eq!(&input[..], b"\x01\x00");
    }

    #[test]
    fn an_end_beyond_the_largest_offset_is_refused() {
        let bytes = b"\x06\x02\xff\xff\xff\xff\xff\xff\xff\xff\x01a";
        assert_eq!(
            Data::decode(&mut Bytes::from_static(bytes)),
            Err(DecodeError::InvalidValue {
                what: "Data.offset"
            })
        );
    }
}
