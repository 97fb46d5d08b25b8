//! The relays of a group, as one of them announces them.

use crate::wire::{Auto, Label, List, Nested, body};

/// The most relays that a group has.
pub const MAX_GROUP: usize = 64;
/// The longest address of a relay, in bytes.
pub const MAX_RELAY_URL: usize = 512;

body! {
    /// Which relays are there? Answered by [`GroupList`].
    pub struct Group {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
    }
}

body! {
    /// One relay of a group.
    pub struct GroupRelay {
        /// Its address as an agent takes it, without a fingerprint; at most 512 bytes.
        pub url: String as Label<MAX_RELAY_URL>,
        /// The fingerprint of its key.
        pub key: [u8; 32],
        /// The SHA-256 of the certificate that it shows, where the roots of systems do not vouch for it.
        pub certificate: Vec<[u8; 32]> as List<Auto, 1>,
    }
}

body! {
    /// The relays of the group, signed.
    pub struct GroupList {
        /// The request that this answers.
        pub request: u64,
        /// The group's key: what the signature is checked with.
        pub group: [u8; 32],
        /// Larger in each list than in the one before.
        pub serial: u64,
        /// The relays, in the order in which they are to be used where nothing else tells them apart.
        pub relays: Vec<GroupRelay> as List<Nested, MAX_GROUP>,
        /// Ed25519; see [`RelayList`](crate::group::RelayList).
        pub signature: [u8; 64],
    }
}

body! {
    /// The relays of the group are others now: ask again.
    pub struct GroupChanged {
        /// The serial of the new list.
        pub serial: u64,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Group {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Group { request: 21 }, "15 15")]
        }
    }

    impl Sampled for GroupList {
        fn samples() -> Vec<(Self, &'static str)> {
            let relays = vec![
                GroupRelay {
                    url: "http://a".into(),
                    key: [0xaa; 32],
                    certificate: vec![],
                },
                GroupRelay {
                    url: "https://b".into(),
                    key: [0xbb; 32],
                    certificate: vec![[0xcc; 32]],
                },
            ];
            vec![(
                GroupList {
                    request: 21,
                    group: [0x11; 32],
                    serial: 3,
                    relays,
                    signature: [0x22; 64],
                },
                "2b 15 1111111111111111111111111111111111111111111111111111111111111111 03 02 \
                 08 687474703a2f2f61 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 00 \
                 09 68747470733a2f2f62 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 01 \
                 cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc \
                 22222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222222",
            )]
        }
    }

    impl Sampled for GroupChanged {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(GroupChanged { serial: 3 }, "33 03")]
        }
    }
}
