//! Publishing services, who may use them, and finding them; what a manager decides about them.

use crate::wire::{Label, List, Nested, Secret, Text, body, wire_enum};

/// The most users that a list of those allowed names.
pub const MAX_ALLOWED: usize = 256;

wire_enum! {
    /// Whether a service may be used at all.
    pub enum ServiceState {
        /// It may, by whom its access list names.
        Active = 0,
        /// Not yet, by nobody: a manager has not decided about it.
        Waiting = 1,
        /// By nobody: a manager has refused it.
        Refused = 2,
    }
}

wire_enum! {
    /// What a manager decides about a service.
    pub enum ServiceDecision {
        /// One that waits may be used from now on.
        Approve = 0,
        /// One that waits, or that was approved, may not be used.
        Refuse = 1,
    }
}

body! {
    /// Publishes a service of this machine, or takes up again one published before; answered
    /// by [`Published`].
    pub struct Publish {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The service's name; at most 63 bytes.
        pub name: String as Label<63>,
        /// What it leads to, for people; may be empty; at most 255 bytes.
        pub description: String as Text<255>,
        /// Whether channels to it may be compressed.
        pub compression: bool,
        /// Whether bare HTTP clients may use it, for whom the relay is the endpoint and so reads what passes.
        pub plain_http: bool,
    }
}

body! {
    /// The service is published.
    pub struct Published {
        /// The request that this answers.
        pub request: u64,
        /// The service's key: the same each time, known to its owner and the relay.
        pub service_key: [u8; 16] as Secret,
        /// The pseudo DNS name with its owner; at most 255 bytes.
        pub full_name: String as Label<255>,
        /// Whether it waits for a manager's approval; until then nobody may use it.
        pub waiting: bool,
    }
}

body! {
    /// Ends the publication of a service of one's own; answered by `Done`.
    pub struct Withdraw {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The service, at most 255 bytes.
        pub name: String as Label<255>,
    }
}

body! {
    /// Allows somebody to use a service; answered by `Done`. Of several entries that fit, the one for the machine
    /// decides over the one for the user, that over the one for the role, and that over the one for everybody.
    pub struct Allow {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// A user; the fingerprint of a machine's key; `@` and a role; or `*` for every enrolled user; at most 64 bytes.
        pub who: String as Label<64>,
        /// The service; at most 255 bytes.
        pub service: String as Label<255>,
    }
}

body! {
    /// Takes back what [`Allow`] gave, and holds against what a wider entry gives; answered by `Done`.
    pub struct Deny {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// As in [`Allow`]; at most 64 bytes.
        pub who: String as Label<64>,
        /// The service; at most 255 bytes.
        pub service: String as Label<255>,
    }
}

body! {
    /// Asks for all services that the user may use or manage; answered by [`ServiceRows`].
    pub struct Services {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
    }
}

body! {
    /// One service.
    pub struct ServiceRow {
        /// Its name; at most 63 bytes.
        pub name: String as Label<63>,
        /// Its owner; at most 63 bytes.
        pub owner: String as Label<63>,
        /// Its pseudo DNS name with the owner; at most 255 bytes.
        pub full_name: String as Label<255>,
        /// What it leads to, for people; at most 255 bytes.
        pub description: String as Text<255>,
        /// Whether its publisher is attached.
        pub present: bool,
        /// Whether the asking user owns it.
        pub mine: bool,
        /// Fingerprint of the publishing machine's key.
        pub publisher: [u8; 32],
        /// Who may use it beside its owner; only told to the owner and managers; of more than
        /// 256 only the first.
        pub allowed: Vec<String> as List<Label<64>, MAX_ALLOWED>,
        /// Whether the relay can read what bare HTTP clients exchange with it.
        pub plain_http: bool,
        /// Whether it may be used at all.
        pub state: ServiceState,
    }
}

body! {
    /// Services, as many as fit; further ones follow in further messages.
    pub struct ServiceRows {
        /// The request that this answers.
        pub request: u64,
        /// The services.
        pub rows: Vec<ServiceRow> as List<Nested, 4096>,
        /// Whether more messages with rows follow.
        pub more: bool,
    }
}

body! {
    /// Asks whether a machine may use a service of the asking user's own at this moment: the publisher asks it for each
    /// channel that is opened. Answered by `Done`, or by `Failed` with the reason.
    pub struct MayUse {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The service, by its name alone; at most 63 bytes.
        pub service: String as Label<63>,
        /// The machine's static key, as its handshake has proved it.
        pub machine: [u8; 32],
    }
}

body! {
    /// Approves or refuses a service; answered by `Done`. Only managers may.
    pub struct DecideService {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The service; at most 255 bytes.
        pub service: String as Label<255>,
        /// What is decided.
        pub decision: ServiceDecision,
    }
}

