//! Routing headers: how an agent tells its relay where a packet goes, and the relay an agent
//! where one comes from.
//!
//! The body of a ROUTED packet is `length: varint | sealed header | payload`. The payload is a
//! packet of the session between the two endpoints, kind and body without a length, which the
//! relay passes on as it is. The header is sealed with the keys of the hop, so each relay and
//! agent opens one header and seals another. This module knows the header's plaintext.
//!
//! A route belongs to one hop: the two agents and the relay between them know it by a
//! different number on each side. Its packets are counted per direction from 0; only packets
//! with [`Data`], [`Open`], [`Reopen`] or [`Incoming`] before them count.

use bytes::{Buf, BufMut, Bytes};

use crate::Speaker;
use crate::grade::Grade;
use crate::packet::{MAX_ROUTE_HEADER, PacketKind, put_prefix, whole};
use crate::varint;
use crate::wire::{Auto, Codec, Counted, DecodeError, Label, Secret, Text, body, messages};

body! {
    /// Opens a route to whoever publishes a service. The payload is the first packet for it.
    pub struct Open {
        /// The new route: picked by the agent, even, not in use.
        pub route: u32,
        /// The service, as the user named it; at most 255 bytes.
        pub service: String as Label<255>,
        /// How long the agent keeps the session without a path, in seconds: tickets last longer.
        pub keep_s: u64,
    }
}

body! {
    /// Opens a route for a session that is kept at both ends, by the first of its two tickets. The
    /// payload is its RESUME, which holds the second one, sealed.
    pub struct Reopen {
        /// The new route: picked by the agent, even, not in use.
        pub route: u32,
        /// The first ticket. It says where the far endpoint is to the ticket authority alone.
        pub ticket: [u8; 32] as Secret,
    }
}

body! {
    /// The first ticket for the next time. It comes before anything of the far endpoint. The one
    /// that opened this route is good until this one is used. No payload.
    pub struct Ticket {
        /// The route that brought it.
        pub route: u32,
        /// The ticket.
        pub ticket: [u8; 32] as Secret,
        /// What deletes it, whichever of the session's tickets it is then.
        pub handle: [u8; 16],
        /// How long it is good for, in seconds from when it was given out or last renewed; the
        /// relay renews it while the route is open.
        pub lifetime_s: u64,
    }
}

body! {
    /// The session of a ticket has ended: nobody needs it any more. No payload, no answer.
    pub struct Discard {
        /// As it came with the ticket.
        pub handle: [u8; 16],
    }
}

body! {
    /// Somebody has opened a route to a service that the agent publishes. The payload is their
    /// first packet.
    pub struct Incoming {
        /// The new route: picked by the relay, odd, not in use.
        pub route: u32,
        /// The service, as the agent published it; at most 255 bytes.
        pub service: String as Label<255>,
        /// Who it is, as far as the relay knows: the user, at most 63 bytes.
        pub user: String as Label<63>,
        /// The static key of their machine, which the handshake must then show too.
        pub machine: [u8; 32],
    }
}

body! {
    /// The payload is one more packet of the route.
    pub struct Data {
        /// The route.
        pub route: u32,
    }
}

body! {
    /// The relay's buffer for the route is filling up: send nothing more on it for now. No
    /// payload.
    pub struct Wait {
        /// The route.
        pub route: u32,
    }
}

body! {
    /// The relay's buffer for the route has room again. No payload.
    pub struct GoOn {
        /// The route.
        pub route: u32,
    }
}

body! {
    /// The relay had no room for packets that this agent sent and has dropped them: their
    /// records must be sent again. No payload.
    pub struct Dropped {
        /// The route.
        pub route: u32,
        /// The number of the first packet dropped.
        pub first: u64,
        /// How many, one after the other.
        pub count: u64,
    }
}

body! {
    /// Whoever publishes the service is not attached to this relay now; the route waits for them. An agent
    /// that knows other relays may look there meanwhile. No payload.
    pub struct Absent {
        /// The route.
        pub route: u32,
    }
}

body! {
    /// With what grade the session of the route is kept secret, where that is not blind: said when it has begun, and
    /// again on each further route of it. No payload.
    pub struct Graded {
        /// The route.
        pub route: u32,
        /// The grade.
        pub grade: Grade,
        /// In grade `relay` what opens the session's records (`protocol-keys.md`, Grades); else nothing.
        pub keys: Bytes as Counted,
    }
}

body! {
    /// The route is no more; its number may be used again. No payload.
    pub struct Gone {
        /// The route.
        pub route: u32,
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 512 bytes; a longer text is cut.
        pub text: String as Text<512>,
    }
}

