//! What a session is made from, and what it tells of its books.

use std::time::Duration;

use underpass_seal::{Cipher, Secrets};

use super::{Budget, epochs};
use crate::grade::Grade;
use crate::packet::SessionId;
use crate::params::Params;
use crate::role::Role;
use crate::ticket::Ticket;

/// The limits that one endpoint sets for its sessions.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the peer is told: first windows, channels, how long a detached session is kept.
    pub params: Params,
    /// A channel's receive window grows up to this many bytes.
    pub max_channel_window: u64,
    /// The session's receive window grows up to this many bytes: the bound on what it buffers for
    /// readers that are slow.
    pub max_session_window: u64,
    /// The replay queue holds at most this many bytes.
    pub max_replay: u64,
    /// What all sessions of the process may hold for replay together.
    pub budget: Budget,
    /// A leg on which nothing was sent, or nothing answered, for so long is pinged.
    pub ping_after: Duration,
    /// Reliable and unreliable records sealed before the keys are renewed.
    pub records_per_epoch: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            params: Params::default(),
            max_channel_window: 16 << 20,
            max_session_window: 64 << 20,
            max_replay: 64 << 20,
            budget: Budget::new(512 << 20),
            ping_after: Duration::from_secs(8),
            records_per_epoch: epochs::RECORDS_PER_EPOCH,
        }
    }
}

/// What a handshake settled; made by [`crate::handshake`].
pub struct Agreed {
    /// This side's role.
    pub role: Role,
    /// The session's name, chosen by the initiator.
    pub id: SessionId,
    /// How much others can read.
    pub grade: Grade,
    /// The cipher of the records: one that goes with the grade.
    pub cipher: Cipher,
    /// The keys.
    pub secrets: Secrets,
    /// What the peer announced.
    pub peer: Params,
    /// The first ticket, made by the responder.
    pub ticket: Ticket,
}

/// How much of the session's credit is used, in bytes of all stream channels together.
///
/// When nothing is under way, `sent` of one end equals `received` of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Sum of the highest offsets that this side sent.
    pub sent: u64,
    /// What the peer allows of that.
    pub send_limit: u64,
    /// Sum of the highest offsets that arrived.
    pub received: u64,
    /// What of that the application has read, or will never read.
    pub read: u64,
    /// What the peer was allowed to send.
    pub granted: u64,
}
