//! Putting numbered request bodies in order. Pure.
//!
//! Bodies are numbered by the offset of their first byte, so a body that comes twice, late, or cut
//! otherwise than the first time (because a box refused its size) is harmless.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes};

/// What happened to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is kept, or everything in it was known already: answer, it need not come again.
    Kept,
    /// There is no room for it yet; it may be offered again when [`Window::pop`] has made room.
    NoRoom,
}

/// Why a body can never be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Bytes after the stated end, two different ends, or an end before bytes that came already.
    #[error("the request bodies disagree about where the stream ends")]
    End,
    /// The offsets leave the number range.
    #[error("a request body's offset is out of range")]
    Range,
}

/// Bodies up to this many bytes are copied together: a chunk of its own may keep alive all that was
/// read from the connection with it.
const SMALL: usize = 16 * 1024;

/// Bytes that arrived, waiting for what belongs before them or for the reader.
///
/// Takes only bytes less than `capacity` ahead of the reader, holds at most [`Window::MAX_HELD`]
/// bodies behind gaps, and never more than twice `capacity` bytes in all. A body of which only a part
/// was new does not stay in memory for that part, unless the part is at least half of it.
#[derive(Debug)]
pub struct Window {
    capacity: u64,
    /// Offset of the next byte to hand to the reader.
    read: u64,
    /// Offset behind the last byte of `ready`: what is complete from `read` on.
    complete: u64,
    ready: VecDeque<Bytes>,
    /// What comes behind `ready`, gathered from small bodies.
    gathered: Vec<u8>,
    /// Bodies behind a gap, by offset. They never overlap `..complete`, but may overlap each other.
    held: BTreeMap<u64, Bytes>,
    end: Option<u64>,
}

impl Window {
    /// The most bodies kept behind a gap: a client of ours has at most 24 in flight, some of which
    /// a size limit may have cut several times.
    pub const MAX_HELD: usize = 64;

