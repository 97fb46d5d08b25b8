//! A session as tasks use it: the pure state machine behind a lock, its events turned into wake-ups.

mod incoming;
mod status;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use underpass_proto::code::Code;
use underpass_proto::frame::{ChannelId, ChannelKind, Class, Encoding, Hop};
use underpass_proto::packet::{Packet, SessionId};
use underpass_proto::session::{self as core, Closed, Event, LegError, LegId, LegInfo, OpenError};
use underpass_proto::{Role, Time};

use crate::channel::{Channel, ChannelError};
use crate::clock;
use crate::story::{Story, WaitsFor, Why};
pub use incoming::Incoming;
pub(crate) use status::LegSeen;
pub use status::{LegStatus, SessionStatus};

/// How a channel is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Stream or datagrams.
    pub kind: ChannelKind,
    /// Priority.
    pub class: Class,
    /// Whether its bytes may be compressed. Must be off where secrets and what an attacker chooses
    /// could share the channel.
    pub compress: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            kind: ChannelKind::Stream,
            class: Class::Normal,
            compress: false,
        }
    }
}

/// Where a leg's packets go to; told by the session when there may be some.
pub(crate) trait LegPort: Send + Sync {
    /// What carries it, in words.
    fn carried_by(&self) -> String {
        String::new()
    }
    /// The name of the relay that it passes through, where there are several.
    fn through(&self) -> Option<&str> {
        None
    }
    /// There may be packets to pull.
    fn wake(&self);
    /// The leg carries the session from now on. Called with the session locked.
    fn activated(&self, _core: &core::Session) {}
    /// An answer is overdue on the leg. Called with the session locked.
    fn answer_missing(&self) {}
    /// The session has no more use for the leg, because another one has taken its place (`replaced`)
    /// or the session ends: send what was pulled, then end it.
    fn done(&self, replaced: bool);
}

/// How a further leg joins a session that this side began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joining {
    /// In the place of all others.
    Alone,
    /// Beside the others, except for the one whose place it takes, if any.
    Beside(Option<LegId>),
}

/// A leg as the driver sees it.
struct Port {
    leg: Arc<dyn LegPort>,
    /// Bytes of packets that were sent on it, and that came in.
    sent: u64,
    received: u64,
}

impl Port {
    fn of(leg: Arc<dyn LegPort>) -> Self {
        Port {
            leg,
            sent: 0,
            received: 0,
        }
    }
}

/// Paths that a peer may tell of at once; nobody has so many relays.
const MOST_HOPS: usize = 64;

/// What wakes the tasks of one channel.
#[derive(Default)]
pub(crate) struct Wakers {
    pub(crate) read: Option<Waker>,
    pub(crate) write: Option<Waker>,
    pub(crate) accepted: bool,
    pub(crate) redial: Option<Redial>,
    pub(crate) reader_gone: bool,
    pub(crate) writer_gone: bool,
}

