//! What a session tells its driver.

use bytes::Bytes;

use super::LegId;
use crate::frame::{ChannelId, ChannelKind, Class, Encoding};

/// Something that the driver may want to act upon. Events come in the order they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has proven that it holds the session: what was opened will be answered.
    Established,
    /// A leg carries the session from now on: alone, where it took the place of all others, which
    /// [`Event::LegDone`] follows for, or beside them. Its routing keys are [`super::Session::route_keys`].
    LegActive {
        /// The leg.
        leg: LegId,
    },
    /// An answer on a leg is overdue: the session asks for it. Where others carry the leg, they may
    /// want to ask as well.
    AnswerMissing {
        /// The leg.
        leg: LegId,
    },
    /// An answer is so late that the leg may soon be suspect: the driver may make another one ready.
    /// Told once, until something is answered; it includes [`Event::AnswerMissing`].
    LegLate {
        /// The leg.
        leg: LegId,
    },
    /// Nothing came back on a leg for longer than it should have. The driver makes another one and
    /// keeps this one until the other is active.
    LegSuspect {
        /// The leg.
        leg: LegId,
    },
    /// The leg that leads has no more room at this time, and more waits: legs that were asked before
    /// may have packets now. Only where several legs carry the session.
    LegFull {
        /// The leg.
        leg: LegId,
    },
    /// A leg was replaced, or its peer refused it: the driver drops it.
    LegDone {
        /// The leg.
        leg: LegId,
        /// What to send to the other side of the leg before it is dropped, if anything.
        farewell: Option<Bytes>,
    },
    /// No leg is left. The session waits to be resumed.
    Detached,
    /// The peer opened a channel; answer with `accept`, or with `reset` and `stop`.
    Opened {
        /// The new channel.
        channel: ChannelId,
        /// Stream or datagrams.
        kind: ChannelKind,
        /// Its priority class.
        class: Class,
        /// How its bytes are encoded.
        encoding: Encoding,
        /// The service that the peer wants to talk to.
        service: String,
    },
    /// The peer accepted a channel that this side opened.
    Accepted {
        /// The channel.
        channel: ChannelId,
    },
    /// There is something to read: bytes, the end, a reset or a datagram.
    Readable {
        /// The channel.
        channel: ChannelId,
    },
    /// There is room to write again, or the peer stopped reading.
    Writable {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer wants a channel to go on with another host service from `offset` on.
    Redial {
        /// The channel.
        channel: ChannelId,
        /// First byte of the peer's stream that belongs to the new host service.
        offset: u64,
        /// The new service.
        service: String,
    },
    /// The peer allows more channels than before.
    ChannelsAvailable,
    /// The session ended.
    Closed(Closed),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Who ended it.
    pub by: ClosedBy,
    /// A number from the table of codes ([`crate::code`]).
    pub code: u64,
    /// In words.
    pub reason: String,
}

/// Which side ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// This one.
    Local,
    /// The other one.
    Peer,
}
