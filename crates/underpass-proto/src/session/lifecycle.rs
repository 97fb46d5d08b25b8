//! What time brings, and how a session ends.

use std::time::Duration;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::leg::{MAX_PATIENCE, Verdict};
use super::{Closed, ClosedBy, Event, LINGER, LegId, Session, State};
use crate::code;
use crate::frame::{Close, Frame};
use crate::session::schedule::Schedule;
use crate::time::Time;

impl Session {
    /// When [`Session::handle_timeout`] wants to be called next. A time that has come is not named
    /// again once it was called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.state == State::Closed {
            return None;
        }
        let closing = match self.state {
            State::Closing { until } => Some(until),
            _ => None,
        };
        let expiry = self.detached_since.map(|since| since + self.keep());
        let (idle, patience) = (self.config.ping_after, self.patience);
        let legs = self
            .legs
            .iter()
            .filter_map(|(id, leg)| leg.timeout(self.replay.oldest_under_way(*id), idle, patience));
        // Without an active leg there is nowhere to send an acknowledgement to.
        let ack = self
            .received
            .timeout()
            .filter(|_| self.active_leg().is_some());
        legs.chain(closing).chain(expiry).chain(ack).min()
    }

    /// Acts on the time: acknowledgements that are due, legs that went silent, expiry. After it the
    /// driver polls for events and packets as after any other input.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.state == State::Closed {
            return;
        }
        self.received.handle_timeout(now);
        self.check_legs(now);
        if matches!(self.state, State::Closing { until } if until <= now) {
            self.end();
        }
        if self
            .detached_since
            .is_some_and(|since| now >= since + self.keep())
        {
            let reason = "no path led to the peer for longer than the session is kept";
            self.fail(code::SESSION_EXPIRED, reason);
        }
    }

    fn check_legs(&mut self, now: Time) {
        let (idle, patience) = (self.config.ping_after, self.patience);
        let mut hopeless = SmallVec::<[LegId; 2]>::new();
        for (id, leg) in &mut self.legs {
            let oldest = self.replay.oldest_under_way(*id);
            match leg.handle_timeout(now, oldest, idle, patience) {
                Verdict::Fine => {}
                Verdict::Missing => self.events.push_back(Event::AnswerMissing { leg: *id }),
                Verdict::Late => self.events.push_back(Event::LegLate { leg: *id }),
                Verdict::Suspect => {
                    self.patience = (self.patience + 1).min(MAX_PATIENCE);
                    self.events.push_back(Event::LegSuspect { leg: *id });
                }
                Verdict::Hopeless => hopeless.push(*id),
            }
            if leg.owes_ping() && oldest.is_none() {
                // Nothing goes on: an idle session holds no room for records.
                self.outgoing = BytesMut::new();
                self.incoming = BytesMut::new();
            }
        }
        for leg in hopeless {
            self.drop_leg(leg, None);
            self.note_detached(now);
        }
        if self.several {
            self.review_legs(now);
        }
    }

    /// How long this session is kept while no leg is left: what both sides can offer.
    fn keep(&self) -> Duration {
        Duration::from_secs(self.config.params.keep_s.min(self.peer.keep_s))
    }

    /// Ends the session: the peer is told, and so are its applications and this side's. Data that
    /// was written before is not waited for.
    pub fn close(&mut self, now: Time, code: u64, reason: &str) {
        if self.state != State::Open {
            return;
        }
        self.control.clear();
        self.control.push_back(Frame::Close(Close {
            code,
            reason: truncated(reason, 1024),
        }));
        self.closed(ClosedBy::Local, code, reason);
        self.state = State::Closing {
            until: now + LINGER,
        };
    }

    /// Ends the session without telling the peer, which is gone or not to be trusted.
    pub(super) fn fail(&mut self, code: u64, reason: &str) {
        if self.state == State::Open {
            self.closed(ClosedBy::Local, code, reason);
        }
        self.end();
    }

    /// Tells the driver of the end, once, and lets go of all channels, except for what can still be read of them.
    pub(super) fn closed(&mut self, by: ClosedBy, code: u64, reason: &str) {
        let channels = std::mem::take(&mut self.channels);
        if by == ClosedBy::Peer {
            let halves = channels.into_iter().map(|(id, channel)| (id, channel.recv));
            self.left = halves.filter(|(_, half)| half.is_whole()).collect();
        }
        self.schedule = Schedule::default();
        self.renewable.clear();
        self.datagrams.clear();
        self.redials_under_way.clear();
        self.datagram_bytes = 0;
        self.fragments = 0;
        self.credit.consumed = self.credit.received;
        self.events.push_back(Event::Closed(Closed {
            by,
            code,
            reason: reason.to_owned(),
        }));
    }

    pub(super) fn end(&mut self) {
        self.state = State::Closed;
        let legs: SmallVec<[LegId; 4]> = self.legs.keys().copied().collect();
        for leg in legs {
            self.drop_leg(leg, None);
        }
        self.replay.clear();
        self.control.clear();
        self.detached_since = None;
    }
}

fn truncated(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