impl Wakers {
    fn wake_all(&mut self) {
        for waker in [self.read.take(), self.write.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

pub(crate) struct State {
    pub(crate) core: core::Session,
    pub(crate) channels: HashMap<ChannelId, Wakers>,
    legs: HashMap<LegId, Port>,
    incoming: VecDeque<OpenedChannel>,
    closed: Option<Closed>,
    established: bool,
    active: Option<LegId>,
    /// The leg that is late with an answer, until somebody was told.
    late: Option<LegId>,
    suspect: Option<LegId>,
    /// What the peer told of its paths and nobody has asked for yet, by the keys of the relays.
    hops: BTreeMap<[u8; 32], Hop>,
    /// How its path came to be where it is.
    story: Story,
    /// What it is called in the log; not logged without.
    label: Option<String>,
    /// The time for which the timer task is set.
    armed: Option<Time>,
}

impl State {
    fn answer_missing(&self, leg: LegId) {
        if let Some(port) = self.legs.get(&leg) {
            port.leg.answer_missing();
        }
    }

    /// What carries it, in words; none while nothing does.
    fn carried_by(&self) -> Option<String> {
        // In the order in which they came: which one leads may change at any time.
        let ports = self.core.active_legs();
        let words = ports.filter_map(|info| Some(self.legs.get(&info.leg)?.leg.carried_by()));
        words.reduce(|all, more| format!("{all} and {more}"))
    }

    /// Legs have come or gone beside others: the story goes on with what carries it now.
    fn retell(&mut self) {
        if let Some(by) = self.carried_by()
            && self.story.goes_on_by(by)
        {
            log_story(self);
        }
    }

    fn leg_active(&mut self, leg: LegId) {
        let before = self.active.replace(leg);
        let went_on = before != Some(leg) && self.core.resumes() > 0;
        self.late = None;
        self.suspect = None;
        if let Some(port) = self.legs.get(&leg) {
            port.leg.activated(&self.core);
        }
        let beside = self.core.active_legs().count() > 1;
        match self.carried_by() {
            Some(by) if went_on && (!beside || self.story.is_in_trouble()) => {
                self.story.carried(clock::now(), by, Why::Better);
                log_story(self);
            }
            _ => self.retell(),
        }
    }

    fn leg_status(&self, info: &LegInfo) -> Option<LegStatus> {
        let Port {
            leg,
            sent,
            received,
        } = self.legs.get(&info.leg)?;
        Some(LegStatus {
            by: leg.carried_by(),
            leads: info.leads,
            sends: info.sends,
            takes: info.takes,
            suspect: info.suspect,
            rtt: info.rtt,
            rate: info.rate,
            sent: *sent,
            received: *received,
        })
    }

    fn leg_suspect(&mut self, leg: LegId) {
        self.answer_missing(leg);
        self.suspect = Some(leg);
        if self.core.active_legs().all(|leg| leg.suspect) {
            self.story.doubted(clock::now());
        }
    }
}

#[derive(Debug)]
struct OpenedChannel {
    channel: ChannelId,
    kind: ChannelKind,
    class: Class,
    encoding: Encoding,
    service: String,
}

pub(crate) struct Inner {
    state: Mutex<State>,
    next_leg: AtomicU64,
    /// The timer must be set anew.
    timer: Notify,
    /// A channel was opened by the peer, or the session ended.
    accept: Notify,
    /// Something about legs, credit or the end has changed.
    changed: Notify,
}

/// One end of a session; clones are the same session.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Takes over a session of the pure core, whose first leg is `port`.
    pub(crate) fn new(core: core::Session, leg: LegId, port: Arc<dyn LegPort>) -> Session {
        let state = State {
            story: Story::begin(clock::now(), port.carried_by()),
            label: None,
            core,
            channels: HashMap::new(),
            legs: HashMap::from([(leg, Port::of(port))]),
            incoming: VecDeque::new(),
            closed: None,
            established: false,
            active: None,
            late: None,
            suspect: None,
            hops: BTreeMap::new(),
            armed: None,
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            next_leg: AtomicU64::new(leg.0 + 1),
            timer: Notify::new(),
            accept: Notify::new(),
            changed: Notify::new(),
        });
        let session = Session { inner };
        tokio::spawn(run_timer(session.clone()));
        session.with(|_, _| ());
        session
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in another holder leaves nothing half done that would matter more than going on.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the state machine, then acts on what came of it.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State, Time) -> R) -> R {
        let mut state = self.lock();
        let now = clock::now();
        let result = act(&mut state, now);
        self.settle(&mut state);
        result
    }

    /// Looks at the state machine without changing it.
    pub(crate) fn with_core<R>(&self, look: impl FnOnce(&core::Session) -> R) -> R {
        look(&self.lock().core)
    }

    /// The part of the driving contract that follows every input.
    fn settle(&self, state: &mut State) {
        self.drain_events(state);
        for port in state.legs.values() {
            port.leg.wake();
        }
    }

