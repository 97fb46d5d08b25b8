//! What is limited for each user: one table.

use std::fmt;

use crate::code::Code;
use crate::wire::wire_enum;

wire_enum! {
    /// What a user may take up so much of.
    #[derive(PartialOrd, Ord)]
    pub enum LimitKind {
        /// Attachments to one relay at a time.
        Attachments = 0,
        /// Sessions through one relay that the user has begun, at a time.
        Sessions = 1,
        /// Channels at a time that one relay itself is an end of: to services that it dials, and of clients with nothing
        /// but HTTP. What is sealed from end to end the relay cannot count.
        Channels = 2,
        /// Bytes per second through one relay in the user's sessions, each way.
        BytesPerSecond = 3,
        /// Bytes in a calendar month (UTC) in the user's sessions, both ways, through all relays of the group.
        BytesPerMonth = 4,
    }
}

impl LimitKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Attachments,
        Self::Sessions,
        Self::Channels,
        Self::BytesPerSecond,
        Self::BytesPerMonth,
    ];

    /// The stable word, as it stands in the store and, with `--` before it, on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Attachments => "attachments",
            Self::Sessions => "sessions",
            Self::Channels => "channels",
            Self::BytesPerSecond => "bytes-per-second",
            Self::BytesPerMonth => "bytes-per-month",
        }
    }

    /// What is counted, as it stands behind a number.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Attachments => "attachments to a relay at a time",
            Self::Sessions => "sessions through a relay at a time",
            Self::Channels => "channels to a relay's own services or by plain HTTP at a time",
            Self::BytesPerSecond => "bytes per second each way",
            Self::BytesPerMonth => "bytes in a month",
        }
    }

    /// The kind with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The code of what is refused because of it; none for the rate, which only slows down.
    #[must_use]
    pub fn refusal(self) -> Option<Code> {
        match self {
            Self::Attachments => Some(Code::AttachmentLimit),
            Self::Sessions => Some(Code::SessionLimit),
            Self::Channels => Some(Code::ChannelLimit),
            Self::BytesPerSecond => None,
            Self::BytesPerMonth => Some(Code::MonthLimit),
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_found_again() {
        for (number, kind) in LimitKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.code()), number);
            assert_eq!(LimitKind::from_word(kind.word()), Some(kind));
            if let Some(code) = kind.refusal() {
                // What limits, and who can do something about it.
                assert!(code.to_string().contains("underpass users limit"), "{code}");
            }
        }
        assert_eq!(LimitKind::from_word("none"), None);
    }
}
