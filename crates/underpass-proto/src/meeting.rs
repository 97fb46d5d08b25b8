//! The place where two meet who have wished for each other: what the one who opens asks the relay for.
//!
//! `@meet/APPLICATION/WAITING/PEER`: the application, the fingerprint of the machine that waits, and whom that machine has
//! wished for (a user, or `*`). It says everything that a relay needs to find the wish, so each relay of a group finds it
//! without a word from the others, and again after a restart.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use underpass_seal::{Fingerprint, sha256};

use crate::names;

/// What such a name begins with; no service can have one that does.
pub const PREFIX: &str = "@meet/";

/// Whoever comes, in the place of a user's name.
pub const ANYBODY: &str = "*";

/// Whom somebody wishes to meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Anybody who wishes for the one who says this.
    Anybody,
    /// This user.
    User(String),
}

/// The place of a meeting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// What for.
    pub application: String,
    /// The machine that waits there.
    pub waiting: [u8; 32],
    /// Whom it waits for.
    pub peer: Peer,
}

/// A text that names no place, user or application.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MeetingError {
    /// It has not the form of a place.
    #[error("a meeting is named @meet/APPLICATION/FINGERPRINT/USER")]
    Form,
    /// One of the names in it is none.
    #[error(transparent)]
    Name(#[from] names::NameError),
}

impl FromStr for Peer {
    type Err = MeetingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == ANYBODY {
            return Ok(Self::Anybody);
        }
        names::check(text)?;
        Ok(Self::User(text.to_owned()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Anybody => ANYBODY,
            Self::User(name) => name,
        })
    }
}

impl FromStr for Place {
    type Err = MeetingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.strip_prefix(PREFIX).ok_or(MeetingError::Form)?;
        let parts: Vec<&str> = parts.split('/').collect();
        let [application, waiting, peer] = parts[..] else {
            return Err(MeetingError::Form);
        };
        names::check(application)?;
        let waiting: Fingerprint = waiting.parse().map_err(|_| MeetingError::Form)?;
        let place = Self {
            application: application.to_owned(),
            waiting: *waiting.as_bytes(),
            peer: peer.parse()?,
        };
        // A fingerprint can be written in several ways, a place in one.
        match place.to_string() == text {
            true => Ok(place),
            false => Err(MeetingError::Form),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            application,
            waiting,
            peer,
        } = self;
        let waiting = Fingerprint::from_bytes(*waiting);
        write!(f, "{PREFIX}{application}/{waiting}/{peer}")
    }
}

impl Place {
    /// A number for it that is the same everywhere and always: 63 bits of the SHA-256 of its name.
    #[must_use]
    pub fn number(&self) -> u64 {
        let digest = sha256(&[self.to_string().as_bytes()]);
        let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        u64::from_be_bytes(*head) >> 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(application: &str, peer: &str) -> Place {
        Place {
            application: application.to_owned(),
            waiting: [7; 32],
            peer: peer.parse().unwrap(),
        }
    }

    #[test]
    fn a_place_is_read_as_it_is_written_and_in_no_other_way() {
        for peer in ["bob", "*"] {
            let chat = place("chat", peer);
            let text = chat.to_string();
            assert_eq!(text.parse(), Ok(chat));
            assert!(text.len() <= 255, "it fits where services are named");
            for wrong in [
                text.replace(PREFIX, ""),
                text.replace("chat", "Chat"),
                text.replace("chat", ""),
                text.to_uppercase().replace("@MEET", "@meet"),
                format!("{text}/"),
                format!("{text} "),
                text.trim_end_matches(peer).to_owned(),
            ] {
                assert!(wrong.parse::<Place>().is_err(), "{wrong}");
            }
        }
        let longest = place(&"a".repeat(63), &"b".repeat(63));
        assert!(longest.to_string().len() <= 255);
    }

    #[test]
    fn each_place_has_a_number_of_its_own() {
        let places = [place("chat", "bob"), place("chat", "*"), place("x", "*")];
        let mut numbers = places.map(|place| place.number());
        numbers.sort_unstable();
        assert!(numbers[0] < numbers[1] && numbers[1] < numbers[2]);
        assert!(numbers[2] < 1 << 63);
    }
}