    fn drain_events(&self, state: &mut State) {
        while let Some(event) = state.core.poll_event() {
            self.handle_event(state, event);
        }
        let due = state.core.poll_timeout();
        if let Some(due) = due
            && state.armed.is_none_or(|armed| due < armed)
        {
            state.armed = Some(due);
            self.inner.timer.notify_one();
        }
    }

    fn handle_event(&self, state: &mut State, event: Event) {
        match event {
            Event::Established => {
                state.established = true;
                self.inner.changed.notify_waiters();
            }
            Event::LegActive { leg } => {
                state.leg_active(leg);
                self.inner.changed.notify_waiters();
            }
            Event::AnswerMissing { leg } => state.answer_missing(leg),
            Event::LegLate { leg } => {
                state.answer_missing(leg);
                state.late = Some(leg);
                self.inner.changed.notify_waiters();
            }
            Event::LegSuspect { leg } => {
                state.leg_suspect(leg);
                self.inner.changed.notify_waiters();
            }
            Event::LegFull { leg } => {
                let others = state.legs.iter().filter(|(id, _)| **id != leg);
                others.for_each(|(_, port)| port.leg.wake());
            }
            Event::LegDone { leg, .. } => {
                if let Some(port) = state.legs.remove(&leg) {
                    port.leg
                        .done(state.active.is_some_and(|active| active != leg));
                }
                state.retell();
                self.inner.changed.notify_waiters();
            }
            Event::Detached => {
                state.active = None;
                state.story.lost(clock::now(), Why::Lost);
                // Who began it makes the next path, and knows better what is missing.
                state.story.waits(WaitsFor::FarEnd, "", None);
                log_story(state);
                self.inner.changed.notify_waiters();
            }
            Event::Opened {
                channel,
                kind,
                class,
                encoding,
                service,
            } => {
                state.incoming.push_back(OpenedChannel {
                    channel,
                    kind,
                    class,
                    encoding,
                    service,
                });
                self.inner.accept.notify_one();
            }
            Event::Accepted { channel } => {
                if let Some(wakers) = state.channels.get_mut(&channel) {
                    wakers.accepted = true;
                    wakers.read.take().into_iter().for_each(Waker::wake);
                }
            }
            Event::Readable { channel } => {
                if let Some(waker) = state
                    .channels
                    .get_mut(&channel)
                    .and_then(|wakers| wakers.read.take())
                {
                    waker.wake();
                }
            }
            Event::Writable { channel } => {
                if let Some(waker) = state
                    .channels
                    .get_mut(&channel)
                    .and_then(|wakers| wakers.write.take())
                {
                    waker.wake();
                }
            }
            Event::Redial {
                channel,
                offset,
                service,
            } => self.redial(state, channel, offset, service),
            Event::ChannelsAvailable => self.inner.changed.notify_waiters(),
            Event::Hop(hop) => {
                if state.hops.len() < MOST_HOPS || state.hops.contains_key(&hop.relay) {
                    state.hops.insert(hop.relay, hop);
                    self.inner.changed.notify_waiters();
                }
            }
            Event::Closed(closed) => {
                state.closed = Some(closed);
                state.channels.values_mut().for_each(Wakers::wake_all);
                self.inner.accept.notify_waiters();
                self.inner.accept.notify_one();
                self.inner.changed.notify_waiters();
            }
        }
    }

    /// Gives the session a name for the log.
    pub(crate) fn set_label(&self, label: String) {
        self.lock().label = Some(label);
    }

    /// Notes what another path waits for, and until when.
    pub(crate) fn waits(&self, what: WaitsFor, reason: &str, until: Option<Time>) {
        self.lock().story.waits(what, reason, until);
    }

