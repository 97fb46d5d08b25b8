//! What a peer or a stranger may try: the session ends with the right code, or the leg is given up,
//! or nothing happens. Nothing panics, and memory stays bounded.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use underpass_proto::frame::{
    self, Ack, ChannelId, ChannelKind, Class, Close, Data, Datagram, Encoding, Frame, Hop,
    KeyUpdate, MaxChannelData, MaxChannels, MaxData, Open, Opened, Ping, Place, Pong, Redial,
    Reset, Stop,
};
use underpass_proto::packet::{
    Confirm, Packet, PacketKind, RecordHeader, Resume, Resumed, SessionId,
};
use underpass_proto::params::Params;
use underpass_proto::session::{Closed, ClosedBy, Config, Event, LegError, LegId, Session};
use underpass_proto::varint::VARINT_MAX;
use underpass_proto::{Role, Time, code};
use underpass_seal::{Cipher, OpeningKey, SealingKey, Space};

use crate::apps::{ChannelPlan, World};
use crate::dice::Dice;
use crate::pair::{A, B, Cut, Link, Pair, Setup, config, end, secrets, session_id};

const LEG: LegId = LegId(1);
const CIPHER: Cipher = Cipher::Aes256Gcm;

/// A responder, and a peer that holds the right keys and no scruples.
struct Victim {
    session: Session,
    now: Time,
    seal: SealingKey,
    open: OpeningKey,
    next: [u64; 2],
    dice: Dice,
}

impl Victim {
    fn new() -> Self {
        Victim::with(config())
    }

    fn with(config: Config) -> Self {
        let keys = secrets(1);
        let mut victim = Victim {
            session: end(Role::Responder, 1, config, Params::default(), LEG),
            now: Time::ZERO,
            seal: keys.initiator_records.sealing_key(CIPHER),
            open: keys.responder_records.opening_key(CIPHER),
            next: [0, 0],
            dice: Dice::new(7),
        };
        victim.answers();
        victim.events();
        victim
    }

    /// A record under any header, sealed with the keys of epoch 0.
    fn seal(&self, kind: PacketKind, epoch: u64, number: u64, payload: &[u8]) -> Bytes {
        let header = RecordHeader {
            kind,
            epoch,
            number,
        };
        let mut packet = BytesMut::new();
        header.put(&mut packet);
        let length = packet.len();
        packet.put_slice(payload);
        let space = match kind {
            PacketKind::Unreliable => Space::Unreliable,
            _ => Space::Reliable,
        };
        let (aad, plain) = packet.split_at_mut(length);
        let tag = self.seal.seal_in_place(space, number, aad, plain);
        packet.put_slice(&tag);
        packet.freeze()
    }

    fn give(&mut self, packet: Bytes) -> Result<(), LegError> {
        let packet = Packet::parse_unframed(packet).unwrap();
        self.session
            .handle_packet(self.now, LEG, packet, &mut self.dice.0)
    }

    fn raw(&mut self, kind: PacketKind, payload: &[u8]) -> Result<(), LegError> {
        let next = &mut self.next[usize::from(kind == PacketKind::Unreliable)];
        let number = *next;
        *next += 1;
        let packet = self.seal(kind, 0, number, payload);
        self.give(packet)
    }

    fn frames(&mut self, kind: PacketKind, frames: &[Frame]) -> Result<(), LegError> {
        let mut payload = Vec::new();
        for frame in frames {
            frame.encode(&mut payload);
        }
        self.raw(kind, &payload)
    }

