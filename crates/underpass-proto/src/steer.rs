//! Leading a published service elsewhere from another machine.
//!
//! What is wanted goes from end to end: whoever wants it opens a session with the publishing machine,
//! as for using the service, and in it a stream channel to [`STEER_SERVICE`]. It writes one [`Lead`] and
//! ends its direction; the answer is one [`Led`] or [`NotLed`], and the end. So a relay can neither
//! read nor form one, nor repeat it; and the publisher goes by the machine key that the session's
//! handshake has proven, not by anything that a relay says.

use bytes::Bytes;

use crate::Role;
use crate::packet::whole;
use crate::wire::{DecodeError, Label, Text, body, messages};

/// What the channel is opened to; no service can have this name.
pub const STEER_SERVICE: &str = "@steer";

/// The longest message, in bytes: whoever reads one need not keep more.
pub const MAX_STEER: usize = 2048;

messages! {
    /// Any message on the channel.
    pub enum Steer;
    /// The type of a message on the channel.
    pub enum SteerType, unknown = UnknownSteer;
    place = Role, family = "steer";

    /// Lead a service elsewhere.
    0x01 Lead in [Initiator];
    /// It leads there.
    0x02 Led in [Responder];
    /// It leads where it led.
    0x03 NotLed in [Responder];
}

body! {
    /// Wants a service to lead to another host.
    pub struct Lead {
        /// The service's name, as whoever wants it wrote it, without owner: one publisher's services all
        /// have one owner, and what a relay says about names is not asked.
        pub service: String as Label<63>,
        /// `HOST:PORT` as reached from the publishing machine.
        pub target: String as Label<300>,
        /// Whether connections that there are follow.
        pub now: bool,
    }
}

body! {
    /// The service leads elsewhere.
    pub struct Led {
        /// Its full name.
        pub name: String as Label<255>,
        /// Where it led before.
        pub before: String as Label<300>,
        /// Connections to it that there were.
        pub living: u64,
        /// Whether these follow.
        pub moved: bool,
    }
}

body! {
    /// Nothing was changed.
    pub struct NotLed {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 1024 bytes; a longer text is cut.
        pub text: String as Text<1024>,
    }
}

impl Steer {
    /// Reads all that the end `role` of the session has said.
    ///
    /// # Errors
    /// It is not exactly one message that this end may send.
    pub fn decode_whole(role: Role, bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_STEER {
            return Err(DecodeError::TooLong {
                what: "Steer",
                limit: MAX_STEER,
            });
        }
        whole(bytes, "Steer", |bytes| Steer::decode_in(role, bytes))
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Lead {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Lead {
                    service: "db".into(),
                    target: "10.0.0.6:5432".into(),
                    now: true,
                },
                "01 02 6462 0d 31302e302e302e363a35343332 01",
            )]
        }
    }

    impl Sampled for Led {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Led {
                    name: "db.bob.internal".into(),
                    before: "localhost:1".into(),
                    living: 3,
                    moved: true,
                },
                "02 0f 64622e626f622e696e7465726e616c 0b 6c6f63616c686f73743a31 03 01",
            )]
        }
    }

    impl Sampled for NotLed {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                NotLed {
                    code: 0x2c,
                    text: "no".into(),
                },
                "03 2c 02 6e6f",
            )]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::varint::VARINT_MAX;

    fn bytes_of(steer: &Steer) -> Bytes {
        let mut bytes = Vec::new();
        steer.encode(&mut bytes);
        bytes.into()
    }

    #[test]
    fn each_end_says_only_what_is_its_to_say() {
        let lead = Steer::from(Lead {
            service: "db".into(),
            target: "h:1".into(),
            now: false,
        });
        let no = Steer::from(NotLed {
            code: 4,
            text: String::new(),
        });
        for (message, may) in [(lead, Role::Initiator), (no, Role::Responder)] {
            let bytes = bytes_of(&message);
            assert_eq!(Steer::decode_whole(may, bytes.clone()), Ok(message));
            assert!(matches!(
                Steer::decode_whole(may.peer(), bytes),
                Err(DecodeError::NotAllowed { .. })
            ));
        }
    }

    #[test]
    fn it_is_exactly_one_message() {
        let lead = Steer::from(Lead {
            service: "db".into(),
            target: "h:1".into(),
            now: false,
        });
        let once = bytes_of(&lead);
        let twice = [&once[..], &once[..]].concat();
        let read = |bytes: Vec<u8>| Steer::decode_whole(Role::Initiator, bytes.into());
        assert!(matches!(
            read(twice),
            Err(DecodeError::TrailingBytes { .. })
        ));
        assert!(matches!(read(vec![]), Err(DecodeError::Truncated { .. })));
        assert!(matches!(
            read(vec![1; MAX_STEER + 1]),
            Err(DecodeError::TooLong { .. })
        ));
    }

    /// The longest of each kind can be read by whoever keeps no more than `MAX_STEER`.
    #[test]
    fn the_longest_message_fits() {
        let longest = [
            Steer::from(Lead {
                service: "s".repeat(63),
                target: "t".repeat(300),
                now: true,
            }),
            Steer::from(Led {
                name: "n".repeat(255),
                before: "b".repeat(300),
                living: VARINT_MAX,
                moved: true,
            }),
            Steer::from(NotLed {
                code: VARINT_MAX,
                text: "x".repeat(5000),
            }),
        ];
        for message in longest {
            assert!(message.encoded_len() <= MAX_STEER, "{message:?}");
        }
    }
}
