//! One function per parser, and one for the session itself, for the fuzzer and for the tests that replay its corpus.
//!
//! Each takes any bytes, must not panic by itself, and asserts what holds for all input: what
//! was understood can be written, and is then understood the same; how a stream is cut into
//! chunks makes no difference.

mod blocks;
mod session;

use std::fmt::Debug;

use bytes::{Buf, Bytes, BytesMut};

use crate::authority::{AuthorityMessage, Party};
use crate::control::ControlDecoder;
use crate::frame::{self, Frame, FrameType, Place};
use crate::names::{self, DEFAULT_SUFFIX, ServiceName};
use crate::packet::{
    Answer, Confirm, Finish, Hello, Packet, PacketDecoder, PacketKind, RecordHeader, Refused,
    Resume, Resumed,
};
use crate::params::Params;
use crate::route::{self, RouteHeader};
use crate::steer::Steer;
use crate::transfer::path;
use crate::transfer::{Transfer, TransferDecoder};
use crate::wire::DecodeError;
use crate::{Role, Speaker};
pub use blocks::compress;
pub use session::session;

/// One function of this module.
pub type Target = fn(&[u8]);

/// All of them, by the names of fuzz targets and corpus folders.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame", frame),
    ("packet", packet),
    ("record_header", record_header),
    ("route_header", route_header),
    ("control", control),
    ("authority", authority),
    ("params", params),
    ("ticket", ticket),
    ("steer", steer),
    ("transfer", transfer),
    ("names", names),
    ("compress", compress),
    ("session", session),
];

/// Encodes `value` and checks that it is as long as it says and decodes to itself.
fn round_trip<T: PartialEq + Debug>(
    value: &T,
    len: usize,
    encode: impl FnOnce(&T, &mut Vec<u8>),
    decode: impl FnOnce(Bytes) -> Result<T, DecodeError>,
) {
    let mut bytes = Vec::new();
    encode(value, &mut bytes);
    assert_eq!(bytes.len(), len, "{value:?}");
    assert_eq!(decode(bytes.into()).as_ref(), Ok(value));
}

/// The first byte, which steers a target, and the rest.
fn steered(data: &[u8]) -> (u8, Bytes) {
    data.split_first()
        .map_or((0, Bytes::new()), |(first, rest)| {
            (*first, Bytes::copy_from_slice(rest))
        })
}

fn speaker(steer: u8) -> Speaker {
    if steer & 1 == 0 {
        Speaker::Agent
    } else {
        Speaker::Relay
    }
}

/// Frames of a record; the first byte says in which place.
pub fn frame(data: &[u8]) {
    let (steer, mut bytes) = steered(data);
    let place = match steer % 3 {
        0 => Place::Reliable,
        1 => Place::Unreliable,
        _ => Place::ResumePayload,
    };
    for frame in frame::decode_all(place, &mut bytes).map_while(Result::ok) {
        assert!(frame.kind().allowed_in(place));
        round_trip(&frame, frame.encoded_len(), Frame::encode, |mut bytes| {
            Frame::decode(&mut bytes)
        });
    }
}

/// A stream of packets; the first byte is the length of its chunks.
pub fn packet(data: &[u8]) {
    fn packets(bytes: &Bytes, chunk: usize) -> (Vec<Packet>, bool) {
        let mut decoder = PacketDecoder::new();
        let mut packets = Vec::new();
        let mut rest = bytes.clone();
        while rest.has_remaining() {
            decoder.push(rest.split_to(chunk.min(rest.len())));
            loop {
                match decoder.next() {
                    Ok(Some(packet)) => packets.push(packet),
                    Ok(None) => break,
                    Err(_) => return (packets, false),
                }
            }
        }
        (packets, true)
    }
    let (steer, bytes) = steered(data);
    let whole = packets(&bytes, usize::MAX);
    assert_eq!(whole, packets(&bytes, usize::from(steer).max(1)));
    whole.0.into_iter().for_each(packet_body);
}

