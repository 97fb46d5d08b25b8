//! Compression of a channel's bytes, decided by trying.
//!
//! A channel opened with [`crate::frame::Encoding::Blocks`] carries, instead of the application's
//! bytes, a row of blocks: `codec: byte | raw length: varint | length: varint | bytes`. A stored
//! block (codec 0) holds the bytes as they are; LZ4 (1) is the block format; Zstandard (2) is one
//! stream per direction, flushed at the end of each block, so that small messages profit from the
//! ones before. Since a reader takes one block at a time, and no block is larger than 64 KiB when
//! opened, what arrives can never swell beyond that.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::params::{ENCODING_LZ4, ENCODING_ZSTD};
use crate::varint;

/// Most bytes of the application in one block.
pub const MAX_BLOCK: usize = 64 * 1024;
/// Longest header of a block.
const MAX_HEADER: usize = 1 + 4 + 4;
/// The trial looks at so many bytes of a block.
const TRIAL: usize = 4096;
/// Below this much, a block is worth neither trial nor change of mind.
const SMALL: usize = 512;
/// A zstd window of 256 KiB bounds what a receiver must keep per channel.
const WINDOW_LOG: u32 = 18;
/// Above this rate (bytes per second) zstd level 1 would be the bottleneck on one core.
const FAST: u64 = 60_000_000;

const STORED: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;

/// A block that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compressed block could not be read: {0}")]
pub struct BlockError(&'static str);

/// Turns the application's bytes into blocks.
pub struct Compressor {
    codecs: u8,
    zstd: Option<Encoder<'static>>,
    /// Room to compress into, kept from block to block.
    packed: Vec<u8>,
    /// Bytes that pass untried because the last trial was no good.
    skip: usize,
    /// How many to pass after the next bad trial: doubled each time.
    next_skip: usize,
}

impl Compressor {
    /// `codecs` is what the peer reads ([`crate::params::Params::encodings`]).
    #[must_use]
    pub fn new(codecs: u8) -> Self {
        Compressor {
            codecs,
            zstd: None,
            packed: Vec::new(),
            skip: 0,
            next_skip: FIRST_SKIP,
        }
    }

    /// Appends one block that holds `data`, at most [`MAX_BLOCK`] of it, and returns how much of
    /// `data` it took. `rate` is what the path was measured to carry, in bytes per second (0:
    /// unknown): the slower the path, the harder it tries.
    pub fn block(&mut self, data: &[u8], rate: u64, out: &mut BytesMut) -> usize {
        let data = &data[..data.len().min(MAX_BLOCK)];
        let start = out.len();
        if self.is_worth_it(data) {
            let fits = match rate {
                FAST.. => self.lz4(data, out),
                _ => self.zstd(data, out),
            };
            if fits {
                return data.len();
            }
            out.truncate(start);
        }
        put_header(out, STORED, data.len(), data.len());
        out.put_slice(data);
        data.len()
    }

    /// Tries with the fast codec on the first bytes; random data costs it next to nothing.
    fn is_worth_it(&mut self, data: &[u8]) -> bool {
        if self.codecs & (ENCODING_LZ4 | ENCODING_ZSTD) == 0 || data.is_empty() {
            return false;
        }
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(data.len());
            return false;
        }
        if data.len() < SMALL {
            // Too little to judge by itself: the stream's memory decides.
            return self.codecs & ENCODING_ZSTD != 0;
        }
        let trial = &data[..data.len().min(TRIAL)];
        let room = room(
            &mut self.packed,
            lz4_flex::block::get_maximum_output_size(TRIAL),
        );
        let length = lz4_flex::block::compress_into(trial, room).unwrap_or(trial.len());
        let good = length * 10 <= trial.len() * 9;
        if good {
            self.next_skip = FIRST_SKIP;
        } else {
            self.skip = self.next_skip;
            self.next_skip = (self.next_skip * 2).min(MAX_SKIP);
        }
        good
    }

    fn lz4(&mut self, data: &[u8], out: &mut BytesMut) -> bool {
        if self.codecs & ENCODING_LZ4 == 0 {
            return self.zstd(data, out);
        }
        let most = lz4_flex::block::get_maximum_output_size(data.len());
        let packed = room(&mut self.packed, most);
        let Ok(length) = lz4_flex::block::compress_into(data, packed) else {
            return false;
        };
        if length >= data.len() {
            return false;
        }
        put_header(out, LZ4, data.len(), length);
        out.put_slice(&packed[..length]);
        true
    }

    /// Once a block has passed through the stream the peer's decoder needs it, so it is sent even
    /// where storing it would have been a few bytes shorter.
    fn zstd(&mut self, data: &[u8], out: &mut BytesMut) -> bool {
        if self.codecs & ENCODING_ZSTD == 0 {
            return self.codecs & ENCODING_LZ4 != 0 && self.lz4(data, out);
        }
        if self.zstd.is_none() {
            self.zstd = new_encoder();
        }
        let Some(encoder) = &mut self.zstd else {
            return false;
        };
        let packed = room(
            &mut self.packed,
            zstd::zstd_safe::compress_bound(data.len()) + 64,
        );
        match deflate(encoder, data, packed) {
            Some(length) => {
                put_header(out, ZSTD, data.len(), length);
                out.put_slice(&packed[..length]);
                true
            }
            None => {
                // The stream is broken on this side: the peer must never see more of it.
                self.codecs &= !ENCODING_ZSTD;
                false
            }
        }
    }
}

