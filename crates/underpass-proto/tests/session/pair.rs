//! Two sessions, the legs between them, and the driver of each end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use underpass_proto::handshake::{Accepting, Connecting};
use underpass_proto::packet::{HelloTarget, Packet, SessionId};
use underpass_proto::params::Params;
use underpass_proto::session::{
    Agreed, Budget, Closed, Config, Event, LegError, LegId, LegInfo, Session,
};
use underpass_proto::ticket::Ticket;
use underpass_proto::{Role, Time};
use underpass_seal::{Cipher, Secrets, StaticKey};

use crate::dice::Dice;

/// The initiator's side and the responder's.
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

/// What a leg is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Bytes per second; 0 for no limit.
    pub(crate) rate: u64,
    /// One way.
    pub(crate) delay: Duration,
    /// What large packets take longer than that, as where a box waits for company.
    pub(crate) cork: Duration,
    /// What arrives waits for so long out of every 71 ms, as where a process does not get its turn.
    pub(crate) nap: Duration,
    /// Bytes that a sender may have queued before the leg takes no more.
    pub(crate) backlog: u64,
}

impl Link {
    pub(crate) fn new(rate: u64, delay: Duration) -> Self {
        Link {
            rate,
            delay,
            cork: Duration::ZERO,
            nap: Duration::ZERO,
            backlog: 1 << 40,
        }
    }

    /// So quick that it does not matter.
    pub(crate) fn quick() -> Self {
        Link::new(0, Duration::from_millis(1))
    }

    /// When something that came in at `at` is looked at.
    fn after_nap(&self, at: Time) -> Time {
        let into = Duration::from_micros(at.as_micros() % 71_000);
        at + self.nap.saturating_sub(into)
    }

    fn time_for(&self, bytes: u64) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_micros(bytes * 1_000_000 / rate),
        }
    }
}

/// What goes wrong on a leg, each in thousandths of the packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) drop: u64,
    /// Drops of which the sender is told.
    pub(crate) noticed_drop: u64,
    pub(crate) duplicate: u64,
    pub(crate) reorder: u64,
    pub(crate) corrupt: u64,
    /// The leg is cut when this many packets went out on it, both directions together.
    pub(crate) cut_after: Option<(u64, Cut)>,
}

/// How a leg ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// What is under way is lost and both ends learn of it.
    Reset,
    /// The same, but only one end learns.
    Half(usize),
    /// Nothing passes any more and nobody is told.
    Silent,
    /// The same in one direction only: what this side sends.
    SilentFrom(usize),
    /// What is under way still arrives, then both ends learn.
    Gentle,
}

/// How the initiator's driver makes new legs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reconnect {
    /// From the loss of a leg to the next attempt.
    pub(crate) delay: Duration,
    /// From an attempt to giving it up.
    pub(crate) patience: Duration,
    /// So many thousandths of the attempts are made twice at once.
    pub(crate) twins: u64,
    /// How many legs are to carry the session at once.
    pub(crate) legs: usize,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect {
            delay: Duration::from_millis(20),
            patience: Duration::from_secs(3),
            twins: 0,
            legs: 1,
        }
    }
}

#[derive(Default)]
struct Pipe {
    /// When everything handed in so far has left the sender.
    free_at: Time,
    last_arrival: Time,
    packets: u64,
    bytes: u64,
    ready_pending: bool,
    silent: bool,
}

struct Leg {
    link: Link,
    faults: Faults,
    /// Which ends hold it open.
    open: [bool; 2],
    /// Indexed by the sending side.
    pipes: [Pipe; 2],
    /// Nothing that is under way arrives any more.
    lost: bool,
}

#[derive(Debug)]
enum Happening {
    Arrive {
        to: usize,
        leg: LegId,
        packet: Bytes,
    },
    Ready {
        side: usize,
        leg: LegId,
    },
    Notice {
        side: usize,
        leg: LegId,
        first: u64,
    },
    Learn {
        side: usize,
        leg: LegId,
    },
    Connect,
    GiveUp {
        leg: LegId,
    },
    Nothing,
}