fn packet_body(packet: Packet) {
    macro_rules! body {
        ($name:ident) => {
            if let Ok(body) = $name::decode(packet.body) {
                round_trip(&body, body.encoded_len(), $name::encode, $name::decode);
            }
        };
    }
    match packet.kind {
        PacketKind::Padding => {}
        PacketKind::Hello => body!(Hello),
        PacketKind::Answer => body!(Answer),
        PacketKind::Finish => body!(Finish),
        PacketKind::Resume => body!(Resume),
        PacketKind::Resumed => body!(Resumed),
        PacketKind::Confirm => body!(Confirm),
        PacketKind::Refused => body!(Refused),
        PacketKind::Reliable | PacketKind::Unreliable => {
            let mut record = vec![packet.kind.code()];
            record.extend_from_slice(&packet.body);
            record_header(&record);
        }
        PacketKind::Routed => {
            let len = packet.body.len();
            if let Ok((header, payload)) = route::split_routed(packet.body) {
                assert!(header.len() + payload.len() < len);
                let _ = Packet::parse_unframed(payload);
            }
        }
    }
}

/// A record, kind byte included.
pub fn record_header(data: &[u8]) {
    if let Ok((header, len)) = RecordHeader::parse(data) {
        let mut written = Vec::new();
        header.put(&mut written);
        assert_eq!(written, data[..len]);
        assert_eq!(header.encoded_len(), len);
        let (aad, aad_len) = header.aad();
        assert_eq!(aad[..aad_len], data[..len]);
    }
}

/// The plaintext of a routing header; the first byte says from whom.
pub fn route_header(data: &[u8]) {
    let (steer, bytes) = steered(data);
    let speaker = speaker(steer);
    if let Ok(header) = RouteHeader::decode_whole(speaker, bytes) {
        assert!(header.kind().allowed_in(speaker));
        round_trip(
            &header,
            header.encoded_len(),
            RouteHeader::encode,
            |bytes| RouteHeader::decode_whole(speaker, bytes),
        );
    }
}

/// A control channel; the lowest bit of the first byte says from whom, the rest is the length
/// of chunks.
pub fn control(data: &[u8]) {
    let (steer, bytes) = steered(data);
    let speaker = speaker(steer);
    let mut whole = ControlDecoder::new(speaker);
    whole.push(&bytes);
    let mut parts = ControlDecoder::new(speaker);
    let mut rest = bytes.chunks(usize::from(steer >> 1).max(1));
    while let Ok(Some(message)) = whole.next() {
        assert!(message.kind().allowed_in(speaker));
        let mut framed = Vec::new();
        message
            .put_framed(&mut framed)
            .expect("it was not too long when it came");
        let mut again = ControlDecoder::new(speaker);
        again.push(&framed);
        assert_eq!(
            again.next().as_ref().map(Option::as_ref),
            Ok(Some(&message))
        );
        let part = loop {
            match parts.next() {
                Ok(None) => parts.push(rest.next().expect("the whole had one more message")),
                other => break other,
            }
        };
        assert_eq!(part, Ok(Some(message)));
    }
}

/// A stream between a relay and its ticket authority; the lowest bit of the first byte says whose, the
/// rest is the length of chunks.
pub fn authority(data: &[u8]) {
    let (steer, bytes) = steered(data);
    let by = match steer & 1 {
        0 => Party::Relay,
        _ => Party::Authority,
    };
    let mut whole = BytesMut::from(&bytes[..]);
    let mut parts = BytesMut::new();
    let mut rest = bytes.chunks(usize::from(steer >> 1).max(1));
    while let Ok(Some(message)) = AuthorityMessage::take(by, &mut whole) {
        assert!(message.kind().allowed_in(by));
        let mut framed = BytesMut::new();
        message.put_framed(&mut framed);
        let again = AuthorityMessage::take(by, &mut framed);
        assert_eq!(again.as_ref().map(Option::as_ref), Ok(Some(&message)));
        assert!(framed.is_empty());
        let part = loop {
            match AuthorityMessage::take(by, &mut parts) {
                Ok(None) => {
                    let more = rest.next().expect("the whole had one more message");
                    parts.extend_from_slice(more);
                }
                other => break other,
            }
        };
        assert_eq!(part, Ok(Some(message)));
    }
}

