//! What arrives on a stream channel: put in order, bounded by the window, handed on without copying.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, Bytes};

use crate::time::Time;

/// A peer that breaks one channel's rules; the session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// More than the window allowed.
    Window,
    /// Bytes past the end, or a second, different end.
    FinalSize,
    /// So many pieces out of order that keeping them would cost more than they hold.
    Fragments,
}

/// Pieces out of order that one channel keeps: a full window of the smallest records.
const MAX_FRAGMENTS: usize = 1 << 15;

#[derive(Debug)]
pub(crate) struct RecvHalf {
    /// In order and not yet read.
    ready: VecDeque<Bytes>,
    /// Out of order, by offset; never overlapping.
    early: BTreeMap<u64, Bytes>,
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
    /// The peer may send below this offset.
    granted: u64,
    window: Window,
}

impl RecvHalf {
    pub(crate) fn new(window: u64, limit: u64, now: Time) -> Self {
        RecvHalf {
            ready: VecDeque::new(),
            early: BTreeMap::new(),
            in_order: 0,
            read: 0,
            highest: 0,
            final_offset: None,
            reset: None,
            ended: false,
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
        if self.reset.is_some() {
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
            self.ready.push_back(data);
            return Ok(grown);
        }
        self.keep_early(offset, data)?;
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

    /// Keeps those parts of a piece that no kept piece covers.
    fn keep_early(&mut self, mut offset: u64, mut data: Bytes) -> Result<(), Violation> {
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
            if piece.is_empty() {
                continue;
            }
            if self.early.len() >= MAX_FRAGMENTS {
                return Err(Violation::Fragments);
            }
            let length = piece.len() as u64;
            self.early.insert(offset, piece);
            offset += length;
        }
        Ok(())
    }

    fn join_early(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() != self.in_order {
                return;
            }
            let piece = entry.remove();
            self.in_order += piece.len() as u64;
            self.ready.push_back(piece);
        }
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
        self.ready.clear();
        self.early.clear();
        let unread = final_offset - self.read;
        self.read = final_offset;
        Ok((grown, unread))
    }

    /// The application wants no more: what is there and what still comes is thrown away. Returns the
    /// bytes that were received and not read.
    pub(crate) fn discard(&mut self) -> u64 {
        self.ready.clear();
        self.early.clear();
        let unread = self.highest - self.read;
        self.read = self.highest;
        unread
    }

    /// What came past the read position after [`RecvHalf::discard`].
    pub(crate) fn discard_new(&mut self, grown: u64) {
        self.ready.clear();
        self.early.clear();
        self.read += grown;
    }

    /// The next bytes in order, at most `most`.
    pub(crate) fn read(&mut self, most: usize) -> Option<Bytes> {
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
        !self.ready.is_empty() || self.is_at_end() || (self.reset.is_some() && !self.ended)
    }

    /// Everything up to the peer's end was read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.reset.is_none() && self.final_offset == Some(self.read)
    }

    pub(crate) fn reset_code(&self) -> Option<u64> {
        self.reset
    }

    /// The application was told of the end or the reset: nothing more will happen here.
    pub(crate) fn set_ended(&mut self) {
        self.ended = true;
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the final offset is known and everything up to it arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.final_offset
            .is_some_and(|last| self.reset.is_some() || self.in_order == last)
    }

    /// A new limit to tell the peer of, when half the window was read.
    pub(crate) fn new_limit(&mut self, now: Time, rtt: Duration) -> Option<u64> {
        if self.final_offset.is_some() {
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

    /// Bytes received and not read.
    pub(crate) fn unread(&self) -> u64 {
        self.highest - self.read
    }
}

/// A receive window that doubles while it is what limits the sender.
#[derive(Debug)]
pub(crate) struct Window {
    size: u64,
    limit: u64,
    renewed: Time,
}

impl Window {
    pub(crate) fn new(size: u64, limit: u64, now: Time) -> Self {
        Window {
            size,
            limit: limit.max(size),
            renewed: now,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The limit to announce once half of the window was consumed. A window that was consumed
    /// within two round trips is too small for the path.
    pub(crate) fn renew(
        &mut self,
        consumed: u64,
        granted: u64,
        now: Time,
        rtt: Duration,
    ) -> Option<u64> {
        if granted.saturating_sub(consumed) > self.size / 2 {
            return None;
        }
        if now.since(self.renewed) < rtt * 2 {
            self.size = (self.size * 2).min(self.limit);
        }
        self.renewed = now;
        let limit = consumed + self.size;
        (limit > granted).then_some(limit)
    }

    /// Doubles the window for another reason than speed.
    pub(crate) fn grow(&mut self) {
        self.size = (self.size * 2).min(self.limit);
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
            prop_assert_eq!(half.unread(), 0);
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
    fn a_window_grows_only_for_a_fast_reader() {
        let rtt = Duration::from_millis(10);
        let mut window = Window::new(1000, 4000, Time::ZERO);
        assert_eq!(window.renew(499, 1000, Time::from_micros(1), rtt), None);
        assert_eq!(
            window.renew(500, 1000, Time::from_micros(2), rtt),
            Some(2500)
        );
        let late = Time::ZERO + Duration::from_secs(5);
        assert_eq!(window.renew(1600, 2500, late, rtt), Some(3600));
        assert_eq!(window.size(), 2000);
    }
}
