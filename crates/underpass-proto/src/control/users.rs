//! Users and their machines.

use crate::wire::{Label, List, Nested, SecretLabel, body, wire_enum};

wire_enum! {
    /// What a user may do.
    #[derive(PartialOrd, Ord)]
    pub enum UserRole {
        /// Use and publish services.
        User = 0,
        /// Also see everything, end connections, invite.
        Manager = 1,
        /// Also make managers, and set up the relay.
        Administrator = 2,
    }
}

wire_enum! {
    /// Whether a user or machine is let in.
    pub enum Standing {
        /// It is.
        Active = 0,
        /// It is not: disabled or revoked.
        Disabled = 1,
        /// Not yet: the user has registered, and waits for a manager.
        Waiting = 2,
    }
}

wire_enum! {
    /// Whether what a user publishes waits for a manager's approval.
    pub enum Publishing {
        /// As the relay is set.
        Usual = 0,
        /// It does not, however the relay is set.
        Free = 1,
        /// It does, however the relay is set.
        Approval = 2,
    }
}

body! {
    /// Invites a machine to enrol under a user, new or known; answered by [`Invited`].
    pub struct Invite {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// How long the code is good for, in seconds; 0 for what the relay thinks right.
        pub lifetime_s: u64,
    }
}

body! {
    /// The invitation.
    pub struct Invited {
        /// The request that this answers.
        pub request: u64,
        /// The one-time code; at most 128 bytes.
        pub code: String as SecretLabel<128>,
        /// In how many seconds it expires.
        pub expires_s: u64,
    }
}

body! {
    /// Asks for all users; answered by [`UserRows`].
    pub struct Users {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
    }
}

body! {
    /// One user.
    pub struct UserRow {
        /// The name; at most 63 bytes.
        pub name: String as Label<63>,
        /// What the user may do.
        pub role: UserRole,
        /// Whether the user is let in.
        pub state: Standing,
        /// How many machines are enrolled under the user.
        pub machines: u64,
        /// Whether what the user publishes waits for approval.
        pub publishing: Publishing,
    }
}

body! {
    /// Users, as many as fit; further ones follow in further messages.
    pub struct UserRows {
        /// The request that this answers.
        pub request: u64,
        /// The users.
        pub rows: Vec<UserRow> as List<Nested, 4096>,
        /// Whether more messages with rows follow.
        pub more: bool,
    }
}

body! {
    /// Asks for the machines of the user, or all where the user may see them; answered by
    /// [`MachineRows`].
    pub struct Machines {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
    }
}

body! {
    /// One machine.
    pub struct MachineRow {
        /// The name; at most 63 bytes.
        pub name: String as Label<63>,
        /// The user it is enrolled under; at most 63 bytes.
        pub user: String as Label<63>,
        /// Its static key.
        pub key: [u8; 32],
        /// Whether it is let in.
        pub state: Standing,
        /// Whether it is attached.
        pub present: bool,
        /// When it was last attached, in seconds since 1970; 0 for never.
        pub last_seen_s: u64,
        /// Whether it is no machine but a token of a bare HTTP client.
        pub token: bool,
        /// When it expires, in seconds since 1970; 0 for never.
        pub expires_s: u64,
    }
}

body! {
    /// Machines, as many as fit; further ones follow in further messages.
    pub struct MachineRows {
        /// The request that this answers.
        pub request: u64,
        /// The machines.
        pub rows: Vec<MachineRow> as List<Nested, 4096>,
        /// Whether more messages with rows follow.
        pub more: bool,
    }
}

body! {
    /// Shuts a machine out for good; answered by `Done`.
    pub struct Revoke {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The machine, at most 127 bytes: its name, or `MACHINE.USER`.
        pub machine: String as Label<127>,
    }
}

body! {
    /// Makes a token for a bare HTTP client, which is listed and revoked as a machine is; answered by
    /// `Done`. The token itself is not told: the sender has drawn it.
    pub struct MakeToken {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user whose token it is; empty for the sender's own; at most 63 bytes.
        pub user: String as Label<63>,
        /// The token's name, which must be free among the user's machines; at most 63 bytes.
        pub name: String as Label<63>,
        /// The public key of the key pair that the token stands for.
        pub key: [u8; 32],
        /// How long it is good for, in seconds; 0 until it is revoked.
        pub lifetime_s: u64,
    }
}

