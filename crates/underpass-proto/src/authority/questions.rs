//! What a relay says to its ticket authority.

use bytes::Bytes;

use super::MAX_RENEWED;
use crate::wire::{Auto, Counted, List, Secret, body};

body! {
    /// Begins the exchange.
    pub struct AuthorityHello {
        /// The newest version that the relay speaks.
        pub version: u16,
        /// The oldest.
        pub min_version: u16,
    }
}

body! {
    /// Asks for the first ticket of a session. Asked twice, the authority begins two lines, of
    /// which the one that nobody uses expires.
    pub struct Issue {
        /// A number of the relay's choice; the answer carries it back.
        pub request: u64,
        /// The key of the client's machine, as its session with the relay has proved it.
        pub holder: [u8; 32],
        /// The session that the ticket is to re-open a path to.
        pub session: [u8; 16],
        /// For how long the session is kept without a path, in seconds.
        pub keep_s: u64,
        /// Where the far endpoint is, in words of the relays; at most 64 bytes.
        pub far: Bytes as Counted,
    }
}

body! {
    /// Presents a ticket.
    pub struct Check {
        /// A number of the relay's choice; the answer carries it back.
        pub request: u64,
        /// The key of the machine that presented it.
        pub holder: [u8; 32],
        /// The session that it wants to re-open a path to.
        pub session: [u8; 16],
        /// The ticket.
        pub ticket: [u8; 32] as Secret,
    }
}

body! {
    /// Has tickets last as long as new ones: their sessions have a path.
    pub struct Renew {
        /// A number of the relay's choice; the answer carries it back.
        pub request: u64,
        /// Whose.
        pub handles: Vec<[u8; 16]> as List<Auto, MAX_RENEWED>,
    }
}

body! {
    /// Deletes a ticket; one that is gone already is gone.
    pub struct Discard {
        /// A number of the relay's choice; the answer carries it back.
        pub request: u64,
        /// Whose.
        pub handle: [u8; 16],
    }
}

body! {
    /// Asks for an answer, and for nothing else.
    pub struct Ping {
        /// A number of the relay's choice; the answer carries it back.
        pub request: u64,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    const HANDLE: [u8; 16] = [0x44; 16];

    impl Sampled for AuthorityHello {
        fn samples() -> Vec<(Self, &'static str)> {
            let hello = AuthorityHello {
                version: 1,
                min_version: 1,
            };
            vec![(hello, "01 01 01")]
        }
    }

    impl Sampled for Issue {
        fn samples() -> Vec<(Self, &'static str)> {
            let issue = Issue {
                request: 7,
                holder: [0x41; 32],
                session: [0x42; 16],
                keep_s: 600,
                far: Bytes::from_static(b"\0\0\0\0\0\0\0\x05"),
            };
            vec![(
                issue,
                "02 07 4141414141414141414141414141414141414141414141414141414141414141 \
                 42424242424242424242424242424242 4258 08 0000000000000005",
            )]
        }
    }

    impl Sampled for Check {
        fn samples() -> Vec<(Self, &'static str)> {
            let check = Check {
                request: 8,
                holder: [0x41; 32],
                session: [0x42; 16],
                ticket: [0x43; 32],
            };
            vec![(
                check,
                "03 08 4141414141414141414141414141414141414141414141414141414141414141 \
                 42424242424242424242424242424242 \
                 4343434343434343434343434343434343434343434343434343434343434343",
            )]
        }
    }

    impl Sampled for Renew {
        fn samples() -> Vec<(Self, &'static str)> {
            let renew = Renew {
                request: 9,
                handles: vec![HANDLE],
            };
            vec![(renew, "04 09 01 44444444444444444444444444444444")]
        }
    }

    impl Sampled for Discard {
        fn samples() -> Vec<(Self, &'static str)> {
            let discard = Discard {
                request: 10,
                handle: HANDLE,
            };
            vec![(discard, "05 0a 44444444444444444444444444444444")]
        }
    }

    impl Sampled for Ping {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Ping { request: 11 }, "06 0b")]
        }
    }
}
