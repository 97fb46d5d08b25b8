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

use super::{Far, LegNames, Near};
use crate::frame::MAX_LEGS;
use crate::packet::{Confirm, Resume, Resumed, SessionId};
use crate::session::LegId;
use crate::session::received::Acks;
use crate::ticket::{Claim, FirstTickets, Handle, Line, Presented, Ticket};
use crate::time::Time;

const SESSION: SessionId = SessionId([9; 16]);
/// The leg of the handshake.
const FIRST: LegId = LegId(0);
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
    /// It tries on a new leg that is to be beside all that it has, or all but the oldest.
    TryBeside { all: bool },
    /// A leg breaks, and so far one end knows: the client, or the far endpoint.
    Break { leg: LegId, near: bool },
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

/// What one rule about the legs is replaced by, at the far endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Legs {
    AsTheyAre,
    /// A new leg ends all others, whatever was asked.
    OnlyTheNewest,
    /// A new leg ends none.
    All,
}

/// How much may happen.
#[derive(Clone, Debug)]
struct Bounds {
    tries: u64,
    /// How many of them may be beside.
    beside: u64,
    /// How often a leg breaks.
    breaks: u64,
    /// Between client and far endpoint there is no relay that asks an authority.
    direct: bool,
    legs: Legs,
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
    besides: u64,
    breaks: u64,
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
            near: Near::new(FIRST, secret(), second.clone()),
            first,
            far: Far::new(FIRST, secret(), &second, MAX_LEGS),
            lines: vec![own.line, other.line],
            net: BTreeMap::new(),
            tries: 0,
            besides: 0,
            breaks: 0,
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

    /// The client's next request: on a leg alone, or beside those that are named.
    fn ask(&mut self, beside: LegNames, bounds: &Bounds) -> Option<Message> {
        self.tries += 1;
        let leg = LegId(self.tries);
        let mut dice = dice(&[b"try ", &self.tries.to_be_bytes()[..]].concat());
        let request = self
            .near
            .request(SESSION, leg, beside, Acks::new(), &mut dice);
        self.requests.push(request.clone());
        if bounds.direct {
            return Some(Message::Incoming(leg, request));
        }
        let ticket = self.first.to_present()?.clone();
        self.presented.push(ticket.clone());
        Some(Message::Reopen(leg, owner(), ticket, request))
    }