/// What was counted, for bounds on effort.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) timeouts: u64,
    pub(crate) legs: u64,
    pub(crate) steps: u64,
    pub(crate) corrupt: u64,
    pub(crate) refused: u64,
    /// The most legs that both ends held at once.
    pub(crate) legs_at_once: usize,
}

/// How a pair is made.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) link: Link,
    pub(crate) faults: Faults,
    pub(crate) config: [Config; 2],
    pub(crate) reconnect: Option<Reconnect>,
    /// By the real handshake instead of from a seed.
    pub(crate) handshake: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            seed: 1,
            link: Link::quick(),
            faults: Faults::default(),
            config: [config(), config()],
            reconnect: Some(Reconnect::default()),
            handshake: false,
        }
    }
}

/// The default configuration with a budget of its own.
pub(crate) fn config() -> Config {
    Config {
        budget: Budget::new(512 << 20),
        ..Config::default()
    }
}

/// The secrets of every session that is not made by a handshake.
pub(crate) fn secrets(seed: u64) -> Secrets {
    let mut bytes = [0x5e; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Secrets::dangerous_from_seed(bytes)
}

pub(crate) fn session_id(seed: u64) -> SessionId {
    let mut id = [0x1d; 16];
    id[..8].copy_from_slice(&seed.to_be_bytes());
    SessionId(id)
}

/// One end, as the handshake would make it.
pub(crate) fn end(role: Role, seed: u64, config: Config, peer: Params, leg: LegId) -> Session {
    let agreed = Agreed {
        role,
        id: session_id(seed),
        grade: underpass_proto::Grade::Blind,
        cipher: Cipher::Aes256Gcm,
        secrets: secrets(seed),
        peer,
        ticket: Ticket::new([7; 32]),
    };
    let packets = if role == Role::Initiator { 2 } else { 1 };
    Session::new(agreed, config, leg, packets, Time::ZERO)
}

/// Two sessions and everything between them.
pub(crate) struct Pair {
    pub(crate) now: Time,
    pub(crate) sessions: [Session; 2],
    /// What the applications have to look at.
    pub(crate) events: [VecDeque<Event>; 2],
    pub(crate) closed: [Option<Closed>; 2],
    /// For the legs that are made from now on.
    pub(crate) link: Link,
    pub(crate) faults: Faults,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) dice: Dice,
    pub(crate) counts: Counts,
    pub(crate) trace: bool,
    /// RESUME and CONFIRM packets that passed, for those who replay.
    pub(crate) overheard: Vec<Bytes>,
    pub(crate) active: [Option<LegId>; 2],
    drop_next: [u64; 2],
    suspect: bool,
    connect_pending: bool,
    legs: BTreeMap<LegId, Leg>,
    next_leg: u64,
    agenda: BTreeMap<(Time, u64), Happening>,
    order: u64,
    stuck: u64,
}

