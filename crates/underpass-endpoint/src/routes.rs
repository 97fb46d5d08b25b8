//! The agent's side of routed packets: which route belongs to which session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use underpass_proto::Grade;
use underpass_proto::code::Code;
use underpass_proto::meeting;
use underpass_proto::packet::{Hello, Packet, PacketKind, Resume};
use underpass_proto::route::{self, Graded, RouteHeader};
use underpass_proto::session::{LegError, LegId};
use underpass_proto::ticket::{FirstTickets, Handle, Ticket};
use underpass_seal::PublicKey;

use crate::connect::graded;
use crate::link::{Link, LinkEnd, RouteSource, Router, SourceId};
use crate::outgoing::Outgoing;
use crate::session::{Joining, LegPort, Session};
use crate::sessions::Sessions;
use crate::story::words_of;

/// Bytes that one route adds to a link before the next one has its turn.
const TURN: usize = 64 * 1024;
/// Packets of a handshake that may wait to be looked at.
const HANDSHAKE_PACKETS: usize = 8;

/// Who is at the other end of a session that came in over a route, as far as the relay knows. The
/// handshake must then show the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The service that was asked for, as it was published.
    pub service: String,
    /// The user.
    pub user: String,
    /// The machine's key.
    pub machine: PublicKey,
    /// How much others can read of the session: what the machine has chosen, and the handshake holds it to.
    pub grade: Grade,
}

/// What happens on a route during the handshake.
#[derive(Debug)]
pub(crate) enum RouteEvent {
    Packet(Packet),
    /// The publisher is not attached to this relay now.
    Absent,
    Gone {
        code: u64,
        text: String,
    },
}

enum Entry {
    Handshake(mpsc::Sender<RouteEvent>, Tickets),
    Leg(Arc<RouteLeg>),
}

/// The first tickets of one session that this agent begins; clones are the same ones. Sessions that
/// others begin have none here.
#[derive(Clone, Default)]
pub(crate) struct Tickets(Arc<Mutex<FirstTickets>>);

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, FirstTickets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the relay gave; a ticket whose place it takes is deleted.
    fn take_in(&self, link: &Link, given: route::Ticket) {
        let route::Ticket { ticket, handle, .. } = given;
        let old = self.lock().take_in(Ticket::new(ticket), Handle(handle));
        if let Some(old) = old {
            link.send_header(route::Discard { handle: old.0 }.into());
        }
    }

    /// The relay's ticket authority does not know one.
    pub(crate) fn refused(&self, ticket: &Ticket) {
        self.lock().refused(ticket);
    }

    /// Has the ticket deleted: the session has ended.
    pub(crate) fn discard(&self, link: &Link) {
        let handle = self.lock().handle();
        if let Some(Handle(handle)) = handle {
            link.send_header(route::Discard { handle }.into());
        }
    }
}

/// How a route is opened.
#[derive(Clone)]
enum Opening {
    /// By the service's name; and for how many seconds the session is kept.
    Name(String, u64),
    /// By a ticket.
    Ticket(Ticket),
}

/// Handles a route that came in with a HELLO.
pub(crate) type OnHello = dyn Fn(NewRoute, PeerInfo, Packet) + Send + Sync;

#[derive(Default)]
struct Table {
    /// By the link's serial number and the route's number on it.
    routes: HashMap<(u64, u32), Entry>,
    next: u32,
}

/// All routes of an agent's attachment, over all its links.
#[derive(Default)]
pub(crate) struct Routes {
    table: Mutex<Table>,
    /// What the paths are of; other attachments of this agent may share them.
    pub(crate) sessions: Sessions,
    /// What the relay is called, where there are several.
    relay: OnceLock<String>,
    on_hello: OnceLock<Box<OnHello>>,
    /// The same for routes to places where this agent waits for somebody.
    on_meeting: OnceLock<Box<OnHello>>,
}

/// A route on which a handshake is going on. Dropping it ends the route.
pub(crate) struct NewRoute {
    routes: Arc<Routes>,
    pub(crate) link: Arc<Link>,
    pub(crate) route: u32,
    pub(crate) events: mpsc::Receiver<RouteEvent>,
    pub(crate) tickets: Tickets,
    kept: bool,
}

impl NewRoute {
    /// Sends one packet of the handshake.
    pub(crate) fn send(&self, packet: &Packet) {
        let header = route::Data { route: self.route }.into();
        self.link.send_routed(header, unframed(packet));
    }