    /// An empty window for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            read: 0,
            complete: 0,
            ready: VecDeque::new(),
            gathered: Vec::new(),
            held: BTreeMap::new(),
            end: None,
        }
    }

    /// Offers the body that starts at `offset`; `end` says that the stream stops with it.
    ///
    /// # Errors
    /// The body contradicts what came before; the carrier is to be given up.
    pub fn offer(&mut self, offset: u64, body: &Bytes, end: bool) -> Result<Taken, WindowError> {
        let stop = offset
            .checked_add(body.len() as u64)
            .ok_or(WindowError::Range)?;
        if self.contradicts_end(stop, end) {
            return Err(WindowError::End);
        }
        if stop > self.read.saturating_add(self.capacity) {
            return Ok(Taken::NoRoom);
        }
        let useful = stop > self.complete;
        let behind_gap = useful && offset > self.complete;
        if behind_gap && !self.may_hold(offset, body.len() as u64) {
            return Ok(Taken::NoRoom);
        }
        if end {
            self.end = Some(stop);
        }
        if behind_gap {
            self.hold(offset, body.clone());
        } else if useful {
            self.append(offset, body.clone());
            self.join_held();
        }
        Ok(Taken::Kept)
    }

    fn contradicts_end(&self, stop: u64, end: bool) -> bool {
        match self.end {
            Some(known) => stop > known || (end && stop != known),
            None => end && (stop < self.complete || self.last_held() > stop),
        }
    }

    /// Bodies behind a gap may overlap each other, so their sum is bounded too.
    fn may_hold(&self, offset: u64, len: u64) -> bool {
        let known = self.held.get(&offset).map(|body| body.len() as u64);
        let more = len.saturating_sub(known.unwrap_or(0));
        (known.is_some() || self.held.len() < Self::MAX_HELD)
            && self.held_bytes() + more <= self.capacity
    }

    fn last_held(&self) -> u64 {
        let stops = self.held.iter().map(|(at, body)| at + body.len() as u64);
        stops.max().unwrap_or(0)
    }

    /// Keeps the longer of two bodies at one offset.
    fn hold(&mut self, offset: u64, body: Bytes) {
        let kept = self.held.entry(offset).or_default();
        if body.len() > kept.len() {
            *kept = body;
        }
    }

    /// Appends what of `body` lies behind `complete`; `offset` is not behind it.
    fn append(&mut self, offset: u64, mut body: Bytes) {
        let known = self.complete - offset;
        if known < body.len() as u64 {
            // Smaller than a length in memory, so it fits.
            body.advance(known as usize);
            self.complete += body.len() as u64;
            if body.len() <= SMALL || (body.len() as u64) < known {
                self.gathered.extend_from_slice(&body);
            } else {
                self.close_gathered();
                self.ready.push_back(body);
            }
            if self.gathered.len() > SMALL {
                self.close_gathered();
            }
        }
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            self.ready.push_back(gathered.into());
        }
    }

    fn join_held(&mut self) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.complete {
                break;
            }
            let (offset, body) = entry.remove_entry();
            self.append(offset, body);
        }
    }

    /// The next bytes in order, if they are here.
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() {
            self.close_gathered();
        }
        let body = self.ready.pop_front()?;
        self.read += body.len() as u64;
        Some(body)
    }

    /// Whether the reader has everything up to the stated end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end == Some(self.read)
    }

    /// Whether all bytes up to the stated end have arrived, read or not.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end == Some(self.complete)
    }

    /// Bytes held in memory, those behind gaps included.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let behind: u64 = self.held.values().map(|body| body.len() as u64).sum();
        behind + (self.complete - self.read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(window: &mut Window, offset: u64, body: &'static str) -> Taken {
        let body = Bytes::from_static(body.as_bytes());
        window.offer(offset, &body, false).expect("consistent")
    }

    fn read_all(window: &mut Window) -> String {
        let mut all = Vec::new();
        while let Some(body) = window.pop() {
            all.extend_from_slice(&body);
        }
        String::from_utf8(all).expect("ascii")
    }

    #[test]
    fn twice_out_of_order_and_overlapping() {
        let mut window = Window::new(100);
        assert_eq!(offer(&mut window, 3, "def"), Taken::Kept);
        assert_eq!(window.pop(), None, "there is a gap");
        assert_eq!(offer(&mut window, 3, "def"), Taken::Kept);
        assert_eq!(offer(&mut window, 5, "fgh"), Taken::Kept);
        assert_eq!(offer(&mut window, 0, "abcd"), Taken::Kept);
        assert_eq!(read_all(&mut window), "abcdefgh");
        assert_eq!(offer(&mut window, 0, "abcd"), Taken::Kept);
        assert_eq!(read_all(&mut window), "", "nothing twice");
        assert_eq!(window.held_bytes(), 0);
    }

    #[test]
    fn room_is_counted_from_what_was_read() {
        let mut window = Window::new(4);
        assert_eq!(offer(&mut window, 0, "abcd"), Taken::Kept);
        assert_eq!(offer(&mut window, 4, "e"), Taken::NoRoom);
        assert_eq!(read_all(&mut window), "abcd");
        assert_eq!(offer(&mut window, 4, "e"), Taken::Kept);
        assert_eq!(offer(&mut window, u64::MAX - 9, "far away"), Taken::NoRoom);
        let body = Bytes::from_static(b"over");
        let error = window.offer(u64::MAX, &body, false);
        assert_eq!(error, Err(WindowError::Range));
    }

    #[test]
    fn gaps_are_bounded_in_number() {
        let mut window = Window::new(u64::MAX);
        for index in 1..=Window::MAX_HELD as u64 {
            assert_eq!(offer(&mut window, index * 2, "x"), Taken::Kept);
        }
        assert_eq!(offer(&mut window, 100_000, "x"), Taken::NoRoom);
        assert_eq!(offer(&mut window, 2, "x"), Taken::Kept, "known already");
        assert_eq!(offer(&mut window, 0, "ab"), Taken::Kept, "fills the gap");
        assert_eq!(offer(&mut window, 100_000, "x"), Taken::Kept);
    }

    #[test]
    fn the_end_is_told_once_and_kept_to() {
        let mut window = Window::new(100);
        let body = Bytes::from_static(b"def");
        assert_eq!(window.offer(3, &body, true), Ok(Taken::Kept));
        assert_eq!(window.offer(3, &body, true), Ok(Taken::Kept), "repeated");
        assert_eq!(window.offer(4, &body, false), Err(WindowError::End));
        assert_eq!(window.offer(0, &body, true), Err(WindowError::End));
        assert!(!window.is_complete());
        assert_eq!(offer(&mut window, 0, "abc"), Taken::Kept);
        assert!(window.is_complete() && !window.is_finished());
        assert_eq!(read_all(&mut window), "abcdef");
        assert!(window.is_finished());
        let empty = Bytes::new();
        assert_eq!(window.offer(6, &empty, true), Ok(Taken::Kept));
        assert_eq!(window.offer(5, &empty, true), Err(WindowError::End));
    }

    #[test]
    fn an_end_before_held_bytes_is_refused() {
        let mut window = Window::new(100);
        assert_eq!(offer(&mut window, 5, "fgh"), Taken::Kept);
        let body = Bytes::from_static(b"abc");
        assert_eq!(window.offer(0, &body, true), Err(WindowError::End));
    }

    #[test]
    fn a_body_does_not_stay_in_memory_for_a_few_new_bytes() {
        // Each body repeats all but one byte of what is known.
        struct Counted(Vec<u8>, #[expect(dead_code)] std::sync::Arc<()>);
        impl AsRef<[u8]> for Counted {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let alive = std::sync::Arc::new(());
        let mut window = Window::new(1_000_000);
        for at in 0..100 {
            let bytes = Counted(vec![7; 100_000], std::sync::Arc::clone(&alive));
            let body = Bytes::from_owner(bytes);
            assert_eq!(window.offer(at, &body, false), Ok(Taken::Kept));
        }
        assert_eq!(std::sync::Arc::strong_count(&alive), 2, "the first one");
        let read: usize = std::iter::from_fn(|| window.pop()).map(|b| b.len()).sum();
        assert_eq!(read, 100_099);
    }

    proptest! {
        /// Whatever order, repetition and cutting the path makes, the reader sees the stream.
        #[test]
        fn any_delivery_gives_the_stream(
            len in 1usize..400,
            pieces in prop::collection::vec((0usize..400, 1usize..120), 0..60),
            reads in prop::collection::vec(any::<bool>(), 60),
        ) {
            let stream: Bytes = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let capacity = 150;
            let mut window = Window::new(capacity);
            let mut seen = Vec::new();
            for ((start, size), read) in pieces.into_iter().zip(reads) {
                let start = start % len;
                let stop = (start + size).min(len);
                let body = stream.slice(start..stop);
                window.offer(start as u64, &body, stop == len).expect("consistent");
                if read {
                    seen.extend(window.pop().into_iter().flatten());
                }
                prop_assert!(window.held_bytes() <= 2 * capacity);
            }
            // Whatever was lost on the way is sent again, in order.
            let mut at = seen.len();
            while at < len {
                let stop = (at + 50).min(len);
                let body = stream.slice(at..stop);
                let taken = window.offer(at as u64, &body, stop == len).expect("consistent");
                while let Some(bytes) = window.pop() {
                    seen.extend_from_slice(&bytes);
                }
                if taken == Taken::Kept {
                    at = stop;
                }
            }
            while let Some(bytes) = window.pop() {
                seen.extend_from_slice(&bytes);
            }
            prop_assert_eq!(&seen[..], &stream[..]);
            prop_assert!(window.is_finished());
        }
    }
}
