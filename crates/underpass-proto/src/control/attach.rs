//! Attaching to a relay, enrolling with it, and who it takes us for.

use crate::wire::{Label, SecretLabel, Text, body, wire_enum};

use super::UserRole;

wire_enum! {
    /// What a one-time code is for.
    pub enum CodeKind {
        /// The relay's first administrator.
        Setup = 0,
        /// A further machine, invited by somebody enrolled.
        Invite = 1,
    }
}

body! {
    /// The first request on every control channel; answered by [`Identity`].
    pub struct Attach {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The version of the protocol that the agent speaks.
        pub version: u16,
        /// Program and version, for people; at most 128 bytes.
        pub agent: String as Text<128>,
        /// What the machine calls itself; at most 63 bytes.
        pub machine_name: String as Label<63>,
    }
}

body! {
    /// Enrols the machine whose key made this session; answered by [`Identity`].
    pub struct Enrol {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// What the code is for.
        pub kind: CodeKind,
        /// The one-time code; at most 128 bytes.
        pub code: String as SecretLabel<128>,
        /// The user to enrol under. May be empty with an invitation, which names the user.
        pub user: String as Label<63>,
        /// The machine's new name; at most 63 bytes.
        pub machine: String as Label<63>,
    }
}

body! {
    /// Asks for [`Identity`].
    pub struct WhoAmI {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
    }
}

body! {
    /// Whom the relay takes the agent for.
    pub struct Identity {
        /// The request that this answers.
        pub request: u64,
        /// The user; empty where the machine is not enrolled.
        pub user: String as Label<63>,
        /// The machine; empty where it is not enrolled.
        pub machine: String as Label<63>,
        /// What the user may do; without meaning where the machine is not enrolled.
        pub role: UserRole,
        /// The relay's program and version, for people; at most 128 bytes.
        pub relay_version: String as Text<128>,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Attach {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Attach {
                    request: 1,
                    version: 1,
                    agent: "underpass/1".into(),
                    machine_name: "laptop".into(),
                },
                "01 01 01 0b 756e646572706173732f31 06 6c6170746f70",
            )]
        }
    }

    impl Sampled for Enrol {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Enrol {
                    request: 2,
                    kind: CodeKind::Invite,
                    code: "abcd-efgh".into(),
                    user: "bob".into(),
                    machine: "laptop".into(),
                },
                "02 02 01 09 616263642d65666768 03 626f62 06 6c6170746f70",
            )]
        }
    }

    impl Sampled for WhoAmI {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(WhoAmI { request: 3 }, "03 03")]
        }
    }

    impl Sampled for Identity {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Identity {
                    request: 3,
                    user: "bob".into(),
                    machine: "laptop".into(),
                    role: UserRole::User,
                    relay_version: "underpass/1".into(),
                },
                "22 03 03 626f62 06 6c6170746f70 00 0b 756e646572706173732f31",
            )]
        }
    }

    #[test]
    fn debug_output_keeps_codes() {
        let (enrol, _) = Enrol::samples().remove(0);
        let shown = format!("{enrol:?}");
        assert!(shown.contains("code: (secret)") && !shown.contains("efgh"));
    }
}