    /// The route becomes the leg of a session, made by `session` from its port. Packets that came in
    /// meanwhile are handed over first.
    pub(crate) fn into_leg(
        mut self,
        leg: LegId,
        session: impl FnOnce(Arc<RouteLeg>) -> Session,
    ) -> Session {
        self.kept = true;
        let tickets = self.tickets.clone();
        let port = RouteLeg::new(
            &self.routes,
            self.link.clone(),
            self.route,
            leg,
            None,
            tickets,
        );
        let session = session(port.clone());
        port.begin(&session, &self.routes);
        // From here on packets go to the session; those before it are in `events`.
        self.routes
            .insert(&self.link, self.route, Entry::Leg(port.clone()));
        while let Ok(RouteEvent::Packet(packet)) = self.events.try_recv() {
            port.receive(packet);
        }
        session
    }

    /// Ends the route and says why.
    pub(crate) fn refuse(&self, code: u64) {
        let text = underpass_proto::code::describe(code);
        self.link.send_header(
            route::Gone {
                route: self.route,
                code,
                text,
            }
            .into(),
        );
    }
}

impl Drop for NewRoute {
    fn drop(&mut self) {
        if !self.kept {
            self.routes.remove(&self.link, self.route);
        }
    }
}

fn unframed(packet: &Packet) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + packet.body.len());
    bytes.push(packet.kind.code());
    bytes.extend_from_slice(&packet.body);
    bytes.into()
}

