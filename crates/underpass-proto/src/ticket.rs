//! Tickets: what re-opens a path to a kept session.

use std::fmt;

/// 32 random bytes that are good for one resume. Whoever holds them may ask for the session
/// (and then has to prove that they know its keys), so they are never shown, and
/// compared only by their digests.
#[derive(Clone)]
pub struct Ticket([u8; 32]);

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
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(secret)")
    }
}

#[cfg(test)]
mod tests {
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
