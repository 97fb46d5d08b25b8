//! Every order of events in which a session can be resumed through a relay, within small bounds.
//!
//! The model checker goes through all interleavings of a client that tries on several legs (at
//! several relays, for all that matters here), a relay whose every step is an event of its own and that
//! may crash between any two of them, an authority that keeps its lines, and somebody who has
//! heard everything and says it again, with tickets of their own and with stolen ones. A message that
//! is never delivered is a message lost.
//!
//! The transitions are not those of a model: they are the code that runs, [`Near`], [`Far`],
//! [`Line`] and [`FirstTickets`], with real keys. Random numbers follow from the question they are
//! drawn for, so that states that mean the same are the same.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use stateright::{Checker, Model, Property};
use underpass_seal::Secrets;

use super::{Far, Near};
use crate::packet::{Confirm, Resume, Resumed, SessionId};
use crate::session::LegId;
use crate::session::received::Acks;
use crate::ticket::{Claim, FirstTickets, Handle, Line, Presented, Ticket};
use crate::time::Time;

const SESSION: SessionId = SessionId([9; 16]);
const KEEP: Duration = Duration::from_secs(600);
/// Legs from this number on are not the client's.
const INTRUDERS: u64 = 100;
/// So many attempts bring both sides together from any state, if nothing is lost in them.
const RECOVERY: usize = 9;

fn owner() -> Claim {
    Claim {
        holder: [1; 32],
        session: SESSION,
    }
}

/// Somebody else, with a session of their own and a ticket for it.
fn intruder() -> Claim {
    Claim {
        holder: [2; 32],
        session: SessionId([8; 16]),
    }
}

/// The random numbers of one question.
fn dice(of: &[u8]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(underpass_seal::sha256(&[of]))
}

/// Something on its way.
#[derive(Clone, Debug)]
enum Message {
    /// To the relay: the first ticket, and what goes on to the far endpoint.
    Reopen(LegId, Claim, Ticket, Resume),
    /// From the relay to the authority.
    Ask(LegId, Claim, Ticket, Resume),
    /// And back: the next ticket.
    Granted(LegId, Ticket, Handle, Resume),
    /// Down to the client.
    Down(Ticket, Handle),
    Incoming(LegId, Resume),
    Resumed(LegId, Resumed),
    Confirm(LegId, Confirm),
}

impl Message {
    fn summary(&self) -> Vec<u8> {
        // Debug output hides tickets, so they are added.
        let mut out = match self {
            Message::Down(..) => Vec::new(),
            Message::Reopen(.., request)
            | Message::Ask(.., request)
            | Message::Granted(.., request)
            | Message::Incoming(_, request) => request.sealed.to_vec(),
            Message::Resumed(_, answer) => answer.sealed.to_vec(),
            Message::Confirm(_, confirm) => confirm.tag.to_vec(),
        };
        if let Message::Reopen(_, _, ticket, _)
        | Message::Ask(_, _, ticket, _)
        | Message::Granted(_, ticket, _, _)
        | Message::Down(ticket, _) = self
        {
            out.extend(ticket.as_bytes());
        }
        out.extend(format!("{self:?}").bytes());
        out
    }
}

/// What happens next.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// The client tries on a new leg, whatever is under way on others.
    Try,
    /// A message arrives. One that does not arrive was lost.
    Arrive(usize),
    /// The relay dies, and all legs with it.
    Crash,
    /// Somebody presents a ticket they have with a request that they heard, as themselves or, where
    /// they have a leg of the client's to speak on, in its name.
    Present {
        ticket: usize,
        request: usize,
        stolen: bool,
    },
    /// A relay that lies: brings the far endpoint a request with no ticket checked.
    Inject { request: usize },
    /// The same with a confirmation, on a leg of its own.
    Reconfirm { confirm: usize, leg: u64 },
}

/// What one rule of the authority is replaced by, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Authority {
    AsItIs,
    /// The ticket is spent as soon as it was presented.
    SpendsAtOnce,
    /// A ticket is good for as long as its line lives.
    SpendsNothing,
    /// It does not ask whose the ticket is.
    AsksNobody,
}

/// How much may happen.
#[derive(Clone, Debug)]
struct Bounds {
    tries: u64,
    crashes: u32,
    /// How often somebody presents a ticket.
    presents: u64,
    /// How often a relay lies.
    lies: u64,
    authority: Authority,
}

