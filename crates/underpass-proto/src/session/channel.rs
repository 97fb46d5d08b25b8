//! One channel: both halves, or a flow of datagrams.

use std::collections::VecDeque;

use bytes::Bytes;

use super::recv_half::RecvHalf;
use super::send_half::SendHalf;
use crate::frame::{ChannelKind, Class, Encoding};
use crate::time::Time;

/// Datagrams that wait in one channel, each way; the oldest give way to new ones.
const MAX_DATAGRAMS: usize = 256;

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) kind: ChannelKind,
    pub(crate) class: Class,
    pub(crate) encoding: Encoding,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    /// OPEN was sent or has arrived. Data may overtake it where a session has several legs.
    pub(crate) announced: bool,
    /// OPENED answered this side's OPEN, or there is none to wait for.
    pub(crate) accepted: bool,
    /// Stands in the schedule.
    pub(crate) scheduled: bool,
    /// The application was told "full" and wants to know when there is room.
    pub(crate) write_blocked: bool,
    /// The peer wants no more: the code it gave.
    pub(crate) stopped: Option<u64>,
    /// STOP was sent: what still comes is thrown away.
    pub(crate) discarding: bool,
    pub(crate) datagrams_in: VecDeque<Bytes>,
    pub(crate) datagrams_out: VecDeque<(Bytes, Time)>,
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
            accepted: true,
            scheduled: false,
            write_blocked: false,
            stopped: None,
            discarding: false,
            datagrams_in: VecDeque::new(),
            datagrams_out: VecDeque::new(),
        }
    }

    /// Takes a datagram that arrived.
    pub(crate) fn receive_datagram(&mut self, data: Bytes) {
        if self.datagrams_in.len() == MAX_DATAGRAMS {
            self.datagrams_in.pop_front();
        }
        self.datagrams_in.push_back(data);
    }

    /// Queues a datagram that is worth nothing after `deadline`.
    pub(crate) fn send_datagram(&mut self, data: Bytes, deadline: Time) {
        if self.datagrams_out.len() == MAX_DATAGRAMS {
            self.datagrams_out.pop_front();
        }
        self.datagrams_out.push_back((data, deadline));
    }

    /// The next datagram that is not too late.
    pub(crate) fn next_datagram(&mut self, now: Time) -> Option<Bytes> {
        while let Some((data, deadline)) = self.datagrams_out.pop_front() {
            if deadline >= now {
                return Some(data);
            }
        }
        None
    }

    /// Nothing will happen here any more, and the final offset is known, so that the session's
    /// window is settled.
    pub(crate) fn is_finished(&self) -> bool {
        self.send.is_done() && self.recv.is_complete() && (self.recv.is_ended() || self.discarding)
    }
}
