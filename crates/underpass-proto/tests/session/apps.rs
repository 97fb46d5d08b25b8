//! The applications of both ends, and the plain model: what was written must be what is read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use underpass_proto::Time;
use underpass_proto::frame::{ChannelId, ChannelKind, Class, Encoding, Hop};
use underpass_proto::session::{Event, OpenError, ReadOutcome, WriteError};

use crate::pair::{A, B, Pair};

/// What one side sends on a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendPlan {
    pub(crate) length: u64,
    /// Bytes per write; for datagrams the size of one.
    pub(crate) chunk: u64,
    /// Between two writes.
    pub(crate) pause: Duration,
    /// Reset with this code after the last byte instead of a clean end.
    pub(crate) reset: Option<u64>,
    /// The channel moves to another service after so many bytes.
    pub(crate) redial: Option<u64>,
}

/// How one side reads a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadPlan {
    pub(crate) piece: usize,
    pub(crate) pause: Duration,
    /// Nothing is read before this time.
    pub(crate) from: Time,
    /// After so many bytes it wants no more, with this code.
    pub(crate) stop: Option<(u64, u64)>,
}

/// One channel from its opening to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelPlan {
    pub(crate) at: Time,
    pub(crate) opener: usize,
    pub(crate) kind: ChannelKind,
    pub(crate) class: Class,
    pub(crate) send: [SendPlan; 2],
    pub(crate) read: [ReadPlan; 2],
    /// The other side refuses it with this code.
    pub(crate) refuse: Option<u64>,
}

impl SendPlan {
    pub(crate) fn bytes(length: u64) -> Self {
        SendPlan {
            length,
            chunk: 1 << 20,
            pause: Duration::ZERO,
            reset: None,
            redial: None,
        }
    }
}

impl ReadPlan {
    pub(crate) fn all() -> Self {
        ReadPlan {
            piece: usize::MAX,
            pause: Duration::ZERO,
            from: Time::ZERO,
            stop: None,
        }
    }
}

impl ChannelPlan {
    /// The opener sends so many bytes, the other side the other number.
    pub(crate) fn exchange(opener: usize, there: u64, back: u64) -> Self {
        let mut send = [SendPlan::bytes(there); 2];
        send[1 - opener] = SendPlan::bytes(back);
        ChannelPlan {
            at: Time::ZERO,
            opener,
            kind: ChannelKind::Stream,
            class: Class::Normal,
            send,
            read: [ReadPlan::all(); 2],
            refuse: None,
        }
    }
}

/// How reading one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    Reset(u64),
    Stopped,
    SessionEnded,
}

#[derive(Debug, Default)]
pub(crate) struct Sending {
    pub(crate) written: u64,
    pub(crate) finished: bool,
    pub(crate) reset: Option<u64>,
    /// The peer wanted no more, with this code.
    pub(crate) stopped: Option<u64>,
    redialed: bool,
    pub(crate) done: bool,
    blocked: bool,
    next_at: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) got: u64,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) redials: Vec<u64>,
    pub(crate) seen: BTreeSet<u64>,
    pub(crate) ended_at: Option<Time>,
    waiting: bool,
    next_at: Time,
}

/// One channel under way.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) plan: ChannelPlan,
    pub(crate) id: Option<ChannelId>,
    /// Known to either side's application.
    pub(crate) open: [bool; 2],
    pub(crate) accepted: u32,
    /// Indexed by the side that sends, or reads.
    pub(crate) send: [Sending; 2],
    pub(crate) read: [Reading; 2],
}

/// A pair and its applications.
pub(crate) struct World {
    pub(crate) pair: Pair,
    pub(crate) channels: Vec<Running>,
    /// What each side was told of the paths of the other.
    pub(crate) hops: [Vec<Hop>; 2],
    pub(crate) established: u32,
    by_id: BTreeMap<ChannelId, usize>,
    timers: BTreeSet<(Time, usize)>,
    waiting_to_open: [VecDeque<usize>; 2],
    /// Channels of which something may be possible.
    work: BTreeSet<usize>,
    pub(crate) delivered: u64,
    /// Largest sums seen, for bounds on memory.
    pub(crate) worst_unread: u64,
    pub(crate) worst_unacknowledged: u64,
}

