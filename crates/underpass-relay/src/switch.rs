//! Drives the [hub](crate::hub): hands it what links and agents do, carries out what it decides, and
//! moves the packets of joined routes past it.
//!
//! Locks are taken in this order and never the other way: hub, port, lane, link. A packet of a joined
//! route takes only the last three.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use underpass_endpoint::{Link, LinkEnd, Router};
use underpass_proto::control::{ConnectionClient, ConnectionKind, ConnectionRow, ConnectionWay};
use underpass_proto::packet::{Hello, Packet, PacketKind, Resume, SessionId};
use underpass_proto::route::{self, Gone, Incoming, RouteHeader};
use underpass_proto::ticket::{Handle, Ticket};
use underpass_proto::{Code, Grade, Time};
use underpass_store::UserId;

use crate::attachment::Attached;
use crate::clock;
use crate::desk::Origin;
use crate::direct::Directs;
use crate::gate::Gate;
use crate::hub::{
    Account, AttachmentId, Command, Ended, Given, Hub, Limits, LinkId, Living, Load, Opening, Path,
    RouteEnd, RouteEvent, RouteNews,
};
use crate::lane::{Lane, Pool, Pushed};
use crate::living::{self, LivingEnd, LivingRow};
use crate::log::{Kind, Log, Note, Passed};
use crate::meter::{Direction, Meters};
use crate::queue::Marks;
use crate::refusal::Refusal;

/// The longest that an agent may ask a ticket to be kept for: a week. A session that is kept for longer is
/// opened by name after that.
pub(crate) const LONGEST_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// What carries the requests of a client that has nothing but HTTP.
const PLAIN_CARRIER: &str = "plain-http";

/// One link, as the switch knows it.
struct Port {
    link: Weak<Link>,
    id: LinkId,
    /// What came in before it was known whose link this is.
    gate: Mutex<Gate>,
    /// The key of the machine at the other end, as the hop session has proved it.
    key: Mutex<[u8; 32]>,
    lanes: Mutex<HashMap<u32, Lanes>>,
    /// Set with the hub locked, so that a link that is down is never reported up.
    down: AtomicBool,
}

/// Both directions of a route at one of its ends.
struct Lanes {
    /// For what comes in at this end.
    inward: Arc<Lane>,
    /// For what goes out at this end, once the route is joined.
    outward: Option<Arc<Lane>>,
}

/// The relay's hub, its links and lanes.
pub(crate) struct Switch {
    hub: Mutex<Hub>,
    /// When the hub is to be woken has changed.
    timer: Notify,
    ports: RwLock<HashMap<LinkId, Arc<Port>>>,
    attached: Mutex<HashMap<AttachmentId, Arc<Attached>>>,
    pool: Arc<Pool>,
    meters: Meters,
    directs: Directs,
    /// What passed on routes that have just ended; the hub is told when it is free.
    passed: Mutex<Vec<(SessionId, u64, u64)>>,
    log: Log,
    /// Answers the hub's questions; set once, before the first link.
    examiner: std::sync::OnceLock<Box<dyn Fn(crate::hub::Check) + Send + Sync>>,
    /// Brings questions and news to the ticket authority; set once, before the first link.
    registrar: std::sync::OnceLock<Box<dyn Fn(Errand) + Send + Sync>>,
}

/// Something for the ticket authority.
#[derive(Debug)]
pub(crate) enum Errand {
    /// To be answered by [`Hub::authorized`].
    Ask(crate::hub::Question),
    /// A ticket that nobody needs any more.
    Discard(Handle),
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch")
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

impl Switch {
    /// A switch without links. Lanes hold `room` bytes together.
    pub(crate) fn new(limits: Limits, marks: Marks, room: usize, log: Log) -> Arc<Self> {
        Arc::new(Self {
            hub: Mutex::new(Hub::new(limits)),
            timer: Notify::new(),
            ports: RwLock::default(),
            attached: Mutex::default(),
            pool: Pool::new(marks, room),
            meters: Meters::default(),
            directs: Directs::default(),
            passed: Mutex::default(),
            log,
            examiner: std::sync::OnceLock::new(),
            registrar: std::sync::OnceLock::new(),
        })
    }