body! {
    /// What somebody may do with the services that the agent publishes may have changed: what the agent has been told
    /// about that is out of date.
    pub struct RightsChanged {
        /// The relay's count of such changes, which grows.
        pub change: u64,
    }
}

body! {
    /// Asks where a service is; answered by [`Resolved`].
    pub struct Resolve {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The service, as the user named it; at most 255 bytes.
        pub service: String as Label<255>,
    }
}

wire_enum! {
    /// Where the session ends that a service is used through.
    pub enum FarEnd {
        /// At the machine that publishes the service: a route leads to it.
        Publisher = 0,
        /// At the relay, which reaches the service itself: a channel of the session with the
        /// relay leads to it.
        Relay = 1,
    }
}

body! {
    /// The service exists and the user may use it.
    pub struct Resolved {
        /// The request that this answers.
        pub request: u64,
        /// Its pseudo DNS name with the owner; at most 255 bytes.
        pub full_name: String as Label<255>,
        /// Who is at the other end of the session to use it through.
        pub far_end: FarEnd,
        /// Whether its publisher is attached; always so where the relay is the far end.
        pub present: bool,
        /// The static key of the publishing machine, or of the relay where that is the far end.
        pub publisher_key: [u8; 32],
        /// Whether channels to it may be compressed.
        pub compression: bool,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Publish {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Publish {
                    request: 4,
                    name: "db".into(),
                    description: "127.0.0.1:5432".into(),
                    compression: true,
                    plain_http: false,
                },
                "05 04 02 6462 0e 3132372e302e302e313a35343332 01 00",
            )]
        }
    }

    impl Sampled for Published {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Published {
                    request: 4,
                    service_key: [0x99; 16],
                    full_name: "db.bob.underpass.internal".into(),
                    waiting: true,
                },
                "24 04 99999999999999999999999999999999 \
                 19 64622e626f622e756e646572706173732e696e7465726e616c 01",
            )]
        }
    }

    impl Sampled for Withdraw {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Withdraw {
                    request: 5,
                    name: "db".into(),
                },
                "06 05 02 6462",
            )]
        }
    }

    impl Sampled for Allow {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Allow {
                    request: 6,
                    who: "alice".into(),
                    service: "db".into(),
                },
                "07 06 05 616c696365 02 6462",
            )]
        }
    }

    impl Sampled for Deny {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Deny {
                    request: 7,
                    who: "*".into(),
                    service: "db".into(),
                },
                "08 07 01 2a 02 6462",
            )]
        }
    }

    impl Sampled for Services {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Services { request: 8 }, "09 08")]
        }
    }

    impl Sampled for ServiceRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![
                (
                    ServiceRows {
                        request: 8,
                        rows: vec![ServiceRow {
                            name: "db".into(),
                            owner: "bob".into(),
                            full_name: "db.bob.internal".into(),
                            description: "".into(),
                            present: true,
                            mine: false,
                            publisher: [0x77; 32],
                            allowed: vec!["alice".into(), "*".into()],
                            plain_http: true,
                            state: ServiceState::Refused,
                        }],
                        more: false,
                    },
                    "25 08 01 02 6462 03 626f62 0f 64622e626f622e696e7465726e616c 00 01 00 \
                     7777777777777777777777777777777777777777777777777777777777777777 \
                     02 05 616c696365 01 2a 01 02 00",
                ),
                (
                    ServiceRows {
                        request: 8,
                        rows: vec![],
                        more: true,
                    },
                    "25 08 00 01",
                ),
            ]
        }
    }

    impl Sampled for MayUse {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                MayUse {
                    request: 21,
                    service: "db".into(),
                    machine: [0x33; 32],
                },
                "17 15 02 6462 3333333333333333333333333333333333333333333333333333333333333333",
            )]
        }
    }

    impl Sampled for DecideService {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                DecideService {
                    request: 22,
                    service: "db.bob".into(),
                    decision: ServiceDecision::Refuse,
                },
                "18 16 06 64622e626f62 01",
            )]
        }
    }

    impl Sampled for RightsChanged {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(RightsChanged { change: 9 }, "34 09")]
        }
    }

    impl Sampled for Resolve {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Resolve {
                    request: 9,
                    service: "db".into(),
                },
                "0a 09 02 6462",
            )]
        }
    }

    impl Sampled for Resolved {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Resolved {
                    request: 9,
                    full_name: "db.bob.internal".into(),
                    far_end: FarEnd::Publisher,
                    present: true,
                    publisher_key: [0x66; 32],
                    compression: true,
                },
                "26 09 0f 64622e626f622e696e7465726e616c 00 01 \
                 6666666666666666666666666666666666666666666666666666666666666666 01",
            )]
        }
    }
}