const TABLE: usize = 65_521;

fn table() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        // Twice, so that any run of 64 KiB is one slice.
        let once: Vec<u8> = (0..TABLE)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 24) as u8
            })
            .collect();
        [&once[..], &once[..]].concat()
    })
}

fn start(salt: usize, offset: u64) -> usize {
    (usize::try_from(offset).unwrap() + salt * 9973) % TABLE
}

/// The bytes that a direction of a channel carries at an offset.
pub(crate) fn content(salt: usize, mut offset: u64, length: u64) -> Bytes {
    let mut left = usize::try_from(length).unwrap();
    let at = start(salt, offset);
    if left <= TABLE {
        return Bytes::from_static(&table()[at..at + left]);
    }
    let mut out = Vec::with_capacity(left);
    while left > 0 {
        let part = left.min(TABLE);
        let at = start(salt, offset);
        out.extend_from_slice(&table()[at..at + part]);
        offset += part as u64;
        left -= part;
    }
    out.into()
}

fn check_content(salt: usize, mut offset: u64, data: &[u8]) {
    for part in data.chunks(TABLE) {
        let at = start(salt, offset);
        assert!(
            part == &table()[at..at + part.len()],
            "wrong bytes at offset {offset}"
        );
        offset += part.len() as u64;
    }
}

impl World {
    pub(crate) fn new(pair: Pair) -> Self {
        World {
            pair,
            channels: Vec::new(),
            established: 0,
            hops: Default::default(),
            by_id: BTreeMap::new(),
            timers: BTreeSet::new(),
            waiting_to_open: Default::default(),
            work: BTreeSet::new(),
            delivered: 0,
            worst_unread: 0,
            worst_unacknowledged: 0,
        }
    }

    /// Adds a channel; it is opened when its time comes.
    pub(crate) fn add(&mut self, plan: ChannelPlan) -> usize {
        let index = self.channels.len();
        self.channels.push(Running {
            plan,
            id: None,
            open: [false, false],
            accepted: 0,
            send: Default::default(),
            read: Default::default(),
        });
        self.timers.insert((plan.at.max(self.pair.now), index));
        index
    }

    /// Whether every channel came to its end on both sides.
    pub(crate) fn is_done(&self) -> bool {
        self.channels
            .iter()
            .all(|c| c.send.iter().all(|s| s.done) && c.read.iter().all(|r| r.outcome.is_some()))
    }

    /// One step of the network, then whatever the applications make of it.
    pub(crate) fn step(&mut self, limit: Time) -> bool {
        self.act();
        let limit = match self.timers.first() {
            Some((at, _)) => limit.min(*at),
            None => limit,
        };
        let moved = self.pair.step(limit) || self.timers.first().is_some_and(|t| t.0 <= limit);
        self.act();
        moved
    }