#[derive(Clone)]
struct World {
    near: Near,
    first: FirstTickets,
    far: Far,
    lines: Vec<Line>,
    /// What is under way, in an order of its own: which came first means nothing.
    net: BTreeMap<Vec<u8>, Message>,
    tries: u64,
    crashes: u32,
    presents: u64,
    lies: u64,
    /// What somebody who hears everything has heard.
    requests: Vec<Resume>,
    confirms: Vec<Confirm>,
    /// First tickets as the client presented them. Only who hears one before the client does, as
    /// a relay can, and is believed to be the client, can use it up: then a name re-opens the path.
    presented: Vec<Ticket>,
    /// First tickets in the order in which they were given out.
    tickets: Vec<Ticket>,
    foreign: Ticket,
    /// The newest that was accepted.
    newest_used: usize,
    /// On which leg each generation began, at the far endpoint.
    winners: BTreeMap<u64, LegId>,
    /// Tags of the CONFIRMs that the far endpoint acted upon.
    confirmed: Vec<[u8; 32]>,
    wrong: Option<&'static str>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("near", &self.near.generation())
            .field("far", &self.far.generation())
            .field("net", &self.net.values())
            .field("wrong", &self.wrong)
            .finish_non_exhaustive()
    }
}

impl World {
    fn new() -> Self {
        let secret = || Secrets::dangerous_from_seed([1; 32]).resume;
        let second = Ticket::new([2; 32]);
        let issue = |claim: &Claim, of: &[u8]| {
            Line::issue(claim, b"far".to_vec(), KEEP, Time::ZERO, &mut dice(of))
        };
        let (own, other) = (issue(&owner(), b"own"), issue(&intruder(), b"other"));
        let mut first = FirstTickets::default();
        first.take_in(own.ticket.clone(), own.line.handle);
        World {
            near: Near::new(secret(), second.clone()),
            first,
            far: Far::new(secret(), &second),
            lines: vec![own.line, other.line],
            net: BTreeMap::new(),
            tries: 0,
            crashes: 0,
            presents: 0,
            lies: 0,
            requests: Vec::new(),
            confirms: Vec::new(),
            presented: Vec::new(),
            tickets: vec![own.ticket],
            foreign: other.ticket,
            newest_used: 0,
            winners: BTreeMap::new(),
            confirmed: Vec::new(),
            wrong: None,
        }
    }

    /// Legs that are not the client's.
    fn intruders(&self) -> u64 {
        self.presents + self.lies
    }

    fn send(&mut self, message: Message) {
        self.net.insert(message.summary(), message);
    }

    fn ask(&mut self) -> Option<Message> {
        self.tries += 1;
        let leg = LegId(self.tries);
        let mut dice = dice(&[b"try ", &self.tries.to_be_bytes()[..]].concat());
        let request = self.near.request(SESSION, leg, Acks::new(), &mut dice);
        self.requests.push(request.clone());
        let ticket = self.first.to_present()?.clone();
        self.presented.push(ticket.clone());
        Some(Message::Reopen(leg, owner(), ticket, request))
    }

    fn arrive(&mut self, message: Message, authority: Authority) {
        match message {
            Message::Reopen(leg, claim, ticket, request) => {
                // The relay reads whose session the request is for, and asks for no other.
                let session = request.session;
                let claim = Claim { session, ..claim };
                self.send(Message::Ask(leg, claim, ticket, request));
            }
            Message::Ask(leg, claim, ticket, request) => {
                match self.authorize(&claim, &ticket, authority) {
                    Some((next, handle)) => {
                        self.send(Message::Granted(leg, next, handle, request));
                    }
                    None if claim == owner() && leg.0 < INTRUDERS => self.first.refused(&ticket),
                    None => {}
                }
            }
            Message::Granted(leg, next, handle, request) => {
                if leg.0 < INTRUDERS {
                    self.send(Message::Down(next, handle));
                }
                self.send(Message::Incoming(leg, request));
            }
            Message::Down(ticket, handle) => {
                self.first.take_in(ticket, handle);
            }
            Message::Incoming(leg, request) => {
                let mut dice = dice(&request.nonce);
                let answer = self.far.answer(leg, &request, Acks::new(), 0, &mut dice);
                if let Ok((_, answer)) = answer {
                    self.send(Message::Resumed(leg, answer));
                }
            }
            Message::Resumed(leg, answer) => {
                if let Ok((_, confirm)) = self.near.accept(SESSION, leg, &answer) {
                    self.confirms.push(confirm.clone());
                    self.send(Message::Confirm(leg, confirm));
                }
            }
            Message::Confirm(leg, confirm) => self.confirm(leg, &confirm),
        }
    }

