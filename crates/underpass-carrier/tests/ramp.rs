//! How soon a session fills a path on which only whole requests and whole answers pass: two sessions,
//! the numbered requests between them and the connections of a box that holds everything, in virtual
//! time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use underpass_carrier::answers::{Answers, Ask, DEPTH};
use underpass_carrier::uplink::{Post, Uplink};
use underpass_proto::frame::{ChannelId, ChannelKind, Class, Encoding};
use underpass_proto::packet::{Packet, SessionId};
use underpass_proto::session::{Agreed, Config, Event, LegId, ReadOutcome, Session, WriteError};
use underpass_proto::ticket::Ticket;
use underpass_proto::{Role, Time};
use underpass_seal::{Cipher, Secrets};

const CLIENT: usize = 0;
const FAR: usize = 1;
const LEG: LegId = LegId(1);
/// What TCP has under way on a new connection (RFC 6928): ten segments.
const FIRST_FLIGHT: usize = 14_600;
/// What is transferred.
const LENGTH: u64 = 64 << 20;
/// What a link's queue between session and carrier takes.
const QUEUE: usize = 128 * 1024;

/// What lies between the box and the relay.
#[derive(Clone, Copy)]
struct Link {
    round_trip: Duration,
    /// Bytes per second each way.
    rate: f64,
    /// The box makes a new connection for every request.
    fresh: bool,
    /// What arrives waits for up to so long, as where a process does not get its turn.
    nap: Duration,
}

/// The connections that carry bodies one way.
struct Connections {
    link: Link,
    flights: Vec<usize>,
    idle: Vec<usize>,
    free: Time,
    dice: u64,
}

impl Connections {
    fn new(link: Link) -> Self {
        Self {
            link,
            flights: Vec::new(),
            idle: Vec::new(),
            free: Time::ZERO,
            dice: 7,
        }
    }

    /// When a body that is handed in now has arrived whole, and on which connection.
    fn send(&mut self, now: Time, len: usize) -> (Time, usize) {
        let Link {
            round_trip, rate, ..
        } = self.link;
        let mut waits = u32::from(self.link.fresh);
        let reused = self.idle.pop().filter(|_| !self.link.fresh);
        let connection = reused.unwrap_or_else(|| {
            self.flights.push(FIRST_FLIGHT);
            self.flights.len() - 1
        });
        let flight = &mut self.flights[connection];
        let mut sent = *flight;
        while sent < len {
            *flight *= 2;
            sent += *flight;
            waits += 1;
        }
        let on_the_link = Duration::from_secs_f64((len + 300) as f64 / rate);
        self.free = self.free.max(now) + on_the_link;
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let nap = self.link.nap * (self.dice >> 48) as u32 / 65536;
        let arrival = (now + round_trip * waits + on_the_link).max(self.free);
        (arrival + round_trip / 2 + nap, connection)
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    PostArrives(u64),
    PostIsAnswered(u64, usize),
    PollArrives(u64),
    AnswerArrives(u64, usize),
}

/// Packets in one direction.
#[derive(Default)]
struct Stream {
    queue: VecDeque<Bytes>,
    queued: usize,
    pulled: u64,
    /// By the offset behind the last byte.
    packets: VecDeque<(u64, Bytes)>,
    arrived: u64,
}

struct World {
    now: Time,
    sessions: [Session; 2],
    streams: [Stream; 2],
    uplink: Uplink,
    answers: Answers,
    connections: [Connections; 2],
    posts: BTreeMap<u64, (Post, Time, usize)>,
    /// Bodies that arrived ahead of others, by offset.
    ahead: BTreeMap<u64, usize>,
    polls: Vec<u64>,
    /// Answers that arrived ahead of others.
    answered: BTreeMap<u64, usize>,
    complete: BTreeSet<u64>,
    next_answer: u64,
    agenda: BinaryHeap<Reverse<(Time, What)>>,
    dice: ChaCha8Rng,
    bulk: Option<(usize, ChannelId)>,
    left: u64,
    read: u64,
}

fn end(role: Role) -> Session {
    let config = Config::default();
    let agreed = Agreed {
        role,
        id: SessionId([1; 16]),
        grade: underpass_proto::Grade::Blind,
        cipher: Cipher::Aes256Gcm,
        secrets: Secrets::dangerous_from_seed([7; 32]),
        peer: config.params.clone(),
        ticket: Ticket::new([7; 32]),
    };
    Session::new(agreed, config, LEG, 2, Time::ZERO)
}

impl World {
    fn new(link: Link, largest: usize) -> Self {
        let mut world = Self {
            now: Time::ZERO,
            sessions: [end(Role::Initiator), end(Role::Responder)],
            streams: Default::default(),
            uplink: Uplink::new(largest, 8, 4 << 20),
            answers: Answers::new(largest),
            connections: [Connections::new(link), Connections::new(link)],
            posts: BTreeMap::new(),
            ahead: BTreeMap::new(),
            polls: Vec::new(),
            answered: BTreeMap::new(),
            complete: BTreeSet::new(),
            next_answer: 0,
            agenda: BinaryHeap::new(),
            dice: ChaCha8Rng::seed_from_u64(1),
            bulk: None,
            left: 0,
            read: 0,
        };
        for number in 0..DEPTH {
            world.agenda.push(Reverse((
                Time::ZERO + link.round_trip / 2,
                What::PollArrives(number),
            )));
        }
        world.settle();
        world
    }

