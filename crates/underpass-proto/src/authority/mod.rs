//! What a relay and a ticket authority of its own process say to each other.
//!
//! They stand on a connection whose two ends have shown each other their certificates, one after the
//! other: `length: varint | type: varint | fields`, the length at most [`MAX_AUTHORITY`]. The relay
//! begins with [`AuthorityHello`]; the authority answers with [`Welcome`], or ends the connection. From
//! then on each question carries a number of the relay's choice, and exactly one answer carries it
//! back, in any order. Whoever lost an answer asks again: the same question changes nothing twice.
//!
//! What a ticket is, and when it is good, [`crate::ticket`] decides.

mod answers;
mod questions;

pub use answers::{Granted, NoAnswer, Refused, RefusedBecause, Settled, Welcome};
pub use questions::{AuthorityHello, Check, Discard, Issue, Ping, Renew};

use bytes::{BufMut, BytesMut};

use crate::packet::whole;
use crate::varint;
use crate::wire::{DecodeError, cut_message, messages};

/// The version of this exchange that is spoken here; there is no other yet.
pub const AUTHORITY_VERSION: u16 = 1;

/// The most that the length of a message may say, in bytes.
pub const MAX_AUTHORITY: usize = 8192;

/// The most handles in one [`Renew`].
pub const MAX_RENEWED: usize = 256;

/// The longest far address, in bytes.
pub const MAX_FAR: usize = 64;

/// Who says something between a relay and its ticket authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The relay, which asks.
    Relay,
    /// The authority, which answers.
    Authority,
}

impl Party {
    /// The speaker in words, as errors and the specification use them.
    pub fn name(self) -> &'static str {
        match self {
            Party::Relay => "a question from a relay",
            Party::Authority => "an answer from an authority",
        }
    }
}

messages! {
    /// Any message between a relay and its ticket authority.
    pub enum AuthorityMessage;
    /// The type of such a message.
    pub enum AuthorityMessageType, unknown = UnknownAuthority;
    place = Party, family = "authority";

    /// The first message.
    0x01 AuthorityHello in [Relay];
    /// A ticket for a session.
    0x02 Issue in [Relay];
    /// Is this ticket good?
    0x03 Check in [Relay];
    /// Have tickets last.
    0x04 Renew in [Relay];
    /// Delete a ticket.
    0x05 Discard in [Relay];
    /// Are you there?
    0x06 Ping in [Relay];

    /// The answer to the first message.
    0x20 Welcome in [Authority];
    /// A ticket.
    0x21 Granted in [Authority];
    /// Done.
    0x22 Settled in [Authority];
    /// The ticket is no good.
    0x23 Refused in [Authority];
    /// The authority cannot tell.
    0x24 NoAnswer in [Authority];
}

impl AuthorityMessage {
    /// The number of the question that this is or answers; `None` for the two that begin.
    pub fn request(&self) -> Option<u64> {
        macro_rules! of {
            ($($name:ident)*) => {
                match self {
                    $( AuthorityMessage::$name(it) => Some(it.request), )*
                    AuthorityMessage::AuthorityHello(_) | AuthorityMessage::Welcome(_) => None,
                }
            };
        }
        of! { Issue Check Renew Discard Ping Granted Settled Refused NoAnswer }
    }

    /// The same with another number; those that begin have none.
    #[must_use]
    pub fn numbered(mut self, number: u64) -> Self {
        macro_rules! of {
            ($($name:ident)*) => {
                match &mut self {
                    $( AuthorityMessage::$name(it) => it.request = number, )*
                    AuthorityMessage::AuthorityHello(_) | AuthorityMessage::Welcome(_) => {}
                }
            };
        }
        of! { Issue Check Renew Discard Ping Granted Settled Refused NoAnswer }
        self
    }

    /// Appends the message with its length.
    pub fn put_framed(&self, buf: &mut impl BufMut) {
        varint::put(buf, self.encoded_len() as u64);
        self.encode(buf);
    }

    /// Takes the next message that `by` says off the front of `buf`, or `None` until more is there.
    /// Nothing is to be read from that peer after an error.
    ///
    /// # Errors
    /// What is wrong and where; a message that is too long fails as soon as its length is known.
    pub fn take(by: Party, buf: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        let Some(message) = cut_message(buf, MAX_AUTHORITY, "AuthorityMessage")? else {
            return Ok(None);
        };
        whole(message, "AuthorityMessage", |bytes| {
            Self::decode_in(by, bytes)
        })
        .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &AuthorityMessage) -> BytesMut {
        let mut bytes = BytesMut::new();
        message.put_framed(&mut bytes);
        bytes
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let all = [
            AuthorityMessage::from(Ping { request: 7 }),
            Renew {
                request: 8,
                handles: vec![[9; 16]; MAX_RENEWED],
            }
            .into(),
        ];
        let bytes = [framed(&all[0]), framed(&all[1])].concat();
        assert!(bytes.len() <= MAX_AUTHORITY);
        for chunk in [1, 7, bytes.len()] {
            let (mut buf, mut found) = (BytesMut::new(), Vec::new());
            for some in bytes.chunks(chunk) {
                buf.extend_from_slice(some);
                while let Some(message) = AuthorityMessage::take(Party::Relay, &mut buf).unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, all);
            assert!(buf.is_empty());
        }
    }

    #[test]
    fn what_is_too_long_fails_by_its_length_alone() {
        let mut buf = BytesMut::new();
        varint::put(&mut buf, MAX_AUTHORITY as u64 + 1);
        let limit = MAX_AUTHORITY;
        let what = "AuthorityMessage";
        assert_eq!(
            AuthorityMessage::take(Party::Relay, &mut buf),
            Err(DecodeError::TooLong { what, limit })
        );
        let many = Renew {
            request: 1,
            handles: vec![[0; 16]; MAX_RENEWED + 1],
        };
        assert!(AuthorityMessage::take(Party::Relay, &mut framed(&many.into())).is_err());
    }

    #[test]
    fn nobody_says_what_the_other_has_to() {
        for (message, by) in [
            (AuthorityMessage::from(Ping { request: 1 }), Party::Relay),
            (Settled { request: 1 }.into(), Party::Authority),
        ] {
            let other = match by {
                Party::Relay => Party::Authority,
                Party::Authority => Party::Relay,
            };
            assert!(AuthorityMessage::take(other, &mut framed(&message)).is_err());
            let taken = AuthorityMessage::take(by, &mut framed(&message));
            assert_eq!(taken, Ok(Some(message)));
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let check = Check {
            request: 1,
            holder: [2; 32],
            session: [3; 16],
            ticket: [0xab; 32],
        };
        let shown = format!("{check:?}");
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
