//! Cutting a byte stream into packets.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::{MAX_PACKET, Packet, PacketKind};
use crate::varint;

/// Why a byte stream is not a row of packets. Nothing after it can be understood: the carrier
/// must be given up.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PacketError {
    /// The length is 0 or larger than [`MAX_PACKET`].
    #[error(
        "a packet claims a length of {0} bytes: the peer speaks another protocol, or something on the way changed the bytes"
    )]
    Length(u64),
    /// No packet has this kind.
    #[error("packet kind {0:#04x} is unknown: the peer speaks another protocol or a newer version")]
    UnknownKind(u8),
}

/// Cuts a byte stream into packets.
///
/// [`push`](Self::push) what the carrier received, then call [`next`](Self::next) until it
/// returns `None`, then push again. A packet that lies whole in one chunk comes out as a slice
/// of it; one that does not is gathered, once, into a buffer that is used again as soon as the
/// packets cut from it are gone. Beside the chunks not yet looked at, the decoder holds at
/// most one packet. After an error it returns that error for ever.
#[derive(Debug, Default)]
pub struct PacketDecoder {
    chunks: VecDeque<Bytes>,
    /// The beginning of a packet that goes on in the next chunk.
    partial: BytesMut,
    failed: Option<PacketError>,
}

/// What the first bytes of a packet say.
enum Prefix {
    /// Not enough bytes to tell.
    Unclear,
    /// Length and kind are known.
    Known {
        kind: PacketKind,
        /// How many bytes stand before the body.
        header: usize,
        /// How many bytes the packet has in all.
        total: usize,
    },
}

fn read_prefix(bytes: &[u8]) -> Result<Prefix, PacketError> {
    let Ok((length, len)) = varint::get_slice(bytes) else {
        return Ok(Prefix::Unclear);
    };
    if length == 0 || length > MAX_PACKET as u64 {
        return Err(PacketError::Length(length));
    }
    let Some(&code) = bytes.get(len) else {
        return Ok(Prefix::Unclear);
    };
    let kind = PacketKind::from_code(code).ok_or(PacketError::UnknownKind(code))?;
    Ok(Prefix::Known {
        kind,
        header: len + 1,
        total: len + length as usize,
    })
}

/// How much to hold for a packet of `total` bytes of which at most `arrived` are there: all
/// of it, so that it is gathered without moving, unless so few have come that the length may
/// be nothing but a claim.
fn room(total: usize, arrived: usize) -> usize {
    total.min(arrived.saturating_mul(8).max(256))
}

