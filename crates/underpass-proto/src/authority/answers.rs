//! What a ticket authority says to a relay.

use bytes::Bytes;

use crate::ticket::NotGood;
use crate::wire::{Counted, Secret, Text, body, wire_enum};

body! {
    /// The relay is known here.
    pub struct Welcome {
        /// The version that both speak from here on.
        pub version: u16,
    }
}

body! {
    /// A ticket: the first of a new line, or the one after the one presented.
    pub struct Granted {
        /// The question that this answers.
        pub request: u64,
        /// The ticket.
        pub ticket: [u8; 32] as Secret,
        /// What deletes it.
        pub handle: [u8; 16],
        /// How long it is good for unless it is renewed, in seconds.
        pub lifetime_s: u64,
        /// Where the far endpoint is; at most 64 bytes.
        pub far: Bytes as Counted,
    }
}

body! {
    /// What was asked is done, and there is nothing to tell.
    pub struct Settled {
        /// The question that this answers.
        pub request: u64,
    }
}

body! {
    /// The ticket is no good.
    pub struct Refused {
        /// The question that this answers.
        pub request: u64,
        /// Why, for the relay's log; the client is not told.
        pub because: RefusedBecause,
    }
}

wire_enum! {
    /// Why a ticket is no good.
    pub enum RefusedBecause {
        /// There is no such ticket.
        Unknown = 1,
        /// It has expired.
        Expired = 2,
        /// It is another machine's, or of another session.
        Foreign = 3,
    }
}

body! {
    /// The authority cannot tell, for now.
    pub struct NoAnswer {
        /// The question that this answers.
        pub request: u64,
        /// Why, in at most 256 bytes; a longer text is cut.
        pub text: String as Text<256>,
    }
}

impl From<NotGood> for RefusedBecause {
    fn from(why: NotGood) -> Self {
        match why {
            NotGood::Unknown => RefusedBecause::Unknown,
            NotGood::Expired => RefusedBecause::Expired,
            NotGood::Foreign => RefusedBecause::Foreign,
        }
    }
}

impl From<RefusedBecause> for NotGood {
    fn from(why: RefusedBecause) -> Self {
        match why {
            RefusedBecause::Unknown => NotGood::Unknown,
            RefusedBecause::Expired => NotGood::Expired,
            RefusedBecause::Foreign => NotGood::Foreign,
        }
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Welcome {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Welcome { version: 1 }, "20 01")]
        }
    }

    impl Sampled for Granted {
        fn samples() -> Vec<(Self, &'static str)> {
            let granted = Granted {
                request: 7,
                ticket: [0x45; 32],
                handle: [0x44; 16],
                lifetime_s: 4200,
                far: Bytes::from_static(b"\0\0\0\0\0\0\0\x05"),
            };
            vec![(
                granted,
                "21 07 4545454545454545454545454545454545454545454545454545454545454545 \
                 44444444444444444444444444444444 5068 08 0000000000000005",
            )]
        }
    }

    impl Sampled for Settled {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Settled { request: 9 }, "22 09")]
        }
    }

    impl Sampled for Refused {
        fn samples() -> Vec<(Self, &'static str)> {
            let refused = Refused {
                request: 8,
                because: RefusedBecause::Expired,
            };
            vec![(refused, "23 08 02")]
        }
    }

    impl Sampled for NoAnswer {
        fn samples() -> Vec<(Self, &'static str)> {
            let no_answer = NoAnswer {
                request: 8,
                text: "its store is full".into(),
            };
            vec![(no_answer, "24 08 11 6974732073746f72652069732066756c6c")]
        }
    }
}