/// After a bad trial so many bytes pass untried at first, and so many at the most.
const FIRST_SKIP: usize = 256 * 1024;
const MAX_SKIP: usize = 16 * 1024 * 1024;

/// At least so many bytes of a buffer that grows as needed.
fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    &mut buffer[..bytes]
}

fn new_encoder() -> Option<Encoder<'static>> {
    let mut encoder = Encoder::new(1).ok()?;
    encoder
        .set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG))
        .ok()?;
    encoder
        .set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(false))
        .ok()?;
    encoder
        .set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(false))
        .ok()?;
    Some(encoder)
}

fn deflate(encoder: &mut Encoder<'static>, data: &[u8], packed: &mut [u8]) -> Option<usize> {
    let mut input = InBuffer::around(data);
    let mut output = OutBuffer::around(packed);
    while input.pos() < data.len() {
        encoder.run(&mut input, &mut output).ok()?;
        if output.pos() == output.capacity() {
            return None;
        }
    }
    while encoder.flush(&mut output).ok()? > 0 {
        if output.pos() == output.capacity() {
            return None;
        }
    }
    Some(output.pos())
}

fn put_header(out: &mut BytesMut, codec: u8, raw: usize, length: usize) {
    out.reserve(MAX_HEADER + length);
    out.put_u8(codec);
    varint::put(out, raw as u64);
    varint::put(out, length as u64);
}

/// Turns blocks back into the application's bytes.
#[derive(Default)]
pub struct Decompressor {
    /// What arrived of a block that is not complete.
    partial: BytesMut,
    zstd: Option<Decoder<'static>>,
}

impl Decompressor {
    /// A decompressor at the start of a channel.
    #[must_use]
    pub fn new() -> Self {
        Decompressor::default()
    }

    /// Adds bytes as they came from the channel.
    pub fn push(&mut self, data: &[u8]) {
        self.partial.put_slice(data);
    }

    /// Bytes that arrived and stand in no block that was taken yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.partial.len()
    }

    /// Whether the channel may end here.
    #[must_use]
    pub fn is_between_blocks(&self) -> bool {
        self.partial.is_empty()
    }

    /// The next whole block's bytes, if it has arrived.
    ///
    /// # Errors
    /// The block breaks the format; the channel is of no use any more.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, BlockError> {
        let Some((codec, raw, length, header)) = self.header()? else {
            return Ok(None);
        };
        if self.partial.len() < header + length {
            return Ok(None);
        }
        self.partial.advance(header);
        let packed = self.partial.split_to(length).freeze();
        let data = match codec {
            STORED if raw == length => packed,
            STORED => return Err(BlockError("a stored block has two lengths")),
            LZ4 => unpack_lz4(&packed, raw)?,
            ZSTD => self.inflate(&packed, raw)?,
            _ => return Err(BlockError("unknown codec")),
        };
        Ok(Some(data))
    }

    fn header(&self) -> Result<Option<(u8, usize, usize, usize)>, BlockError> {
        let Some((&codec, rest)) = self.partial.split_first() else {
            return Ok(None);
        };
        let Ok((raw, first)) = varint::get_slice(rest) else {
            return Ok(None);
        };
        let Ok((length, second)) = varint::get_slice(&rest[first..]) else {
            return Ok(None);
        };
        let limit = MAX_BLOCK as u64;
        // A compressed block may be a little longer than what it holds.
        if raw > limit || length > limit + 1024 {
            return Err(BlockError("a block is larger than 64 KiB"));
        }
        Ok(Some((
            codec,
            raw as usize,
            length as usize,
            1 + first + second,
        )))
    }

    fn inflate(&mut self, packed: &[u8], raw: usize) -> Result<Bytes, BlockError> {
        if self.zstd.is_none() {
            let mut decoder = Decoder::new().map_err(|_| BlockError("no memory for zstd"))?;
            decoder
                .set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG))
                .map_err(|_| BlockError("zstd takes no window limit"))?;
            self.zstd = Some(decoder);
        }
        let Some(decoder) = &mut self.zstd else {
            return Err(BlockError("no zstd"));
        };
        let mut out = vec![0; raw];
        let mut input = InBuffer::around(packed);
        let mut output = OutBuffer::around(&mut out[..]);
        loop {
            let before = (input.pos(), output.pos());
            decoder
                .run(&mut input, &mut output)
                .map_err(|_| BlockError("zstd data that cannot be read"))?;
            if input.pos() == packed.len() && output.pos() == raw {
                break;
            }
            if (input.pos(), output.pos()) == before {
                return Err(BlockError("zstd data of another length"));
            }
        }
        Ok(out.into())
    }
}

