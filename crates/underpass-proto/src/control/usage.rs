//! How much was used.

use crate::wire::{Label, List, Nested, Text, body, wire_enum};

wire_enum! {
    /// By what usage is summed up.
    pub enum UsageBy {
        /// By the user who used it.
        User = 0,
        /// By day, in UTC.
        Day = 1,
        /// By service.
        Service = 2,
    }
}

body! {
    /// Asks how much was used: by the user, or by all where the user may see it; answered by [`UsageRows`].
    pub struct Usage {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// Only what was used on this day or later, in days since 1970; 0 for all.
        pub since_day: u64,
        /// Only what this user has used; empty for all; at most 63 bytes.
        pub user: String as Label<63>,
        /// By what it is summed up.
        pub by: UsageBy,
    }
}

body! {
    /// What was used by one user, on one day, or of one service.
    pub struct UsageRow {
        /// The user, the day (`2026-01-31`), or the service with its owner (`db.bob`); at most 127 bytes.
        pub key: String as Text<127>,
        /// Sessions that began.
        pub sessions: u64,
        /// Bytes from clients, as the relay has seen them.
        pub sent: u64,
        /// Bytes to clients.
        pub received: u64,
    }
}

body! {
    /// What was used, as many rows as fit; further ones follow in further messages.
    pub struct UsageRows {
        /// The request that this answers.
        pub request: u64,
        /// In the order of what it is summed up by.
        pub rows: Vec<UsageRow> as List<Nested, 4096>,
        /// Whether more messages with rows follow.
        pub more: bool,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Usage {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Usage {
                    request: 32,
                    since_day: 20_000,
                    user: "bob".into(),
                    by: UsageBy::Service,
                },
                "1f 20 80004e20 03 626f62 02",
            )]
        }
    }

    impl Sampled for UsageRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                UsageRows {
                    request: 32,
                    rows: vec![UsageRow {
                        key: "db.bob".into(),
                        sessions: 3,
                        sent: 7,
                        received: 300,
                    }],
                    more: false,
                },
                "38 20 01 06 64622e626f62 03 07 412c 00",
            )]
        }
    }
}