    /// Says who answers the hub's questions; it must not block, and answers by [`Switch::with_hub`].
    pub(crate) fn set_examiner(
        &self,
        examiner: impl Fn(crate::hub::Check) + Send + Sync + 'static,
    ) {
        let first = self.examiner.set(Box::new(examiner)).is_ok();
        debug_assert!(first, "there is one examiner");
    }

    /// Says who goes to the ticket authority; it must not block.
    pub(crate) fn set_registrar(&self, registrar: impl Fn(Errand) + Send + Sync + 'static) {
        let first = self.registrar.set(Box::new(registrar)).is_ok();
        debug_assert!(first, "there is one registrar");
    }

    fn send_to_authority(&self, errand: Errand) {
        match self.registrar.get() {
            Some(registrar) => registrar(errand),
            None => tracing::error!("nobody goes to the ticket authority"),
        }
    }

    /// The handles of the tickets of all open routes.
    pub(crate) fn tickets(&self) -> Vec<Handle> {
        lock(&self.hub).tickets()
    }

    /// Does something with the hub, then carries out what it decides.
    pub(crate) fn with_hub<R>(&self, act: impl FnOnce(&mut Hub, Time) -> R) -> R {
        let mut hub = lock(&self.hub);
        let before = hub.poll_timeout();
        let result = act(&mut hub, clock::now());
        while let Some(command) = hub.poll_command() {
            self.carry_out(command);
        }
        for (session, sent, received) in std::mem::take(&mut *lock(&self.passed)) {
            hub.add_passed(session, sent, received);
        }
        if hub.poll_timeout() != before {
            self.timer.notify_one();
        }
        result
    }

    /// How much there is at the moment, and how many bytes wait in lanes.
    pub(crate) fn load(&self) -> (Load, usize) {
        (lock(&self.hub).load(), self.pool.used())
    }

    /// What users pass.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Channels that this relay is an end of.
    pub(crate) fn directs(&self) -> &Directs {
        &self.directs
    }

    /// Ends what these users have begun, and has nothing further of theirs begin; that of others may again.
    pub(crate) fn set_exhausted(&self, exhausted: HashMap<UserId, Refusal>) {
        for direct in self.directs.all() {
            if let Some(why) = exhausted.get(&direct.by.user) {
                direct.end(why.code);
            }
        }
        self.with_hub(|hub, _| hub.set_exhausted(exhausted));
    }

    /// Tells all agents of a user something.
    pub(crate) fn notify(&self, user: UserId, text: &str) {
        for attached in self.all_attached() {
            let member = self.with_hub(|hub, _| hub.member(attached.id).cloned());
            if member.is_some_and(|member| member.user == user) {
                attached.notify(text.to_owned());
            }
        }
    }

    /// The sessions that live here, the oldest first.
    pub(crate) fn living(&self) -> Vec<LivingRow> {
        let living = self.with_hub(|hub, _| hub.living());
        let mut rows: Vec<LivingRow> = living.into_iter().map(|it| self.row_of(it)).collect();
        for direct in self.directs.all() {
            let mut living = living::of_direct(&direct);
            let attached = lock(&self.attached).get(&direct.attachment).cloned();
            if let Some(attached) = attached {
                let link = self.link_of(&attached);
                let row = &mut living.row;
                row.client.address = address_of(&attached, link.as_deref());
                row.way.carrier = link.map_or_else(String::new, |it| it.info().carrier.to_owned());
                row.way.round_trip_us = micros(attached.session.status().rtt);
                if attached.origin == Origin::PlainHttp {
                    row.kind = ConnectionKind::PlainHttp;
                    row.way.carrier = PLAIN_CARRIER.to_owned();
                }
            }
            rows.push(living);
        }
        rows.sort_by_key(|living| living.row.since_ms);
        rows
    }