fn unpack_lz4(packed: &[u8], raw: usize) -> Result<Bytes, BlockError> {
    let mut out = vec![0; raw];
    match lz4_flex::block::decompress_into(packed, &mut out) {
        Ok(length) if length == raw => Ok(out.into()),
        _ => Err(BlockError("LZ4 data that cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        (0..length)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 32) as u8
            })
            .collect()
    }

    fn pack(compressor: &mut Compressor, mut data: &[u8], rate: u64) -> BytesMut {
        let mut out = BytesMut::new();
        while !data.is_empty() {
            let taken = compressor.block(data, rate, &mut out);
            data = &data[taken..];
        }
        out
    }

    fn unpack(decompressor: &mut Decompressor) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(block) = decompressor.next_block().unwrap() {
            out.extend_from_slice(&block);
        }
        out
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            pieces in prop::collection::vec((0u8..3, 1usize..90_000, 0u64..100_000_000), 1..12),
            codecs in 0u8..4,
            cut in 1usize..5000,
        ) {
            let mut compressor = Compressor::new(codecs);
            let mut decompressor = Decompressor::new();
            for (kind, length, rate) in pieces {
                let data = match kind {
                    0 => noise(length),
                    1 => vec![7; length],
                    _ => b"{\"id\": 12, \"name\": \"row\"}\n".repeat(length / 26 + 1),
                };
                let mut got = Vec::new();
                for part in pack(&mut compressor, &data, rate).chunks(cut) {
                    decompressor.push(part);
                    got.extend(unpack(&mut decompressor));
                }
                prop_assert_eq!(got, data);
                prop_assert!(decompressor.is_between_blocks());
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(data: Vec<u8>) {
            let mut decompressor = Decompressor::new();
            decompressor.push(&data);
            while let Ok(Some(block)) = decompressor.next_block() {
                prop_assert!(block.len() <= MAX_BLOCK);
            }
        }
    }

    #[test]
    fn noise_is_stored_and_text_shrinks() {
        let mut compressor = Compressor::new(3);
        let random = pack(&mut compressor, &noise(1 << 20), 0);
        assert!(random.len() < (1 << 20) + 1024);
        let mut compressor = Compressor::new(3);
        let text = b"the quick brown fox jumps over the lazy dog\n".repeat(20_000);
        assert!(pack(&mut compressor, &text, 0).len() < text.len() / 20);
        let mut compressor = Compressor::new(3);
        assert!(pack(&mut compressor, &text, 1 << 30).len() < text.len() / 20);
    }

    #[test]
    fn small_messages_profit_from_the_ones_before() {
        let mut compressor = Compressor::new(3);
        let mut total = (0, 0);
        for i in 0..1000 {
            let message = format!(
                "{{\"user\":\"user{i}\",\"action\":\"login\",\"result\":\"ok\",\"ms\":{}}}",
                i * 7 % 100
            );
            let packed = pack(&mut compressor, message.as_bytes(), 0);
            total = (total.0 + message.len(), total.1 + packed.len());
        }
        assert!(total.1 * 2 < total.0, "{total:?}");
    }
}