impl PacketDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// Whether the bytes received so far end between two packets. Where a carrier ended and
    /// this is false, it ended in the middle of a packet.
    pub fn is_between_packets(&self) -> bool {
        self.partial.is_empty() && self.chunks.is_empty()
    }

    /// The next packet, or `None` until more is pushed.
    ///
    /// # Errors
    /// [`PacketError`] as soon as the bytes that show it have been pushed.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not go on after None"
    )]
    pub fn next(&mut self) -> Result<Option<Packet>, PacketError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance();
        if let Err(error) = result {
            self.failed = Some(error);
            self.chunks.clear();
            self.partial = BytesMut::new();
        }
        result
    }

    fn advance(&mut self) -> Result<Option<Packet>, PacketError> {
        while let Some(mut chunk) = self.chunks.pop_front() {
            let packet = if self.partial.is_empty() {
                self.cut(&mut chunk)?
            } else {
                self.gather(&mut chunk)?
            };
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
            if packet.is_some() {
                return Ok(packet);
            }
        }
        Ok(None)
    }

    /// A packet from the front of `chunk`, or all of `chunk` moved to `partial`.
    fn cut(&mut self, chunk: &mut Bytes) -> Result<Option<Packet>, PacketError> {
        match read_prefix(chunk)? {
            Prefix::Known {
                kind,
                header,
                total,
            } if total <= chunk.len() => {
                let mut body = chunk.split_to(total);
                body.advance(header);
                Ok(Some(Packet { kind, body }))
            }
            prefix => {
                if let Prefix::Known { total, .. } = prefix {
                    self.partial.reserve(room(total, chunk.len()));
                }
                self.partial.extend_from_slice(chunk);
                chunk.clear();
                Ok(None)
            }
        }
    }

    /// Completes `partial` from the front of `chunk`, taking no byte of the packet after it.
    fn gather(&mut self, chunk: &mut Bytes) -> Result<Option<Packet>, PacketError> {
        loop {
            let missing = match read_prefix(&self.partial)? {
                Prefix::Known {
                    kind,
                    header,
                    total,
                } if total == self.partial.len() => {
                    let mut body = self.partial.split().freeze();
                    body.advance(header);
                    return Ok(Some(Packet { kind, body }));
                }
                Prefix::Known { total, .. } => {
                    let arrived = self.partial.len();
                    self.partial
                        .reserve(room(total, arrived + chunk.len()) - arrived);
                    total - arrived
                }
                // Byte by byte, so that what follows the length stays in the chunk.
                Prefix::Unclear => 1,
            };
            if chunk.is_empty() {
                return Ok(None);
            }
            let part = chunk.split_to(missing.min(chunk.len()));
            self.partial.extend_from_slice(&part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{MAX_FORWARDED, padding, prefix_len};

    fn packet(kind: PacketKind, body: Vec<u8>) -> Packet {
        Packet {
            kind,
            body: body.into(),
        }
    }

    fn any_packet() -> impl Strategy<Value = Packet> {
        let kind = (0u8..=0x0a).prop_map(|code| PacketKind::from_code(code).unwrap());
        let len = prop_oneof![0usize..80, 0usize..MAX_PACKET, Just(MAX_PACKET - 1)];
        (kind, len, any::<u8>()).prop_map(|(kind, len, fill)| packet(kind, vec![fill; len]))
    }

    /// All packets of `bytes` when they arrive cut at the given lengths, again and again.
    fn decode(bytes: &Bytes, cuts: &[usize]) -> Result<Vec<Packet>, PacketError> {
        let mut decoder = PacketDecoder::new();
        let mut packets = Vec::new();
        let mut rest = bytes.clone();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let len = *cuts.next().unwrap();
            decoder.push(rest.split_to(len.min(rest.len())));
            while let Some(packet) = decoder.next()? {
                packets.push(packet);
            }
            assert!(decoder.partial.len() <= MAX_PACKET + 8);
            assert!(decoder.chunks.is_empty());
        }
        Ok(packets)
    }

    #[test]
    fn whole_packets_are_slices_of_the_chunk() {
        let mut bytes = Vec::new();
        packet(PacketKind::Reliable, b"one".to_vec()).encode(&mut bytes);
        packet(PacketKind::Unreliable, b"two".to_vec()).encode(&mut bytes);
        let chunk = Bytes::from(bytes);
        let mut decoder = PacketDecoder::new();
        decoder.push(chunk.clone());
        for body in [&chunk[2..5], &chunk[7..10]] {
            assert_eq!(
                decoder.next().unwrap().unwrap().body.as_ptr(),
                body.as_ptr()
            );
        }
        assert!(decoder.is_between_packets());
    }

    #[test]
    fn a_claimed_length_alone_takes_no_memory() {
        let mut decoder = PacketDecoder::new();
        let mut bytes = Vec::new();
        packet(PacketKind::Reliable, vec![7; 60_000]).encode(&mut bytes);
        let mut fed = 0;
        for len in [5, 1, 100, 3_000, 20_000] {
            decoder.push(Bytes::copy_from_slice(&bytes[fed..fed + len]));
            fed += len;
            assert_eq!(decoder.next(), Ok(None));
            let limit = (fed * 8).max(256) + 64;
            assert!(
                decoder.partial.capacity() <= limit,
                "{} bytes",
                decoder.partial.capacity()
            );
        }
    }

    #[test]
    fn the_gathering_buffer_is_used_again() {
        let mut bytes = Vec::new();
        packet(PacketKind::Reliable, vec![7; 60_000]).encode(&mut bytes);
        let mut decoder = PacketDecoder::new();
        let mut places = Vec::new();
        for _ in 0..8 {
            for half in bytes.chunks(30_000) {
                decoder.push(Bytes::copy_from_slice(half));
            }
            places.push(decoder.next().unwrap().unwrap().body.as_ptr());
        }
        places.dedup();
        assert!(places.len() <= 2, "{} buffers for 8 packets", places.len());
    }

    #[test]
    fn wrong_lengths_and_kinds_fail_at_once_and_for_ever() {
        for (bytes, error) in [
            (&b"\x00"[..], PacketError::Length(0)),
            (
                b"\x80\x01\x08\x01",
                PacketError::Length(MAX_PACKET as u64 + 1),
            ),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff",
                PacketError::Length(varint::VARINT_MAX),
            ),
            (b"\x05\x0b", PacketError::UnknownKind(0x0b)),
            // The letters GE are a length of 1861, and T is no kind.
            (b"GET / HTTP/1.1\r\n\r\n", PacketError::UnknownKind(b'T')),
        ] {
            for cut in [1, 100] {
                assert_eq!(decode(&Bytes::copy_from_slice(bytes), &[cut]), Err(error));
            }
            let mut decoder = PacketDecoder::new();
            decoder.push(Bytes::copy_from_slice(bytes));
            assert_eq!(decoder.next(), Err(error));
            decoder.push(padding(1));
            assert_eq!(decoder.next(), Err(error));
        }
    }

    #[test]
    fn padding_has_the_length_asked_for() {
        for len in [
            0,
            1,
            62,
            63,
            4096,
            MAX_FORWARDED,
            MAX_PACKET - 1,
            MAX_PACKET,
        ] {
            let body = len.min(MAX_PACKET - 1);
            let bytes = padding(len);
            assert_eq!(bytes.len(), prefix_len(body) + body);
            let packets = decode(&bytes, &[usize::MAX]).unwrap();
            assert_eq!(packets, [packet(PacketKind::Padding, vec![0; body])]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_cut_gives_the_same_packets(
            packets in proptest::collection::vec(any_packet(), 1..6),
            cuts in proptest::collection::vec(prop_oneof![1usize..4, 1usize..70_000], 1..8),
        ) {
            let mut bytes = Vec::new();
            for packet in &packets {
                packet.encode(&mut bytes);
                let unframed = Bytes::copy_from_slice(
                    &bytes[bytes.len() - packet.body.len() - 1..],
                );
                prop_assert_eq!(Packet::parse_unframed(unframed), Ok(packet.clone()));
            }
            prop_assert_eq!(packets.iter().map(Packet::encoded_len).sum::<usize>(), bytes.len());
            prop_assert_eq!(decode(&bytes.into(), &cuts), Ok(packets));
        }

        #[test]
        fn arbitrary_bytes_in_arbitrary_cuts(
            bytes: Vec<u8>,
            cuts in proptest::collection::vec(1usize..9, 1..8),
        ) {
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode(&bytes, &cuts), decode(&bytes, &[usize::MAX]));
        }
    }
}