    fn row_of(&self, living: Living) -> LivingRow {
        let Living {
            session,
            opener,
            by,
            service,
            owner,
            publisher,
            since,
            paths,
            before: (mut sent, mut received),
        } = living;
        let attached = lock(&self.attached).get(&opener).cloned();
        let links = |end: RouteEnd| Some(self.end_of(end)?.1);
        let mut best: Option<Duration> = None;
        for (near, far) in &paths {
            let passed = self.lanes_of(*near).unwrap_or_default();
            sent += passed.0;
            received += passed.1;
            let rtt = |end: RouteEnd| links(end)?.session().status().rtt;
            if let (Some(near), Some(far)) = (rtt(*near), rtt(*far)) {
                best = Some(best.unwrap_or(Duration::MAX).min(near + far));
            }
        }
        let first = paths.first().copied();
        let near = first.and_then(|(near, _)| links(near));
        let far = first.and_then(|(_, far)| links(far));
        let carrier = |link: Option<&Arc<Link>>| {
            link.map_or_else(String::new, |link| link.info().carrier.to_owned())
        };
        let plain = attached
            .as_ref()
            .is_some_and(|it| it.origin == Origin::PlainHttp);
        LivingRow {
            end: LivingEnd::Session(session),
            row: ConnectionRow {
                id: living::name_of(&session),
                kind: match plain {
                    true => ConnectionKind::PlainHttp,
                    false => ConnectionKind::Sealed,
                },
                client: ConnectionClient {
                    user: by.user_name,
                    machine: by.machine_name,
                    address: attached
                        .map_or_else(String::new, |it| address_of(&it, near.as_deref())),
                },
                service,
                owner,
                publisher,
                way: ConnectionWay {
                    carrier: match plain {
                        true => PLAIN_CARRIER.to_owned(),
                        false => carrier(near.as_ref()),
                    },
                    far_carrier: carrier(far.as_ref()),
                    paths: paths.len() as u64,
                    round_trip_us: micros(best),
                },
                since_ms: living::calendar(since),
                sent,
                received,
            },
        }
    }

    /// What has passed on a route by now, in at this end and out at it.
    fn lanes_of(&self, end: RouteEnd) -> Option<(u64, u64)> {
        let port = self.known_port(end.link)?;
        let lanes = lock(&port.lanes);
        let Lanes { inward, outward } = lanes.get(&end.route)?;
        Some((inward.passed(), outward.as_ref()?.passed()))
    }

    /// The newest link of an attachment.
    fn link_of(&self, attached: &Attached) -> Option<Arc<Link>> {
        let link = self.with_hub(|hub, _| hub.newest_link(attached.id))?;
        self.known_port(link)?.link.upgrade()
    }

