//! What arrives on a stream channel: put in order, bounded by the window, handed on with as little
//! copying as memory allows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::window::Window;
use crate::time::Time;

/// A peer that breaks one channel's rules; the session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// More than the window allowed.
    Window,
    /// Bytes past the end, or a second, different end.
    FinalSize,
}

/// A smaller piece is copied, since it would keep the memory of a whole record; larger ones are
/// kept as they came.
pub(crate) const SMALL: usize = 8 * 1024;
/// Small pieces are joined up to about this much.
const JOINED: usize = 16 * 1024;

/// A piece that arrived before something in front of it.
#[derive(Debug)]
enum Early {
    Joined(BytesMut),
    Whole(Bytes),
}

impl Early {
    fn len(&self) -> usize {
        match self {
            Early::Joined(bytes) => bytes.len(),
            Early::Whole(bytes) => bytes.len(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct RecvHalf {
    /// In order and not yet read.
    ready: VecDeque<Bytes>,
    /// Small pieces that follow what is in `ready`.
    tail: BytesMut,
    /// Out of order, by offset; never overlapping.
    early: BTreeMap<u64, Early>,
    /// Next offset in order: everything below is read or in `ready`.
    in_order: u64,
    /// Bytes that the application took.
    read: u64,
    /// One past the highest byte received.
    highest: u64,
    final_offset: Option<u64>,
    reset: Option<u64>,
    /// The application was told of the end.
    ended: bool,
    /// The application wants no more: what comes is thrown away.
    discarding: bool,
    /// The peer may send below this offset.
    granted: u64,
    window: Window,
}

impl RecvHalf {
    pub(crate) fn new(window: u64, limit: u64, now: Time) -> Self {
        RecvHalf {
            ready: VecDeque::new(),
            tail: BytesMut::new(),
            early: BTreeMap::new(),
            in_order: 0,
            read: 0,
            highest: 0,
            final_offset: None,
            reset: None,
            ended: false,
            discarding: false,
            granted: window,
            window: Window::new(window, limit, now),
        }
    }

    /// Takes a piece. Returns by how much the highest offset grew, which counts against the
    /// session's window.
    pub(crate) fn receive(
        &mut self,
        mut offset: u64,
        mut data: Bytes,
        fin: bool,
    ) -> Result<u64, Violation> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(Violation::Window)?;
        self.check(end, fin)?;
        let grown = end.saturating_sub(self.highest);
        self.highest = self.highest.max(end);
        if self.discarding {
            self.read = self.highest;
        }
        if self.reset.is_some() || self.discarding {
            return Ok(grown);
        }
        if offset < self.in_order {
            let known = (self.in_order - offset).min(data.len() as u64);
            data.advance(usize::try_from(known).unwrap_or(usize::MAX));
            offset += known;
        }
        if data.is_empty() {
            return Ok(grown);
        }
        if offset == self.in_order && self.early.is_empty() {
            self.in_order = end;
            self.push_ready(data);
            return Ok(grown);
        }
        self.keep_early(offset, data);
        self.join_early();
        Ok(grown)
    }

    fn check(&mut self, end: u64, fin: bool) -> Result<(), Violation> {
        if end > self.granted {
            return Err(Violation::Window);
        }
        match self.final_offset {
            Some(last) if end > last || (fin && end != last) => return Err(Violation::FinalSize),
            None if fin && end < self.highest => return Err(Violation::FinalSize),
            None if fin => self.final_offset = Some(end),
            _ => {}
        }
        Ok(())
    }

    fn push_ready(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= JOINED {
                self.flush_tail();
            }
        } else {
            self.flush_tail();
            self.ready.push_back(data);
        }
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
    }

    /// Keeps those parts of a piece that no kept piece covers.
    fn keep_early(&mut self, mut offset: u64, mut data: Bytes) {
        while !data.is_empty() {
            let covered = match self.early.range(..=offset).next_back() {
                Some((start, kept)) => (start + kept.len() as u64).saturating_sub(offset),
                None => 0,
            };
            let skip = usize::try_from(covered)
                .unwrap_or(usize::MAX)
                .min(data.len());
            data.advance(skip);
            offset += skip as u64;
            let free = match self.early.range(offset..).next() {
                Some((start, _)) => usize::try_from(start - offset).unwrap_or(usize::MAX),
                None => data.len(),
            };
            let piece = data.split_to(free.min(data.len()));
            let length = piece.len() as u64;
            if length > 0 {
                self.insert_early(offset, piece);
            }
            offset += length;
        }
    }

    /// Small pieces that follow each other become one, so that the number of pieces grows with what
    /// was lost and not with how finely the peer cuts.
    fn insert_early(&mut self, offset: u64, piece: Bytes) {
        if piece.len() >= SMALL {
            self.early.insert(offset, Early::Whole(piece));
            return;
        }
        if let Some((start, Early::Joined(before))) = self.early.range_mut(..offset).next_back()
            && start + before.len() as u64 == offset
            && before.len() < JOINED
        {
            before.extend_from_slice(&piece);
            return;
        }
        self.early
            .insert(offset, Early::Joined(BytesMut::from(&piece[..])));
    }

    fn join_early(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() != self.in_order {
                return;
            }
            let piece = match entry.remove() {
                Early::Joined(bytes) => bytes.freeze(),
                Early::Whole(bytes) => bytes,
            };
            self.in_order += piece.len() as u64;
            self.push_ready(piece);
        }
    }

    /// Pieces kept out of order.
    pub(crate) fn fragments(&self) -> usize {
        self.early.len()
    }

    /// The peer gave up. Returns by how much the highest offset grew, and how many bytes will never
    /// be read: the session's window gets those back.
    pub(crate) fn reset(&mut self, code: u64, final_offset: u64) -> Result<(u64, u64), Violation> {
        if final_offset > self.granted {
            return Err(Violation::Window);
        }
        if final_offset < self.highest || self.final_offset.is_some_and(|last| last != final_offset)
        {
            return Err(Violation::FinalSize);
        }
        let grown = final_offset - self.highest;
        self.highest = final_offset;
        self.final_offset = Some(final_offset);
        if self.reset.is_some() || self.ended {
            return Ok((grown, 0));
        }
        self.reset = Some(code);
        Ok((grown, self.forget()))
    }

    /// The application wants no more: what is there and what still comes is thrown away. Returns the
    /// bytes that were received and not read.
    pub(crate) fn discard(&mut self) -> u64 {
        self.discarding = true;
        self.forget()
    }

    /// Drops what was not read and says how much it was.
    fn forget(&mut self) -> u64 {
        self.ready = VecDeque::new();
        self.tail = BytesMut::new();
        self.early = BTreeMap::new();
        let unread = self.highest - self.read;
        self.read = self.highest;
        unread
    }

    /// The next bytes in order, at most `most`.
    pub(crate) fn read(&mut self, most: usize) -> Option<Bytes> {
        if self.ready.is_empty() {
            self.flush_tail();
        }
        let front = self.ready.front_mut()?;
        let piece = if front.len() <= most {
            self.ready.pop_front()?
        } else {
            front.split_to(most)
        };
        self.read += piece.len() as u64;
        Some(piece)
    }

    pub(crate) fn is_readable(&self) -> bool {
        !self.ready.is_empty()
            || !self.tail.is_empty()
            || self.is_at_end()
            || (self.reset.is_some() && !self.ended)
    }

    /// Everything up to the peer's end was read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.reset.is_none() && !self.discarding && self.final_offset == Some(self.read)
    }