    /// Takes a packet that came in on a leg.
    pub(crate) fn handle_packet(&self, leg: LegId, packet: Packet) -> Result<(), LegError> {
        let length = packet.body.len() as u64;
        self.with(|state, now| {
            if let Some(port) = state.legs.get_mut(&leg) {
                port.received += length;
            }
            state.core.handle_packet(now, leg, packet, &mut rand::rng())
        })
    }

    /// A number for a new leg.
    pub(crate) fn new_leg_id(&self) -> LegId {
        LegId(self.inner.next_leg.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a leg whose packets go to `port`; the initiator begins to resume on it, in the place of all others.
    pub(crate) fn add_leg(&self, leg: LegId, port: Arc<dyn LegPort>) {
        self.join(leg, port, Joining::Alone);
    }

    /// The same for a leg that may be beside others: where it cannot be, it takes the place of all.
    pub(crate) fn join(&self, leg: LegId, port: Arc<dyn LegPort>, joining: Joining) {
        self.with(|state, now| {
            state.legs.insert(leg, Port::of(port));
            if state.core.role() == Role::Responder {
                return;
            }
            let rng = &mut rand::rng();
            let beside = match joining {
                Joining::Alone => false,
                Joining::Beside(instead) => state.core.start_beside(now, leg, instead, rng),
            };
            if !beside {
                state.core.start_resume(now, leg, rng);
            }
        });
    }

    /// The legs that carry it; `None` once it has ended.
    pub(crate) fn legs(&self) -> Option<Vec<LegInfo>> {
        let state = self.lock();
        let legs = || state.core.active_legs().collect();
        state.closed.is_none().then(legs)
    }

    /// How many legs may carry it at once, as both ends have it.
    pub(crate) fn max_legs(&self) -> usize {
        self.with_core(core::Session::max_legs)
    }

    /// Whether each direction is to have legs of its own.
    pub(crate) fn splits_ways(&self) -> bool {
        self.with_core(core::Session::splits_ways)
    }

    /// Waits until something about its legs, credit or end has changed, from the time at which this is polled first or
    /// enabled.
    pub(crate) fn next_change(&self) -> Notified<'_> {
        self.inner.changed.notified()
    }

    /// A leg is gone.
    pub(crate) fn leg_lost(&self, leg: LegId) {
        self.with(|state, now| {
            state.legs.remove(&leg);
            state.core.leg_lost(now, leg);
            state.retell();
        });
    }

    pub(crate) fn handle_dropped(&self, leg: LegId, first: u64, count: u64) {
        self.with(|state, now| state.core.handle_dropped(now, leg, first, count));
    }

    /// Hands out packets for a leg until `take` says that it has enough. False when there are no more.
    pub(crate) fn pull(&self, leg: LegId, mut take: impl FnMut(bytes::Bytes) -> bool) -> bool {
        let mut state = self.lock();
        let now = clock::now();
        let (mut more, mut sent) = (false, 0);
        while let Some(packet) = state.core.poll_transmit(now, leg) {
            sent += packet.len() as u64;
            if !take(packet) {
                more = true;
                break;
            }
        }
        if let Some(port) = state.legs.get_mut(&leg) {
            port.sent += sent;
        }
        // What was pulled may have made room for writers and set timers; the leg itself is awake.
        self.drain_events(&mut state);
        more
    }

    /// The session's name.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.lock().core.id()
    }

    /// Hash of the handshake that made the session: what is proven about it is proven of this session alone.
    #[must_use]
    pub fn handshake_hash(&self) -> [u8; 32] {
        self.with_core(core::Session::handshake_hash)
    }

