//! One carrier in use between an agent and a relay, and the tasks that keep it moving.
//!
//! A link carries the packets of the hop's own session, and routed packets of other sessions beside
//! them. The writer pulls: packets are made, and routing headers sealed, only when the carrier can
//! take them, so what has priority goes first even a moment before.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use slab::Slab;
use tokio::sync::Notify;
use underpass_carrier::{Carrier, CarrierError, CarrierInfo, Sink, Source};
use underpass_proto::packet::{Packet, PacketDecoder, PacketError, PacketKind, Refused};
use underpass_proto::route::{self, RouteHeader};
use underpass_proto::session::{self as core, LegError, LegId};
use underpass_proto::{DecodeError, Role, Speaker, Time};
use underpass_seal::{OpeningKey, Space, TAG_LEN};

use crate::clock;
use crate::outgoing::{HeaderSealer, Outgoing};
use crate::session::{LegPort, Session};

/// How long an orderly end may take until the carrier is dropped.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// The same for a link that another one has replaced: what is not through by then is sent again there,
/// and whoever has routes on it waits for its end.
const REPLACED_LIMIT: Duration = Duration::from_secs(1);

/// Bytes that the hop's session adds before the routes have their turn.
const TURN: usize = 64 * 1024;
/// Opened routing headers are cut from pieces of this many bytes.
const HEADER_ROOM: usize = 4 * 1024;

/// Headers that may wait for a peer to read them while it sends more: several for each of the routes
/// that a link has at its busiest, and some megabytes at the most.
const MOST_FIRST: usize = 16 * 1024;

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

