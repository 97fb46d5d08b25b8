//! What a session tells of itself.

use std::time::Duration;

use underpass_proto::Grade;
use underpass_proto::packet::SessionId;
use underpass_proto::session::{Closed, LegId, LegInfo};

use crate::story::Told;

/// What a session was seen to do.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// Its name.
    pub id: SessionId,
    /// How much others can read of it.
    pub grade: Grade,
    /// Smoothed round trip between the endpoints, once measured.
    pub rtt: Option<Duration>,
    /// Bytes per second that the path was seen to deliver; 0 before it was measured.
    pub rate: u64,
    /// How many times it went on over another leg.
    pub resumes: u64,
    /// For how long no leg has been there.
    pub detached_for: Option<Duration>,
    /// Bytes sent and not acknowledged.
    pub unacknowledged: u64,
    /// Bytes received and not read by the application.
    pub unread: u64,
    /// Open channels.
    pub channels: usize,
    /// How it ended, if it did.
    pub closed: Option<Closed>,
    /// What carries it.
    pub legs: Vec<LegStatus>,
    /// Its story.
    pub told: Told,
}

/// What one of the legs that carry a session was seen to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegStatus {
    /// What carries it, in words.
    pub by: String,
    /// What must not wait goes on it.
    pub leads: bool,
    /// This side sends on it, as far as there is something for it.
    pub sends: bool,
    /// The peer may send on it.
    pub takes: bool,
    /// It does not answer.
    pub suspect: bool,
    /// Its smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// Bytes per second that it was seen to deliver; 0 before that was measured.
    pub rate: u64,
    /// Bytes that were sent on it.
    pub sent: u64,
    /// Bytes that came in on it.
    pub received: u64,
}

/// What a leg tells of the relay that it passes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LegSeen {
    pub(crate) leg: LegId,
    /// The relay's name.
    pub(crate) relay: String,
    /// Bytes per second that it delivers, where it has more to send than it can.
    pub(crate) full_rate: Option<u64>,
    /// Packets sent on it so far.
    pub(crate) packets: u64,
    /// Those of them that the relay dropped.
    pub(crate) dropped: u64,
}

impl LegSeen {
    pub(crate) fn new(info: &LegInfo, relay: &str) -> Self {
        Self {
            leg: info.leg,
            relay: relay.to_owned(),
            full_rate: (info.full && info.rate > 0).then_some(info.rate),
            packets: info.packets,
            dropped: info.dropped,
        }
    }
}