    fn arrive(&mut self, message: Message, bounds: &Bounds) {
        let authority = bounds.authority;
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
            Message::Confirm(leg, confirm) => self.confirm(leg, &confirm, bounds.legs),
        }
    }

    fn confirm(&mut self, leg: LegId, confirm: &Confirm, legs: Legs) {
        let before = self.far.standing().clone();
        if self.far.confirm(leg, confirm).is_err() {
            return;
        }
        match legs {
            Legs::AsTheyAre => {}
            Legs::OnlyTheNewest => {
                for other in before.legs() {
                    self.far.leg_gone(other);
                }
            }
            Legs::All => self.far.put_back(&before),
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
        for leg in (0..=self.tries).chain(INTRUDERS..INTRUDERS + self.intruders()) {
            self.near.leg_gone(LegId(leg));
            self.far.leg_gone(LegId(leg));
        }
    }

    fn agree(&self) -> bool {
        self.near.generation() == self.far.generation()
            && self.near.secret().confirm_tag() == self.far.secret().confirm_tag()
    }

    /// Whether the two sides find together by tickets alone once nothing is lost any more, on a leg
    /// alone or beside all others.
    fn can_meet(&self, bounds: &Bounds) -> bool {
        [false, true].into_iter().all(|beside| {
            let mut world = self.clone();
            (0..RECOVERY).any(|_| world.attempt(beside, bounds))
        })
    }

    /// One attempt in which nothing is lost; true if it brought the two sides together.
    fn attempt(&mut self, beside: bool, bounds: &Bounds) -> bool {
        self.net.clear();
        let beside = match beside {
            true => self.near.standing().names(None),
            false => LegNames::new(),
        };
        let Some(request) = self.ask(beside, bounds) else {
            return false;
        };
        let leg = LegId(self.tries);
        let before = self.far.generation();
        self.send(request);
        while let Some((_, message)) = self.net.pop_first() {
            self.arrive(message, bounds);
        }
        self.agree() && self.far.generation() > before && self.winners.values().any(|it| *it == leg)
    }

    /// Whether a resume in which nothing is lost ends with the same legs at both ends: the new one,
    /// and if it was to be beside the others, all that both ends had. Whatever went wrong before.
    fn legs_agree(&self, bounds: &Bounds) -> bool {
        [false, true].into_iter().all(|beside| {
            let mut world = self.clone();
            let common: Vec<LegId> = world.legs(beside);
            // It may take several attempts; those that fail change nothing.
            if !(0..RECOVERY).any(|_| world.attempt(beside, bounds)) {
                return false;
            }
            let mut wanted = common;
            wanted.push(LegId(world.tries));
            let (near, far) = (world.near.standing().legs(), world.far.standing().legs());
            // Who said the client's own word first is in the place of its leg, as far as one end can
            // tell: a way that leads nowhere, which is found by its silence.
            let own = |legs: &[LegId]| legs.iter().all(|leg| leg.0 < INTRUDERS);
            if !own(&self.far.standing().legs()) {
                return wanted
                    .iter()
                    .all(|leg| near.contains(leg) && far.contains(leg));
            }
            near == wanted && far == wanted
        })
    }

    /// The legs that both ends have, in order, or none.
    fn legs(&self, all: bool) -> Vec<LegId> {
        let far = self.far.standing();
        let legs = self.near.standing().legs().into_iter();
        legs.filter(|leg| all && far.holds(*leg)).collect()
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
        out.extend([self.besides as u8, self.breaks as u8]);
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
            if world.besides < self.beside && !world.near.standing().legs().is_empty() {
                actions.extend([true, false].map(|all| Step::TryBeside { all }));
            }
        }
        if world.breaks < self.breaks {
            let near = world.near.standing().legs().into_iter();
            let far = world.far.standing().legs().into_iter();
            actions.extend(near.map(|leg| Step::Break { leg, near: true }));
            actions.extend(far.map(|leg| Step::Break { leg, near: false }));
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
                let message = world.ask(LegNames::new(), self)?;
                world.send(message);
            }
            Step::TryBeside { all } => {
                world.besides += 1;
                let standing = world.near.standing();
                let oldest = standing.legs().first().copied();
                let beside = standing.names(oldest.filter(|_| !all));
                let message = world.ask(beside, self)?;
                world.send(message);
            }
            Step::Break { leg, near } => {
                world.breaks += 1;
                match near {
                    true => world.near.leg_gone(leg),
                    false => world.far.leg_gone(leg),
                }
            }
            Step::Arrive(which) => {
                let summary = world.net.keys().nth(which)?.clone();
                let message = world.net.remove(&summary)?;
                world.arrive(message, self);
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
                world.confirm(LegId(INTRUDERS + leg), &confirm, self.legs);
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
                world.can_meet(bounds)
            }),
            Property::always(
                "both sides have the same legs",
                |bounds: &Bounds, world: &World| bounds.beside == 0 || world.legs_agree(bounds),
            ),
            Property::sometimes("several legs", |bounds: &Bounds, world: &World| {
                bounds.beside == 0 || world.legs(true).len() as u64 > bounds.beside
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
        beside: 0,
        breaks: 0,
        direct: false,
        legs: Legs::AsTheyAre,
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
fn found_with(bounds: Bounds) -> Vec<&'static str> {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    checker.discoveries().into_keys().collect()
}

#[test]
fn a_wrong_authority_is_found() {
    let found = found_with(Bounds {
        authority: Authority::SpendsAtOnce,
        ..bounds(2, 1)
    });
    assert!(found.contains(&"both sides can meet"), "{found:?}");
    for authority in [Authority::SpendsNothing, Authority::AsksNobody] {
        let found = found_with(Bounds {
            presents: 1,
            authority,
            ..bounds(2, 0)
        });
        let wrong = "nobody gets in who should not";
        assert!(found.contains(&wrong), "{authority:?}: {found:?}");
    }
}

/// Legs beside others, with every message lost or late and every leg broken at either end.
#[test]
fn both_sides_have_the_same_legs_after_each_resume() {
    check(Bounds {
        beside: 2,
        breaks: 1,
        direct: true,
        ..bounds(3, 0)
    });
}

#[test]
fn a_leg_beside_goes_the_way_of_the_tickets() {
    check(Bounds {
        beside: 1,
        ..bounds(2, 1)
    });
}

#[test]
fn nobody_gets_a_leg_beside_by_what_they_heard() {
    check(Bounds {
        beside: 1,
        lies: 2,
        direct: true,
        ..bounds(2, 1)
    });
}

#[test]
fn wrong_rules_about_legs_are_found() {
    for legs in [Legs::OnlyTheNewest, Legs::All] {
        let found = found_with(Bounds {
            beside: 1,
            direct: true,
            legs,
            ..bounds(2, 0)
        });
        let wrong = "both sides have the same legs";
        assert!(found.contains(&wrong), "{legs:?}: {found:?}");
    }
}
