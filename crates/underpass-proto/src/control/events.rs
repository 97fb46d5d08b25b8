//! The log of events.

use crate::wire::{Label, List, Nested, Text, body};

/// The most events that one answer holds, whatever was asked for.
pub const MAX_EVENTS: u64 = 1000;

body! {
    /// Asks for events: one's own, or all where the user may see them; answered by [`EventRows`].
    pub struct Events {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// Only those at this moment or later, in milliseconds since 1970; 0 for all.
        pub since_ms: u64,
        /// Only those with this user as actor or peer; empty for all; at most 63 bytes.
        pub user: String as Label<63>,
        /// Only those of this kind ([`crate::event::EventKind::word`]); empty for all; at most 63 bytes.
        pub kind: String as Label<63>,
        /// Only those before the event of this number; 0 for all. The oldest of a page asks for the next one.
        pub before: u64,
        /// Only those after the event of this number, the oldest first; 0 for the newest, newest first.
        pub after: u64,
        /// At most so many; an answer holds no more than [`MAX_EVENTS`].
        pub limit: u64,
    }
}

body! {
    /// One event.
    pub struct EventRow {
        /// Its number: a later event has a higher one, whatever the clocks said.
        pub id: u64,
        /// When it happened, in milliseconds since 1970.
        pub at_ms: u64,
        /// What happened: the word of the kind, which may be newer than this version; at most 64 bytes.
        pub kind: String as Text<64>,
        /// Who did it; empty where nobody known did; at most 255 bytes.
        pub actor: String as Text<255>,
        /// To whom, or with whom; may be empty; at most 255 bytes.
        pub peer: String as Text<255>,
        /// The network address that it came from; empty where there is none, or where it is not the
        /// asking user's to know; at most 255 bytes.
        pub address: String as Text<255>,
        /// More about it, a JSON object; at most 16384 bytes.
        pub details: String as Text<16384>,
    }
}

body! {
    /// Events, as many as fit; further ones follow in further messages.
    pub struct EventRows {
        /// The request that this answers.
        pub request: u64,
        /// The events, newest first, or oldest first where those after one were asked for.
        pub rows: Vec<EventRow> as List<Nested, 1000>,
        /// Whether more messages with rows follow.
        pub more: bool,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Events {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Events {
                    request: 21,
                    since_ms: 1_700_000_000_000,
                    user: "bob".into(),
                    kind: "connect".into(),
                    before: 0,
                    after: 7,
                    limit: 50,
                },
                "16 15 c000018bcfe56800 03 626f62 07 636f6e6e656374 00 07 32",
            )]
        }
    }

    impl Sampled for EventRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                EventRows {
                    request: 21,
                    rows: vec![EventRow {
                        id: 8,
                        at_ms: 1_700_000_000_000,
                        kind: "connect".into(),
                        actor: "alice".into(),
                        peer: "bob".into(),
                        address: String::new(),
                        details: r#"{"service":"db"}"#.into(),
                    }],
                    more: false,
                },
                "2c 15 01 08 c000018bcfe56800 07 636f6e6e656374 05 616c696365 03 626f62 00 \
                 10 7b2273657276696365223a226462227d 00",
            )]
        }
    }
}