wire_enum! {
    /// What is decided about a user.
    pub enum UserChange {
        /// Who has registered is let in.
        Approve = 0,
        /// Who has registered is not let in, and forgotten.
        Deny = 1,
        /// The user is shut out, and all that it has open ends.
        Disable = 2,
        /// The user is let in again.
        Enable = 3,
    }
}

body! {
    /// Decides about a user; answered by `Done`.
    pub struct ChangeUser {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// What is decided.
        pub change: UserChange,
    }
}

body! {
    /// Gives a user another role; answered by `Done`.
    pub struct SetRole {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// The role.
        pub role: UserRole,
    }
}

body! {
    /// Makes an exception for a user, or takes it back: whether what the user publishes from now on waits for approval.
    /// Answered by `Done`; only managers may.
    pub struct SetPublishing {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// What holds from now on.
        pub publishing: Publishing,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Invite {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Invite {
                    request: 10,
                    user: "carol".into(),
                    lifetime_s: 86_400,
                },
                "04 0a 05 6361726f6c 80015180",
            )]
        }
    }

    impl Sampled for Invited {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Invited {
                    request: 10,
                    code: "abcd-efgh".into(),
                    expires_s: 86_400,
                },
                "23 0a 09 616263642d65666768 80015180",
            )]
        }
    }

    impl Sampled for Users {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Users { request: 11 }, "0b 0b")]
        }
    }

    impl Sampled for UserRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                UserRows {
                    request: 11,
                    rows: vec![UserRow {
                        name: "bob".into(),
                        role: UserRole::Manager,
                        state: Standing::Active,
                        machines: 2,
                        publishing: Publishing::Free,
                    }],
                    more: false,
                },
                "27 0b 01 03 626f62 01 00 02 01 00",
            )]
        }
    }

    impl Sampled for Machines {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Machines { request: 12 }, "0c 0c")]
        }
    }

    impl Sampled for MachineRows {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                MachineRows {
                    request: 12,
                    rows: vec![MachineRow {
                        name: "laptop".into(),
                        user: "bob".into(),
                        key: [0x55; 32],
                        state: Standing::Disabled,
                        present: false,
                        last_seen_s: 1_700_000_000,
                        token: true,
                        expires_s: 0,
                    }],
                    more: false,
                },
                "28 0c 01 06 6c6170746f70 03 626f62 \
                 5555555555555555555555555555555555555555555555555555555555555555 \
                 01 00 c00000006553f100 01 00 00",
            )]
        }
    }

    impl Sampled for MakeToken {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                MakeToken {
                    request: 14,
                    user: "bob".into(),
                    name: "meter".into(),
                    key: [0x44; 32],
                    lifetime_s: 86_400,
                },
                "0e 0e 03 626f62 05 6d65746572 \
                 4444444444444444444444444444444444444444444444444444444444444444 80015180",
            )]
        }
    }

    impl Sampled for Revoke {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Revoke {
                    request: 13,
                    machine: "laptop.bob".into(),
                },
                "0d 0d 0a 6c6170746f702e626f62",
            )]
        }
    }

    impl Sampled for ChangeUser {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                ChangeUser {
                    request: 19,
                    user: "carol".into(),
                    change: UserChange::Approve,
                },
                "13 13 05 6361726f6c 00",
            )]
        }
    }

    impl Sampled for SetRole {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                SetRole {
                    request: 20,
                    user: "carol".into(),
                    role: UserRole::Manager,
                },
                "14 14 05 6361726f6c 01",
            )]
        }
    }

    impl Sampled for SetPublishing {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                SetPublishing {
                    request: 23,
                    user: "carol".into(),
                    publishing: Publishing::Approval,
                },
                "19 17 05 6361726f6c 02",
            )]
        }
    }
}