    fn confirm(&mut self, leg: LegId, confirm: &Confirm) {
        if self.far.confirm(leg, confirm).is_err() {
            return;
        }
        // Who holds back the client's own word and says it in its place is a part of the path, as
        // every relay is. Who repeats it once it was heard must get nowhere.
        if self.confirmed.contains(&confirm.tag) {
            self.wrong = Some("a word that was used got somebody in");
        }
        if self.confirms.iter().all(|own| own.tag != confirm.tag) {
            self.wrong = Some("somebody who is not the client got in");
        }
        self.confirmed.push(confirm.tag);
        if self.winners.insert(self.far.generation(), leg).is_some() {
            self.wrong = Some("two winners");
        }
    }

    /// The authority's answer, by its rules or by those that replace them; notes what must not be.
    fn authorize(
        &mut self,
        claim: &Claim,
        ticket: &Ticket,
        authority: Authority,
    ) -> Option<(Ticket, Handle)> {
        let digest = ticket.digest();
        let number = self.tickets.iter().position(|it| it.digest() == digest);
        let asked = match authority {
            Authority::AsksNobody if number.is_some() => owner(),
            Authority::AsksNobody => intruder(),
            _ => *claim,
        };
        let mut dice = dice(&digest);
        let found = self.lines.iter_mut().find_map(|line| {
            let mut tried = line.clone();
            if authority == Authority::SpendsNothing && number.is_some() {
                tried.current = digest;
            }
            let Presented { changed, next } =
                tried.present(ticket, &asked, Time::ZERO, &mut dice).ok()?;
            *line = changed.unwrap_or_else(|| line.clone());
            if authority == Authority::SpendsAtOnce {
                line.current = line.next;
            }
            Some((next, line.handle))
        })?;
        let (next, handle) = &found;
        match number {
            Some(number) if number < self.newest_used => {
                self.wrong = Some("a used ticket got in");
            }
            Some(number) => self.newest_used = number,
            None if *claim != intruder() => self.wrong = Some("a foreign ticket got in"),
            None => {}
        }
        if number.is_some() && *claim != owner() {
            self.wrong = Some("a stolen ticket got in");
        }
        let is_own = *handle == self.lines[0].handle;
        if is_own && self.tickets.iter().all(|it| it.digest() != next.digest()) {
            self.tickets.push(next.clone());
        }
        Some(found)
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.net.clear();
        for leg in (1..=self.tries).chain(INTRUDERS..INTRUDERS + self.intruders()) {
            self.near.leg_gone(LegId(leg));
            self.far.leg_gone(LegId(leg));
        }
    }

    fn agree(&self) -> bool {
        self.near.generation() == self.far.generation()
            && self.near.secret().confirm_tag() == self.far.secret().confirm_tag()
    }

    /// Whether the two sides find together by tickets alone once nothing is lost any more.
    fn can_meet(&self, authority: Authority) -> bool {
        let mut world = self.clone();
        (0..RECOVERY).any(|_| {
            world.net.clear();
            let Some(request) = world.ask() else {
                return false;
            };
            let leg = LegId(world.tries);
            let before = world.far.generation();
            world.send(request);
            while let Some((_, message)) = world.net.pop_first() {
                world.arrive(message, authority);
            }
            world.agree()
                && world.far.generation() > before
                && world.winners.values().any(|it| *it == leg)
        })
    }

