//! The thin framing inside a carrier's byte stream.
//!
//! A stream of spans lets each carrier say "this is the end" without a TCP FIN, lets the server send
//! a first body byte at once, and shows bytes that a box on the way has put in. A span is a header of
//! four bytes, most significant first: kind in the top eight bits, length in the other 24.
//!
//! | kind | what follows |
//! |---|---|
//! | 0 | *length* bytes of the carrier's stream |
//! | 1 | nothing (length 0): the orderly end of the stream |
//! | 2 | *length* bytes that mean nothing |
//! | 3 | eight bytes (length 8): the number of the poll that is answered |

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::error::CarrierError;

/// Bytes in a span's header.
pub const HEADER_LEN: usize = 4;
/// The most bytes one data span may announce; all that fits into its 24 bits.
pub const MAX_DATA_LEN: usize = (1 << 24) - 1;
/// The most bytes of filling one span may carry; a box that pads more is not worth passing.
pub const MAX_FILL_LEN: usize = 64 * 1024;

const DATA: u8 = 0;
const END: u8 = 1;
const FILL: u8 = 2;
const NUMBER: u8 = 3;

/// The header of a data span of `len` bytes (at most [`MAX_DATA_LEN`]).
#[must_use]
pub fn data_header(len: usize) -> [u8; HEADER_LEN] {
    debug_assert!(len <= MAX_DATA_LEN);
    header(DATA, len as u32)
}

/// The whole span that ends a stream.
#[must_use]
pub fn end_span() -> [u8; HEADER_LEN] {
    header(END, 0)
}

/// A filling span of no bytes: the first body byte, or a sign of life.
#[must_use]
pub fn empty_fill() -> [u8; HEADER_LEN] {
    header(FILL, 0)
}

/// The span that says which poll a body answers.
#[must_use]
pub fn number_span(number: u64) -> [u8; HEADER_LEN + 8] {
    let mut span = [0; HEADER_LEN + 8];
    span[..HEADER_LEN].copy_from_slice(&header(NUMBER, 8));
    span[HEADER_LEN..].copy_from_slice(&number.to_be_bytes());
    span
}

fn header(kind: u8, len: u32) -> [u8; HEADER_LEN] {
    ((u32::from(kind) << 24) | len).to_be_bytes()
}

/// One thing read from a stream of spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of the carrier's stream, never empty; part of a data span or all of it.
    Data(Bytes),
    /// The orderly end; nothing may follow.
    End,
    /// Filling was read: the other side, or the path, lives.
    Fill,
    /// The poll that this body answers.
    Number(u64),
}

/// Turns chunks, cut anywhere, into [`Event`]s. Holds no more than the chunk it was given.
#[derive(Debug, Default)]
pub struct Decoder {
    chunk: Bytes,
    /// Header and small fixed content that came in pieces.
    partial: Vec<u8>,
    data_left: usize,
    fill_left: usize,
    ended: bool,
}

impl Decoder {
    /// Takes the next chunk. To be called only when [`Decoder::next_event`] has returned `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// Whether the end span was read.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the stream stands between two spans.
    #[must_use]
    pub fn between_spans(&self) -> bool {
        self.partial.is_empty() && self.data_left == 0 && self.fill_left == 0
    }

    /// The next event, or `None` when another chunk is needed.
    ///
    /// # Errors
    /// [`CarrierError::Protocol`]: not a stream of spans, or bytes after its end.
    pub fn next_event(&mut self) -> Result<Option<Event>, CarrierError> {
        if self.ended && !self.chunk.is_empty() {
            return Err(CarrierError::protocol("bytes after the end of the stream"));
        }
        if self.data_left > 0 {
            if self.chunk.is_empty() {
                return Ok(None);
            }
            let take = self.data_left.min(self.chunk.len());
            self.data_left -= take;
            return Ok(Some(Event::Data(self.chunk.split_to(take))));
        }
        if self.fill_left > 0 {
            let take = self.fill_left.min(self.chunk.len());
            self.fill_left -= take;
            self.chunk.advance(take);
            return Ok((self.fill_left == 0).then_some(Event::Fill));
        }
        self.next_header()
    }