impl Routes {
    /// Routes of the sessions of an agent.
    pub(crate) fn of(sessions: Sessions) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            ..Self::default()
        })
    }

    /// There are several relays, and this is by what name the story of a session tells of this one.
    pub(crate) fn name_relay(&self, name: String) {
        let _ = self.relay.set(name);
    }

    pub(crate) fn relay_name(&self) -> Option<&str> {
        self.relay.get().map(String::as_str)
    }

    pub(crate) fn set_on_hello(&self, handler: Box<OnHello>) -> bool {
        self.on_hello.set(handler).is_ok()
    }

    pub(crate) fn set_on_meeting(&self, handler: Box<OnHello>) -> bool {
        self.on_meeting.set(handler).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, link: &Link, route: u32, entry: Entry) {
        self.lock().routes.insert((link.serial(), route), entry);
    }

    fn remove(&self, link: &Link, route: u32) {
        self.lock().routes.remove(&(link.serial(), route));
    }

    /// Whether a route is open on this link.
    pub(crate) fn any_on(&self, link: &Link) -> bool {
        let serial = link.serial();
        self.lock().routes.keys().any(|(on, _)| *on == serial)
    }

    /// A number for a route that this agent opens: even ones are ours.
    fn new_number(&self, link: &Link) -> u32 {
        let mut table = self.lock();
        loop {
            table.next = table.next.wrapping_add(2) & !1;
            let number = table.next;
            if !table.routes.contains_key(&(link.serial(), number)) {
                return number;
            }
        }
    }

    /// Opens a route with the first packet of a handshake.
    pub(crate) fn open(
        self: &Arc<Self>,
        link: &Arc<Link>,
        service: &str,
        keep_s: u64,
        hello: &Packet,
    ) -> NewRoute {
        let route = self.new_number(link);
        let (sender, events) = mpsc::channel(HANDSHAKE_PACKETS);
        let tickets = Tickets::default();
        self.insert(link, route, Entry::Handshake(sender, tickets.clone()));
        let header = route::Open {
            route,
            service: service.to_owned(),
            keep_s,
        }
        .into();
        link.send_routed(header, unframed(hello));
        NewRoute {
            routes: self.clone(),
            link: link.clone(),
            route,
            events,
            tickets,
            kept: false,
        }
    }

    /// Opens a route as a further leg of a session that this agent began: it resumes there. The
    /// session's ticket opens it; where there is none, or none is good, the service's name.
    pub(crate) fn resume(
        self: &Arc<Self>,
        link: &Arc<Link>,
        service: &str,
        keep_s: u64,
        session: &Session,
        tickets: &Tickets,
        joining: Joining,
    ) -> Arc<RouteLeg> {
        let route = self.new_number(link);
        let leg = session.new_leg_id();
        let ticket = tickets.lock().to_present().cloned();
        let opening = match ticket {
            Some(ticket) => Opening::Ticket(ticket),
            None => Opening::Name(service.to_owned(), keep_s),
        };
        let opening = Some((opening, session.with_core(|core| graded(core, route))));
        let port = RouteLeg::new(self, link.clone(), route, leg, opening, tickets.clone());
        self.insert(link, route, Entry::Leg(port.clone()));
        port.begin(session, self);
        session.join(leg, port.clone(), joining);
        port
    }

    fn incoming(self: &Arc<Self>, link: &Arc<Link>, incoming: route::Incoming, payload: Bytes) {
        let route = incoming.route;
        let refuse = |code: u64| {
            let text = underpass_proto::code::describe(code);
            link.send_header(route::Gone { route, code, text }.into());
        };
        let Ok(packet) = Packet::parse_unframed(payload) else {
            return refuse(Code::ProtocolViolation.number());
        };
        match packet.kind {
            PacketKind::Hello => {
                let handler = match incoming.service.starts_with(meeting::PREFIX) {
                    true => &self.on_meeting,
                    false => &self.on_hello,
                };
                let Some(on_hello) = handler.get() else {
                    return refuse(Code::NoService.number());
                };
                let Ok(hello) = Hello::decode(packet.body.clone()) else {
                    return refuse(Code::ProtocolViolation.number());
                };
                let (sender, events) = mpsc::channel(HANDSHAKE_PACKETS);
                let tickets = Tickets::default();
                self.insert(link, route, Entry::Handshake(sender, tickets.clone()));
                let new = NewRoute {
                    routes: self.clone(),
                    link: link.clone(),
                    route,
                    events,
                    tickets,
                    kept: false,
                };
                let peer = PeerInfo {
                    service: incoming.service,
                    user: incoming.user,
                    machine: PublicKey(incoming.machine),
                    grade: Grade::of(hello.target),
                };
                on_hello(new, peer, packet);
            }
            PacketKind::Resume => {
                if let Err(code) = self.resume_incoming(link, route, packet) {
                    refuse(code);
                }
            }
            _ => refuse(Code::ProtocolViolation.number()),
        }
    }

    fn resume_incoming(
        self: &Arc<Self>,
        link: &Arc<Link>,
        route: u32,
        packet: Packet,
    ) -> Result<(), u64> {
        let resume =
            Resume::decode(packet.body.clone()).map_err(|_| Code::ProtocolViolation.number())?;
        let session = self
            .sessions
            .resumable(resume.session)
            .ok_or(Code::UnknownSession.number())?;
        let leg = session.new_leg_id();
        let port = RouteLeg::new(self, link.clone(), route, leg, None, Tickets::default());
        port.begin(&session, self);
        session.add_leg(leg, port.clone());
        match session.handle_packet(leg, packet) {
            Ok(()) => {
                self.insert(link, route, Entry::Leg(port));
                Ok(())
            }
            Err(error) => {
                session.leg_lost(leg);
                port.detach();
                Err(match error {
                    LegError::Refused(code) => code,
                    _ => Code::ProtocolViolation.number(),
                })
            }
        }
    }

    fn data(&self, link: &Arc<Link>, route: u32, payload: Bytes) {
        let Ok(packet) = Packet::parse_unframed(payload) else {
            return;
        };
        let leg = {
            let table = self.lock();
            match table.routes.get(&(link.serial(), route)) {
                Some(Entry::Leg(leg)) => leg.clone(),
                Some(Entry::Handshake(sender, _)) => {
                    // More than a handshake needs is nobody's loss: the route ends by its time limit.
                    let _ = sender.try_send(RouteEvent::Packet(packet));
                    return;
                }
                None => return,
            }
        };
        leg.receive(packet);
    }

    fn leg(&self, link: &Link, route: u32) -> Option<Arc<RouteLeg>> {
        match self.lock().routes.get(&(link.serial(), route)) {
            Some(Entry::Leg(leg)) => Some(leg.clone()),
            _ => None,
        }
    }

    fn given(&self, link: &Link, given: route::Ticket) {
        let tickets = match self.lock().routes.get(&(link.serial(), given.route)) {
            Some(Entry::Leg(leg)) => leg.tickets.clone(),
            Some(Entry::Handshake(_, tickets)) => tickets.clone(),
            // The ticket before it is as good.
            None => return,
        };
        tickets.take_in(link, given);
    }

    fn absent(&self, link: &Link, route: u32) {
        let leg = match self.lock().routes.get(&(link.serial(), route)) {
            Some(Entry::Leg(leg)) => leg.clone(),
            Some(Entry::Handshake(sender, _)) => {
                let _ = sender.try_send(RouteEvent::Absent);
                return;
            }
            None => return,
        };
        leg.absent();
    }

    fn gone(&self, link: &Link, gone: route::Gone) {
        let entry = self.lock().routes.remove(&(link.serial(), gone.route));
        match entry {
            Some(Entry::Handshake(sender, _)) => {
                let _ = sender.try_send(RouteEvent::Gone {
                    code: gone.code,
                    text: gone.text,
                });
            }
            Some(Entry::Leg(leg)) => leg.gone(gone.code, gone.text),
            None => {}
        }
    }
}