    /// This side's role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.lock().core.role()
    }

    /// What it was seen to do.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        let state = self.lock();
        let core = &state.core;
        let legs = core.active_legs();
        SessionStatus {
            legs: legs.filter_map(|info| state.leg_status(&info)).collect(),
            id: core.id(),
            grade: core.grade(),
            rtt: core.rtt(),
            rate: core.delivery_rate(),
            resumes: core.resumes(),
            detached_for: core.detached_since().map(|since| clock::now().since(since)),
            unacknowledged: core.unacknowledged(),
            unread: core.unread(),
            channels: core.channel_count(),
            closed: state.closed.clone(),
            told: state.story.told(clock::now()),
        }
    }

    /// Opens a channel to a service of the peer; waits while the peer allows no more channels. Data
    /// may be written at once; [`Channel::accepted`] tells whether the service answered.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn open(&self, service: &str, options: OpenOptions) -> Result<Channel, ChannelError> {
        let encoding = if options.compress {
            Encoding::Blocks
        } else {
            Encoding::Raw
        };
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let opened = self.with(|state, now| {
                let id = state
                    .core
                    .open(now, options.kind, options.class, encoding, service)?;
                state.channels.insert(id, Wakers::default());
                Ok((id, state.core.peer_params().encodings))
            });
            match opened {
                Ok((id, codecs)) => return Ok(Channel::new(self.clone(), id, encoding, codecs)),
                Err(OpenError::Closed) => return Err(self.closed_error()),
                Err(OpenError::TooMany) => changed.await,
            }
        }
    }

    /// The next channel that the peer opens; `None` once the session has ended.
    ///
    /// Cancel safe: a channel that was not returned is returned by the next call.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let notified = self.inner.accept.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(opened) = state.incoming.pop_front() {
                    state.channels.insert(opened.channel, Wakers::default());
                    let codecs = state.core.peer_params().encodings;
                    drop(state);
                    return Some(Incoming {
                        session: self.clone(),
                        opened,
                        codecs,
                        answered: false,
                    });
                }
                if state.closed.is_some() {
                    return None;
                }
            }
            notified.await;
        }
    }

    /// The SHA-256 of the certificate that the peer says it shows in TLS.
    pub(crate) fn peer_certificate(&self) -> Option<[u8; 32]> {
        self.lock().core.peer_params().certificate
    }

    /// The largest datagram that can be sent, in bytes.
    #[must_use]
    pub fn max_datagram(&self) -> usize {
        let most = self.with_core(core::Session::max_datagram);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Ends the session; the peer and everybody who uses a channel is told.
    pub fn close(&self, code: Code, reason: &str) {
        self.with(|state, now| state.core.close(now, code.number(), reason));
    }

    /// How the session ended, once it did.
    pub async fn closed(&self) -> Closed {
        self.wait(|state| state.closed.clone()).await
    }

    /// Waits until nothing more is to be said after the end: the peer has acknowledged it, or did not for a few seconds.
    pub async fn parted(&self) {
        self.wait(|state| state.core.is_closed().then_some(()))
            .await;
    }

    /// Tells the peer how a path of ours is.
    pub(crate) fn tell_of_hop(&self, hop: Hop) {
        self.with(|state, _| state.core.tell_of_hop(hop));
    }

    /// What the peer tells of its paths, one after the other; `None` once the session has ended. Cancel safe.
    pub(crate) async fn told_of_hop(&self) -> Option<Hop> {
        self.wait(|state| match state.hops.pop_first() {
            Some((_, hop)) => Some(Some(hop)),
            None => state.closed.as_ref().map(|_| None),
        })
        .await
    }

    /// How many round trips were measured on the present leg, and the last one.
    pub(crate) fn last_round_trip(&self) -> Option<(u64, Duration)> {
        self.with_core(core::Session::last_rtt)
    }

    /// Whether the leg that carries it does not answer.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let state = self.lock();
        state.suspect.is_some() && state.suspect == state.active
    }

    /// What was seen of each leg that passes through one of several relays.
    pub(crate) fn seen_of_legs(&self) -> Vec<LegSeen> {
        let state = self.lock();
        let seen = state.core.active_legs().filter_map(|info| {
            let relay = state.legs.get(&info.leg)?.leg.through()?;
            Some(LegSeen::new(&info, relay))
        });
        seen.collect()
    }

    /// Whether it ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Seals what follows with newer keys, both ways.
    pub fn update_keys(&self) {
        self.with(|state, _| state.core.update_keys());
    }

    /// How often something is to be said on a leg that is silent otherwise.
    pub(crate) fn keep_alive_every(&self, every: Duration) {
        self.with(|state, _| state.core.set_ping_after(every));
    }

    /// Waits until `check` finds what it looks for.
    async fn wait<R>(&self, mut check: impl FnMut(&mut State) -> Option<R>) -> R {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = check(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    /// Whether the peer has proven that it holds the session.
    pub(crate) fn is_established(&self) -> bool {
        self.lock().established
    }

    /// Waits until the peer has proven that it holds the session. False if it ended before.
    pub(crate) async fn established(&self) -> bool {
        self.wait(|state| {
            if state.established {
                return Some(true);
            }
            state.closed.as_ref().map(|_| false)
        })
        .await
    }

    /// Waits until the session wants another leg: it has none, or it doubts the one it has. `None`
    /// once it ended.
    pub(crate) async fn wants_leg(&self) -> Option<WantsLeg> {
        self.wait(|state| {
            if state.closed.is_some() {
                return Some(None);
            }
            if state.core.detached_since().is_some() {
                return Some(Some(WantsLeg::Detached));
            }
            state
                .suspect
                .filter(|leg| state.active == Some(*leg))
                .map(|leg| Some(WantsLeg::Suspect(leg)))
        })
        .await
    }

    /// Waits until the leg that carries the session is late with an answer; each time is told once.
    pub(crate) async fn leg_late(&self) {
        self.wait(|state| {
            let late = state.late.take()?;
            (state.active == Some(late)).then_some(())
        })
        .await;
    }

    /// Waits until `leg` carries the session (true), or is gone or the session ended (false).
    pub(crate) async fn leg_active(&self, leg: LegId) -> bool {
        self.wait(|state| {
            if state.core.is_active(leg) {
                return Some(true);
            }
            (state.closed.is_some() || !state.legs.contains_key(&leg)).then_some(false)
        })
        .await
    }

    /// Something about the legs changed without an event of the core.
    pub(crate) fn note_change(&self) {
        self.inner.changed.notify_waiters();
    }

    pub(crate) fn closed_error(&self) -> ChannelError {
        match &self.lock().closed {
            Some(closed) => ChannelError::SessionClosed(closed.clone()),
            None => ChannelError::Closed,
        }
    }

    fn redial(&self, state: &mut State, channel: ChannelId, offset: u64, service: String) {
        if let Some(wakers) = state.channels.get_mut(&channel) {
            wakers.redial = Some(Redial { offset, service });
            wakers.read.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// The peer's wish that a channel goes on with another host service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redial {
    /// The first byte of the peer's stream that is meant for the new host service.
    pub offset: u64,
    /// The new service.
    pub service: String,
}

/// Why a session wants another leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantsLeg {
    /// None is left.
    Detached,
    /// This one does not answer.
    Suspect(LegId),
}

fn log_story(state: &State) {
    if let Some(label) = &state.label {
        tracing::info!("{label}: {}", state.story.told(clock::now()));
    }
}

/// Acts on the session's timeouts until it has ended.
async fn run_timer(session: Session) {
    loop {
        let due = {
            let mut state = session.lock();
            if state.core.is_closed() {
                return;
            }
            state.armed = state.core.poll_timeout();
            state.armed
        };
        let set_anew = session.inner.timer.notified();
        match due {
            None => set_anew.await,
            Some(due) => {
                if tokio::time::timeout_at(clock::instant(due), set_anew)
                    .await
                    .is_err()
                {
                    session.with(|state, now| {
                        state.armed = None;
                        state.core.handle_timeout(now);
                    });
                }
            }
        }
    }
}