    fn next_header(&mut self) -> Result<Option<Event>, CarrierError> {
        if !self.gather(HEADER_LEN) {
            return Ok(None);
        }
        let kind = self.partial[0];
        let len = (usize::from(self.partial[1]) << 16)
            | (usize::from(self.partial[2]) << 8)
            | usize::from(self.partial[3]);
        match (kind, len) {
            (DATA, 1..) => {
                self.partial.clear();
                self.data_left = len;
                self.next_event()
            }
            (END, 0) => {
                self.partial.clear();
                self.ended = true;
                Ok(Some(Event::End))
            }
            (FILL, 0) => {
                self.partial.clear();
                Ok(Some(Event::Fill))
            }
            (FILL, 1..=MAX_FILL_LEN) => {
                self.partial.clear();
                self.fill_left = len;
                self.next_event()
            }
            (NUMBER, 8) => {
                if !self.gather(HEADER_LEN + 8) {
                    return Ok(None);
                }
                let mut number = [0; 8];
                number.copy_from_slice(&self.partial[HEADER_LEN..]);
                self.partial.clear();
                Ok(Some(Event::Number(u64::from_be_bytes(number))))
            }
            _ => Err(CarrierError::protocol(format!(
                "no span has kind {kind} and length {len}"
            ))),
        }
    }

    /// Moves bytes into `partial` until it holds `want`; tells whether it does.
    fn gather(&mut self, want: usize) -> bool {
        let take = want
            .saturating_sub(self.partial.len())
            .min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(take));
        self.partial.len() >= want
    }
}

/// A batch on its way out: a few bytes of header, then chunks that are never copied.
#[derive(Debug, Clone, Default)]
pub struct SpanBuf {
    head: [u8; HEADER_LEN],
    head_left: usize,
    chunks: VecDeque<Bytes>,
    chunks_len: usize,
}

impl SpanBuf {
    /// A data span over `chunks`, whose lengths add up to `len` (at most [`MAX_DATA_LEN`]).
    #[must_use]
    pub fn data(chunks: VecDeque<Bytes>, len: usize) -> Self {
        debug_assert_eq!(len, chunks.iter().map(Bytes::len).sum::<usize>());
        Self {
            head: data_header(len),
            head_left: HEADER_LEN,
            chunks,
            chunks_len: len,
        }
    }

    /// Makes an empty batch a data span of at most `max` bytes from the front of `queue`, and keeps
    /// its allocation. Returns how many bytes it took; none leave it empty.
    pub fn refill(&mut self, queue: &mut VecDeque<Bytes>, max: usize) -> usize {
        debug_assert!(!self.has_remaining() && max <= MAX_DATA_LEN);
        self.chunks.clear();
        self.chunks_len = take_front(queue, &mut self.chunks, max);
        if self.chunks_len > 0 {
            self.head = data_header(self.chunks_len);
            self.head_left = HEADER_LEN;
        }
        self.chunks_len
    }

    /// Nothing but one header.
    #[must_use]
    pub fn header_only(head: [u8; HEADER_LEN]) -> Self {
        Self {
            head,
            head_left: HEADER_LEN,
            ..Self::default()
        }
    }

    /// Chunks as they are, with no header.
    #[must_use]
    pub fn bare(chunks: VecDeque<Bytes>) -> Self {
        let chunks_len = chunks.iter().map(Bytes::len).sum();
        Self {
            chunks,
            chunks_len,
            ..Self::default()
        }
    }
}

impl From<Bytes> for SpanBuf {
    fn from(chunk: Bytes) -> Self {
        Self::bare(VecDeque::from([chunk]))
    }
}

impl Buf for SpanBuf {
    fn remaining(&self) -> usize {
        self.head_left + self.chunks_len
    }