messages! {
    /// Any routing header.
    pub enum RouteHeader;
    /// The operation of a routing header.
    pub enum RouteOp, unknown = UnknownRoute;
    place = Speaker, family = "route";

    /// Opens a route.
    0x01 Open in [Agent];
    /// Somebody has opened a route to a service published here.
    0x02 Incoming in [Relay];
    /// One more packet.
    0x03 Data in [Agent, Relay];
    /// Send nothing more for now.
    0x04 Wait in [Relay];
    /// Send again.
    0x05 GoOn in [Relay];
    /// Packets were dropped.
    0x06 Dropped in [Relay];
    /// The route is no more.
    0x07 Gone in [Agent, Relay];
    /// Opens a route by a ticket.
    0x08 Reopen in [Agent];
    /// The ticket for the next time.
    0x09 Ticket in [Relay];
    /// A ticket is not needed any more.
    0x0a Discard in [Agent];
    /// The route waits for the publisher.
    0x0b Absent in [Relay];
    /// Who may read the session of a route, and by which keys.
    0x0e Graded in [Agent];
}

impl RouteHeader {
    /// Reads a whole header that `speaker` sent.
    ///
    /// # Errors
    /// What is wrong and where; bytes left over are wrong too.
    pub fn decode_whole(speaker: Speaker, plaintext: Bytes) -> Result<Self, DecodeError> {
        whole(plaintext, "RouteHeader", |bytes| {
            RouteHeader::decode_in(speaker, bytes)
        })
    }

    /// The route that the header is about, where it is about one.
    pub fn route(&self) -> Option<u32> {
        Some(match self {
            RouteHeader::Open(it) => it.route,
            RouteHeader::Incoming(it) => it.route,
            RouteHeader::Data(it) => it.route,
            RouteHeader::Wait(it) => it.route,
            RouteHeader::GoOn(it) => it.route,
            RouteHeader::Dropped(it) => it.route,
            RouteHeader::Gone(it) => it.route,
            RouteHeader::Reopen(it) => it.route,
            RouteHeader::Ticket(it) => it.route,
            RouteHeader::Absent(it) => it.route,
            RouteHeader::Graded(it) => it.route,
            RouteHeader::Discard(_) => return None,
        })
    }
}

/// Who picked the number of a route: agents pick even ones, relays odd ones, so that both may
/// open routes at once.
pub fn picked_by(route: u32) -> Speaker {
    if route.is_multiple_of(2) {
        Speaker::Agent
    } else {
        Speaker::Relay
    }
}

/// Appends all of a ROUTED packet but the payload of `payload_len` bytes, which the caller
/// writes next.
pub fn put_routed(buf: &mut impl BufMut, sealed_header: &[u8], payload_len: usize) {
    let body_len = routed_body_len(sealed_header.len(), payload_len);
    put_prefix(buf, PacketKind::Routed, body_len);
    varint::put(buf, sealed_header.len() as u64);
    buf.put_slice(sealed_header);
}

/// The length of a ROUTED packet's body.
pub fn routed_body_len(sealed_header_len: usize, payload_len: usize) -> usize {
    varint::size(sealed_header_len as u64) + sealed_header_len + payload_len
}

/// Cuts the body of a ROUTED packet into the sealed header and the payload, without copying.
///
/// # Errors
/// [`DecodeError`] where the header is cut short or longer than [`MAX_ROUTE_HEADER`].
pub fn split_routed(mut body: Bytes) -> Result<(Bytes, Bytes), DecodeError> {
    let what = "Routed.header";
    let len = <Auto as Codec<u64>>::get(&mut body, what)?;
    if len > MAX_ROUTE_HEADER as u64 {
        return Err(DecodeError::TooLong {
            what,
            limit: MAX_ROUTE_HEADER,
        });
    }
    let len = len as usize;
    if body.remaining() < len {
        return Err(DecodeError::Truncated { what });
    }
    let header = body.split_to(len);
    Ok((header, body))
}

