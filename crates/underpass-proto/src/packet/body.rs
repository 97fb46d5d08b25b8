//! The bodies of the packets that start, resume and refuse a session.

use std::fmt;

use bytes::{BufMut, Bytes};

use super::{Packet, PacketKind, whole};
use crate::wire::{Auto, Codec, DecodeError, Fields, Rest, Shown, Text, body, wire_enum};

/// The bytes at the start of every HELLO.
pub(super) const MAGIC: &[u8; 4] = b"UPS1";

/// The id of a session: 16 random bytes, chosen by its initiator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SessionId {
    /// The first four bytes in hexadecimal: enough to find a session in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Codec<SessionId> for Auto {
    fn len(value: &SessionId) -> usize {
        value.0.len()
    }
    fn put(value: &SessionId, buf: &mut impl BufMut) {
        <Auto as Codec<[u8; 16]>>::put(&value.0, buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<SessionId, DecodeError> {
        <Auto as Codec<[u8; 16]>>::get(buf, what).map(SessionId)
    }
    fn show(value: &SessionId) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        <Auto as Codec<[u8; 16]>>::layout()
    }
    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<SessionId> {
        use proptest::strategy::Strategy as _;
        <Auto as Codec<[u8; 16]>>::any().prop_map(SessionId).boxed()
    }
}

/// A version with [`MAGIC`] before it.
struct AfterMagic;

impl Codec<u16> for AfterMagic {
    fn len(value: &u16) -> usize {
        MAGIC.len() + <Auto as Codec<u16>>::len(value)
    }
    fn put(value: &u16, buf: &mut impl BufMut) {
        buf.put_slice(MAGIC);
        <Auto as Codec<u16>>::put(value, buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<u16, DecodeError> {
        if <Auto as Codec<[u8; 4]>>::get(buf, "Hello.magic")? != *MAGIC {
            return Err(DecodeError::InvalidValue {
                what: "Hello.magic",
            });
        }
        <Auto as Codec<u16>>::get(buf, what)
    }
    fn show(value: &u16) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        format!(
            "the bytes \"UPS1\", then {}",
            <Auto as Codec<u16>>::layout()
        )
    }
    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<u16> {
        <Auto as Codec<u16>>::any()
    }
}

wire_enum! {
    /// With whom a session is wanted.
    pub enum HelloTarget {
        /// With the relay that the carrier leads to.
        Relay = 0,
        /// With the endpoint that the packets are routed to, or that listens directly.
        Endpoint = 1,
        /// With that endpoint, and the relay may read it (grade `relay`).
        EndpointGradeRelay = 2,
        /// With that endpoint, and everybody on the way may read it (grade `none`).
        EndpointGradeNone = 3,
    }
}

body! {
    /// Starts a session. Magic, version and lowest version stand at these places in every
    /// version to come.
    pub struct Hello {
        /// The version that the sender would like to speak and in which `message` is written.
        pub version: u16 as AfterMagic,
        /// The lowest version that it can speak.
        pub min_version: u16,
        /// The new session.
        pub session: SessionId,
        /// With whom.
        pub target: HelloTarget,
        /// First message of the handshake.
        pub message: Bytes as Rest,
    }
}

body! {
    /// The responder's message of the handshake.
    pub struct Answer {
        /// Second message of the handshake.
        pub message: Bytes as Rest,
    }
}

body! {
    /// The initiator's last message of the handshake.
    pub struct Finish {
        /// Third message of the handshake.
        pub message: Bytes as Rest,
    }
}

body! {
    /// Asks to go on with a kept session on this carrier.
    pub struct Resume {
        /// The session.
        pub session: SessionId,
        /// The generation that the sender has reached; the session goes on with the next.
        pub generation: u64,
        /// Random, never used before.
        pub nonce: [u8; 16],
        /// Sealed frames (resume payload): the ticket that the peer gave out for this, and what has
        /// arrived here.
        pub sealed: Bytes as Rest,
    }
}

body! {
    /// Grants a [`Resume`].
    pub struct Resumed {
        /// The generation that the session enters.
        pub generation: u64,
        /// Random, never used before.
        pub nonce: [u8; 16],
        /// Sealed frames (resume payload): what has arrived here, and the next ticket.
        pub sealed: Bytes as Rest,
    }
}

body! {
    /// Proves that [`Resumed`] came to the owner of the session, not to a replayer.
    pub struct Confirm {
        /// The generation that the session entered.
        pub generation: u64,
        /// Tag under a key of that generation.
        pub tag: [u8; 32],
    }
}

body! {
    /// Says why a session was not started or not resumed. Not sealed: a hint for people, not
    /// something to act on without doubt.
    pub struct Refused {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 512 bytes; a longer text is cut.
        pub text: String as Text<512>,
    }
}

/// Gives each body its packet kind and what goes with it; in tests a body without a sample
/// does not compile.
macro_rules! bodies {
    ($($name:ident)*) => {
        $(
            impl $name {
                /// The kind of packet that has this body.
                pub const KIND: PacketKind = PacketKind::$name;

                /// Exactly how many bytes [`encode`](Self::encode) writes.
                pub fn encoded_len(&self) -> usize {
                    self.fields_len()
                }

                /// Appends the body, without length and kind.
                pub fn encode(&self, buf: &mut impl BufMut) {
                    self.put_fields(buf);
                }

                /// Reads a whole body.
                ///
                /// # Errors
                /// What is wrong and where; bytes left over are wrong too.
                pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
                    whole(body, stringify!($name), |body| Self::get_fields(0, body))
                }

                /// The packet with this body.
                pub fn to_packet(&self) -> Packet {
                    let mut body = Vec::with_capacity(self.encoded_len());
                    self.encode(&mut body);
                    Packet { kind: Self::KIND, body: body.into() }
                }
            }
        )*

        #[cfg(test)]
        pub(crate) fn samples() -> Vec<crate::wire::samples::Sample> {
            vec![$( crate::wire::samples::Sample::of::<$name>(
                "packet",
                stringify!($name),
                format!("kind {:#04x}", $name::KIND.code()),
                |value, buf| value.to_packet().encode(buf),
            ) ),*]
        }

        #[cfg(test)]
        mod body_tests {
            use proptest::prelude::*;

            use super::*;
            use crate::wire::samples::{Sampled, bytes_of};

            #[test]
            fn samples_are_byte_exact() {
                $(
                    for (value, hex) in $name::samples() {
                        let bytes = bytes_of(hex);
                        let mut written = Vec::new();
                        value.to_packet().encode(&mut written);
                        assert_eq!(written, bytes, "{value:?} is written otherwise");
                        let mut decoder = crate::packet::PacketDecoder::new();
                        decoder.push(bytes.into());
                        let packet = decoder.next().unwrap().unwrap();
                        assert_eq!(packet.kind, $name::KIND);
                        assert_eq!($name::decode(packet.body), Ok(value));
                    }
                )*
            }

            proptest! {
                $(
                    #[test]
                    #[allow(non_snake_case)]
                    fn $name(
                        value in <$name as Fields>::any(),
                        cut: proptest::sample::Index,
                        arbitrary: Vec<u8>,
                    ) {
                        let packet = value.to_packet();
                        prop_assert_eq!(packet.body.len(), value.encoded_len());
                        prop_assert_eq!($name::decode(packet.body.clone()), Ok(value));
                        let part = packet.body.slice(..cut.index(packet.body.len() + 1));
                        for body in [part, arbitrary.into()] {
                            if let Ok(value) = $name::decode(body.clone()) {
                                prop_assert!(value.encoded_len() <= body.len());
                            }
                        }
                    }
                )*
            }
        }
    };
}