    fn chunk(&self) -> &[u8] {
        if self.head_left > 0 {
            return &self.head[HEADER_LEN - self.head_left..];
        }
        // `advance` drops empty chunks, but the first may have been given empty.
        self.chunks
            .iter()
            .find(|chunk| !chunk.is_empty())
            .map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let head = &self.head[HEADER_LEN - self.head_left..];
        let all = std::iter::once(head).chain(self.chunks.iter().map(|chunk| &chunk[..]));
        let mut filled = 0;
        for (slot, bytes) in dst.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
            *slot = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining(), "advance past the end");
        let of_head = count.min(self.head_left);
        self.head_left -= of_head;
        count -= of_head;
        self.chunks_len -= count;
        while let Some(front) = self.chunks.front_mut() {
            if front.len() > count {
                front.advance(count);
                break;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
    }
}

/// Moves chunks from the front of `queue` to the back of `into`, `room` bytes at most; a chunk that
/// does not fit whole is cut without being copied. Returns the number of bytes moved.
pub fn take_front(queue: &mut VecDeque<Bytes>, into: &mut VecDeque<Bytes>, room: usize) -> usize {
    let mut taken = 0;
    while let Some(front) = queue.front_mut() {
        if front.is_empty() {
            queue.pop_front();
            continue;
        }
        let left = room - taken;
        if left == 0 {
            break;
        }
        if front.len() <= left {
            taken += front.len();
            into.extend(queue.pop_front());
        } else {
            into.push_back(front.split_to(left));
            taken = room;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(wire: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<Event>), CarrierError> {
        let mut decoder = Decoder::default();
        let (mut data, mut others) = (Vec::new(), Vec::new());
        let mut rest = Bytes::copy_from_slice(wire);
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let take = cuts.next().unwrap_or(1).clamp(1, rest.len());
            decoder.push(rest.split_to(take));
            while let Some(event) = decoder.next_event()? {
                match event {
                    Event::Data(bytes) => data.extend_from_slice(&bytes),
                    other => others.push(other),
                }
            }
        }
        assert!(decoder.between_spans());
        Ok((data, others))
    }

    fn encode(chunks: &[Vec<u8>]) -> Vec<u8> {
        let chunks: VecDeque<Bytes> = chunks.iter().cloned().map(Bytes::from).collect();
        let len = chunks.iter().map(Bytes::len).sum();
        let mut span = SpanBuf::data(chunks, len);
        span.copy_to_bytes(span.remaining()).to_vec()
    }

    #[test]
    fn a_stream_with_everything_decodes_byte_by_byte() {
        let mut wire = number_span(7).to_vec();
        wire.extend(empty_fill());
        wire.extend(encode(&[b"one".to_vec(), b"two".to_vec()]));
        wire.extend([FILL, 0, 0, 2, 9, 9]);
        wire.extend(end_span());
        let (data, others) = decode(&wire, &[1]).expect("valid");
        assert_eq!(data, b"onetwo");
        let fill = Event::Fill;
        assert_eq!(
            others,
            [Event::Number(7), fill.clone(), fill, Event::End],
            "in order"
        );
    }

    #[test]
    fn a_batch_is_filled_again() {
        let mut batch = SpanBuf::default();
        let mut queue: VecDeque<Bytes> = [&b"abcd"[..], b"", b"ef"].map(Bytes::from).into();
        for expected in [&b"\0\0\0\x03abc"[..], b"\0\0\0\x03def"] {
            assert_eq!(batch.refill(&mut queue, 3), 3);
            assert_eq!(batch.copy_to_bytes(batch.remaining()), expected);
        }
        assert_eq!(batch.refill(&mut queue, 3), 0);
        assert!(!batch.has_remaining());
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for wire in [
            &b"<html><body>"[..],
            &[DATA, 0, 0, 0],
            &[END, 0, 0, 1],
            &[FILL, 0xff, 0xff, 0xff],
            &[NUMBER, 0, 0, 7],
            &[END, 0, 0, 0, FILL],
        ] {
            let error = decode(wire, &[64]).expect_err("must be refused");
            assert_eq!(error.code(), "protocol", "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn data_comes_back_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..8),
            cuts in prop::collection::vec(1usize..30, 1..10),
        ) {
            let mut wire = encode(&chunks);
            wire.extend(end_span());
            let (data, others) = decode(&wire, &cuts).expect("valid");
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(others, vec![Event::End]);
        }

        #[test]
        fn random_bytes_never_panic(wire in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::default();
            decoder.push(Bytes::from(wire));
            while let Ok(Some(_)) = decoder.next_event() {}
        }

        #[test]
        fn vectored_and_plain_reading_agree(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6),
            steps in prop::collection::vec(1usize..15, 1..20),
        ) {
            let chunks: VecDeque<Bytes> = chunks.into_iter().map(Bytes::from).collect();
            let expected: Vec<u8> = chunks.iter().flatten().copied().collect();
            let mut span = SpanBuf::bare(chunks);
            let mut seen = Vec::new();
            for step in steps {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = span.chunks_vectored(&mut slices);
                let vectored: Vec<u8> =
                    slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
                prop_assert!(vectored.starts_with(span.chunk()));
                let step = step.min(vectored.len());
                seen.extend_from_slice(&vectored[..step]);
                span.advance(step);
            }
            seen.extend(span.copy_to_bytes(span.remaining()));
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn take_front_keeps_every_byte(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6),
            room in 0usize..60,
        ) {
            let mut queue: VecDeque<Bytes> = chunks.into_iter().map(Bytes::from).collect();
            let all: Vec<u8> = queue.iter().flatten().copied().collect();
            let mut taken = VecDeque::new();
            let count = take_front(&mut queue, &mut taken, room);
            prop_assert_eq!(count, room.min(all.len()));
            let first: Vec<u8> = taken.iter().flatten().copied().collect();
            prop_assert_eq!(first.len(), count);
            let rest: Vec<u8> = queue.iter().flatten().copied().collect();
            prop_assert_eq!([first, rest].concat(), all);
        }
    }
}