    /// What drivers do after anything happened.
    fn settle(&mut self) {
        for side in [CLIENT, FAR] {
            while let Some(event) = self.sessions[side].poll_event() {
                match event {
                    Event::Opened { channel, .. } => self.sessions[side].accept(channel),
                    Event::Closed(closed) => panic!("{closed:?}"),
                    _ => {}
                }
            }
            while self.applications(side) | self.carry(side) {}
        }
    }

    /// Writes and reads. True if anything moved.
    fn applications(&mut self, side: usize) -> bool {
        let Some((from, channel)) = self.bulk else {
            return false;
        };
        let before = (self.left, self.read);
        if side == from {
            while self.left > 0 {
                let len = self.left.min(64 << 10);
                let mut data = Bytes::from(vec![0x5a; len as usize]);
                match self.sessions[side].write(channel, &mut data) {
                    Ok(written) => self.left -= written as u64,
                    Err(WriteError::Blocked) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        } else {
            while let ReadOutcome::Data(data) = self.sessions[side].read(channel, 1 << 20) {
                self.read += data.len() as u64;
            }
        }
        before != (self.left, self.read)
    }

    fn carry(&mut self, side: usize) -> bool {
        let before = self.streams[side].pulled;
        loop {
            let stream = &mut self.streams[side];
            let mut drained = false;
            while stream.queued < QUEUE {
                let Some(packet) = self.sessions[side].poll_transmit(self.now, LEG) else {
                    drained = true;
                    break;
                };
                stream.pulled += packet.len() as u64;
                stream.packets.push_back((stream.pulled, packet.clone()));
                stream.queued += packet.len();
                stream.queue.push_back(packet);
            }
            let taken = match side {
                CLIENT => self.uplink.offer(&mut stream.queue),
                _ => self.answers.offer(&mut stream.queue),
            };
            stream.queued -= taken;
            if drained && stream.queue.is_empty() {
                match side {
                    CLIENT => self.uplink.flush(),
                    _ => drop(self.answers.flush()),
                }
            }
            let moved = match side {
                CLIENT => self.post(),
                _ => self.answer(),
            };
            if taken == 0 && !moved {
                return self.streams[side].pulled > before;
            }
        }
    }

    fn post(&mut self) -> bool {
        let mut any = false;
        while let Some(post) = self.uplink.next_post() {
            any = true;
            let (at, connection) = self.connections[CLIENT].send(self.now, post.len);
            self.agenda
                .push(Reverse((at, What::PostArrives(post.offset))));
            self.posts.insert(post.offset, (post, self.now, connection));
        }
        any
    }

    fn answer(&mut self) -> bool {
        let now = self.now.since(Time::ZERO);
        let mut any = false;
        loop {
            let mut again = false;
            self.polls.retain(
                |number| match self.answers.ask(*number, now).expect("in turn") {
                    Ask::Wait => true,
                    Ask::Answer(answer) => {
                        let (at, connection) =
                            self.connections[FAR].send(self.now, answer.data_len);
                        self.answered.insert(*number, answer.data_len);
                        self.agenda
                            .push(Reverse((at, What::AnswerArrives(*number, connection))));
                        again = true;
                        false
                    }
                },
            );
            any |= again;
            if !again {
                return any;
            }
        }
    }

    fn deliver(&mut self, to: usize, len: usize) {
        let stream = &mut self.streams[1 - to];
        stream.arrived += len as u64;
        while let Some((end, _)) = stream.packets.front() {
            if *end > stream.arrived {
                break;
            }
            let (_, packet) = stream.packets.pop_front().expect("there is one");
            let packet = Packet::parse_unframed(packet).expect("whole");
            self.sessions[to]
                .handle_packet(self.now, LEG, packet, &mut self.dice)
                .expect("in order");
        }
    }

    fn happen(&mut self, what: What) {
        let half = self.connections[CLIENT].link.round_trip / 2;
        match what {
            What::PostArrives(offset) => {
                let (post, _, connection) = &self.posts[&offset];
                self.ahead.insert(offset, post.len);
                let answered = What::PostIsAnswered(offset, *connection);
                self.agenda.push(Reverse((self.now + half, answered)));
                while let Some(len) = self.ahead.remove(&self.streams[CLIENT].arrived) {
                    self.deliver(FAR, len);
                }
            }
            What::PostIsAnswered(offset, connection) => {
                let (post, began, _) = self.posts.remove(&offset).expect("posted");
                self.connections[CLIENT].idle.push(connection);
                self.uplink.delivered(&post, self.now.since(began));
            }
            What::PollArrives(number) => {
                self.polls.push(number);
                self.polls.sort_unstable();
            }
            What::AnswerArrives(number, connection) => {
                self.connections[FAR].idle.push(connection);
                self.complete.insert(number);
                while self.complete.remove(&self.next_answer) {
                    let len = self.answered.remove(&self.next_answer).expect("answered");
                    self.deliver(CLIENT, len);
                    let asked = What::PollArrives(self.next_answer + DEPTH);
                    let fresh = u32::from(self.connections[FAR].link.fresh);
                    let at = self.now + half + half * 2 * fresh;
                    self.agenda.push(Reverse((at, asked)));
                    self.next_answer += 1;
                }
            }
        }
    }

    /// Goes on until `done`, for `limit` at most.
    fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            let next = self.agenda.peek().map(|Reverse((at, _))| *at);
            let timers = self.sessions.iter().filter_map(Session::poll_timeout);
            let Some(time) = timers.chain(next).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(time);
            if next.is_some_and(|at| at <= self.now) {
                let Reverse((_, what)) = self.agenda.pop().expect("there is one");
                self.happen(what);
            } else {
                for session in &mut self.sessions {
                    if session.poll_timeout().is_some_and(|at| at <= self.now) {
                        session.handle_timeout(self.now);
                    }
                }
            }
            self.settle();
        }
    }

