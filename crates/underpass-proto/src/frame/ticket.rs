//! TICKET: what re-opens a path to this session.

use crate::wire::{Secret, body};

body! {
    /// In an answer: gives the peer the ticket for its next resume. The one before stays good until
    /// this one is used: a lost reply locks nobody out. In a request: shows the ticket.
    pub struct Ticket {
        /// The ticket: 32 random bytes, good for one resume.
        pub ticket: [u8; 32] as Secret,
        /// How long it is good for, in seconds from when it arrives; 0 in a request.
        pub lifetime_s: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Ticket {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Ticket {
                ticket: std::array::from_fn(|n| n as u8),
                lifetime_s: 600,
            },
            "0f 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 4258",
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_keeps_the_ticket() {
        let ticket = Ticket {
            ticket: [0x5a; 32],
            lifetime_s: 600,
        };
        assert_eq!(
            format!("{ticket:?}"),
            "Ticket { ticket: (secret), lifetime_s: 600 }"
        );
    }
}