    pub(crate) fn reset_code(&self) -> Option<u64> {
        self.reset
    }

    /// The application was told of the end or the reset: nothing more will happen here.
    pub(crate) fn set_ended(&mut self) {
        self.ended = true;
    }

    /// Whether the application wants no more.
    pub(crate) fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// Whether the end is known, so that nothing more will count against the session's window, and
    /// everything up to it arrived, or will not be waited for.
    pub(crate) fn is_complete(&self) -> bool {
        self.final_offset
            .is_some_and(|last| self.reset.is_some() || self.discarding || self.in_order == last)
    }

    /// Whether all that the peer had to say is here, and the application has not seen its end yet.
    pub(crate) fn is_whole(&self) -> bool {
        self.reset.is_none() && self.is_complete() && !self.is_settled()
    }

    /// Whether this half is over for both the peer and the application.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_complete() && (self.ended || self.discarding)
    }

    /// One past the highest byte that arrived.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// A new limit to tell the peer of, when half the window was read.
    pub(crate) fn new_limit(&mut self, now: Time, rtt: Duration) -> Option<u64> {
        if self.final_offset.is_some() || self.discarding {
            return None;
        }
        let limit = self.window.renew(self.read, self.granted, now, rtt)?;
        self.granted = limit;
        Some(limit)
    }

    /// Offset up to which the application has read.
    pub(crate) fn read_offset(&self) -> u64 {
        self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn half() -> RecvHalf {
        RecvHalf::new(1000, 4000, Time::ZERO)
    }

    fn drain(half: &mut RecvHalf) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = half.read(7) {
            out.extend_from_slice(&piece);
        }
        out
    }

    proptest! {
        #[test]
        fn any_order_any_overlap(pieces in prop::collection::vec((0usize..300, 1usize..80), 1..60)) {
            let whole: Vec<u8> = (0..400u32).map(|i| (i * 7 % 251) as u8).collect();
            let mut half = half();
            let mut got = Vec::new();
            for (start, len) in pieces {
                let data = Bytes::copy_from_slice(&whole[start..start + len]);
                half.receive(start as u64, data, false).unwrap();
                got.extend(drain(&mut half));
            }
            half.receive(0, Bytes::copy_from_slice(&whole), true).unwrap();
            got.extend(drain(&mut half));
            prop_assert_eq!(got, whole);
            prop_assert!(half.is_at_end());
            prop_assert_eq!(half.highest, half.read);
            prop_assert!(half.is_complete() && half.early.is_empty());
        }
    }

    #[test]
    fn the_window_and_the_end_hold() {
        let mut half = half();
        assert_eq!(
            half.receive(990, Bytes::from_static(&[0; 11]), false),
            Err(Violation::Window)
        );
        assert_eq!(
            half.receive(u64::MAX, Bytes::from_static(&[0]), false),
            Err(Violation::Window)
        );
        half.receive(0, Bytes::from_static(b"abc"), true).unwrap();
        assert_eq!(
            half.receive(2, Bytes::from_static(b"cd"), false),
            Err(Violation::FinalSize)
        );
        assert_eq!(
            half.receive(0, Bytes::from_static(b"ab"), true),
            Err(Violation::FinalSize)
        );
        assert_eq!(half.reset(1, 2), Err(Violation::FinalSize));
    }

    #[test]
    fn a_reset_returns_what_will_never_be_read() {
        let mut half = half();
        half.receive(0, Bytes::from_static(b"abcdef"), false)
            .unwrap();
        half.read(2).unwrap();
        assert_eq!(half.reset(9, 10).unwrap(), (4, 8));
        assert_eq!(half.read(10), None);
        assert_eq!(half.reset_code(), Some(9));
        assert!(!half.is_at_end());
    }

    #[test]
    fn what_is_cut_finely_and_comes_early_is_joined() {
        let mut half = RecvHalf::new(100_000, 100_000, Time::ZERO);
        for offset in 1..10_000 {
            half.receive(offset, Bytes::from_static(b"x"), false)
                .unwrap();
        }
        assert_eq!(half.fragments(), 1);
        half.receive(0, Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(half.fragments(), 0);
        assert_eq!(drain(&mut half).len(), 10_000);
    }

    #[test]
    fn after_stop_only_the_end_counts() {
        let mut half = half();
        half.receive(100, Bytes::from_static(b"early"), false)
            .unwrap();
        assert_eq!(half.discard(), 105);
        half.receive(0, Bytes::from_static(b"late"), false).unwrap();
        assert!(!half.is_complete());
        assert_eq!(half.receive(200, Bytes::from_static(b"end"), true), Ok(98));
        assert!(half.is_settled() && !half.is_readable());
        assert_eq!(half.read_offset(), 203);
    }
}