bodies! { Hello Answer Finish Resume Resumed Confirm Refused }

#[cfg(test)]
mod samples_of_bodies {
    use super::*;
    use crate::wire::samples::Sampled;

    const SESSION: SessionId = SessionId(*b"sixteen bytes id");

    impl Sampled for Hello {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Hello {
                    version: 1,
                    min_version: 1,
                    session: SESSION,
                    target: HelloTarget::Endpoint,
                    message: Bytes::from_static(b"noise 1"),
                },
                "1f 01 55505331 01 01 7369787465656e206279746573206964 01 6e6f6973652031",
            )]
        }
    }

    impl Sampled for Answer {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Answer {
                    message: Bytes::from_static(b"noise 2"),
                },
                "08 02 6e6f6973652032",
            )]
        }
    }

    impl Sampled for Finish {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Finish {
                    message: Bytes::from_static(b"noise 3"),
                },
                "08 03 6e6f6973652033",
            )]
        }
    }

    impl Sampled for Resume {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Resume {
                    session: SESSION,
                    generation: 3,
                    nonce: [0xbb; 16],
                    sealed: Bytes::from_static(b"sealed"),
                },
                "28 04 7369787465656e206279746573206964 03 \
                 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 7365616c6564",
            )]
        }
    }

    impl Sampled for Resumed {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Resumed {
                    generation: 4,
                    nonce: [0xcc; 16],
                    sealed: Bytes::from_static(b"sealed"),
                },
                "18 05 04 cccccccccccccccccccccccccccccccc 7365616c6564",
            )]
        }
    }

    impl Sampled for Confirm {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Confirm {
                    generation: 4,
                    tag: [0xdd; 32],
                },
                "22 06 04 dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
            )]
        }
    }

    impl Sampled for Refused {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Refused {
                    code: 0x0d,
                    text: "unknown".into(),
                },
                "0a 09 0d 07 756e6b6e6f776e",
            )]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_told_apart() {
        assert_eq!(
            Hello::decode(Bytes::from_static(b"SSH-2.0-x")),
            Err(DecodeError::InvalidValue {
                what: "Hello.magic"
            })
        );
    }

    #[test]
    fn bytes_left_over_are_refused() {
        assert_eq!(
            Refused::decode(Bytes::from_static(b"\x01\x00\x00\x00")),
            Err(DecodeError::TrailingBytes {
                what: "Refused",
                count: 2
            })
        );
    }

    #[test]
    fn debug_output_keeps_secrets_and_payload() {
        let resume = Resume {
            session: SessionId([0x11; 16]),
            generation: 1,
            nonce: [0; 16],
            sealed: Bytes::from_static(b"canary"),
        };
        let shown = format!("{resume:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(
            shown.contains("session: 1111") && shown.contains("(6 bytes)"),
            "{shown}"
        );
    }
}
