//! What all wire formats share: the error of every parser, the codecs of single fields, and
//! the macros that make messages and tables of messages out of them.

mod codec;
mod cut;
mod message;
mod table;
mod text;

#[cfg(test)]
pub(crate) mod samples;

pub(crate) use codec::{Auto, Codec, Counted, List, Nested, Rest, Secret, Shown, wire_enum};
pub(crate) use cut::cut_message;
pub(crate) use message::{Fields, body};
pub(crate) use table::messages;
pub(crate) use text::{Label, SecretLabel, Text};

use thiserror::Error;

/// Why bytes are not what they should be: what is wrong, and in which field of which message.
///
/// Never worth a retry with the same bytes: the sender is broken, hostile, or speaks another
/// version.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end before the field does.
    #[error("{what} is cut short")]
    Truncated {
        /// The field.
        what: &'static str,
    },
    /// No frame has this type code.
    #[error("frame type {0:#x} is unknown (perhaps a newer version)")]
    UnknownFrame(u64),
    /// No operation of a routing header has this code.
    #[error("routing operation {0:#x} is unknown (perhaps a newer version)")]
    UnknownRoute(u64),
    /// No control message has this type code.
    #[error("control message type {0:#x} is unknown (perhaps a newer version)")]
    UnknownControl(u64),
    /// No message that leads a service elsewhere has this type code.
    #[error("message type {0:#x} of a steering channel is unknown (perhaps a newer version)")]
    UnknownSteer(u64),
    /// No message of a transfer of files has this type code.
    #[error("message type {0:#x} of a transfer of files is unknown (perhaps a newer version)")]
    UnknownTransfer(u64),
    /// No message between a relay and its ticket authority has this type code.
    #[error("ticket authority message type {0:#x} is unknown (perhaps a newer version)")]
    UnknownAuthority(u64),
    /// The message is known but must not stand where it was found.
    #[error("{what} must not stand in {place}")]
    NotAllowed {
        /// The message.
        what: &'static str,
        /// Where it stood.
        place: &'static str,
    },
    /// A field is longer than it may be.
    #[error("{what} is longer than {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// The most that is accepted, in bytes (in entries for a list).
        limit: usize,
    },
    /// A field holds a value that has no meaning there.
    #[error("{what} has a value that is not allowed")]
    InvalidValue {
        /// The field.
        what: &'static str,
    },
    /// A message ends before its bytes do.
    #[error("{count} bytes too many after {what}")]
    TrailingBytes {
        /// The message.
        what: &'static str,
        /// How many bytes are left over.
        count: usize,
    },
}
