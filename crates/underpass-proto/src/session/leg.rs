//! One leg as the session sees it: what state it is in, and whether it still answers.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::path::Path;
use crate::time::Time;

/// Names a leg within its session. The driver chooses it and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub u64);

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leg {}", self.0)
    }
}

/// Without an expected answer for longer than this (or three round trips), a leg is suspect.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LegState {
    /// RESUME went out, or has come in: not yet proven.
    Resuming,
    /// Carries the session.
    Active,
}

#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) state: LegState,
    pub(crate) path: Path,
    /// Whole packets to send before any record.
    pub(crate) first: VecDeque<Bytes>,
    /// Packets handed out for this leg so far: the index of the next one.
    pub(crate) packets: u64,
    /// Something genuine arrived.
    last_heard: Time,
    last_sent: Time,
    /// Token and time of the PING that is not answered yet.
    ping: Option<(u64, Time)>,
    /// The token of the PING to be answered.
    pub(crate) pong_owed: Option<u64>,
    pub(crate) ping_owed: bool,
    suspect: bool,
}

impl Leg {
    pub(crate) fn new(state: LegState, packets: u64, now: Time) -> Self {
        Leg {
            state,
            path: Path::new(now),
            first: VecDeque::new(),
            packets,
            last_heard: now,
            last_sent: now,
            ping: None,
            pong_owed: None,
            ping_owed: false,
            suspect: false,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state == LegState::Active
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    pub(crate) fn heard(&mut self, now: Time) {
        self.last_heard = now;
        self.suspect = false;
    }

    pub(crate) fn sent(&mut self, now: Time) {
        self.packets += 1;
        self.last_sent = now;
    }

    pub(crate) fn pinged(&mut self, token: u64, now: Time) {
        self.ping_owed = false;
        self.ping = Some((token, now));
    }

    pub(crate) fn ponged(&mut self, token: u64, now: Time) {
        if let Some((expected, sent)) = self.ping {
            if expected == token {
                self.ping = None;
                self.path.on_rtt(now, now.since(sent));
            }
        }
    }

    /// When this leg becomes suspect, given when the oldest record under way was sent.
    fn suspect_at(&self, oldest: Option<Time>) -> Option<Time> {
        let waiting_since = match (oldest, self.ping.map(|(_, sent)| sent)) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(waiting_since.max(self.last_heard) + SUSPECT_AFTER.max(self.path.rtt() * 3))
    }

    /// When the next PING is due, if this leg stays as quiet as it is.
    fn ping_at(&self, idle: Duration) -> Option<Time> {
        self.ping
            .is_none()
            .then(|| self.last_heard.min(self.last_sent) + idle)
    }

    /// When something is to be done for this leg.
    pub(crate) fn timeout(&self, oldest: Option<Time>, idle: Duration) -> Option<Time> {
        if !self.is_active() {
            return None;
        }
        let suspect = self.suspect_at(oldest).filter(|_| !self.suspect);
        let ping = self.ping_at(idle).filter(|_| !self.ping_owed);
        [suspect, ping].into_iter().flatten().min()
    }

    /// Acts on the time. True when the leg has just become suspect.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Time,
        oldest: Option<Time>,
        idle: Duration,
    ) -> bool {
        if !self.is_active() {
            return false;
        }
        if self.ping_at(idle).is_some_and(|at| at <= now) {
            self.ping_owed = true;
        }
        if !self.suspect && self.suspect_at(oldest).is_some_and(|at| at <= now) {
            self.suspect = true;
            return true;
        }
        false
    }
}