    fn reliable(&mut self, frames: &[Frame]) {
        self.frames(PacketKind::Reliable, frames).unwrap();
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// The frames that the victim sends in reply.
    fn answers(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(packet) = self.session.poll_transmit(self.now, LEG) {
            let (header, length) = RecordHeader::parse(&packet).unwrap();
            let (space, place) = match header.kind {
                PacketKind::Unreliable => (Space::Unreliable, Place::Unreliable),
                _ => (Space::Reliable, Place::Reliable),
            };
            let sealed = &packet[length..];
            let mut plain = vec![0; sealed.len() - 16];
            self.open
                .open_into(space, header.number, &packet[..length], sealed, &mut plain)
                .unwrap();
            let mut plain = Bytes::from(plain);
            frames.extend(frame::decode_all(place, &mut plain).map(Result::unwrap));
        }
        frames
    }

    fn ended(&mut self) -> Option<Closed> {
        self.events().into_iter().find_map(|event| match event {
            Event::Closed(closed) => Some(closed),
            _ => None,
        })
    }

    /// The session must have ended with this code, and say so to the peer.
    fn assert_ended(&mut self, code: u64, what: &str) {
        let closed = self.ended().unwrap_or_else(|| panic!("{what}: goes on"));
        assert_eq!((closed.by, closed.code), (ClosedBy::Local, code), "{what}");
        let told = self.answers().into_iter().find_map(|frame| match frame {
            Frame::Close(close) => Some(close.code),
            _ => None,
        });
        assert_eq!(told, Some(code), "{what}: the peer is not told");
        assert!(self.session.is_closing());
        self.session
            .handle_timeout(self.now + Duration::from_secs(60));
        assert!(self.session.is_closed());
    }
}

fn open(id: u64) -> Frame {
    Frame::Open(Open {
        channel: ChannelId(id),
        kind: ChannelKind::Stream,
        class: Class::Normal,
        encoding: Encoding::Raw,
        service: "s".into(),
    })
}

fn data(id: u64, offset: u64, data: &'static [u8], fin: bool) -> Frame {
    Frame::Data(Data {
        channel: ChannelId(id),
        offset,
        fin,
        data: Bytes::from_static(data),
    })
}

fn ack(ranges: &[std::ops::RangeInclusive<u64>]) -> Frame {
    Frame::Ack(Ack {
        delay_us: 0,
        ranges: ranges.iter().cloned().collect(),
    })
}

fn reset(id: u64, final_offset: u64) -> Frame {
    Frame::Reset(Reset {
        channel: ChannelId(id),
        code: 1,
        final_offset,
    })
}

static ZEROS: [u8; 60_000] = [0; 60_000];

#[test]
fn acknowledging_what_was_never_sent_ends_the_session() {
    for ranges in [
        [5..=5, 0..=0],
        [VARINT_MAX..=VARINT_MAX, 0..=0],
        [2..=VARINT_MAX, 0..=0],
    ] {
        let mut victim = Victim::new();
        victim
            .frames(PacketKind::Unreliable, &[ack(&ranges)])
            .unwrap();
        victim.assert_ended(code::PROTOCOL_VIOLATION, "forged acknowledgement");
    }
    let mut victim = Victim::new();
    victim
        .frames(PacketKind::Unreliable, &[ack(&[0..=VARINT_MAX])])
        .unwrap();
    victim.assert_ended(code::PROTOCOL_VIOLATION, "forged acknowledgement of all");
}

#[test]
fn rules_of_channels_end_the_session() {
    let window = Params::default().max_channel_data;
    let flow = code::FLOW_CONTROL_VIOLATION;
    let protocol = code::PROTOCOL_VIOLATION;
    let redial = |offset| {
        Frame::Redial(Redial {
            channel: ChannelId(0),
            offset,
            service: "t".into(),
        })
    };
    let datagrams = Frame::Open(Open {
        channel: ChannelId(0),
        kind: ChannelKind::Datagram,
        class: Class::Bulk,
        encoding: Encoding::Raw,
        service: "s".into(),
    });
    let cases: Vec<(&str, u64, Vec<Frame>)> = vec![
        ("OPEN twice", protocol, vec![open(0), open(0)]),
        ("OPEN of our channel", protocol, vec![open(1)]),
        (
            "DATA on our unopened channel",
            protocol,
            vec![data(1, 0, b"x", false)],
        ),
        (
            "STOP of our unopened channel",
            protocol,
            vec![Frame::Stop(Stop {
                channel: ChannelId(7),
                code: 1,
            })],
        ),
        ("too many channels", flow, vec![open(2 * 4096)]),
        (
            "the last channel",
            flow,
            vec![data(VARINT_MAX - 1, 0, b"x", false)],
        ),
        (
            "window overrun",
            flow,
            vec![open(0), data(0, window, b"x", false)],
        ),
        (
            "window overrun far away",
            flow,
            vec![open(0), data(0, VARINT_MAX - 1, b"x", true)],
        ),
        (
            "RESET beyond the window",
            flow,
            vec![open(0), reset(0, window + 1)],
        ),
        (
            "RESET far beyond",
            flow,
            vec![open(0), reset(0, VARINT_MAX)],
        ),
        (
            "bytes after the end",
            protocol,
            vec![open(0), data(0, 0, b"ab", true), data(0, 2, b"c", false)],
        ),
        (
            "another end",
            protocol,
            vec![open(0), data(0, 0, b"ab", true), data(0, 0, b"abc", true)],
        ),
        (
            "an earlier end",
            protocol,
            vec![open(0), data(0, 5, b"ab", false), data(0, 0, b"abc", true)],
        ),
        (
            "RESET below what came",
            protocol,
            vec![open(0), data(0, 0, b"abc", false), reset(0, 2)],
        ),
        (
            "RESET with another end",
            protocol,
            vec![open(0), data(0, 0, b"abc", true), reset(0, 4)],
        ),
        (
            "RESET changed",
            protocol,
            vec![open(0), reset(0, 4), reset(0, 5)],
        ),
        (
            "bytes on datagrams",
            protocol,
            vec![datagrams.clone(), data(0, 0, b"x", false)],
        ),
        (
            "bytes before OPEN of datagrams",
            protocol,
            vec![data(0, 0, b"x", false), datagrams.clone()],
        ),
        ("REDIAL of datagrams", protocol, vec![datagrams, redial(0)]),
        (
            "REDIAL in the past",
            protocol,
            vec![open(0), data(0, 0, b"abc", false), redial(2)],
        ),
        (
            "REDIAL again and again before OPEN",
            protocol,
            (0..17).map(redial).collect(),
        ),
    ];
    for (what, code, frames) in cases {
        let mut together = Victim::new();
        together.reliable(&frames);
        together.assert_ended(code, what);
        let mut apart = Victim::new();
        for frame in frames {
            apart.reliable(&[frame]);
        }
        apart.assert_ended(code, what);
    }
}

#[test]
fn the_window_of_the_session_holds() {
    let mut victim = Victim::new();
    let whole = Params::default().max_data;
    for id in 0..5 {
        victim.reliable(&[open(id * 2)]);
        for part in 0..4 {
            victim.reliable(&[data(id * 2, part * 60_000, &ZEROS, false)]);
        }
        let unread = victim.session.unread();
        assert!(unread <= whole, "{unread} bytes of {whole}");
    }
    victim.assert_ended(
        code::FLOW_CONTROL_VIOLATION,
        "1.2 MB under a window of 1 MiB",
    );
}

#[test]
fn frames_that_cannot_be_read_end_the_session() {
    let cases: [(&str, PacketKind, &[u8]); 6] = [
        ("unknown", PacketKind::Reliable, b"\x3f"),
        (
            "unknown and long",
            PacketKind::Reliable,
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        ("cut", PacketKind::Reliable, b"\x06\x00\x00\x05abc"),
        (
            "ACK in a reliable record",
            PacketKind::Reliable,
            b"\x03\x00\x00\x00\x00",
        ),
        (
            "OPENED in an unreliable record",
            PacketKind::Unreliable,
            b"\x05\x00",
        ),
        ("TICKET in a record", PacketKind::Reliable, &[0x0f; 40]),
    ];
    for (what, kind, payload) in cases {
        let mut victim = Victim::new();
        victim.raw(kind, payload).unwrap();
        victim.assert_ended(code::PROTOCOL_VIOLATION, what);
    }
}

#[test]
fn what_does_not_open_costs_the_leg_and_not_the_session() {
    let mut victim = Victim::new();
    let kind = PacketKind::Reliable;
    let mut payload = Vec::new();
    open(0).encode(&mut payload);
    let good = victim.seal(kind, 0, 0, &payload);
    let changed = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    let keys = secrets(2).initiator_records;
    let mut stranger = Victim::new();
    stranger.seal = keys.sealing_key(CIPHER);
    let cases = [
        ("a byte changed", changed(5)),
        ("the tag changed", changed(good.len() - 1)),
        ("the number changed", changed(2)),
        (
            "another session's keys",
            stranger.seal(kind, 0, 0, &payload),
        ),
        ("an epoch to come", victim.seal(kind, 1, 0, &payload)),
        (
            "an epoch far away",
            victim.seal(kind, VARINT_MAX, 0, &payload),
        ),
        ("our own record", {
            let back = secrets(1).responder_records.sealing_key(CIPHER);
            let mut own = Victim::new();
            own.seal = back;
            own.seal(kind, 0, 0, &payload)
        }),
        ("reliable as unreliable", {
            let mut bytes = good.to_vec();
            bytes[0] = PacketKind::Unreliable.code();
            bytes.into()
        }),
    ];
    for (what, packet) in cases {
        assert_eq!(victim.give(packet), Err(LegError::Corrupt), "{what}");
    }
    for length in 1..good.len() {
        let outcome = victim.give(good.slice(..length));
        let expected = matches!(outcome, Err(LegError::Corrupt | LegError::Malformed(_)));
        assert!(expected, "cut to {length}: {outcome:?}");
    }
    assert!(victim.ended().is_none());
    victim.give(good).unwrap();
    assert!(matches!(victim.events()[0], Event::Opened { .. }));
}

#[test]
fn a_replayed_record_changes_nothing() {
    let mut victim = Victim::new();
    let mut payload = Vec::new();
    for frame in [open(0), data(0, 0, b"once", false)] {
        frame.encode(&mut payload);
    }
    let packet = victim.seal(PacketKind::Reliable, 0, 0, &payload);
    victim.give(packet.clone()).unwrap();
    assert_eq!(victim.events().len(), 2);
    let mut ping = Vec::new();
    Frame::Ping(Ping { token: 3 }).encode(&mut ping);
    let ping = victim.seal(PacketKind::Unreliable, 0, 0, &ping);
    victim.give(ping.clone()).unwrap();
    assert!(victim.answers().contains(&Frame::Pong(Pong { token: 3 })));
    for _ in 0..10 {
        victim.give(packet.clone()).unwrap();
        victim.give(ping.clone()).unwrap();
    }
    assert_eq!(victim.events(), []);
    assert!(!victim.answers().contains(&Frame::Pong(Pong { token: 3 })));
}

#[test]
fn packets_out_of_place_cost_the_leg() {
    let resumed = Resumed {
        generation: 1,
        nonce: [0; 16],
        sealed: Bytes::from_static(&[0; 60]),
    };
    let hello = Packet {
        kind: PacketKind::Hello,
        body: Bytes::from_static(b"x"),
    };
    for packet in [resumed.to_packet(), hello] {
        let mut victim = Victim::new();
        let kind = packet.kind;
        // On the leg in use it is ignored; nobody there needs it.
        let stranger = LegId(9);
        let outcome =
            victim
                .session
                .handle_packet(victim.now, stranger, packet, &mut victim.dice.0);
        assert!(matches!(outcome, Err(LegError::Unexpected(_))), "{kind:?}");
        assert!(victim.ended().is_none());
    }
    let mut initiator = end(Role::Initiator, 1, config(), Params::default(), LEG);
    let request = Resume {
        session: session_id(1),
        generation: 0,
        nonce: [1; 16],
        sealed: Bytes::from_static(&[0; 16]),
    };
    let mut dice = Dice::new(1);
    let outcome = initiator.handle_packet(Time::ZERO, LegId(2), request.to_packet(), &mut dice.0);
    assert!(matches!(outcome, Err(LegError::Unexpected(_))));
}

fn resuming_pair() -> World {
    let mut world = World::new(Pair::new(Setup {
        link: Link::new(1_000_000, Duration::from_millis(5)),
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 1_000_000, 1_000_000));
    world.run(Duration::from_millis(100));
    world
}

#[test]
fn resumes_that_are_not_the_peers_are_refused() {
    let mut world = resuming_pair();
    let leg = world.pair.active[A].unwrap();
    world.pair.cut(leg, Cut::Reset);
    world.run(Duration::from_millis(100));
    let genuine = world.pair.overheard[0].clone();
    let request = Resume::decode(genuine.slice(1..)).unwrap();
    let with = |change: fn(&mut Resume)| {
        let mut request = request.clone();
        change(&mut request);
        request
    };
    let stale = code::STALE_RESUME;
    let cases = [
        ("as it was, once spent", stale, request.clone()),
        (
            "another session",
            code::UNKNOWN_SESSION,
            with(|r| r.session = SessionId([0; 16])),
        ),
        ("a generation to come", stale, with(|r| r.generation = 1)),
        ("one further", stale, with(|r| r.generation = 2)),
        ("the last one", stale, with(|r| r.generation = VARINT_MAX)),
        ("another nonce", stale, with(|r| r.nonce = [3; 16])),
        ("cut", stale, with(|r| r.sealed = r.sealed.slice(1..))),
        ("empty", stale, with(|r| r.sealed = Bytes::new())),
    ];
    for (n, (what, expected, request)) in cases.into_iter().enumerate() {
        let now = world.pair.now;
        let stranger = LegId(5000 + n as u64);
        let outcome = world.pair.sessions[B].handle_packet(
            now,
            stranger,
            request.to_packet(),
            &mut world.pair.dice.0,
        );
        assert_eq!(outcome, Err(LegError::Refused(expected)), "{what}");
        let confirm = Confirm {
            generation: (request.generation + 1).min(VARINT_MAX),
            tag: [0; 32],
        };
        let outcome = world.pair.sessions[B].handle_packet(
            now,
            stranger,
            confirm.to_packet(),
            &mut world.pair.dice.0,
        );
        assert_eq!(outcome, Err(LegError::Refused(stale)), "{what}, confirmed");
    }
    world.finish(Duration::from_secs(20));
    world.check_settled();
    assert_eq!(world.pair.sessions[A].resumes(), 1);
}

/// Who replays a RESUME that was not answered yet gets an answer that it cannot use, again and again
/// the same; the session goes on, and the one who made the request is not locked out.
#[test]
fn a_replayed_resume_is_useless() {
    let mut world = resuming_pair();
    world.pair.faults.cut_after = Some((1, Cut::Silent));
    let leg = world.pair.active[A].unwrap();
    world.pair.cut(leg, Cut::Reset);
    world.run(Duration::from_millis(100));
    let genuine = world.pair.overheard[0].clone();
    let mut answers = Vec::new();
    for _ in 0..100 {
        let (_, got) = world.pair.inject(B, genuine.clone());
        answers.extend(got);
    }
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(world.pair.sessions[B].generation(), 0);
    world.pair.faults.cut_after = None;
    world.finish(Duration::from_secs(20));
    world.check_settled();
}

#[test]
fn a_peer_that_acknowledges_nothing_is_bounded() {
    let mut victim = Victim::with(Config {
        max_replay: 256 << 10,
        ..config()
    });
    victim.reliable(&[open(0)]);
    victim.reliable(&[Frame::MaxData(MaxData {
        maximum: VARINT_MAX,
    })]);
    victim.reliable(&[Frame::MaxChannelData(MaxChannelData {
        channel: ChannelId(0),
        maximum: VARINT_MAX,
    })]);
    victim.reliable(&[Frame::MaxChannels(MaxChannels {
        maximum: VARINT_MAX,
    })]);
    // It makes the victim speak by every means: bytes to read, channels to refuse.
    let mut offset = 0;
    for round in 0..3000u64 {
        let id = ChannelId(0);
        victim.reliable(&[data(0, offset, &ZEROS[..30_000], false)]);
        offset += 30_000;
        while let underpass_proto::session::ReadOutcome::Data(_) = victim.session.read(id, 1 << 20)
        {
        }
        let _ = victim.session.write(id, &mut Bytes::from_static(&ZEROS));
        let other = 2 + round * 2;
        victim.reliable(&[open(other), reset(other, 0), data(0, 0, b"", false)]);
        victim.session.reset(ChannelId(other), 1);
        victim.session.stop(ChannelId(other), 1);
        victim
            .frames(
                PacketKind::Unreliable,
                &[Frame::Ping(Ping { token: round })],
            )
            .unwrap();
        victim.events();
        victim.answers();
        if victim.session.is_closing() {
            break;
        }
    }
    let held = victim.session.unacknowledged();
    assert!(
        held <= (256 << 10) + (1 << 20) + (128 << 10),
        "{held} bytes"
    );
}

#[test]
fn datagrams_that_nobody_reads_are_bounded() {
    let mut victim = Victim::new();
    for n in 0..100 {
        victim.reliable(&[Frame::Open(Open {
            channel: ChannelId(n * 2),
            kind: ChannelKind::Datagram,
            class: Class::Normal,
            encoding: Encoding::Raw,
            service: "s".into(),
        })]);
        for _ in 0..100 {
            let datagram = Frame::Datagram(Datagram {
                channel: ChannelId(n * 2),
                data: Bytes::from_static(&ZEROS),
            });
            victim.frames(PacketKind::Unreliable, &[datagram]).unwrap();
            victim.events();
        }
    }
    let mut bytes = 0;
    for n in 0..100 {
        while let underpass_proto::session::ReadOutcome::Data(data) =
            victim.session.read(ChannelId(n * 2), 1)
        {
            bytes += data.len();
        }
    }
    assert!(bytes <= 8 << 20, "{bytes} bytes");
    assert!(bytes >= 4 << 20, "and as many are kept: {bytes}");
}

#[test]
fn pieces_out_of_order_are_bounded() {
    let mut victim = Victim::new();
    // Single bytes with a gap between each two.
    let mut offset = 1;
    let mut ended = None;
    for n in 0..100_000 {
        victim.reliable(&[data(0, offset, b"x", false)]);
        offset += 2;
        ended = victim.ended();
        if ended.is_some() {
            assert!(n > 10_000);
            break;
        }
    }
    assert_eq!(ended.map(|c| c.code), Some(code::PROTOCOL_VIOLATION));
}

fn extreme(dice: &mut Dice) -> u64 {
    match dice.below(8) {
        0 => 0,
        1 => 1,
        2 => VARINT_MAX,
        3 => VARINT_MAX - 1,
        4 => dice.size(VARINT_MAX),
        5 => 1 << 18,
        _ => dice.below(20),
    }
}

fn any_frame(dice: &mut Dice) -> Frame {
    let channel = ChannelId(extreme(dice));
    let (code, offset) = (extreme(dice), extreme(dice));
    let service = String::from("s");
    let length = usize::try_from(dice.size(2000)).unwrap();
    match dice.below(16) {
        0 => Frame::Opened(Opened { channel }),
        1 => Frame::Open(Open {
            channel,
            kind: dice.pick(&[ChannelKind::Stream, ChannelKind::Datagram]),
            class: Class::Normal,
            encoding: Encoding::Blocks,
            service,
        }),
        2..=5 => Frame::Data(Data {
            channel,
            offset: offset.min(VARINT_MAX - length as u64),
            fin: dice.chance(100),
            data: Bytes::from_static(&ZEROS[..length]),
        }),
        6 => Frame::MaxData(MaxData { maximum: offset }),
        7 => Frame::MaxChannelData(MaxChannelData {
            channel,
            maximum: offset,
        }),
        8 => Frame::MaxChannels(MaxChannels { maximum: offset }),
        9 => Frame::Reset(Reset {
            channel,
            code,
            final_offset: offset,
        }),
        10 => Frame::Stop(Stop { channel, code }),
        11 => Frame::Redial(Redial {
            channel,
            offset,
            service,
        }),
        12 => Frame::KeyUpdate(KeyUpdate {
            epoch: offset.max(2),
        }),
        13 if dice.chance(20) => Frame::Close(Close {
            code,
            reason: "r".into(),
        }),
        14 => Frame::Hop(Hop {
            relay: [dice.below(256) as u8; 32],
            round_trip_us: code,
            rate: offset,
        }),
        _ => Frame::MaxData(MaxData { maximum: code }),
    }
}

fn any_unreliable(dice: &mut Dice) -> Frame {
    match dice.below(4) {
        0 => Frame::Ping(Ping {
            token: extreme(dice),
        }),
        1 => Frame::Pong(Pong {
            token: extreme(dice),
        }),
        2 => Frame::Datagram(Datagram {
            channel: ChannelId(extreme(dice)),
            data: Bytes::from_static(b"d"),
        }),
        _ => {
            let high = extreme(dice);
            let low = high - dice.below(high + 1).min(high);
            ack(&[low..=high])
        }
    }
}

/// Whatever sealed frames a peer makes up, nothing panics; while the session lasts its books are in
/// order, and once it ended it says why.
#[test]
fn made_up_frames_never_panic() {
    for seed in 0..3000 {
        let mut victim = Victim::new();
        victim.dice = Dice::new(seed);
        let own = victim.session.open(
            victim.now,
            ChannelKind::Stream,
            Class::Normal,
            Encoding::Raw,
            "own",
        );
        let own = own.unwrap();
        for _ in 0..40 {
            let count = 1 + victim.dice.below(6);
            if victim.dice.chance(300) {
                let frames: Vec<Frame> = (0..count)
                    .map(|_| any_unreliable(&mut victim.dice))
                    .collect();
                victim.frames(PacketKind::Unreliable, &frames).unwrap();
            } else {
                let frames: Vec<Frame> = (0..count).map(|_| any_frame(&mut victim.dice)).collect();
                victim.frames(PacketKind::Reliable, &frames).unwrap();
            }
            let _ = victim
                .session
                .write(own, &mut Bytes::from_static(&ZEROS[..100]));
            for event in victim.events() {
                if let Event::Readable { channel } = event {
                    victim.session.read(channel, 100);
                }
            }
            while victim.session.poll_transmit(victim.now, LEG).is_some() {}
            victim.now = victim.now + Duration::from_millis(victim.dice.below(3000));
            victim.session.handle_timeout(victim.now);
            let flow = victim.session.flow();
            assert!(flow.read <= flow.received && flow.received <= flow.granted);
            assert!(flow.sent <= flow.send_limit);
        }
    }
}

#[test]
fn random_packets_never_panic() {
    let mut world = resuming_pair();
    let mut dice = Dice::new(5);
    for _ in 0..20_000 {
        let length = 1 + usize::try_from(dice.size(200)).unwrap();
        let mut bytes = vec![0; length];
        rand_chacha::rand_core::Rng::fill_bytes(&mut dice.0, &mut bytes);
        bytes[0] %= 11;
        let packet = Packet::parse_unframed(bytes.into()).unwrap();
        let side = dice.pick(&[A, B]);
        let leg = LegId(1 + dice.below(3));
        let now = world.pair.now;
        let _ = world.pair.sessions[side].handle_packet(now, leg, packet, &mut dice.0);
    }
    world.finish(Duration::from_secs(20));
    world.check_settled();
}