    fn summary(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.near.summary(&mut out);
        self.far.summary(&mut out);
        for line in &self.lines {
            out.extend(line.current);
            out.extend(line.next);
        }
        if let Some(ticket) = self.first.to_present() {
            out.extend(ticket.as_bytes());
        }
        for summary in self.net.keys() {
            out.extend(summary);
        }
        out.extend([self.tries as u8, self.crashes as u8]);
        out.extend([self.presents as u8, self.lies as u8]);
        out.extend([self.newest_used as u8, self.tickets.len() as u8]);
        out.extend([self.confirms.len() as u8, self.requests.len() as u8]);
        for (generation, leg) in &self.winners {
            out.extend([*generation as u8, leg.0 as u8]);
        }
        out.extend(self.wrong.unwrap_or_default().bytes());
        out
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.summary() == other.summary()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.summary().hash(state);
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        if world.wrong.is_some() {
            return;
        }
        if world.tries < self.tries {
            actions.push(Step::Try);
        }
        actions.extend((0..world.net.len()).map(Step::Arrive));
        if world.crashes < self.crashes && !world.net.is_empty() {
            actions.push(Step::Crash);
        }
        if world.lies < self.lies {
            actions.extend((0..world.requests.len()).map(|request| Step::Inject { request }));
            for confirm in 0..world.confirms.len() {
                for leg in 0..world.intruders() {
                    actions.push(Step::Reconfirm { confirm, leg });
                }
            }
        }
        if world.presents == self.presents {
            return;
        }
        for request in 0..world.requests.len() {
            // Tickets that were heard, and last the intruder's own.
            for ticket in 0..=world.presented.len() {
                for stolen in [false, true] {
                    actions.push(Step::Present {
                        ticket,
                        request,
                        stolen,
                    });
                }
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        match step {
            Step::Try => {
                let message = world.ask()?;
                world.send(message);
            }
            Step::Arrive(which) => {
                let summary = world.net.keys().nth(which)?.clone();
                let message = world.net.remove(&summary)?;
                world.arrive(message, self.authority);
            }
            Step::Crash => world.crash(),
            Step::Present {
                ticket,
                request,
                stolen,
            } => {
                let leg = LegId(INTRUDERS + world.intruders());
                world.presents += 1;
                let ticket = world
                    .presented
                    .get(ticket)
                    .unwrap_or(&world.foreign)
                    .clone();
                let claim = if stolen { owner() } else { intruder() };
                let request = world.requests[request].clone();
                world.send(Message::Reopen(leg, claim, ticket, request));
            }
            Step::Inject { request } => {
                let leg = LegId(INTRUDERS + world.intruders());
                world.lies += 1;
                let request = world.requests[request].clone();
                world.send(Message::Incoming(leg, request));
            }
            Step::Reconfirm { confirm, leg } => {
                world.lies += 1;
                let confirm = world.confirms[confirm].clone();
                world.confirm(LegId(INTRUDERS + leg), &confirm);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody gets in who should not", |_, world: &World| {
                world.wrong.is_none()
            }),
            Property::always("both sides can meet", |bounds: &Bounds, world: &World| {
                world.can_meet(bounds.authority)
            }),
            // That the model gets anywhere at all.
            Property::sometimes("resumed twice", |_, world: &World| {
                world.winners.len() > 1 && world.agree()
            }),
            Property::sometimes("resumed after a crash", |bounds: &Bounds, world: &World| {
                world.crashes == bounds.crashes && world.winners.len() == 1
            }),
        ]
    }
}

fn bounds(tries: u64, crashes: u32) -> Bounds {
    Bounds {
        tries,
        crashes,
        presents: 0,
        lies: 0,
        authority: Authority::AsItIs,
    }
}

fn check(bounds: Bounds) {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn whoever_lost_what_both_sides_can_meet() {
    check(bounds(3, 1));
}

#[test]
fn nobody_gets_in_by_what_they_heard() {
    check(Bounds {
        presents: 1,
        ..bounds(2, 1)
    });
}

#[test]
fn a_relay_that_lies_locks_nobody_out() {
    check(Bounds {
        lies: 2,
        ..bounds(2, 0)
    });
}

/// What the checker says about a rule that is replaced.
fn found_with(authority: Authority, bounds: Bounds) -> Vec<&'static str> {
    let checker = Bounds {
        authority,
        ..bounds
    }
    .checker()
    .threads(2)
    .spawn_bfs()
    .join();
    checker.discoveries().into_keys().collect()
}

#[test]
fn a_wrong_authority_is_found() {
    let found = found_with(Authority::SpendsAtOnce, bounds(2, 1));
    assert!(found.contains(&"both sides can meet"), "{found:?}");
    for authority in [Authority::SpendsNothing, Authority::AsksNobody] {
        let bounds = Bounds {
            presents: 1,
            ..bounds(2, 0)
        };
        let found = found_with(authority, bounds);
        let wrong = "nobody gets in who should not";
        assert!(found.contains(&wrong), "{authority:?}: {found:?}");
    }
}
