//! Which sessions live, and ending one.

use crate::wire::{Label, List, Nested, Text, body, wire_enum};

wire_enum! {
    /// Who is at the ends of a session, as the relay sees it.
    pub enum ConnectionKind {
        /// Two agents; what passes is sealed from end to end.
        Sealed = 0,
        /// An agent and a service that the relay dials itself.
        Direct = 1,
        /// A client that has nothing but HTTP, and an agent or a service that the relay dials.
        PlainHttp = 2,
    }
}

body! {
    /// Asks for the sessions that live at this relay: those in which the user is the client or owns the service, or all
    /// where the user may see them; answered by [`ConnectionRows`].
    pub struct Connections {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
    }
}

body! {
    /// Who has begun a session.
    pub struct ConnectionClient {
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// The machine or token; at most 63 bytes.
        pub machine: String as Label<63>,
        /// Where it comes from; empty where that is not the asking user's to know; at most 255 bytes.
        pub address: String as Text<255>,
    }
}

body! {
    /// How a session goes through a relay.
    pub struct ConnectionWay {
        /// What carries it between the client and the relay; at most 64 bytes.
        pub carrier: String as Text<64>,
        /// What carries it between the relay and the publisher; empty where the relay dials it; at most 64 bytes.
        pub far_carrier: String as Text<64>,
        /// How many paths it has through this relay.
        pub paths: u64,
        /// The round trip from client to publisher by way of this relay, in microseconds; 0 while it is not known.
        pub round_trip_us: u64,
    }
}

body! {
    /// One session that lives.
    pub struct ConnectionRow {
        /// By what it is named: for sealed ones the beginning of the session's id; at most 32 bytes.
        pub id: String as Label<32>,
        /// Who is at its ends.
        pub kind: ConnectionKind,
        /// Who has begun it.
        pub client: ConnectionClient as Nested,
        /// The service; at most 63 bytes.
        pub service: String as Label<63>,
        /// The service's owner; at most 63 bytes.
        pub owner: String as Label<63>,
        /// The machine that publishes the service; empty where the relay dials it; at most 63 bytes.
        pub publisher: String as Label<63>,
        /// How it goes through this relay.
        pub way: ConnectionWay as Nested,
        /// Since when it has been here, in milliseconds since 1970.
        pub since_ms: u64,
        /// Bytes from the client, as the relay has seen them.
        pub sent: u64,
        /// Bytes to the client.
        pub received: u64,
    }
}

body! {
    /// Sessions that live, as many as fit; further ones follow in further messages.
    pub struct ConnectionRows {
        /// The request that this answers.
        pub request: u64,
        /// The sessions, the oldest first.
        pub rows: Vec<ConnectionRow> as List<Nested, 1000>,
        /// Whether more messages with rows follow.
        pub more: bool,
    }
}

body! {
    /// Ends a session for good: both ends are told why, and it cannot be resumed at any relay of the group. Answered by
    /// `Done`.
    pub struct Kick {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The session's name, as [`ConnectionRow::id`] has it; at most 32 bytes.
        pub id: String as Label<32>,
        /// Why, for those at its ends; may be empty; at most 255 bytes.
        pub reason: String as Text<255>,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Connections {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Connections { request: 30 }, "1d 1e")]
        }
    }

    impl Sampled for ConnectionRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                ConnectionRows {
                    request: 30,
                    rows: vec![ConnectionRow {
                        id: "0a0b0c0d".into(),
                        kind: ConnectionKind::Sealed,
                        client: ConnectionClient {
                            user: "alice".into(),
                            machine: "laptop".into(),
                            address: "[::1]:9".into(),
                        },
                        service: "db".into(),
                        owner: "bob".into(),
                        publisher: "desk".into(),
                        way: ConnectionWay {
                            carrier: "h2".into(),
                            far_carrier: "ws".into(),
                            paths: 2,
                            round_trip_us: 40_000,
                        },
                        since_ms: 1_700_000_000_000,
                        sent: 7,
                        received: 300,
                    }],
                    more: false,
                },
                "2f 1e 01 08 3061306230633064 00 05 616c696365 06 6c6170746f70 07 5b3a3a315d3a39 02 6462 \
                 03 626f62 04 6465736b 02 6832 02 7773 02 80009c40 c000018bcfe56800 07 412c 00",
            )]
        }
    }

    impl Sampled for Kick {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Kick {
                    request: 31,
                    id: "0a0b0c0d".into(),
                    reason: "bye".into(),
                },
                "1e 1f 08 3061306230633064 03 627965",
            )]
        }
    }
}
