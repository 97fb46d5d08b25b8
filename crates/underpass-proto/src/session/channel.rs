//! One channel: both halves, or a flow of datagrams.

use std::collections::VecDeque;

use bytes::Bytes;

use super::recv_half::RecvHalf;
use super::send_half::SendHalf;
use crate::frame::{ChannelKind, Class, Encoding};
use crate::time::Time;

/// Datagrams that wait in one channel, each way, and their bytes; the oldest give way to new ones.
const MAX_DATAGRAMS: usize = 256;
const MAX_DATAGRAM_BYTES: usize = 1 << 20;
/// REDIALs that a channel keeps until its OPEN has arrived.
pub(crate) const MAX_EARLY_REDIALS: usize = 16;

/// Datagrams that wait.
#[derive(Debug)]
pub(crate) struct Datagrams<T> {
    waiting: VecDeque<(Bytes, T)>,
    bytes: usize,
}

impl<T> Datagrams<T> {
    fn new() -> Self {
        Datagrams {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Adds one; the oldest make room.
    pub(crate) fn push(&mut self, data: Bytes, with: T) {
        self.bytes += data.len();
        self.waiting.push_back((data, with));
        while self.waiting.len() > MAX_DATAGRAMS || self.bytes > MAX_DATAGRAM_BYTES {
            self.pop();
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Bytes, T)> {
        let (data, with) = self.waiting.pop_front()?;
        self.bytes -= data.len();
        Some((data, with))
    }

    pub(crate) fn front(&self) -> Option<&(Bytes, T)> {
        self.waiting.front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) kind: ChannelKind,
    pub(crate) class: Class,
    pub(crate) encoding: Encoding,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    /// OPEN was sent or has arrived. Data may overtake it where a session has several legs.
    pub(crate) announced: bool,
    /// OPEN of this side's channel has not gone out: a datagram before it would find no channel.
    pub(crate) open_waits: bool,
    /// Stands in the schedule.
    pub(crate) scheduled: bool,
    /// Something was read: its window may be worth renewing.
    pub(crate) renewable: bool,
    /// The application was told "full" and wants to know when there is room.
    pub(crate) write_blocked: bool,
    /// The peer wants no more: the code it gave.
    pub(crate) stopped: Option<u64>,
    pub(crate) datagrams_in: Datagrams<()>,
    pub(crate) datagrams_out: Datagrams<Time>,
    /// REDIALs to send, by offset: the first is under way while the sending half has its barrier.
    pub(crate) redials_out: VecDeque<(u64, String)>,
    /// REDIALs that arrived before OPEN.
    pub(crate) redials_in: Vec<(u64, String)>,
}

impl Channel {
    pub(crate) fn new(
        kind: ChannelKind,
        class: Class,
        encoding: Encoding,
        send_limit: u64,
        recv: RecvHalf,
    ) -> Self {
        Channel {
            kind,
            class,
            encoding,
            send: SendHalf::new(send_limit),
            recv,
            announced: false,
            open_waits: false,
            scheduled: false,
            renewable: false,
            write_blocked: false,
            stopped: None,
            datagrams_in: Datagrams::new(),
            datagrams_out: Datagrams::new(),
            redials_out: VecDeque::new(),
            redials_in: Vec::new(),
        }
    }

    /// Forgets datagrams that are too late; true when one is left.
    pub(crate) fn drop_late(&mut self, now: Time) -> bool {
        while let Some((_, deadline)) = self.datagrams_out.front() {
            if *deadline >= now {
                return true;
            }
            self.datagrams_out.pop();
        }
        false
    }

    /// Nothing will happen here any more, and the final offset is known, so that the session's
    /// window is settled.
    pub(crate) fn is_finished(&self) -> bool {
        self.send.is_settled() && self.recv.is_settled()
    }
}
