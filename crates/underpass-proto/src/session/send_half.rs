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
    /// Nothing from this offset on goes out before the peer has REDIAL: it belongs to another
    /// service.
    barrier: Option<u64>,
    finished: bool,
    fin_sent: bool,
    reset: bool,
    /// The application knows of the reset: it asked for it, or was told that the peer stopped.
    told: bool,
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

    /// Bytes that the peer takes beyond those that were sent.
    pub(crate) fn credit(&self) -> u64 {
        self.limit.saturating_sub(self.offset)
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
        let end = self.barrier.map_or(self.limit, |at| at.min(self.limit));
        let credit = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        self.buffered.min(credit)
    }

    /// Whether the end may be sent right after the next `bytes`.
    pub(crate) fn ends_after(&self, bytes: usize) -> bool {
        self.finished
            && !self.fin_sent
            && !self.reset
            && self.barrier.is_none()
            && bytes == self.buffered
    }

    /// Holds back what lies behind `offset`, or nothing any more.
    pub(crate) fn set_barrier(&mut self, offset: Option<u64>) {
        self.barrier = offset;
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

    /// The application knows that nothing will be sent any more.
    pub(crate) fn set_told(&mut self) {
        self.told = true;
    }

    /// Nothing will ever be sent again.
    pub(crate) fn is_done(&self) -> bool {
        self.fin_sent || self.reset
    }

    /// The same, and the application has no more to ask here.
    pub(crate) fn is_settled(&self) -> bool {
        self.fin_sent || (self.reset && (self.told || self.finished))
    }
}