/// Why a link is no more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The carrier broke.
    #[error("{0}")]
    Carrier(#[from] CarrierError),
    /// The other side ended it in an orderly way.
    #[error("the other side closed the connection")]
    Closed,
    /// This side ended it: it was replaced, or the program ends.
    #[error("closed on this side")]
    Done,
    /// What came in is no packet.
    #[error("what came in is not Underpass: {0}")]
    Packet(#[from] PacketError),
    /// A packet's content is wrong.
    #[error("a packet could not be read: {0}")]
    Malformed(#[from] DecodeError),
    /// The session gave the link up.
    #[error("{0}")]
    Leg(#[from] LegError),
    /// A routing header that the other side did not seal.
    #[error("a routing header was changed on its way, or forged")]
    Forged,
    /// The other side goes on asking, and does not read the answers.
    #[error("the other side does not read what it is told about its routes")]
    Unread,
    /// The other side refused to go on with the session.
    #[error("the other side refused: {text}")]
    Refused {
        /// From the table of codes.
        code: u64,
        /// In words.
        text: String,
    },
}

/// What is done with routed packets. The calls come one after the other from the link's reader and
/// must not block.
pub trait Router: Send + Sync + 'static {
    /// A routed packet arrived: its header, opened, and its payload as it was.
    fn routed(&self, link: &Arc<Link>, header: RouteHeader, payload: Bytes);
    /// The link is no more, and neither are its routes.
    fn link_down(&self, link: &Arc<Link>, why: &LinkEnd);
}

/// Something that has routed packets to send on a link.
pub trait RouteSource: Send + Sync + 'static {
    /// Adds packets until `out` is full or about 64 KiB were added, whichever is first. True when
    /// there may be more.
    fn pull(&self, link: &Link, out: &mut Outgoing) -> bool;
}

/// Names a source within its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(usize);

struct Slot {
    source: Arc<dyn RouteSource>,
    waiting: bool,
}

#[derive(Default)]
struct Sources {
    slots: Slab<Slot>,
    waiting: VecDeque<usize>,
    /// Routed packets that go before those of the sources.
    first: VecDeque<(RouteHeader, Bytes)>,
    /// Handed over when the session activates the link.
    sealer: Option<HeaderSealer>,
}

/// Opens routing headers of one link and direction: they are counted, each opened once.
struct HeaderOpener {
    key: OpeningKey,
    count: u64,
    /// Headers are opened into pieces of this, so that none needs an allocation of its own.
    room: BytesMut,
}

impl HeaderOpener {
    fn open(&mut self, sealed: &[u8], length: usize, payload: usize) -> Result<Bytes, LinkEnd> {
        if self.room.capacity() < length {
            self.room = BytesMut::with_capacity(HEADER_ROOM.max(length));
        }
        self.room.resize(length, 0);
        let aad = (payload as u64).to_be_bytes();
        self.key
            .open_into(Space::Reliable, self.count, &aad, sealed, &mut self.room)
            .map_err(|_| LinkEnd::Forged)?;
        self.count += 1;
        Ok(self.room.split().freeze())
    }
}

/// One carrier in use, with the hop's session.
pub struct Link {
    serial: u64,
    id: LegId,
    session: Session,
    info: CarrierInfo,
    speaks_to_us: Speaker,
    sources: Mutex<Sources>,
    opener: Mutex<Option<HeaderOpener>>,
    router: Arc<dyn Router>,
    writer: Arc<WriterSignal>,
    /// When a byte passed last, in either direction, in microseconds of the process's clock.
    last_byte: AtomicU64,
    /// Bytes of packets that passed, in both directions.
    passed: AtomicU64,
    ended: Mutex<Option<LinkEnd>>,
    /// The other side says that others are before us.
    told_to_wait: Notify,
    /// How long nothing had passed when the carrier ended by itself.
    cut_after: OnceLock<Duration>,
    ended_signal: Notify,
}

/// Wakes the writer; flags so that many wake-ups cost one.
struct WriterSignal {
    notify: Notify,
    session_waiting: AtomicBool,
    closing: AtomicBool,
    /// Another link has taken its place.
    replaced: AtomicBool,
    closing_signal: Notify,
}

impl WriterSignal {
    /// What is queued goes out, then the link ends.
    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.notify.notify_one();
        self.closing_signal.notify_one();
    }

    /// Comes to an end when an orderly end has taken too long: a carrier that takes nothing more,
    /// because its path is dead, would never be done.
    async fn overdue(&self) -> LinkEnd {
        self.closing_signal.notified().await;
        let limit = match self.replaced.load(Ordering::Acquire) {
            true => REPLACED_LIMIT,
            false => CLOSE_LIMIT,
        };
        tokio::time::sleep(limit).await;
        LinkEnd::Done
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// The hop session's view of its link.
pub(crate) struct HopPort {
    writer: Arc<WriterSignal>,
    link: Mutex<std::sync::Weak<Link>>,
}

impl HopPort {
    pub(crate) fn new() -> Arc<HopPort> {
        Arc::new(HopPort {
            writer: Arc::new(WriterSignal {
                notify: Notify::new(),
                session_waiting: AtomicBool::new(true),
                closing: AtomicBool::new(false),
                replaced: AtomicBool::new(false),
                closing_signal: Notify::new(),
            }),
            link: Mutex::new(std::sync::Weak::new()),
        })
    }
}

impl LegPort for HopPort {
    fn wake(&self) {
        if !self.writer.session_waiting.swap(true, Ordering::AcqRel) {
            self.writer.notify.notify_one();
        }
    }

    fn activated(&self, core: &core::Session) {
        if let Some(link) = lock(&self.link).upgrade() {
            link.set_route_keys(core);
        }
    }

    fn done(&self, replaced: bool) {
        self.writer.replaced.store(replaced, Ordering::Release);
        self.writer.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Sets the link going: `session` has (or is about to have) the leg `id` with `port`. What was
    /// read of the carrier after the handshake is in `decoder`.
    pub(crate) fn start(
        carrier: Carrier,
        decoder: PacketDecoder,
        session: Session,
        id: LegId,
        port: &Arc<HopPort>,
        router: Arc<dyn Router>,
    ) -> Arc<Link> {
        let speaks_to_us = match session.role() {
            Role::Initiator => Speaker::Relay,
            Role::Responder => Speaker::Agent,
        };
        let link = Arc::new(Link {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            id,
            session: session.clone(),
            info: carrier.info,
            speaks_to_us,
            sources: Mutex::default(),
            opener: Mutex::new(None),
            router,
            writer: port.writer.clone(),
            last_byte: AtomicU64::new(clock::now().as_micros()),
            passed: AtomicU64::new(0),
            ended: Mutex::new(None),
            told_to_wait: Notify::new(),
            cut_after: OnceLock::new(),
            ended_signal: Notify::new(),
        });
        *lock(&port.link) = Arc::downgrade(&link);
        // The session may have activated the leg before the link was there to be told.
        session.with_core(|core| {
            if core.is_active(id) {
                link.set_route_keys(core);
            }
        });
        tokio::spawn(run(link.clone(), carrier.sink, carrier.source, decoder));
        link
    }

    /// A number that no other link of this process has.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The leg of the hop's session.
    #[must_use]
    pub fn id(&self) -> LegId {
        self.id
    }

    /// The hop's session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What is known about the carrier.
    #[must_use]
    pub fn info(&self) -> &CarrierInfo {
        &self.info
    }

    /// Once per link: the headers are counted from then on.
    fn set_route_keys(&self, core: &core::Session) {
        let mut opener = lock(&self.opener);
        if opener.is_some() {
            return;
        }
        let (seal, open) = core.route_keys();
        *opener = Some(HeaderOpener {
            key: open,
            count: 0,
            room: BytesMut::new(),
        });
        lock(&self.sources).sealer = Some(HeaderSealer::new(seal));
        self.writer.notify.notify_one();
    }

    /// Adds a source of routed packets; it is pulled after [`Link::wake`].
    pub fn attach_source(&self, source: Arc<dyn RouteSource>) -> SourceId {
        SourceId(lock(&self.sources).slots.insert(Slot {
            source,
            waiting: false,
        }))
    }

    /// Removes a source.
    pub fn detach_source(&self, id: SourceId) {
        let mut sources = lock(&self.sources);
        if sources.slots.try_remove(id.0).is_some() {
            sources.waiting.retain(|waiting| *waiting != id.0);
        }
    }

    /// A source has something to send.
    pub fn wake(&self, id: SourceId) {
        let mut sources = lock(&self.sources);
        let Some(slot) = sources.slots.get_mut(id.0) else {
            return;
        };
        if !std::mem::replace(&mut slot.waiting, true) {
            sources.waiting.push_back(id.0);
            drop(sources);
            self.writer.notify.notify_one();
        }
    }

    /// Sends a routing header without a payload, before what the sources have.
    pub fn send_header(&self, header: RouteHeader) {
        self.send_routed(header, Bytes::new());
    }

    /// Sends one routed packet before what the sources have; for the few packets of a handshake.
    pub(crate) fn send_routed(&self, header: RouteHeader, payload: Bytes) {
        lock(&self.sources).first.push_back((header, payload));
        self.writer.notify.notify_one();
    }

    /// Asks whether the other side still answers: somebody waits for something that passes here, and
    /// what is routed is not acknowledged by the link's own session.
    pub(crate) fn ask(&self) {
        self.session
            .with(|state, now| state.core.ping(now, self.id));
    }

    /// Ends the link in an orderly way: what is queued goes out first.
    pub fn close(&self) {
        self.writer.close();
    }

    /// Waits until the other side has proven itself on this link, so that it carries the session
    /// (true), or the link or the session has ended before (false).
    pub async fn active(&self) -> bool {
        self.session.leg_active(self.id).await
    }

    /// Why the link ended, once it did.
    pub async fn ended(&self) -> LinkEnd {
        loop {
            let signal = self.ended_signal.notified();
            tokio::pin!(signal);
            signal.as_mut().enable();
            if let Some(end) = lock(&self.ended).clone() {
                return end;
            }
            signal.await;
        }
    }

    /// Waits until the other side says that others are before us, and that an answer will come. Cancel safe.
    pub(crate) async fn told_to_wait(&self) {
        self.told_to_wait.notified().await;
    }

    /// Where the carrier has ended by itself: for how long nothing had passed on it, in either
    /// direction.
    pub(crate) fn cut_after(&self) -> Option<Duration> {
        self.cut_after.get().copied()
    }

    /// Bytes of packets that passed, in both directions.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    fn bytes_passed(&self, count: usize) {
        let now = clock::now().as_micros();
        self.last_byte.store(now, Ordering::Relaxed);
        self.passed.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn end(&self, end: LinkEnd) {
        if matches!(end, LinkEnd::Carrier(_) | LinkEnd::Closed) {
            let last = Time::from_micros(self.last_byte.load(Ordering::Relaxed));
            let _ = self.cut_after.set(clock::now().since(last));
        }
        *lock(&self.ended) = Some(end);
        self.ended_signal.notify_waiters();
    }

    /// Whether the link has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        lock(&self.ended).is_some()
    }

    /// Fills `out` from the session and the sources in turn.
    fn pull(&self, out: &mut Outgoing) {
        if let Some(sealer) = lock(&self.sources).sealer.take() {
            out.set_sealer(sealer);
        }
        if self.writer.session_waiting.swap(false, Ordering::AcqRel) {
            // Half of the queue at the most: the other half is for the routes.
            let end = out.len() + TURN;
            let more = self.session.pull(self.id, |packet| {
                out.push_packet(packet);
                !out.is_full() && out.len() < end
            });
            if more {
                self.writer.session_waiting.store(true, Ordering::Release);
            }
        }
        if !out.can_route() {
            return;
        }
        let first = std::mem::take(&mut lock(&self.sources).first);
        for (header, payload) in first {
            out.push_routed(&header, payload);
        }
        while !out.is_full() {
            let next = {
                let mut sources = lock(&self.sources);
                let Some(id) = sources.waiting.pop_front() else {
                    break;
                };
                sources.slots.get_mut(id).map(|slot| {
                    slot.waiting = false;
                    (SourceId(id), slot.source.clone())
                })
            };
            if let Some((id, source)) = next
                && source.pull(self, out)
            {
                self.wake(id);
            }
        }
    }

    fn handle(self: &Arc<Self>, packet: Packet) -> Result<(), LinkEnd> {
        match packet.kind {
            PacketKind::Routed => self.handle_routed(packet.body),
            PacketKind::Padding => {
                // What comes back of a probation has a body.
                if packet.body.is_empty() {
                    self.told_to_wait.notify_one();
                }
                Ok(())
            }
            PacketKind::Refused => {
                let refused = Refused::decode(packet.body)?;
                Err(LinkEnd::Refused {
                    code: refused.code,
                    text: refused.text,
                })
            }
            _ => Ok(self.session.handle_packet(self.id, packet)?),
        }
    }

    fn handle_routed(self: &Arc<Self>, body: Bytes) -> Result<(), LinkEnd> {
        if lock(&self.sources).first.len() > MOST_FIRST {
            return Err(LinkEnd::Unread);
        }
        let (sealed, payload) = route::split_routed(body)?;
        let length = sealed.len().checked_sub(TAG_LEN).ok_or(LinkEnd::Forged)?;
        let plain = {
            let mut opener = lock(&self.opener);
            let opener = opener.as_mut().ok_or(LinkEnd::Forged)?;
            opener.open(&sealed, length, payload.len())?
        };
        let header = RouteHeader::decode_whole(self.speaks_to_us, plain)?;
        self.router.routed(self, header, payload);
        Ok(())
    }
}

/// Reads and writes until either has ended, then cleans up.
async fn run(
    link: Arc<Link>,
    mut sink: Box<dyn Sink>,
    mut source: Box<dyn Source>,
    mut decoder: PacketDecoder,
) {
    let end = {
        let reading = read(&link, source.as_mut(), &mut decoder);
        let writing = write(&link, sink.as_mut());
        tokio::pin!(reading, writing);
        tokio::select! {
            end = &mut reading => end,
            end = &mut writing => end,
            end = link.writer.overdue() => end,
        }
    };
    if let LinkEnd::Leg(LegError::Refused(code)) = &end {
        refuse(sink.as_mut(), *code).await;
    }
    tracing::debug!(link = %link.id, carrier = link.info.carrier, "link ended: {end}");
    link.end(end.clone());
    link.router.link_down(&link, &end);
    link.session.leg_lost(link.id);
    link.session.note_change();
}

async fn read(link: &Arc<Link>, source: &mut dyn Source, decoder: &mut PacketDecoder) -> LinkEnd {
    let mut silence = Silence::new();
    loop {
        loop {
            match decoder.next() {
                Ok(Some(packet)) => {
                    silence.heard(packet.kind);
                    if let Err(end) = link.handle(packet) {
                        return end;
                    }
                }
                Ok(None) => break,
                Err(error) => return error.into(),
            }
        }
        let receiving = poll_fn(|cx| source.poll_recv(cx));
        let received = match silence.unexpected_after() {
            None => receiving.await,
            Some(limit) => match tokio::time::timeout(limit, receiving).await {
                Ok(received) => received,
                Err(_) => {
                    link.ask();
                    silence.asked();
                    continue;
                }
            },
        };
        match received {
            Some(Ok(chunk)) => {
                link.bytes_passed(chunk.len());
                decoder.push(chunk);
            }
            Some(Err(error)) => return error.into(),
            None => return LinkEnd::Closed,
        }
    }
}

/// When a link that was busy falls silent, somebody should ask: who only receives has nothing under
/// way that an acknowledgement would be missed for. The longer it stays silent the less often; an
/// idle link is left to the session's own pings.
struct Silence {
    wait: Option<Duration>,
}

impl Silence {
    const FIRST: Duration = Duration::from_millis(500);
    const LAST: Duration = Duration::from_secs(8);

    fn new() -> Self {
        Silence { wait: None }
    }

    /// Answers to our own questions are no traffic.
    fn heard(&mut self, kind: PacketKind) {
        if matches!(kind, PacketKind::Routed | PacketKind::Reliable) {
            self.wait = Some(Self::FIRST);
        }
    }

    fn unexpected_after(&self) -> Option<Duration> {
        self.wait
    }

    fn asked(&mut self) {
        self.wait = self
            .wait
            .map(|wait| wait * 2)
            .filter(|wait| *wait <= Self::LAST);
    }
}

async fn write(link: &Arc<Link>, sink: &mut dyn Sink) -> LinkEnd {
    let mut out = Outgoing::default();
    loop {
        let notified = link.writer.notify.notified();
        link.pull(&mut out);
        if out.is_empty() {
            if link.writer.closing.load(Ordering::Acquire) {
                let closing = poll_fn(|cx| sink.poll_close(cx));
                let _ = tokio::time::timeout(CLOSE_LIMIT, closing).await;
                return LinkEnd::Done;
            }
            // A flush may last as long as the other side takes to answer. What comes up meanwhile, such as the ping
            // that finds out whether it still does, must not wait for it.
            tokio::select! {
                Err(error) = poll_fn(|cx| sink.poll_flush(cx)) => return error.into(),
                () = notified => {}
            }
            continue;
        }
        let before = out.len();
        if let Err(error) = poll_fn(|cx| sink.poll_send(cx, &mut out.queue)).await {
            return error.into();
        }
        out.recount();
        link.bytes_passed(before.saturating_sub(out.len()));
    }
}

/// Tells the other side why its session is not gone on with.
async fn refuse(sink: &mut dyn Sink, code: u64) {
    let text = underpass_proto::code::describe(code);
    let packet = Refused { code, text }.to_packet();
    let mut bytes = Vec::new();
    packet.encode(&mut bytes);
    let mut queue = VecDeque::from([Bytes::from(bytes)]);
    let sending = async {
        while !queue.is_empty() {
            poll_fn(|cx| sink.poll_send(cx, &mut queue)).await?;
        }
        poll_fn(|cx| sink.poll_close(cx)).await
    };
    let _ = tokio::time::timeout(CLOSE_LIMIT, sending).await;
}