impl Pair {
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup {
            seed,
            link,
            faults,
            config,
            reconnect,
            handshake,
        } = setup;
        let mut dice = Dice::new(seed ^ 0x9a17);
        let first = LegId(1);
        let sessions = if handshake {
            shake_hands(config, first, &mut dice)
        } else {
            let [a, b] = config;
            let (for_a, for_b) = (b.params.clone(), a.params.clone());
            [
                end(Role::Initiator, seed, a, for_a, first),
                end(Role::Responder, seed, b, for_b, first),
            ]
        };
        let mut pair = Pair {
            now: Time::ZERO,
            sessions,
            events: Default::default(),
            closed: [None, None],
            link,
            faults,
            reconnect,
            dice,
            counts: Counts::default(),
            trace: std::env::var_os("UNDERPASS_SIM_TRACE").is_some(),
            overheard: Vec::new(),
            active: [None, None],
            drop_next: [0, 0],
            suspect: false,
            connect_pending: false,
            legs: BTreeMap::new(),
            next_leg: 1,
            agenda: BTreeMap::new(),
            order: 0,
            stuck: 0,
        };
        let leg = pair.new_leg();
        let state = pair.legs.get_mut(&leg).unwrap();
        state.open = [true, true];
        // What the handshake took.
        state.pipes[A].packets = 2;
        state.pipes[B].packets = 1;
        pair.settle(A);
        pair.settle(B);
        pair
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{} {}", self.now, what());
        }
    }

    fn at(&mut self, time: Time, what: Happening) {
        self.order += 1;
        self.agenda.insert((time.max(self.now), self.order), what);
    }

    /// Makes sure that time does not run past `time` unnoticed.
    pub(crate) fn wake_at(&mut self, time: Time) {
        self.at(time, Happening::Nothing);
    }

    fn new_leg(&mut self) -> LegId {
        let id = LegId(self.next_leg);
        self.next_leg += 1;
        self.counts.legs += 1;
        self.legs.insert(
            id,
            Leg {
                link: self.link,
                faults: self.faults,
                open: [true, false],
                pipes: Default::default(),
                lost: false,
            },
        );
        id
    }

    /// Legs that at least one end holds.
    pub(crate) fn open_legs(&self) -> Vec<LegId> {
        self.legs
            .iter()
            .filter(|(_, leg)| leg.open != [false, false])
            .map(|(id, _)| *id)
            .collect()
    }

    /// From now on nothing goes wrong any more; legs that were cut stay so.
    pub(crate) fn heal(&mut self, link: Link) {
        self.faults = Faults::default();
        self.link = link;
        for leg in self.legs.values_mut() {
            leg.faults = Faults::default();
            leg.link = link;
        }
    }

    /// The next packets that a side sends are lost.
    pub(crate) fn drop_next(&mut self, side: usize, packets: u64) {
        self.drop_next[side] = packets;
    }

    /// From now on a leg is made of something else.
    pub(crate) fn set_link(&mut self, leg: LegId, link: Link) {
        self.legs.get_mut(&leg).unwrap().link = link;
    }

    /// From now on this goes wrong on a leg.
    pub(crate) fn set_faults(&mut self, leg: LegId, faults: Faults) {
        self.legs.get_mut(&leg).unwrap().faults = faults;
    }

    /// Bytes that a side has sent on a leg.
    pub(crate) fn sent(&self, side: usize, leg: LegId) -> u64 {
        self.legs[&leg].pipes[side].bytes
    }

    /// The initiator's driver makes a new leg and resumes on it.
    pub(crate) fn connect(&mut self) -> Option<LegId> {
        if self.sessions[A].is_closed() {
            return None;
        }
        let leg = self.new_leg();
        self.say(|| format!("A resumes on {leg}"));
        self.sessions[A].start_resume(self.now, leg, &mut self.dice.0);
        self.tried(leg)
    }

    /// The same for a leg beside the others, in the place of one of them or not. `None` where the
    /// session does not want it.
    pub(crate) fn join(&mut self, instead: Option<LegId>) -> Option<LegId> {
        let leg = LegId(self.next_leg);
        if !self.sessions[A].start_beside(self.now, leg, instead, &mut self.dice.0) {
            return None;
        }
        self.new_leg();
        self.say(|| format!("A wants {leg} beside the others, instead of {instead:?}"));
        self.tried(leg)
    }

    fn tried(&mut self, leg: LegId) -> Option<LegId> {
        if let Some(reconnect) = self.reconnect {
            self.at(self.now + reconnect.patience, Happening::GiveUp { leg });
        }
        self.settle(A);
        Some(leg)
    }

    /// How many legs the initiator's driver keeps.
    fn wanted(&self) -> usize {
        self.reconnect.map_or(1, |reconnect| reconnect.legs)
    }

    /// Makes what is missing.
    fn make_legs(&mut self) {
        let legs: Vec<LegInfo> = self.sessions[A].active_legs().collect();
        let suspect = legs.iter().find(|leg| leg.suspect).map(|leg| leg.leg);
        if self.wanted() > 1 && legs.iter().any(|leg| !leg.suspect) {
            if suspect.is_some() || legs.len() < self.wanted() {
                self.join(suspect);
            }
        } else if self.active[A].is_none() || self.suspect || self.wanted() > 1 {
            self.connect();
            let twins = self.reconnect.map_or(0, |r| r.twins);
            if self.dice.chance(twins) {
                self.connect();
            }
        }
    }

    fn want_leg(&mut self) {
        let Some(reconnect) = self.reconnect else {
            return;
        };
        if !self.connect_pending && !self.sessions[A].is_closed() {
            self.connect_pending = true;
            self.at(self.now + reconnect.delay, Happening::Connect);
        }
    }

    /// Ends a leg in one of several ways.
    pub(crate) fn cut(&mut self, id: LegId, how: Cut) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let settled = leg.pipes[A].last_arrival.max(leg.pipes[B].last_arrival);
        match how {
            Cut::SilentFrom(side) => leg.pipes[side].silent = true,
            Cut::Gentle => {
                leg.pipes[A].silent = true;
                leg.pipes[B].silent = true;
            }
            Cut::Silent | Cut::Reset | Cut::Half(_) => leg.lost = true,
        }
        self.say(|| format!("{id} is cut: {how:?}"));
        let (low, who): (Time, &[usize]) = match how {
            Cut::Silent | Cut::SilentFrom(_) => return,
            Cut::Reset => (self.now, &[A, B]),
            Cut::Half(A) => (self.now, &[A]),
            Cut::Half(_) => (self.now, &[B]),
            Cut::Gentle => (settled.max(self.now), &[A, B]),
        };
        for side in who {
            let late = self.dice.micros(1, 30_000);
            self.at(
                low + late,
                Happening::Learn {
                    side: *side,
                    leg: id,
                },
            );
        }
    }

    /// One side's driver drops a leg; the other end learns when all that was sent has arrived.
    fn close_leg(&mut self, side: usize, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut leg.open[side]) {
            return;
        }
        if self.active[side] == Some(id) {
            self.active[side] = self.sessions[side].lead();
        }
        let at = leg.pipes[side].last_arrival.max(self.now) + leg.link.delay;
        if !leg.lost && !leg.pipes[side].silent {
            self.at(
                at,
                Happening::Learn {
                    side: 1 - side,
                    leg: id,
                },
            );
        }
    }

    fn lose_leg(&mut self, side: usize, id: LegId) {
        if !self.legs.get(&id).is_some_and(|leg| leg.open[side]) {
            return;
        }
        self.sessions[side].leg_lost(self.now, id);
        self.close_leg(side, id);
        if side == A && (self.active[A].is_none() || self.suspect || self.wanted() > 1) {
            self.want_leg();
        }
        self.settle(side);
    }

    /// What the driver does after any input: events, then packets.
    pub(crate) fn settle(&mut self, side: usize) {
        loop {
            self.drain_events(side);
            let mut sent = false;
            let open: Vec<LegId> = self
                .legs
                .iter()
                .filter(|(_, leg)| leg.open[side])
                .map(|(id, _)| *id)
                .collect();
            for leg in open {
                while self.is_ready(side, leg) {
                    let Some(packet) = self.sessions[side].poll_transmit(self.now, leg) else {
                        break;
                    };
                    sent = true;
                    self.transmit(side, leg, packet);
                }
            }
            if !sent {
                self.drain_events(side);
                return;
            }
        }
    }

    fn is_ready(&mut self, side: usize, id: LegId) -> bool {
        let now = self.now;
        let Some(leg) = self.legs.get_mut(&id) else {
            return false;
        };
        let allowed = leg.link.time_for(leg.link.backlog);
        let pipe = &mut leg.pipes[side];
        if pipe.free_at.since(now) <= allowed {
            return true;
        }
        if !pipe.ready_pending {
            pipe.ready_pending = true;
            let at = now + (pipe.free_at.since(now) - allowed);
            self.at(at, Happening::Ready { side, leg: id });
        }
        false
    }

    fn drain_events(&mut self, side: usize) {
        while let Some(event) = self.sessions[side].poll_event() {
            self.say(|| format!("{} {event:?}", ["A", "B"][side]));
            match event {
                Event::LegActive { leg } => {
                    self.active[side] = Some(leg);
                    let both = self.sessions.iter().map(|s| s.active_legs().count()).min();
                    self.counts.legs_at_once = self.counts.legs_at_once.max(both.unwrap_or(0));
                    if side == A {
                        self.suspect = false;
                        if self.sessions[A].active_legs().count() < self.wanted() {
                            self.want_leg();
                        }
                    }
                }
                Event::LegSuspect { leg } => {
                    if side == A && (self.active[A] == Some(leg) || self.wanted() > 1) {
                        self.suspect = true;
                        self.want_leg();
                    }
                }
                Event::AnswerMissing { .. } | Event::LegLate { .. } | Event::LegFull { .. } => {}
                Event::LegDone { leg, farewell } => {
                    if let Some(packet) = farewell {
                        self.transmit(side, leg, packet);
                    }
                    self.close_leg(side, leg);
                }
                Event::Detached => {
                    if side == A {
                        self.want_leg();
                    }
                }
                Event::Closed(closed) => {
                    assert!(self.closed[side].is_none(), "told of the end twice");
                    self.closed[side] = Some(closed);
                }
                other => self.events[side].push_back(other),
            }
        }
    }

    fn transmit(&mut self, from: usize, id: LegId, packet: Bytes) {
        self.counts.packets += 1;
        self.counts.bytes += packet.len() as u64;
        if matches!(packet[0], 0x04 | 0x06) {
            self.overheard.push(packet.clone());
        }
        let now = self.now;
        self.say(|| {
            format!(
                "{} sends {} bytes of kind {} on {id}",
                ["A", "B"][from],
                packet.len(),
                packet[0]
            )
        });
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let (link, faults) = (leg.link, leg.faults);
        let total = leg.pipes[A].packets + leg.pipes[B].packets;
        let pipe = &mut leg.pipes[from];
        let index = pipe.packets;
        pipe.packets += 1;
        pipe.bytes += packet.len() as u64;
        pipe.free_at = pipe.free_at.max(now) + link.time_for(packet.len() as u64 + 3);
        let cork = if packet.len() > 500 {
            link.cork
        } else {
            Duration::ZERO
        };
        let mut at = link
            .after_nap(pipe.free_at + link.delay + cork)
            .max(pipe.last_arrival);
        if leg.lost || pipe.silent {
            return;
        }
        if let Some((_, how)) = faults.cut_after.filter(|(after, _)| total >= *after) {
            leg.faults.cut_after = None;
            self.cut(id, how);
            if how != Cut::Gentle {
                return;
            }
        }
        if self.drop_next[from] > 0 {
            self.drop_next[from] -= 1;
            return;
        }
        if self.dice.chance(faults.drop) {
            self.say(|| format!("  packet {index} is dropped"));
            return;
        }
        if self.dice.chance(faults.noticed_drop) {
            self.say(|| format!("  packet {index} is dropped, with notice"));
            let notice = Happening::Notice {
                side: from,
                leg: id,
                first: index,
            };
            self.at(at + link.delay, notice);
            return;
        }
        let mut packet = packet;
        if self.dice.chance(faults.corrupt) {
            self.say(|| format!("  packet {index} is changed"));
            let mut changed = packet.to_vec();
            let place = usize::try_from(self.dice.below(changed.len() as u64)).unwrap();
            changed[place] ^= u8::try_from(self.dice.between(1, 255)).unwrap();
            packet = changed.into();
        }
        if self.dice.chance(faults.reorder) {
            at = at
                + self
                    .dice
                    .micros(0, 3 * link.delay.as_micros() as u64 + 1000);
        } else if let Some(leg) = self.legs.get_mut(&id) {
            leg.pipes[from].last_arrival = at;
        }
        if self.dice.chance(faults.duplicate) {
            let late = self.dice.micros(0, 20_000);
            self.arrive(at + late, 1 - from, id, packet.clone());
        }
        self.arrive(at, 1 - from, id, packet);
    }

    fn arrive(&mut self, at: Time, to: usize, leg: LegId, packet: Bytes) {
        self.at(at, Happening::Arrive { to, leg, packet });
    }

    /// A stranger gives a packet to `to` on a leg of its own, and takes what comes back.
    pub(crate) fn inject(&mut self, to: usize, packet: Bytes) -> (LegId, Vec<Bytes>) {
        let leg = LegId(1_000_000 + self.next_leg);
        self.next_leg += 1;
        let packet = Packet::parse_unframed(packet).unwrap();
        let outcome = self.sessions[to].handle_packet(self.now, leg, packet, &mut self.dice.0);
        let mut answers = Vec::new();
        if outcome.is_ok() {
            while let Some(answer) = self.sessions[to].poll_transmit(self.now, leg) {
                answers.push(answer);
            }
        }
        self.settle(to);
        (leg, answers)
    }

    fn take(&mut self, to: usize, id: LegId, packet: Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if leg.lost {
            return;
        }
        if !leg.open[to] {
            // The responder learns of a leg by its first packet; nobody reopens one.
            let first = to == B && leg.pipes[B].packets == 0 && packet[0] == 0x04;
            if !first {
                return;
            }
            leg.open[B] = true;
        }
        let Ok(packet) = Packet::parse_unframed(packet) else {
            self.counts.corrupt += 1;
            self.lose_leg(to, id);
            return;
        };
        let outcome = self.sessions[to].handle_packet(self.now, id, packet, &mut self.dice.0);
        if let Err(error) = outcome {
            self.say(|| format!("{} on {id}: {error}", ["A", "B"][to]));
            match error {
                LegError::Corrupt => self.counts.corrupt += 1,
                LegError::Refused(_) => self.counts.refused += 1,
                _ => {}
            }
            self.lose_leg(to, id);
        }
        self.settle(to);
    }

    /// Goes to the next thing that happens, not later than `limit`. False where nothing does.
    pub(crate) fn step(&mut self, limit: Time) -> bool {
        let next = self.agenda.keys().next().map(|(time, _)| *time);
        let timers = self.sessions.iter().filter_map(Session::poll_timeout);
        let Some(time) = timers.chain(next).min().filter(|time| *time <= limit) else {
            self.now = self.now.max(limit);
            return false;
        };
        self.stuck = if time > self.now { 0 } else { self.stuck + 1 };
        assert!(self.stuck < 100_000, "time stands still at {}", self.now);
        self.now = self.now.max(time);
        self.counts.steps += 1;
        if next.is_some_and(|at| at <= self.now) {
            let ((_, _), what) = self.agenda.pop_first().unwrap();
            self.happen(what);
        } else {
            for side in [A, B] {
                if self.sessions[side]
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    self.counts.timeouts += 1;
                    self.sessions[side].handle_timeout(self.now);
                    self.settle(side);
                }
            }
        }
        true
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive { to, leg, packet } => self.take(to, leg, packet),
            Happening::Ready { side, leg } => {
                if let Some(leg) = self.legs.get_mut(&leg) {
                    leg.pipes[side].ready_pending = false;
                }
                self.settle(side);
            }
            Happening::Notice { side, leg, first } => {
                if self.legs.get(&leg).is_some_and(|l| l.open[side] && !l.lost) {
                    self.sessions[side].handle_dropped(self.now, leg, first, 1);
                    self.settle(side);
                }
            }
            Happening::Learn { side, leg } => self.lose_leg(side, leg),
            Happening::Connect => {
                self.connect_pending = false;
                self.make_legs();
            }
            Happening::GiveUp { leg } => {
                if !self.sessions[A].is_active(leg) {
                    self.lose_leg(A, leg);
                    if self.active[A].is_none() || self.suspect || self.wanted() > 1 {
                        self.want_leg();
                    }
                }
            }
            Happening::Nothing => {}
        }
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }
}

fn shake_hands(config: [Config; 2], leg: LegId, dice: &mut Dice) -> [Session; 2] {
    let keys = [StaticKey::generate(), StaticKey::generate()];
    let [a, b] = config;
    let target = HelloTarget::Endpoint;
    let (connecting, hello) = Connecting::start(a, &keys[A], target, b"", &mut dice.0).unwrap();
    let (accepting, answer) =
        Accepting::start(b, &keys[B], target, b"", hello.body, &mut dice.0).unwrap();
    let answered = connecting.handle_answer(answer).unwrap();
    assert_eq!(answered.peer, keys[B].public());
    let (near, finish) = answered.finish(leg, Time::ZERO).unwrap();
    let (far, peer) = accepting.handle_finish(finish, leg, Time::ZERO).unwrap();
    assert_eq!(peer, keys[A].public());
    [near, far]
}