    /// Wakes the hub when it wants to be, until `stop`.
    pub(crate) async fn keep_time(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let due = lock(&self.hub).poll_timeout().map(|(at, _)| at);
            let timeout = async {
                match due {
                    Some(at) => tokio::time::sleep_until(clock::instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timeout => self.with_hub(Hub::handle_timeout),
                () = self.timer.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Takes note of an attachment whose links and control channels are to be told of things.
    pub(crate) fn add(&self, attached: Arc<Attached>) {
        lock(&self.attached).insert(attached.id, attached);
    }

    /// Forgets an attachment and everything that it had.
    pub(crate) fn remove(&self, attachment: AttachmentId) {
        self.with_hub(|hub, _| hub.detached(attachment));
        lock(&self.attached).remove(&attachment);
    }

    /// All attachments.
    pub(crate) fn all_attached(&self) -> Vec<Arc<Attached>> {
        lock(&self.attached).values().cloned().collect()
    }

    /// Counts a one-time code of an attachment that was not good. How many there were.
    pub(crate) fn count_failed_code(&self, attachment: AttachmentId) -> u32 {
        let attached = lock(&self.attached).get(&attachment).cloned();
        attached.map_or(0, |attached| attached.count_failed_code())
    }

    /// The links of all attachments.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        ports
            .values()
            .filter_map(|port| port.link.upgrade())
            .collect()
    }

    /// A link belongs to an attachment and may carry routes: takes up what came in on it until now.
    pub(crate) fn link_up(&self, link: &Arc<Link>, attachment: AttachmentId, key: [u8; 32]) {
        let port = self.port(link);
        *lock(&port.key) = key;
        let down = self.with_hub(|hub, now| {
            let down = port.down.load(Ordering::Acquire);
            if !down {
                hub.link_up(attachment, port.id, now);
            }
            down
        });
        if down {
            // Its end was reported already, so nobody else would take the port away.
            self.remove_port(port.id);
            return;
        }
        while let Some((header, payload)) = next_held(&port) {
            self.take(&port, link, header, payload);
        }
    }

    fn port(&self, link: &Arc<Link>) -> Arc<Port> {
        let id = LinkId(link.serial());
        if let Some(port) = self.known_port(id) {
            return port;
        }
        let mut ports = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        let port = ports.entry(id).or_insert_with(|| {
            Arc::new(Port {
                link: Arc::downgrade(link),
                id,
                gate: Mutex::new(Gate::new()),
                key: Mutex::new([0; 32]),
                lanes: Mutex::default(),
                // A link may end before anything came in on it.
                down: AtomicBool::new(link.is_ended()),
            })
        });
        Arc::clone(port)
    }

    fn known_port(&self, id: LinkId) -> Option<Arc<Port>> {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        ports.get(&id).cloned()
    }

    fn remove_port(&self, id: LinkId) {
        let mut ports = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        ports.remove(&id);
    }

    fn take(&self, port: &Arc<Port>, link: &Arc<Link>, header: RouteHeader, payload: Bytes) {
        match header {
            RouteHeader::Data(data) => self.forward(port, data.route, payload),
            RouteHeader::Open(route::Open {
                route,
                service,
                keep_s,
            }) => {
                let keep = Duration::from_secs(keep_s).min(LONGEST_KEEP);
                let path = Path::Named { service, keep };
                self.open(port, link, route, path, payload);
            }
            RouteHeader::Reopen(route::Reopen { route, ticket }) => {
                let path = Path::Ticketed(Ticket::new(ticket));
                self.open(port, link, route, path, payload);
            }
            RouteHeader::Discard(route::Discard { handle }) => {
                self.send_to_authority(Errand::Discard(Handle(handle)));
            }
            RouteHeader::Gone(gone) => self.with_hub(|hub, _| hub.gone(port.id, gone)),
            // The keys that come with it are not kept: this relay reads nothing.
            RouteHeader::Graded(route::Graded { route, grade, .. }) => {
                let link = port.id;
                self.with_hub(|hub, _| hub.graded(RouteEnd { link, route }, grade));
            }
            // Only relays say these, and the link reads only what agents say.
            RouteHeader::Incoming(_)
            | RouteHeader::Ticket(_)
            | RouteHeader::Wait(_)
            | RouteHeader::GoOn(_)
            | RouteHeader::Absent(_)
            | RouteHeader::Dropped(_) => {}
        }
    }

    /// Passes a packet on. One of an unknown route is late, and nobody's loss.
    fn forward(&self, port: &Port, route: u32, payload: Bytes) {
        let Some(lane) = lock(&port.lanes)
            .get(&route)
            .map(|lanes| Arc::clone(&lanes.inward))
        else {
            return;
        };
        if lane.push(payload) == Pushed::First {
            let end = RouteEnd {
                link: port.id,
                route,
            };
            self.with_hub(|hub, _| hub.answered(end));
        }
    }

    fn open(&self, port: &Port, link: &Arc<Link>, route: u32, path: Path, payload: Bytes) {
        let First {
            session,
            resumes,
            grade,
        } = First::of(&payload);
        let known = lock(&port.lanes).contains_key(&route);
        if !known {
            let inward = Lane::new(&self.pool, link, route);
            inward.push(payload);
            if inward.is_empty() {
                let Refusal { code, text } = Refusal::busy("memory for packets of routes");
                let code = code.number();
                return link.send_header(Gone { route, code, text }.into());
            }
            let outward = None;
            lock(&port.lanes).insert(route, Lanes { inward, outward });
        }
        // Of a number in use the hub says that the link is to be closed.
        let opening = Opening {
            route,
            path,
            session,
            resumes,
            grade,
            key: *lock(&port.key),
        };
        if !self.with_hub(|hub, _| hub.open(port.id, opening)) {
            // The attachment was ended, and the link is about to be.
            lock(&port.lanes).remove(&route);
            link.close();
        }
    }

    fn carry_out(&self, command: Command) {
        match command {
            Command::Check(check) => match self.examiner.get() {
                Some(examine) => examine(check),
                None => tracing::error!("nobody answers the questions of the hub"),
            },
            Command::Authorize(question) => self.send_to_authority(Errand::Ask(question)),
            Command::Give { end, given } => self.give(end, &given),
            Command::Discard { handle } => self.send_to_authority(Errand::Discard(handle)),
            Command::Join {
                near,
                far,
                incoming,
                account,
            } => self.join(near, far, incoming, &account),
            Command::Absent { end } => {
                if let Some((_, link)) = self.end_of(end) {
                    link.send_header(route::Absent { route: end.route }.into());
                }
            }
            Command::Forget { end } => self.forget(end),
            Command::Finish { end, gone } => self.finish(end, gone),
            Command::CloseLink { link, why } => {
                tracing::info!(link = link.0, "link closed: {why}");
                if let Some(link) = self.known_port(link).and_then(|port| port.link.upgrade()) {
                    link.close();
                }
            }
            Command::End { attachment, why } => {
                if let Some(attached) = lock(&self.attached).get(&attachment) {
                    attached.end(&why);
                }
            }
            Command::Notify { attachment, text } => {
                if let Some(attached) = lock(&self.attached).get(&attachment) {
                    attached.notify(text);
                }
            }
            Command::TellRights { attachment } => {
                if let Some(attached) = lock(&self.attached).get(&attachment) {
                    attached.rights_changed();
                }
            }
            Command::TellMeetings { attachment } => {
                if let Some(attached) = lock(&self.attached).get(&attachment) {
                    attached.meetings_changed();
                }
            }
            Command::Record(event) => self.note_route(event),
            Command::Returned {
                attachment: _,
                link,
                member,
            } => {
                let link = self.known_port(link).and_then(|port| port.link.upgrade());
                let address = link.and_then(|link| link.info().peer);
                let address = address.map(|address| address.to_string());
                self.log.write(
                    Note::new(Kind::Return)
                        .by(&member.user_name)
                        .from(address.as_deref())
                        .with("machine", member.machine_name),
                );
            }
        }
    }

    fn note_route(&self, event: RouteEvent) {
        let address = lock(&self.attached)
            .get(&event.opener)
            .and_then(|attached| attached.address);
        let address = address.map(|address| address.to_string());
        let passed = match &event.news {
            RouteNews::Ended(ended) => self.passed(ended),
            RouteNews::Opened(_) | RouteNews::Refused(_) => None,
        };
        if let (Some(session), Some(passed)) = (event.session, &passed) {
            lock(&self.passed).push((session, passed.sent, passed.received));
        }
        let note = Note::of_route(event, passed);
        self.log.write(note.from(address.as_deref()));
    }

    /// What passed on a route that has just ended: what each of its ends took in.
    fn passed(&self, ended: &Ended) -> Option<Passed> {
        let lanes = |end: RouteEnd| {
            let port = self.known_port(end.link)?;
            let lanes = lock(&port.lanes);
            let Lanes { inward, outward } = lanes.get(&end.route)?;
            Some((Arc::clone(inward), outward.clone()?))
        };
        let (there, back) = match lanes(ended.near) {
            Some(lanes) => lanes,
            None => {
                let (back, there) = lanes(ended.far)?;
                (there, back)
            }
        };
        let seconds = clock::now().since(there.since()).as_secs();
        Some(Passed {
            sent: there.passed(),
            received: back.passed(),
            seconds,
        })
    }

    /// Sent before anything that comes from the other end, since that is not joined yet.
    fn give(&self, end: RouteEnd, given: &Given) {
        if let Some((_, link)) = self.end_of(end) {
            let header = route::Ticket {
                route: end.route,
                ticket: *given.ticket.as_bytes(),
                handle: given.handle.0,
                lifetime_s: given.lifetime.as_secs(),
            };
            link.send_header(header.into());
        }
    }

    fn join(&self, near: RouteEnd, far: RouteEnd, incoming: Incoming, account: &Account) {
        let ends = self.end_of(near).zip(self.end_of(far));
        let Some(((near_port, near_link), (far_port, far_link))) = ends else {
            return;
        };
        let meter = self.meters.meter(account.user, &account.service);
        if account.begins {
            meter.begin();
        }
        let back = Lane::new(&self.pool, &far_link, far.route);
        back.measure(Arc::clone(&meter), Direction::Received);
        back.set_exit(&near_link, near.route, None);
        let inward = {
            let mut lanes = lock(&near_port.lanes);
            let Some(lanes) = lanes.get_mut(&near.route) else {
                return back.close();
            };
            lanes.outward = Some(Arc::clone(&back));
            Arc::clone(&lanes.inward)
        };
        let lanes = Lanes {
            inward: back,
            outward: Some(Arc::clone(&inward)),
        };
        lock(&far_port.lanes).insert(far.route, lanes);
        inward.measure(meter, Direction::Sent);
        inward.set_exit(&far_link, far.route, Some(incoming));
    }

    fn end_of(&self, end: RouteEnd) -> Option<(Arc<Port>, Arc<Link>)> {
        let port = self.known_port(end.link)?;
        let link = port.link.upgrade()?;
        Some((port, link))
    }

    fn forget(&self, end: RouteEnd) {
        let port = self.known_port(end.link);
        let lanes = port.and_then(|port| lock(&port.lanes).remove(&end.route));
        if let Some(Lanes { inward, outward }) = lanes {
            // What came in before the agent's last word still goes out at the other end, whose own
            // command sees to that.
            drop(inward);
            if let Some(outward) = outward {
                outward.close();
            }
        }
    }

    fn finish(&self, end: RouteEnd, gone: Gone) {
        let Some((port, link)) = self.end_of(end) else {
            return;
        };
        let lanes = lock(&port.lanes).remove(&end.route);
        // What came in at this end is left alone: it may still be on its way out at the other end,
        // with a last word behind it.
        match lanes.and_then(|lanes| lanes.outward) {
            Some(outward) => outward.finish(gone),
            None => link.send_header(gone.into()),
        }
    }
}

/// What the first packet of a route tells: this, and nothing else of what agents say to each other, a relay reads.
#[derive(Debug)]
struct First {
    /// The session that it is of, where that can be read: a ticket is good for one session.
    session: Option<SessionId>,
    /// It goes on with the session, and does not begin it.
    resumes: bool,
    /// The grade of a session that it begins; of one that goes on its agent tells it.
    grade: Grade,
}

impl First {
    fn of(payload: &Bytes) -> Self {
        let packet = Packet::parse_unframed(payload.clone()).ok();
        let packet = packet.map(|Packet { kind, body }| (kind, body));
        let (session, resumes, grade) = match packet {
            Some((PacketKind::Hello, body)) => match Hello::decode(body) {
                Ok(hello) => (Some(hello.session), false, Grade::of(hello.target)),
                Err(_) => (None, false, Grade::Blind),
            },
            Some((PacketKind::Resume, body)) => {
                let resume = Resume::decode(body).ok();
                let session = resume.map(|resume| resume.session);
                (session, session.is_some(), Grade::Blind)
            }
            _ => (None, false, Grade::Blind),
        };
        Self {
            session,
            resumes,
            grade,
        }
    }
}

/// Where an agent comes from: by its link, else where it came from first.
fn address_of(attached: &Attached, link: Option<&Link>) -> String {
    let now = link.and_then(|link| link.info().peer);
    let address = now.or(attached.address);
    address.map_or_else(String::new, |address| address.to_string())
}

fn micros(time: Option<Duration>) -> u64 {
    let time = time.unwrap_or_default();
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn next_held(port: &Port) -> Option<(RouteHeader, Bytes)> {
    lock(&port.gate).next()
}

impl Router for Switch {
    fn routed(&self, link: &Arc<Link>, header: RouteHeader, payload: Bytes) {
        let port = self.port(link);
        let passed = lock(&port.gate).pass(header, payload);
        match passed {
            Ok(Some((header, payload))) => self.take(&port, link, header, payload),
            Ok(None) => {}
            Err(full) => {
                tracing::info!(link = link.serial(), "link closed: {full}");
                link.close();
            }
        }
    }

    fn link_down(&self, link: &Arc<Link>, why: &LinkEnd) {
        let port = self.port(link);
        tracing::debug!(link = link.serial(), "link down: {why}");
        self.with_hub(|hub, _| {
            port.down.store(true, Ordering::Release);
            hub.link_down(port.id);
        });
        let lanes = std::mem::take(&mut *lock(&port.lanes));
        for Lanes { inward, outward } in lanes.into_values() {
            drop(inward);
            if let Some(outward) = outward {
                outward.close();
            }
        }
        lock(&port.gate).clear();
        self.remove_port(port.id);
    }
}

/// Nothing of the relay's own state is left half done by a panic that would matter more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refusal {
    /// The refusal of a link on which too much came in before it was known whose it is.
    pub(crate) fn early() -> Self {
        Self::new(
            Code::Busy,
            "too many routes were opened before the machine was known",
        )
    }
}