/// Whether a route that ends so is the end of its session: somebody has ended that for good, or its user may use no
/// more. At every other relay of the group it would be the same.
fn ends_session(code: Code) -> bool {
    matches!(code, Code::Ended | Code::MonthLimit)
}

/// The router that an agent gives its links.
pub(crate) struct AgentRouter(pub(crate) Arc<Routes>);

impl Router for AgentRouter {
    fn routed(&self, link: &Arc<Link>, header: RouteHeader, payload: Bytes) {
        let routes = &self.0;
        match header {
            RouteHeader::Incoming(incoming) => routes.incoming(link, incoming, payload),
            RouteHeader::Data(data) => routes.data(link, data.route, payload),
            RouteHeader::Wait(wait) => {
                if let Some(leg) = routes.leg(link, wait.route) {
                    leg.pause(true);
                }
            }
            RouteHeader::GoOn(go_on) => {
                if let Some(leg) = routes.leg(link, go_on.route) {
                    leg.pause(false);
                }
            }
            RouteHeader::Dropped(dropped) => {
                if let Some(leg) = routes.leg(link, dropped.route) {
                    leg.dropped(dropped.first, dropped.count);
                }
            }
            RouteHeader::Absent(absent) => routes.absent(link, absent.route),
            RouteHeader::Gone(gone) => routes.gone(link, gone),
            RouteHeader::Ticket(given) => routes.given(link, given),
            // Only agents say these, and the link reads only what relays say.
            RouteHeader::Open(_)
            | RouteHeader::Reopen(_)
            | RouteHeader::Discard(_)
            | RouteHeader::Graded(_) => {}
        }
    }

    fn link_down(&self, link: &Arc<Link>, why: &LinkEnd) {
        let serial = link.serial();
        let entries: Vec<Entry> = {
            let mut table = self.0.lock();
            let ours: Vec<(u64, u32)> = table
                .routes
                .keys()
                .filter(|(on, _)| *on == serial)
                .copied()
                .collect();
            ours.iter()
                .filter_map(|key| table.routes.remove(key))
                .collect()
        };
        for entry in entries {
            if let Entry::Leg(leg) = entry {
                leg.gone(Code::ServiceAway.number(), why.to_string());
            }
        }
    }
}

/// A route as the leg of a session.
pub(crate) struct RouteLeg {
    link: Arc<Link>,
    /// By which relay it leads, where there are several.
    relay: Option<String>,
    route: u32,
    leg: LegId,
    /// The first packet opens the route so; and what the relay is told right after it of who may read the session.
    opens: Mutex<Option<(Opening, Option<Graded>)>>,
    /// The ticket that it was opened by.
    presented: Option<Ticket>,
    tickets: Tickets,
    bound: OnceLock<Bound>,
    paused: AtomicBool,
    finished: AtomicBool,
    /// It waits at the relay for the far end to come there.
    absent: AtomicBool,
    gone: Mutex<Option<(u64, String)>>,
}

struct Bound {
    session: Session,
    source: SourceId,
    routes: Arc<Routes>,
}

impl RouteLeg {
    fn new(
        routes: &Routes,
        link: Arc<Link>,
        route: u32,
        leg: LegId,
        opens: Option<(Opening, Option<Graded>)>,
        tickets: Tickets,
    ) -> Arc<RouteLeg> {
        let presented = match &opens {
            Some((Opening::Ticket(ticket), _)) => Some(ticket.clone()),
            _ => None,
        };
        Arc::new(RouteLeg {
            link,
            relay: routes.relay_name().map(str::to_owned),
            route,
            leg,
            opens: Mutex::new(opens),
            presented,
            tickets,
            bound: OnceLock::new(),
            paused: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            absent: AtomicBool::new(false),
            gone: Mutex::new(None),
        })
    }

    fn begin(self: &Arc<Self>, session: &Session, routes: &Arc<Routes>) {
        let source = self.link.attach_source(self.clone());
        let bound = Bound {
            session: session.clone(),
            source,
            routes: routes.clone(),
        };
        let _ = self.bound.set(bound);
        self.link.wake(source);
    }

    pub(crate) fn id(&self) -> LegId {
        self.leg
    }

