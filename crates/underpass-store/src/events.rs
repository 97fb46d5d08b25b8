//! The log of events: appended to, listed, pruned, never changed.

use std::fmt;

use crate::{Fault, UnixMillis};

/// Longest kind of an event in bytes.
pub const MAX_EVENT_KIND: usize = 64;
/// Longest actor or peer of an event in bytes.
pub const MAX_EVENT_NAME: usize = 255;
/// Longest address of an event in bytes.
pub const MAX_EVENT_ADDRESS: usize = 255;
/// Longest details of an event in bytes.
pub const MAX_EVENT_DETAILS: usize = 16 * 1024;

/// Number of an event: a later one has a higher number, whatever the clocks said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub i64);

/// An event to be written down.
///
/// Actor and peer are texts and not numbers of users, because refused strangers leave events too,
/// and because an event outlives what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// When it happened.
    pub at: UnixMillis,
    /// What happened: a stable word such as `login` or `connect`.
    pub kind: String,
    /// Who did it.
    pub actor: Option<String>,
    /// To whom, or with whom.
    pub peer: Option<String>,
    /// Network address that it came from.
    pub address: Option<String>,
    /// More about it, as a JSON text.
    pub details: String,
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number of the event.
    pub id: EventId,
    /// What was written down.
    pub event: NewEvent,
}

/// Which events to list, the newest first unless `after` is set. The default lists none: set `limit`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only those at this moment or later.
    pub since: Option<UnixMillis>,
    /// Only those with this user as actor or peer.
    pub user: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
    /// Only those before this one: the last of a page asks for the next page.
    pub before: Option<EventId>,
    /// Only those after this one, the oldest first: what to go on with.
    pub after: Option<EventId>,
    /// At most so many.
    pub limit: u32,
}

/// How much of the log to keep; both bounds hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventRetention {
    /// Events before this moment go.
    pub not_before: Option<UnixMillis>,
    /// Of the rest, only so many of the newest stay.
    pub at_most: Option<u64>,
}

/// A field of an event, named in a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventField {
    /// [`NewEvent::kind`].
    Kind,
    /// [`NewEvent::actor`].
    Actor,
    /// [`NewEvent::peer`].
    Peer,
    /// [`NewEvent::address`].
    Address,
    /// [`NewEvent::details`].
    Details,
}

impl fmt::Display for EventField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "kind",
            Self::Actor => "actor",
            Self::Peer => "peer",
            Self::Address => "address",
            Self::Details => "details",
        })
    }
}

/// Why events were not appended; none of them was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A field is longer than the log keeps.
    #[error("the event's {field} is too long: {len} bytes, at most {limit} are kept")]
    TooLong {
        /// Which field.
        field: EventField,
        /// Its length in bytes.
        len: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// The details are no JSON text (RFC 8259).
    #[error("the event's details are no JSON")]
    NotJson,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl NewEvent {
    /// Checks the lengths of all fields.
    pub(crate) fn check_lengths(&self) -> Result<(), AppendError> {
        let Self {
            at: _,
            kind,
            actor,
            peer,
            address,
            details,
        } = self;
        let len = |field: &Option<String>| field.as_ref().map_or(0, String::len);
        for (field, len, limit) in [
            (EventField::Kind, kind.len(), MAX_EVENT_KIND),
            (EventField::Actor, len(actor), MAX_EVENT_NAME),
            (EventField::Peer, len(peer), MAX_EVENT_NAME),
            (EventField::Address, len(address), MAX_EVENT_ADDRESS),
            (EventField::Details, details.len(), MAX_EVENT_DETAILS),
        ] {
            if len > limit {
                return Err(AppendError::TooLong { field, len, limit });
            }
        }
        Ok(())
    }
}
