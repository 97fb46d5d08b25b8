//! Meeting by user and application, where neither side has published anything.

use crate::wire::{Label, body};

body! {
    /// Wishes to meet a user, or anybody, for an application. Whom the wish fits is there once both have wished for each
    /// other. Answered by [`Met`] where somebody is there, or a service of that owner and name is published that the user
    /// may use; by `Done` where the wish stands and nobody is there yet. Wishing the same again asks the same again.
    pub struct Meet {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// What for: a name of the users' choice; at most 63 bytes.
        pub application: String as Label<63>,
        /// The user, or `*` for anybody; at most 63 bytes.
        pub peer: String as Label<63>,
        /// The program that wishes, by random bytes of its choice: from another attachment of the same machine, the same
        /// program takes its own place, and another one does not.
        pub holder: [u8; 16],
        /// The only machine to be met, by its static key: that of a session which there is already; zeros for any.
        pub only: [u8; 32],
    }
}

body! {
    /// Takes back what [`Meet`] wished, if it still stands; answered by `Done`.
    pub struct Part {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// As in [`Meet`]; at most 63 bytes.
        pub application: String as Label<63>,
        /// As in [`Meet`]; at most 63 bytes.
        pub peer: String as Label<63>,
        /// As in [`Meet`].
        pub holder: [u8; 16],
    }
}

body! {
    /// Somebody is there.
    pub struct Met {
        /// The request that this answers.
        pub request: u64,
        /// The user; at most 63 bytes.
        pub user: String as Label<63>,
        /// The static key of the user's machine.
        pub machine: [u8; 32],
        /// What a route to the other side is opened to, by whichever of them opens it; at most 255 bytes.
        pub service: String as Label<255>,
        /// Whether it is for whom this is said to that a route is to be opened; else the other side opens one.
        pub opens: bool,
        /// Whether channels may be compressed.
        pub compression: bool,
    }
}

body! {
    /// Who is there to be met may have changed: what answers to [`Meet`] have said may be out of date.
    pub struct MeetingsChanged {
        /// The relay's count of such changes, which grows.
        pub change: u64,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Meet {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Meet {
                    request: 23,
                    application: "chat".into(),
                    peer: "*".into(),
                    holder: [0x44; 16],
                    only: [0; 32],
                },
                "1a 17 04 63686174 01 2a 44444444444444444444444444444444 \
                 0000000000000000000000000000000000000000000000000000000000000000",
            )]
        }
    }

    impl Sampled for Part {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Part {
                    request: 24,
                    application: "chat".into(),
                    peer: "bob".into(),
                    holder: [0x44; 16],
                },
                "1b 18 04 63686174 03 626f62 44444444444444444444444444444444",
            )]
        }
    }

    impl Sampled for Met {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Met {
                    request: 23,
                    user: "bob".into(),
                    machine: [0x66; 32],
                    service: "chat.bob.internal".into(),
                    opens: true,
                    compression: true,
                },
                "2d 17 03 626f62 6666666666666666666666666666666666666666666666666666666666666666 \
                 11 636861742e626f622e696e7465726e616c 01 01",
            )]
        }
    }

    impl Sampled for MeetingsChanged {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(MeetingsChanged { change: 3 }, "35 03")]
        }
    }
}
