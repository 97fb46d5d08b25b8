//! What waits to be sent on a stream channel. Once sealed into a record it is the replay queue's.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes};

/// Bytes that one channel takes from the application before it says "full".
pub(crate) const SEND_BUFFER: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct SendHalf {
    waiting: VecDeque<Bytes>,
    buffered: usize,
    /// Offset of the first waiting byte.
    offset: u64,
    /// The peer takes bytes below this offset.
    limit: u64,
    /// Offsets from which on bytes wait for another host service, one per redial under way.
    holds: VecDeque<u64>,
    finished: bool,
    fin_sent: bool,
    reset: bool,
}

impl SendHalf {
    pub(crate) fn new(limit: u64) -> Self {
        SendHalf {
            limit,
            ..SendHalf::default()
        }
    }

    /// How many bytes the application may add.
    pub(crate) fn room(&self) -> usize {
        SEND_BUFFER.saturating_sub(self.buffered)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.finished && !self.reset
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.reset
    }

    /// Adds bytes; the caller has asked [`SendHalf::room`].
    pub(crate) fn push(&mut self, data: Bytes) {
        self.buffered += data.len();
        if !data.is_empty() {
            self.waiting.push_back(data);
        }
    }

    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    /// Forgets what waits and returns the final offset.
    pub(crate) fn reset(&mut self) -> u64 {
        self.waiting.clear();
        self.buffered = 0;
        self.reset = true;
        self.offset
    }

    /// A larger limit from the peer; smaller ones are old news.
    pub(crate) fn raise_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// What is added from now on waits for [`SendHalf::release`].
    pub(crate) fn hold(&mut self) {
        self.holds.push_back(self.end());
    }

    /// The first hold is over.
    pub(crate) fn release(&mut self) {
        self.holds.pop_front();
    }

    /// Offset of the next byte to be sent.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// One past the last byte taken from the application.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.buffered as u64
    }

    /// Bytes that may go out as far as this channel's window goes.
    pub(crate) fn sendable(&self) -> usize {
        let limit = self
            .holds
            .front()
            .map_or(self.limit, |hold| self.limit.min(*hold));
        let credit = usize::try_from(limit.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        self.buffered.min(credit)
    }

    /// Whether the end may be sent right after the next `bytes`.
    pub(crate) fn ends_after(&self, bytes: usize) -> bool {
        self.finished
            && !self.fin_sent
            && !self.reset
            && bytes == self.buffered
            && self.holds.is_empty()
    }

    /// Whether there is anything that may go out now.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.reset && (self.sendable() > 0 || self.ends_after(0))
    }

    /// Moves the next `bytes` into a record: the one copy on the way out.
    pub(crate) fn copy_into(&mut self, out: &mut impl BufMut, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let Some(front) = self.waiting.front_mut() else {
                break;
            };
            let part = left.min(front.len());
            out.put_slice(&front[..part]);
            front.advance(part);
            if front.is_empty() {
                self.waiting.pop_front();
            }
            left -= part;
        }
        self.buffered -= bytes - left;
        self.offset += (bytes - left) as u64;
    }

    pub(crate) fn set_fin_sent(&mut self) {
        self.fin_sent = true;
    }

    /// Nothing will ever be sent again.
    pub(crate) fn is_done(&self) -> bool {
        self.fin_sent || self.reset
    }
}