    /// The first ticket that the route was opened by, if it was.
    pub(crate) fn presented(&self) -> Option<&Ticket> {
        self.presented.as_ref()
    }

    /// Why the route ended, if it did.
    pub(crate) fn gone_because(&self) -> Option<(u64, String)> {
        self.gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the relay has said that the far end is not attached there.
    pub(crate) fn is_absent(&self) -> bool {
        self.absent.load(Ordering::Acquire)
    }

    fn absent(&self) {
        self.absent.store(true, Ordering::Release);
        if let Some(bound) = self.bound.get() {
            bound.session.note_change();
        }
    }

    fn receive(&self, packet: Packet) {
        let Some(bound) = self.bound.get() else {
            return;
        };
        if let Err(error) = bound.session.handle_packet(self.leg, packet) {
            tracing::debug!(leg = %self.leg, "route given up: {error}");
            let code = match error {
                LegError::Refused(code) => code,
                LegError::Corrupt => Code::CorruptPath.number(),
                _ => Code::ProtocolViolation.number(),
            };
            let text = error.to_string();
            self.link.send_header(
                route::Gone {
                    route: self.route,
                    code,
                    text: text.clone(),
                }
                .into(),
            );
            bound.routes.remove(&self.link, self.route);
            self.gone(code, text);
        }
    }

    fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        if !paused {
            self.wake();
        }
    }

    fn dropped(&self, first: u64, count: u64) {
        if let Some(bound) = self.bound.get() {
            bound.session.handle_dropped(self.leg, first, count);
        }
    }

    fn gone(&self, code: u64, text: String) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, text.clone()));
        self.detach();
        if let Some(bound) = self.bound.get() {
            let carried = |session: &Session| session.legs().is_some_and(|legs| !legs.is_empty());
            let before = carried(&bound.session);
            bound.session.leg_lost(self.leg);
            // Where other legs carry the session, or this one never did, it is not for this one to end it.
            if before
                && !carried(&bound.session)
                && let Some(code) = Code::from_number(code).filter(|code| ends_session(*code))
            {
                bound.session.close(code, &text);
            }
            bound.session.note_change();
        }
    }

    fn detach(&self) {
        if let Some(bound) = self.bound.get() {
            self.link.detach_source(bound.source);
        }
    }

    /// The header of the next packet, and what follows upon that packet.
    fn header(&self) -> (RouteHeader, Option<Graded>) {
        let opens = self
            .opens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let route = self.route;
        match opens {
            Some((Opening::Name(service, keep_s), graded)) => {
                let open = route::Open {
                    route,
                    service,
                    keep_s,
                };
                (open.into(), graded)
            }
            Some((Opening::Ticket(ticket), graded)) => {
                let ticket = *ticket.as_bytes();
                (route::Reopen { route, ticket }.into(), graded)
            }
            None => (route::Data { route }.into(), None),
        }
    }
}

impl RouteSource for RouteLeg {
    fn pull(&self, link: &Link, out: &mut Outgoing) -> bool {
        let Some(bound) = self.bound.get() else {
            return false;
        };
        if self.paused.load(Ordering::Acquire) {
            return false;
        }
        let end = out.len() + TURN;
        let more = bound.session.pull(self.leg, |packet| {
            let (header, graded) = self.header();
            out.push_routed(&header, packet);
            if let Some(graded) = graded {
                out.push_routed(&graded.into(), Bytes::new());
            }
            !out.is_full() && out.len() < end
        });
        if !more && self.finished.load(Ordering::Acquire) {
            let code = Code::NoError.number();
            link.send_header(
                route::Gone {
                    route: self.route,
                    code,
                    text: String::new(),
                }
                .into(),
            );
            bound.routes.remove(link, self.route);
            self.detach();
        }
        more
    }
}

impl LegPort for RouteLeg {
    fn carried_by(&self) -> String {
        let words = words_of(self.link.info());
        match &self.relay {
            Some(relay) => format!("{words} through {relay}"),
            None => words,
        }
    }

    fn through(&self) -> Option<&str> {
        self.relay.as_deref()
    }

    fn wake(&self) {
        if let Some(bound) = self.bound.get()
            && !self.paused.load(Ordering::Acquire)
        {
            self.link.wake(bound.source);
        }
    }

    /// What is routed is not acknowledged by the link's own session, which must be told to ask.
    fn answer_missing(&self) {
        self.link.ask();
    }

    fn done(&self, _replaced: bool) {
        self.finished.store(true, Ordering::Release);
        self.paused.store(false, Ordering::Release);
        self.wake();
    }
}
