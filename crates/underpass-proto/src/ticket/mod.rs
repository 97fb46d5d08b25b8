//! Tickets: what re-opens a path to a kept session.
//!
//! A session whose endpoints reach each other directly has one: it travels inside the sealed messages
//! of a resume ([`crate::session`]). One that leads through a relay has two, and this module decides
//! about the **first**, which a *ticket authority* gives out and checks:
//!
//! ```text
//! client                      relay                     authority          far endpoint
//!    OPEN service, HELLO   ->    issue                ->   a new line
//!    <- TICKET first, handle     <- first, handle
//!                                INCOMING, HELLO                      ->
//!  ... the path breaks ...
//!    REOPEN first, RESUME  ->    present first        ->   good: the far address, and the ticket after it
//!    <- TICKET next, handle      <- far address, next
//!                                INCOMING, RESUME (with the second ticket, sealed)  ->  opens and checks it
//!  ... a clean end ...
//!    DISCARD handle        ->    forget               ->   the line is deleted
//! ```
//!
//! - [`Line`] is what the authority keeps of one session: digests only. Its transitions are pure; who
//!   keeps lines stores what comes out in the same transaction that read what went in.
//! - [`FirstTickets`] is what the client keeps.
//!
//! The ticket after the one presented is a digest of it and of random bytes in its line. So the same
//! question gets the same answer, however often its answer was lost, and asking changes nothing: a
//! ticket is spent when the one after it is presented, which shows that the client has that.

mod first;
mod line;
#[cfg(test)]
mod tests;

use std::fmt;

pub use first::FirstTickets;
pub use line::{Claim, Issued, Line, MARGIN, NotGood, Presented};

/// 32 bytes that nobody can guess and that are good for one resume. Whoever holds them may ask for the session
/// (and then has to prove that they know its keys), so they are never shown, and
/// compared only by their digests.
#[derive(Clone)]
pub struct Ticket([u8; 32]);

/// Names a session's line at the authority, so that its ticket can be deleted by whoever may not have
/// it. 16 random bytes; good for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub [u8; 16]);

impl Ticket {
    /// The ticket made of these random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Ticket(bytes)
    }

    /// Its bytes, for the wire.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a keeper of tickets stores and looks up instead of the ticket itself: who reads
    /// its memory or its database cannot use what is found there.
    pub fn digest(&self) -> [u8; 32] {
        underpass_seal::sha256(&[b"underpass/1 ticket", &self.0])
    }

    /// The ticket that takes the place of this one in a line with that salt.
    fn next(&self, salt: &[u8; 32]) -> Ticket {
        Ticket(underpass_seal::sha256(&[
            b"underpass/1 next ticket",
            salt,
            &self.0,
        ]))
    }
}

/// In constant time.
impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        underpass_seal::constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for Ticket {}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(secret)")
    }
}

#[cfg(test)]
mod digests {
    use super::*;
    use crate::wire::samples::bytes_of;

    #[test]
    fn the_digest_is_a_labelled_sha256() {
        // Taken with another implementation of SHA-256.
        let digest = Ticket::new([b'Z'; 32]).digest();
        assert_eq!(digest.to_vec(), bytes_of(DIGEST));
        assert_ne!(digest, Ticket::new([b'Y'; 32]).digest());
    }

    const DIGEST: &str = "9f3b9c7ca9a7c6a5767944ffade37526618ed7781c51bdddd4b8b99a55021dd7";

    #[test]
    fn debug_output_keeps_the_ticket() {
        assert_eq!(format!("{:?}", Ticket::new([7; 32])), "Ticket(secret)");
    }
}
