//! What a ticket authority keeps of one session, and how it changes.

use std::time::Duration;

use rand_core::CryptoRng;
use underpass_seal::{constant_time_eq, sha256};

use super::{Handle, Ticket};
use crate::packet::SessionId;
use crate::time::Time;

/// How much longer than its session a ticket lasts, at the least half of it: within that a relay
/// renews the tickets of the routes that are open.
pub const MARGIN: Duration = Duration::from_secs(3600);

/// Whose ticket it is. One that somebody else presents, or for another session, is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key of the client's machine, as its session with the relay has proved it.
    pub holder: [u8; 32],
    /// The session that the ticket re-opens a path to.
    pub session: SessionId,
}

impl Claim {
    /// What the authority keeps of it.
    fn digest(&self) -> [u8; 32] {
        let Claim { holder, session } = self;
        sha256(&[b"underpass/1 ticket claim", holder, &session.0])
    }
}

/// Why a ticket was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGood {
    /// It is none, or was spent, or its session has ended: the authority keeps nothing of those.
    #[error("the authority has no such ticket")]
    Unknown,
    /// It was not used for longer than its session can have been kept.
    #[error("the ticket has expired")]
    Expired,
    /// Another machine's, or of another session.
    #[error("the ticket is somebody else's")]
    Foreign,
}

/// What the authority keeps of one session. Nobody who reads it can present a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its name.
    pub handle: Handle,
    /// Digest of the ticket that is good.
    pub current: [u8; 32],
    /// Digest of the one after it, which is good too and ends the other when it is presented.
    pub next: [u8; 32],
    /// What makes the one of the other.
    pub salt: [u8; 32],
    /// Digest of the [`Claim`].
    pub claim: [u8; 32],
    /// Where the far endpoint is, in the words of the relays that share the authority.
    pub far: Vec<u8>,
    /// How long the session may be kept without a path.
    pub keep: Duration,
    /// When the tickets of the line expire, by the authority's own clock.
    pub expires: Time,
}

/// A line that was begun, and its first ticket.
#[derive(Clone, Debug)]
pub struct Issued {
    /// To be kept.
    pub line: Line,
    /// For the client.
    pub ticket: Ticket,
}

/// A ticket that was good.
#[derive(Clone, Debug)]
pub struct Presented {
    /// The line as it is now, where it changed.
    pub changed: Option<Line>,
    /// The ticket that takes the place of the one presented.
    pub next: Ticket,
}

impl Line {
    /// Begins a line.
    pub fn issue(
        claim: &Claim,
        far: Vec<u8>,
        keep: Duration,
        now: Time,
        rng: &mut impl CryptoRng,
    ) -> Issued {
        let (mut handle, mut ticket, mut salt) = ([0; 16], [0; 32], [0; 32]);
        rng.fill_bytes(&mut handle);
        rng.fill_bytes(&mut ticket);
        rng.fill_bytes(&mut salt);
        let ticket = Ticket::new(ticket);
        let line = Line {
            handle: Handle(handle),
            current: ticket.digest(),
            next: ticket.next(&salt).digest(),
            salt,
            claim: claim.digest(),
            far,
            keep,
            expires: now + keep + MARGIN,
        };
        Issued { line, ticket }
    }

    /// Presents a ticket. The current one stays good and gets the same answer each time; the one
    /// after it becomes the current one, and the one before is spent.
    ///
    /// # Errors
    /// See [`NotGood`].
    pub fn present(
        &self,
        ticket: &Ticket,
        claim: &Claim,
        now: Time,
        rng: &mut impl CryptoRng,
    ) -> Result<Presented, NotGood> {
        let digest = ticket.digest();
        let is_next = constant_time_eq(&digest, &self.next);
        if !is_next && !constant_time_eq(&digest, &self.current) {
            return Err(NotGood::Unknown);
        }
        if !constant_time_eq(&claim.digest(), &self.claim) {
            return Err(NotGood::Foreign);
        }
        if self.is_over(now) {
            return Err(NotGood::Expired);
        }
        let mut line = self.clone();
        line.renew(now);
        if is_next {
            rng.fill_bytes(&mut line.salt);
            line.current = digest;
            line.next = ticket.next(&line.salt).digest();
        }
        let next = ticket.next(&line.salt);
        let changed = (line != *self).then_some(line);
        Ok(Presented { changed, next })
    }

    /// The session has a path: its ticket lasts as long as a new one. Within half the [`MARGIN`] of
    /// the last time nothing changes, so that not every use has to be written down.
    pub fn renew(&mut self, now: Time) {
        let expires = now + self.keep + MARGIN;
        if expires >= self.expires + MARGIN / 2 {
            self.expires = expires;
        }
    }

    /// Whether its tickets have expired.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        now >= self.expires
    }
}
