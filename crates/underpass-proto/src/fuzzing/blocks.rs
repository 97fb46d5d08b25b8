//! The blocks of a compressed channel.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::compress::{BlockError, Compressor, Decompressor, MAX_BLOCK};

/// The blocks in `bytes`, handed in by chunks of this length; how the row of them ended.
fn blocks(bytes: &Bytes, chunk: usize) -> (Vec<Bytes>, Result<bool, BlockError>) {
    let mut decompressor = Decompressor::new();
    let mut blocks = Vec::new();
    let mut rest = bytes.clone();
    while rest.has_remaining() {
        decompressor.push(&rest.split_to(chunk.min(rest.len())));
        loop {
            match decompressor.next_block() {
                Ok(Some(block)) => {
                    assert!(block.len() <= MAX_BLOCK, "swells to {}", block.len());
                    blocks.push(block);
                }
                Ok(None) => break,
                Err(error) => return (blocks, Err(error)),
            }
        }
        // A block, and what came with its last byte.
        assert!(decompressor.buffered() <= MAX_BLOCK + 2048 + chunk.min(bytes.len()));
    }
    assert_eq!(
        decompressor.is_between_blocks(),
        decompressor.buffered() == 0
    );
    (blocks, Ok(decompressor.is_between_blocks()))
}

/// Blocks from a peer, then the same bytes as what an application writes; the first byte is the
/// length of chunks and chooses the codecs, the second one the measured rate.
pub fn compress(data: &[u8]) {
    let (&[steer, speed], rest) = data.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let bytes = Bytes::copy_from_slice(rest);
    let chunk = usize::from(steer >> 2) + 1;
    let whole = blocks(&bytes, usize::MAX);
    assert_eq!(whole, blocks(&bytes, chunk));
    round_trip(rest, steer & 3, u64::from(speed) << 20, chunk);
}

/// What is written comes back, whatever was tried on it.
fn round_trip(data: &[u8], codecs: u8, rate: u64, chunk: usize) {
    let mut compressor = Compressor::new(codecs);
    let mut out = BytesMut::new();
    // Repeated, so that long and compressible blocks occur; of different lengths.
    let long = data.repeat(4);
    for mut part in [data, &long, &data[..data.len() / 2]] {
        while !part.is_empty() {
            let took = compressor.block(part, rate, &mut out);
            assert!(took > 0 && took <= part.len().min(MAX_BLOCK));
            part = &part[took..];
        }
    }
    let (back, ended) = blocks(&out.freeze(), chunk.max(16));
    assert_eq!(ended, Ok(true));
    assert_eq!(
        back.concat(),
        [data, &long, &data[..data.len() / 2]].concat()
    );
}
