//! What a session tells of itself.

use std::time::Duration;

use underpass_proto::packet::SessionId;
use underpass_proto::session::Closed;

use crate::story::Told;

/// What a session was seen to do.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// Its name.
    pub id: SessionId,
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
