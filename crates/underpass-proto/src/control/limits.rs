//! What a user may take up.

use crate::limit::LimitKind;
use crate::wire::{Label, List, Nested, body, wire_enum};

wire_enum! {
    /// What holds for a user.
    pub enum LimitRule {
        /// As the relay is set.
        Usual = 0,
        /// So much.
        Value = 1,
        /// As much as there is.
        Unlimited = 2,
    }
}

body! {
    /// Makes an exception from one limit for a user, or takes it back; answered by `Done`. Only managers may.
    pub struct SetLimit {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// Which limit.
        pub limit: LimitKind,
        /// What holds from now on.
        pub rule: LimitRule,
        /// How much, where that is a value; else 0.
        pub value: u64,
    }
}

body! {
    /// Asks for a user's limits, and how much of each is taken up; answered by [`LimitRows`].
    pub struct Limits {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; empty for the asking one; at most 63 bytes.
        pub user: String as Label<63>,
    }
}

body! {
    /// One limit of a user.
    pub struct LimitRow {
        /// Which.
        pub limit: LimitKind,
        /// Whether it is an exception, made for this user.
        pub exception: bool,
        /// Whether there is a limit at all.
        pub limited: bool,
        /// How much is allowed; 0 where there is no limit.
        pub value: u64,
        /// How much is taken up now: at this relay, of the bytes of a month at all relays of the group.
        pub used: u64,
    }
}

body! {
    /// The limits of a user.
    pub struct LimitRows {
        /// The request that this answers.
        pub request: u64,
        /// Each limit once.
        pub rows: Vec<LimitRow> as List<Nested, 64>,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for SetLimit {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                SetLimit {
                    request: 33,
                    user: "bob".into(),
                    limit: LimitKind::BytesPerSecond,
                    rule: LimitRule::Value,
                    value: 300,
                },
                "39 21 03 626f62 03 01 412c",
            )]
        }
    }

    impl Sampled for Limits {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Limits {
                    request: 34,
                    user: String::new(),
                },
                "3b 22 00",
            )]
        }
    }

    impl Sampled for LimitRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                LimitRows {
                    request: 34,
                    rows: vec![LimitRow {
                        limit: LimitKind::Sessions,
                        exception: true,
                        limited: true,
                        value: 300,
                        used: 2,
                    }],
                },
                "3a 22 01 01 01 01 412c 02",
            )]
        }
    }
}