/// Session parameters.
pub fn params(data: &[u8]) {
    if let Ok(params) = Params::decode(Bytes::copy_from_slice(data)) {
        round_trip(
            &params,
            params.encoded_len(),
            Params::encode,
            Params::decode,
        );
    }
}

/// All that one end of a steering channel says; the lowest bit of the first byte says which end.
pub fn steer(data: &[u8]) {
    let (steer, bytes) = steered(data);
    let role = if steer & 1 == 0 {
        Role::Initiator
    } else {
        Role::Responder
    };
    if let Ok(message) = Steer::decode_whole(role, bytes) {
        assert!(message.kind().allowed_in(role));
        round_trip(&message, message.encoded_len(), Steer::encode, |bytes| {
            Steer::decode_whole(role, bytes)
        });
    }
}

/// A stream of messages of one end of a transfer; the lowest bit of the first byte says which end, the others how long
/// its chunks are. Paths that are taken stay below the folder.
pub fn transfer(data: &[u8]) {
    let (steer, bytes) = steered(data);
    let role = if steer & 1 == 0 {
        Role::Initiator
    } else {
        Role::Responder
    };
    let read = |chunk: usize| {
        let mut decoder = TransferDecoder::new(role);
        let mut messages = Vec::new();
        for part in bytes.chunks(chunk) {
            decoder.push(part);
            loop {
                match decoder.next() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(_) => return (messages, false),
                }
            }
        }
        (messages, true)
    };
    let messages = read(bytes.len().max(1));
    assert_eq!(messages, read(usize::from(steer >> 1).max(1)));
    for message in messages.0 {
        assert!(message.kind().allowed_in(role));
        round_trip(
            &message,
            message.encoded_len(),
            Transfer::encode,
            |mut bytes| Transfer::decode(&mut bytes),
        );
        if let Transfer::Entry(entry) = message
            && path::check(&entry.path).is_ok()
        {
            let parts = entry.path.split('/');
            parts.for_each(|part| assert!(!matches!(part, "" | "." | "..")));
        }
    }
}

/// A TICKET frame in a resume payload.
pub fn ticket(data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    if let Ok(ticket) = frame::Ticket::decode(&mut bytes) {
        assert!(FrameType::Ticket.allowed_in(Place::ResumePayload));
        assert!(ticket.encoded_len() <= data.len() - bytes.len());
        round_trip(
            &ticket,
            ticket.encoded_len(),
            frame::Ticket::encode,
            |mut bytes| frame::Ticket::decode(&mut bytes),
        );
    }
}

/// What somebody typed as a name, or asked DNS for.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(name) = ServiceName::parse(text) {
        assert_eq!(name.to_string(), text);
        assert_eq!(
            ServiceName::parse_dns(&name.to_dns(DEFAULT_SUFFIX), DEFAULT_SUFFIX),
            Ok(name)
        );
    }
    if let Ok(name) = ServiceName::parse_dns(text, DEFAULT_SUFFIX) {
        let dns = name.to_dns(DEFAULT_SUFFIX);
        assert_eq!(
            dns,
            text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
        );
        assert!(names::check(name.service()).is_ok());
    }
    if names::check_suffix(text).is_ok() {
        let longest = "a".repeat(names::MAX_NAME);
        let name = ServiceName::new(&longest, Some(&longest)).expect("names of the longest kind");
        assert!(name.to_dns(text).len() <= 253);
    }
}