    /// Runs until all channels are done; fails where that takes longer than `time`.
    pub(crate) fn finish(&mut self, time: Duration) {
        let end = self.pair.now + time;
        self.act();
        while !self.is_done() {
            if !self.step(end) || self.pair.now >= end {
                self.act();
                assert!(
                    self.is_done(),
                    "stalled at {}: {}",
                    self.pair.now,
                    self.report()
                );
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.pair.now + time;
        while self.step(end) && self.pair.now < end {}
    }

    fn report(&self) -> String {
        let mut out = String::new();
        for (index, c) in self.channels.iter().enumerate() {
            if out.len() > 3000 {
                break;
            }
            let done = c.send.iter().all(|s| s.done) && c.read.iter().all(|r| r.outcome.is_some());
            if !done {
                out += &format!("\n{index}: {c:?}");
            }
        }
        for side in [A, B] {
            let s = &self.pair.sessions[side];
            out += &format!(
                "\n{}: unacknowledged {} unread {} channels {} timeout {:?} {:?} active {:?}",
                ["A", "B"][side],
                s.unacknowledged(),
                s.unread(),
                s.channel_count(),
                s.poll_timeout(),
                s.flow(),
                self.pair.active[side],
            );
        }
        out
    }

    fn act(&mut self) {
        loop {
            for side in [A, B] {
                while let Some(event) = self.pair.events[side].pop_front() {
                    self.hear(side, event);
                }
            }
            let now = self.pair.now;
            while let Some(&(at, index)) = self.timers.first() {
                if at > now {
                    break;
                }
                self.timers.pop_first();
                self.work.insert(index);
            }
            let Some(index) = self.work.pop_first() else {
                break;
            };
            self.work_on(index);
        }
        for side in [A, B] {
            let session = &self.pair.sessions[side];
            self.worst_unread = self.worst_unread.max(session.unread());
            self.worst_unacknowledged = self.worst_unacknowledged.max(session.unacknowledged());
        }
    }

    fn work_on(&mut self, index: usize) {
        let c = &self.channels[index];
        let opener = c.plan.opener;
        if c.id.is_none() {
            if self.pair.now >= c.plan.at {
                self.open(index);
            }
            return;
        }
        for side in [opener, 1 - opener] {
            if self.channels[index].open[side] {
                let sent = self.send(index, side);
                let read = self.read(index, side);
                if sent || read {
                    self.pair.settle(side);
                }
            }
        }
    }

    fn open(&mut self, index: usize) {
        let ChannelPlan {
            opener,
            kind,
            class,
            ..
        } = self.channels[index].plan;
        let service = format!("{index}");
        let now = self.pair.now;
        match self.pair.sessions[opener].open(now, kind, class, Encoding::Raw, &service) {
            Ok(id) => {
                assert!(self.by_id.insert(id, index).is_none(), "an id used twice");
                self.channels[index].id = Some(id);
                self.channels[index].open[opener] = true;
                self.work.insert(index);
                self.pair.settle(opener);
            }
            Err(OpenError::TooMany) => self.waiting_to_open[opener].push_back(index),
            Err(OpenError::Closed) => self.give_up(index),
        }
    }

    fn give_up(&mut self, index: usize) {
        let c = &mut self.channels[index];
        for side in [A, B] {
            c.send[side].done = true;
            c.read[side].outcome.get_or_insert(Outcome::SessionEnded);
        }
    }

    fn hear(&mut self, side: usize, event: Event) {
        let index = |world: &World, id: ChannelId| {
            *world
                .by_id
                .get(&id)
                .expect("an event of a channel that nobody opened")
        };
        match event {
            Event::Opened {
                channel, service, ..
            } => {
                let i: usize = service.parse().unwrap();
                let c = &mut self.channels[i];
                assert_eq!(c.id, Some(channel), "OPEN of another channel");
                assert_ne!(c.plan.opener, side);
                assert!(!c.open[side], "told of an opening twice");
                c.open[side] = true;
                match c.plan.refuse {
                    Some(code) => {
                        self.pair.sessions[side].reset(channel, code);
                        self.pair.sessions[side].stop(channel, code);
                        c.send[side].reset = Some(code);
                        c.send[side].done = true;
                        c.read[side].outcome = Some(Outcome::Stopped);
                    }
                    None => self.pair.sessions[side].accept(channel),
                }
                self.pair.settle(side);
                self.work.insert(i);
            }
            Event::Accepted { channel } => {
                let i = index(self, channel);
                let c = &mut self.channels[i];
                assert_eq!(c.plan.opener, side);
                c.accepted += 1;
                assert_eq!(c.accepted, 1, "accepted twice");
                assert!(c.plan.refuse.is_none());
            }
            Event::Readable { channel } => {
                let i = index(self, channel);
                assert!(self.channels[i].open[side], "readable before it was opened");
                self.channels[i].read[side].waiting = false;
                self.work.insert(i);
            }
            Event::Writable { channel } => {
                let i = index(self, channel);
                assert!(self.channels[i].open[side], "writable before it was opened");
                self.channels[i].send[side].blocked = false;
                self.work.insert(i);
            }
            Event::Redial {
                channel,
                offset,
                service,
            } => {
                let i = index(self, channel);
                let c = &mut self.channels[i];
                assert!(c.open[side], "redial before it was opened");
                assert_eq!(service, format!("redial {i}"));
                assert_eq!(Some(offset), c.plan.send[1 - side].redial);
                assert!(
                    c.read[side].got <= offset,
                    "bytes for the new service came before word of it"
                );
                c.read[side].redials.push(offset);
            }
            Event::ChannelsAvailable => {
                let waiting = std::mem::take(&mut self.waiting_to_open[side]);
                self.work.extend(waiting);
            }
            Event::Established => {
                assert_eq!(side, A);
                self.established += 1;
                assert_eq!(self.established, 1, "established twice");
            }
            Event::Hop(hop) => self.hops[side].push(hop),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn salt(index: usize, side: usize) -> usize {
        index * 2 + side
    }

    /// One side writes what it can. True when it did anything.
    fn send(&mut self, index: usize, side: usize) -> bool {
        let c = &mut self.channels[index];
        let (plan, id) = (c.plan.send[side], c.id.unwrap());
        let state = &mut c.send[side];
        let now = self.pair.now;
        let session = &mut self.pair.sessions[side];
        let mut did = false;
        while !state.done && !state.blocked && state.next_at <= now {
            if plan.redial == Some(state.written) && !state.redialed {
                state.redialed = true;
                session.redial(id, &format!("redial {index}"));
                did = true;
            }
            if state.written == plan.length {
                match plan.reset {
                    Some(code) => session.reset(id, code),
                    None => session.finish(id),
                }
                state.reset = plan.reset;
                state.finished = plan.reset.is_none();
                state.done = true;
                return true;
            }
            let mut end = plan.length.min(state.written + plan.chunk);
            if let Some(redial) = plan.redial.filter(|r| *r > state.written) {
                end = end.min(redial);
            }
            let outcome = if c.plan.kind == ChannelKind::Datagram {
                let mut data =
                    content(Self::salt(index, side), state.written, end - state.written).to_vec();
                let number = state.written.to_be_bytes();
                data.splice(0..0, number);
                let deadline = now + Duration::from_millis(200);
                session
                    .send_datagram(id, data.into(), deadline)
                    .map(|()| end - state.written)
            } else {
                let mut data = content(Self::salt(index, side), state.written, end - state.written);
                session.write(id, &mut data).map(|taken| taken as u64)
            };
            match outcome {
                Ok(taken) => {
                    did = true;
                    state.written += taken;
                    if !plan.pause.is_zero() {
                        state.next_at = now + plan.pause;
                        self.timers.insert((state.next_at, index));
                    }
                }
                Err(WriteError::Blocked) => state.blocked = true,
                Err(WriteError::Stopped(code)) => {
                    state.stopped = Some(code);
                    state.done = true;
                }
                Err(WriteError::Closed) => {
                    assert!(self.pair.closed[side].is_some(), "closed without a reason");
                    state.done = true;
                }
            }
        }
        did
    }

    /// One side reads what it may. True when it did anything.
    fn read(&mut self, index: usize, side: usize) -> bool {
        let now = self.pair.now;
        let mut did = false;
        loop {
            let c = &mut self.channels[index];
            let (plan, id) = (c.plan.read[side], c.id.unwrap());
            let state = &mut c.read[side];
            if state.outcome.is_some() || state.waiting {
                return did;
            }
            let from = plan.from.max(state.next_at);
            if from > now {
                self.timers.insert((from, index));
                return did;
            }
            let session = &mut self.pair.sessions[side];
            if let Some((_, code)) = plan.stop.filter(|(at, _)| state.got >= *at) {
                session.stop(id, code);
                self.end_reading(index, side, Outcome::Stopped);
                return true;
            }
            match session.read(id, plan.piece) {
                ReadOutcome::Data(data) => {
                    did = true;
                    self.delivered += data.len() as u64;
                    if !plan.pause.is_zero() {
                        state.next_at = now + plan.pause;
                    }
                    self.take(index, side, &data);
                }
                ReadOutcome::Blocked => state.waiting = true,
                ReadOutcome::Finished => {
                    self.end_reading(index, side, Outcome::Finished);
                    return true;
                }
                ReadOutcome::Reset(code) => {
                    self.end_reading(index, side, Outcome::Reset(code));
                    return true;
                }
                ReadOutcome::Closed => {
                    assert!(self.pair.closed[side].is_some(), "closed without a reason");
                    self.end_reading(index, side, Outcome::SessionEnded);
                }
            }
        }
    }

    fn take(&mut self, index: usize, side: usize, data: &[u8]) {
        let c = &mut self.channels[index];
        let salt = Self::salt(index, 1 - side);
        let written = c.send[1 - side].written;
        let state = &mut c.read[side];
        if c.plan.kind == ChannelKind::Datagram {
            let number = u64::from_be_bytes(data[..8].try_into().unwrap());
            check_content(salt, number, &data[8..]);
            assert!(state.seen.insert(number), "a datagram came twice");
            state.got += data.len() as u64 - 8;
            return;
        }
        assert!(!data.is_empty(), "a read of nothing");
        check_content(salt, state.got, data);
        state.got += data.len() as u64;
        assert!(state.got <= written, "more than was written");
        if let Some(redial) = c.plan.send[1 - side].redial {
            assert!(
                state.got <= redial || state.redials == [redial],
                "read past a redial that was not told"
            );
        }
    }

    fn end_reading(&mut self, index: usize, side: usize, outcome: Outcome) {
        let c = &mut self.channels[index];
        c.read[side].outcome = Some(outcome);
        c.read[side].ended_at = Some(self.pair.now);
        let (sender, reader) = (&c.send[1 - side], &c.read[side]);
        match outcome {
            Outcome::Finished => {
                assert!(sender.finished, "an end that nobody sent");
                if c.plan.kind == ChannelKind::Stream {
                    assert_eq!(reader.got, sender.written, "ended short");
                    assert_eq!(
                        reader.redials.first(),
                        c.plan.send[1 - side].redial.as_ref()
                    );
                }
            }
            Outcome::Reset(code) => {
                let expected = sender.reset;
                assert_eq!(Some(code), expected, "a reset that nobody sent");
            }
            Outcome::Stopped | Outcome::SessionEnded => {}
        }
    }

    /// After the end of all channels: nothing may be left of them on either side.
    pub(crate) fn check_settled(&mut self) {
        assert!(self.is_done());
        for c in &self.channels {
            for side in [A, B] {
                let expected = c.plan.read[1 - side].stop.map(|(_, code)| code);
                let expected = match c.plan.refuse {
                    Some(code) if side == c.plan.opener => Some(code),
                    _ => expected,
                };
                if let Some(code) = c.send[side].stopped {
                    assert_eq!(Some(code), expected, "stopped with another code");
                }
            }
        }
        let idle = |p: &mut Pair| {
            p.sessions
                .iter()
                .all(|s| s.channel_count() == 0 && s.unacknowledged() == 0 && s.unread() == 0)
        };
        let end = self.pair.now + Duration::from_secs(30);
        while !idle(&mut self.pair) {
            assert!(self.step(end), "does not settle: {}", self.report());
        }
        for side in [A, B] {
            let (near, far) = (
                self.pair.sessions[side].flow(),
                self.pair.sessions[1 - side].flow(),
            );
            assert_eq!(near.sent, far.received, "bytes sent and received");
            assert_eq!(far.received, far.read, "all was read or forgotten");
            assert!(near.send_limit <= far.granted && far.read <= near.send_limit);
        }
    }
}
