//! A session and a peer that sends it anything: packets as they are, frames sealed with the right
//! keys, its own packets back; between them time passes and an application does as it likes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use rand_core::{TryCryptoRng, TryRng};
use underpass_seal::{Cipher, SealingKey, Secrets, Space};

use crate::frame::{ChannelId, ChannelKind, Class, Encoding};
use crate::packet::{Packet, PacketKind, RecordHeader, SessionId};
use crate::params::Params;
use crate::session::{Agreed, Budget, Config, Event, LegError, LegId, ReadOutcome, Session};
use crate::ticket::Ticket;
use crate::{Role, Time};

/// Every limit small, so that a short input reaches it.
const CHANNELS: u64 = 8;
const CHANNEL_WINDOW: u64 = 4 << 10;
const SESSION_WINDOW: u64 = 16 << 10;
const REPLAY: u64 = 32 << 10;
/// Control frames may go beyond the replay queue by so much, and by one record.
const BEYOND_REPLAY: u64 = (1 << 20) + (64 << 10);
/// The most packets taken from the session between two inputs.
const PACKETS: usize = 64;
/// More events than this from one packet would be a way to fill memory: a record has room for at
/// most so many frames, and few frames make more than one event.
const EVENTS: usize = 3 * 64 * 1024;
/// Longest packet that the peer makes out of the input.
const LONGEST: usize = 2048;

/// Random bytes that are the same in each run.
struct Fixed(u64);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| (value >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        // Knuth's MMIX constants: any full-period sequence does.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for byte in dst {
            *byte = (self.try_next_u64()? >> 56) as u8;
        }
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

fn config(budget: &Budget) -> Config {
    Config {
        params: params(),
        max_channel_window: CHANNEL_WINDOW,
        max_session_window: SESSION_WINDOW,
        max_replay: REPLAY,
        budget: budget.clone(),
        ..Config::default()
    }
}

fn params() -> Params {
    Params {
        max_data: SESSION_WINDOW / 2,
        max_channel_data: CHANNEL_WINDOW / 2,
        max_channels: CHANNELS,
        keep_s: 60,
        max_legs: 3,
        ..Params::default()
    }
}

/// The first byte says which role is tried.
pub fn session(data: &[u8]) {
    let role = match data.first() {
        Some(steer) if steer & 1 == 1 => Role::Responder,
        _ => Role::Initiator,
    };
    let budget = Budget::new(64 << 10);
    let mut run = Run::new(role, &budget, data.get(1..).unwrap_or_default());
    while !run.rest.is_empty() {
        run.step();
        run.settle();
    }
    drop(run);
    assert_eq!(budget.used(), 0, "a session that is gone holds nothing");
}

struct Run<'a> {
    rest: &'a [u8],
    session: Session,
    rng: Fixed,
    now: Time,
    /// The leg that the peer sends on, and the last one made.
    leg: LegId,
    last_leg: LegId,
    /// The peer's keys.
    key: SealingKey,
    reliable: u64,
    unreliable: u64,
    /// Channels that either side opened.
    channels: Vec<ChannelId>,
    /// What the session sent last.
    sent: Option<Bytes>,
    closed: bool,
}