    /// Sends 64 MiB `from` one side, and says how long that takes.
    fn transfer(&mut self, from: usize) -> Duration {
        let (kind, class) = (ChannelKind::Stream, Class::Normal);
        let channel = self.sessions[from]
            .open(self.now, kind, class, Encoding::Raw, "bulk")
            .expect("may open");
        self.bulk = Some((from, channel));
        self.left = LENGTH;
        self.read = 0;
        let began = self.now;
        self.settle();
        self.run(Duration::from_secs(120), |world| world.read == LENGTH);
        self.now.since(began)
    }
}

/// Both ways over `link`, in bytes per second: whole transfers, from the first byte on.
fn rates(link: Link, largest: usize) -> [f64; 2] {
    [CLIENT, FAR].map(|from| {
        let mut world = World::new(link, largest);
        // As in life: the session has been idle, its round trip is known and its rate is not.
        world.run(Duration::from_secs(2), |_| false);
        let took = world.transfer(from);
        assert_eq!(world.read, LENGTH, "all of it arrives");
        LENGTH as f64 / took.as_secs_f64()
    })
}

/// A box that holds every request and every answer, 50 ms away.
fn holding() -> Link {
    Link {
        round_trip: Duration::from_millis(50),
        rate: 40e6,
        fresh: false,
        nap: Duration::ZERO,
    }
}

#[test]
fn a_transfer_through_a_holding_box_is_fast_from_its_beginning() {
    for millis in [0, 1, 3, 8] {
        let nap = Duration::from_millis(millis);
        let link = Link { nap, ..holding() };
        let rates = rates(link, 1_000_000);
        println!("held, naps of {nap:?}: {rates:.0?} bytes/s up and down");
        assert!(rates.iter().all(|rate| *rate > 19e6), "{rates:.0?}");
    }
}

/// As through a proxy of HTTP/1.0, or one that trusts no kept connection with a POST.
#[test]
fn a_new_connection_for_each_body_is_made_up_for() {
    let link = Link {
        fresh: true,
        ..holding()
    };
    let rates = rates(link, 1_000_000);
    println!("a connection for each body: {rates:.0?} bytes/s up and down");
    assert!(rates.iter().all(|rate| *rate > 6e6), "{rates:.0?}");
}

/// The same where a limit keeps bodies small.
#[test]
fn small_bodies_are_made_up_for() {
    let link = Link {
        fresh: true,
        ..holding()
    };
    let [up, _] = rates(link, 64 * 1024);
    println!("bodies of up to 64 KiB: {up:.0} bytes/s up");
    assert!(up > 6e6, "{up:.0}");
}