#[cfg(test)]
mod samples_of_headers {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Open {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Open {
                    route: 2,
                    service: "db.alice".into(),
                    keep_s: 600,
                },
                "01 02 08 64622e616c696365 4258",
            )]
        }
    }

    impl Sampled for Reopen {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Reopen {
                    route: 4,
                    ticket: [0xaa; 32],
                },
                "08 04 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            )]
        }
    }

    impl Sampled for Ticket {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Ticket {
                    route: 4,
                    ticket: [0xbb; 32],
                    handle: [0xcc; 16],
                    lifetime_s: 4200,
                },
                "09 04 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb \
                 cccccccccccccccccccccccccccccccc 5068",
            )]
        }
    }

    impl Sampled for Discard {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Discard { handle: [0xcc; 16] },
                "0a cccccccccccccccccccccccccccccccc",
            )]
        }
    }

    impl Sampled for Incoming {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Incoming {
                    route: 1,
                    service: "db".into(),
                    user: "bob".into(),
                    machine: [0xee; 32],
                },
                "02 01 02 6462 03 626f62 \
                 eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
            )]
        }
    }

    impl Sampled for Data {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![
                (Data { route: 1 }, "03 01"),
                (Data { route: u32::MAX }, "03 c0000000ffffffff"),
            ]
        }
    }

    impl Sampled for Wait {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Wait { route: 2 }, "04 02")]
        }
    }

    impl Sampled for GoOn {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(GoOn { route: 2 }, "05 02")]
        }
    }

    impl Sampled for Absent {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(Absent { route: 2 }, "0b 02")]
        }
    }

    impl Sampled for Graded {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![
                (
                    Graded {
                        route: 2,
                        grade: Grade::None,
                        keys: Bytes::new(),
                    },
                    "0e 02 00 00",
                ),
                (
                    Graded {
                        route: 2,
                        grade: Grade::Relay,
                        keys: Bytes::from_static(b"keys"),
                    },
                    "0e 02 01 04 6b657973",
                ),
            ]
        }
    }

    impl Sampled for Dropped {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Dropped {
                    route: 2,
                    first: 1000,
                    count: 3,
                },
                "06 02 43e8 03",
            )]
        }
    }

    impl Sampled for Gone {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Gone {
                    route: 2,
                    code: 0x06,
                    text: "away".into(),
                },
                "07 02 06 04 61776179",
            )]
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{MAX_FORWARDED, MAX_PACKET, PacketDecoder};
    use crate::wire::Fields;

    #[test]
    fn each_side_says_only_what_is_its_to_say() {
        let open = Bytes::from_static(b"\x01\x02\x02db\x00");
        assert!(RouteHeader::decode_whole(Speaker::Agent, open.clone()).is_ok());
        assert_eq!(
            RouteHeader::decode_whole(Speaker::Relay, open),
            Err(DecodeError::NotAllowed {
                what: "Open",
                place: "a message from a relay"
            })
        );
    }

    #[test]
    fn leftovers_and_large_numbers_are_refused() {
        let decode = |bytes: &'static [u8]| {
            RouteHeader::decode_whole(Speaker::Relay, Bytes::from_static(bytes))
        };
        let what = "RouteHeader";
        assert_eq!(
            decode(b"\x03\x01\x00"),
            Err(DecodeError::TrailingBytes { what, count: 1 })
        );
        let what = "Data.route";
        assert_eq!(
            decode(b"\x03\xc0\x00\x00\x01\x00\x00\x00\x00"),
            Err(DecodeError::InvalidValue { what })
        );
    }

    #[test]
    fn the_largest_header_and_payload_fit_a_packet() {
        let mut packet = Vec::new();
        put_routed(&mut packet, &[7; MAX_ROUTE_HEADER], MAX_FORWARDED);
        packet.resize(packet.len() + MAX_FORWARDED, 9);
        assert_eq!(packet.len(), MAX_PACKET + 4);
        let mut decoder = PacketDecoder::new();
        decoder.push(packet.into());
        let (header, payload) = split_routed(decoder.next().unwrap().unwrap().body).unwrap();
        assert_eq!(header.len(), MAX_ROUTE_HEADER);
        assert_eq!(payload.len(), MAX_FORWARDED);
    }

    #[test]
    fn route_numbers_tell_who_picked_them() {
        assert_eq!(picked_by(2), Speaker::Agent);
        assert_eq!(picked_by(u32::MAX), Speaker::Relay);
    }

    proptest! {
        #[test]
        fn headers_fit_their_limit(incoming in <Incoming as Fields>::any()) {
            // 64 bytes are more than any sealing adds.
            prop_assert!(incoming.encoded_len() + 64 <= MAX_ROUTE_HEADER);
        }

        #[test]
        fn routed_bodies_round_trip(header: Vec<u8>, payload: Vec<u8>) {
            let mut packet = Vec::new();
            put_routed(&mut packet, &header, payload.len());
            packet.extend_from_slice(&payload);
            let mut decoder = PacketDecoder::new();
            decoder.push(packet.into());
            let packet = decoder.next().unwrap().unwrap();
            prop_assert_eq!(packet.kind, PacketKind::Routed);
            prop_assert_eq!(packet.body.len(), routed_body_len(header.len(), payload.len()));
            prop_assert_eq!(split_routed(packet.body), Ok((header.into(), payload.into())));
        }

        #[test]
        fn arbitrary_bodies(body: Vec<u8>) {
            let len = body.len();
            if let Ok((header, payload)) = split_routed(body.into()) {
                prop_assert!(header.len() + payload.len() < len);
            }
        }
    }
}