impl<'a> Run<'a> {
    fn new(role: Role, budget: &Budget, rest: &'a [u8]) -> Self {
        let secrets = || Secrets::dangerous_from_seed([0x5e; 32]);
        let cipher = Cipher::ChaCha20Poly1305;
        let records = match role {
            Role::Initiator => secrets().responder_records,
            Role::Responder => secrets().initiator_records,
        };
        let agreed = Agreed {
            role,
            id: SessionId([0x1d; 16]),
            grade: crate::Grade::Blind,
            cipher,
            secrets: secrets(),
            peer: params(),
            ticket: Ticket::new([7; 32]),
        };
        let leg = LegId(1);
        let mut run = Run {
            rest,
            session: Session::new(agreed, config(budget), leg, 1, Time::ZERO),
            rng: Fixed(1),
            now: Time::ZERO,
            leg,
            last_leg: leg,
            key: records.sealing_key(cipher),
            reliable: 0,
            unreliable: 0,
            channels: Vec::new(),
            sent: None,
            closed: false,
        };
        run.settle();
        run
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    fn take(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()) | usize::from(self.byte() & 7) << 8;
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()).min(LONGEST));
        self.rest = rest;
        taken
    }

    fn step(&mut self) {
        match self.byte() % 16 {
            0..=3 => {
                let ahead = u64::from(self.byte() % 8).saturating_sub(4);
                let number = self.reliable + ahead;
                self.reliable = number + 1;
                self.sealed(PacketKind::Reliable, Space::Reliable, number);
            }
            4 => {
                let number = u64::from(self.byte()) << 8;
                self.sealed(PacketKind::Reliable, Space::Reliable, number);
            }
            5 | 6 => {
                let number = self.unreliable;
                self.unreliable += 1;
                self.sealed(PacketKind::Unreliable, Space::Unreliable, number);
            }
            7 => {
                let bytes = Bytes::copy_from_slice(self.take());
                self.packet(bytes);
            }
            8 => {
                if let Some(packet) = self.sent.clone() {
                    self.packet(packet);
                }
            }
            9 => self.pass_time(),
            10 => self.change_legs(),
            11 => {
                let (first, count) = (u64::from(self.byte()), u64::from(self.byte()));
                let (now, leg) = (self.now, self.leg);
                self.session.handle_dropped(now, leg, first, count);
            }
            _ => self.apply(),
        }
    }

    /// A record as the peer seals it, with any frames in it.
    fn sealed(&mut self, kind: PacketKind, space: Space, number: u64) {
        let header = RecordHeader {
            kind,
            epoch: 0,
            number,
        };
        let mut record = Vec::new();
        header.put(&mut record);
        let start = record.len();
        record.extend_from_slice(self.take());
        let (aad, plain) = record.split_at_mut(start);
        let tag = self.key.seal_in_place(space, number, aad, plain);
        record.extend_from_slice(&tag);
        self.packet(record.into());
    }

    fn packet(&mut self, bytes: Bytes) {
        let Ok(packet) = Packet::parse_unframed(bytes) else {
            return;
        };
        let (now, leg) = (self.now, self.leg);
        let handled = self.session.handle_packet(now, leg, packet, &mut self.rng);
        match handled {
            Ok(()) => {}
            Err(LegError::Ended) => assert!(self.session.is_closing()),
            Err(_) => self.session.leg_lost(now, leg),
        }
    }

    fn pass_time(&mut self) {
        let step = Duration::from_millis(1 << (self.byte() % 20));
        self.now = self.now + step;
        // A driver is late at times, but never early.
        for _ in 0..4 {
            match self.session.poll_timeout() {
                Some(at) if at <= self.now => self.session.handle_timeout(self.now),
                _ => return,
            }
        }
    }

    fn change_legs(&mut self) {
        match self.byte() % 4 {
            0 => self.session.leg_lost(self.now, self.leg),
            1 => self.leg = LegId(u64::from(self.byte()) % (self.last_leg.0 + 1)),
            _ => {
                self.last_leg = LegId(self.last_leg.0 + 1);
                self.leg = self.last_leg;
                if self.session.role() == Role::Initiator {
                    let (now, leg) = (self.now, self.leg);
                    let rng = &mut self.rng;
                    if !leg.0.is_multiple_of(3) || !self.session.start_beside(now, leg, None, rng) {
                        self.session.start_resume(now, leg, rng);
                    }
                }
            }
        }
    }

    /// The application does something.
    fn apply(&mut self) {
        let choice = self.byte();
        if choice.is_multiple_of(8) || self.channels.is_empty() {
            let kind = [ChannelKind::Stream, ChannelKind::Datagram][usize::from(choice >> 7)];
            let encoding = [Encoding::Raw, Encoding::Blocks][usize::from(choice >> 6 & 1)];
            let opened = self
                .session
                .open(self.now, kind, Class::Normal, encoding, "db");
            self.channels.extend(opened.ok());
            return;
        }
        let which = usize::from(self.byte());
        let id = self.channels[which % self.channels.len()];
        match choice % 8 {
            1 => self.session.accept(id),
            2 => {
                let mut data = Bytes::copy_from_slice(self.take());
                let before = data.len();
                if let Ok(count) = self.session.write(id, &mut data) {
                    assert_eq!(count + data.len(), before);
                }
            }
            3 => self.session.finish(id),
            4 => self.session.reset(id, u64::from(choice)),
            5 => self.session.stop(id, u64::from(choice)),
            6 => self.session.redial(id, "db2"),
            _ => self.read(id),
        }
    }

    fn read(&mut self, id: ChannelId) {
        let most = usize::from(self.byte()) + 1;
        while let ReadOutcome::Data(data) = self.session.read(id, most) {
            assert!(!data.is_empty() || most > 0);
        }
    }

    /// What a driver does after each input, and what must hold then.
    fn settle(&mut self) {
        let mut events = 0;
        while let Some(event) = self.session.poll_event() {
            events += 1;
            assert!(events <= EVENTS);
            match event {
                Event::Opened { channel, .. } => self.channels.push(channel),
                Event::LegDone { leg, farewell: _ } => self.session.leg_lost(self.now, leg),
                Event::Closed(_) => {
                    assert!(!self.closed, "a session ends once");
                    self.closed = true;
                }
                _ => {}
            }
        }
        for leg in [self.leg, self.last_leg] {
            for _ in 0..PACKETS {
                let Some(packet) = self.session.poll_transmit(self.now, leg) else {
                    break;
                };
                let parsed = Packet::parse_unframed(packet.clone());
                assert!(parsed.is_ok(), "sent what cannot be read");
                self.sent = Some(packet);
            }
        }
        self.check_bounds();
    }

    fn check_bounds(&self) {
        let session = &self.session;
        let flow = session.flow();
        assert!(flow.received <= flow.granted, "{flow:?}");
        assert!(flow.read <= flow.received, "{flow:?}");
        assert!(flow.sent <= flow.send_limit, "{flow:?}");
        assert!(session.unread() <= SESSION_WINDOW, "{flow:?}");
        assert!(session.unacknowledged() <= REPLAY + BEYOND_REPLAY);
        if self.closed {
            assert!(session.is_closing());
        }
    }
}
