//! One direction of one route, between the link that its packets come in on and the one that they go
//! out on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use underpass_endpoint::{Link, Outgoing, RouteSource, SourceId};
use underpass_proto::Time;
use underpass_proto::route::{self, Gone, Incoming, RouteHeader};

use crate::clock;
use crate::meter::{Direction, Meter};
use crate::queue::{Marks, Queue, Room, Told};

/// Bytes that one lane adds to a link before the next one has its turn.
const TURN: usize = 64 * 1024;

/// What all lanes of a relay share.
#[derive(Debug)]
pub(crate) struct Pool {
    marks: Marks,
    room: Arc<Room>,
    /// Lanes that dropped something for want of room and hold nothing whose way out would help them.
    starved: Mutex<Vec<Weak<Lane>>>,
    any_starved: AtomicBool,
}

impl Pool {
    /// A pool of `room` bytes.
    pub(crate) fn new(marks: Marks, room: usize) -> Arc<Self> {
        Arc::new(Self {
            marks,
            room: Room::new(room),
            starved: Mutex::default(),
            any_starved: AtomicBool::new(false),
        })
    }

    /// Bytes that all lanes hold.
    pub(crate) fn used(&self) -> usize {
        self.room.used()
    }

    fn note_starved(&self, lane: &Arc<Lane>) {
        lock(&self.starved).push(Arc::downgrade(lane));
        self.any_starved.store(true, Ordering::Release);
        // Room may have been made since the lane looked.
        self.relieve();
    }

    /// Tells the senders of starved lanes to try again, once there is ample room.
    fn relieve(&self) {
        if !self.any_starved.load(Ordering::Acquire) || !self.room.is_ample() {
            return;
        }
        self.any_starved.store(false, Ordering::Release);
        let starved = std::mem::take(&mut *lock(&self.starved));
        for lane in starved.iter().filter_map(Weak::upgrade) {
            if lane.relieve() {
                // Others were faster: the next one to make room tries again.
                lock(&self.starved).push(Arc::downgrade(&lane));
                self.any_starved.store(true, Ordering::Release);
            }
        }
    }
}

/// One direction of one route.
#[derive(Debug)]
pub(crate) struct Lane {
    pool: Arc<Pool>,
    /// Where packets come from: who is told to wait.
    sender: Weak<Link>,
    sender_route: u32,
    /// When it was made.
    since: Time,
    /// Payload that was taken in from the sender, in bytes.
    passed: AtomicU64,
    /// This one, for who wakes it later.
    me: Weak<Lane>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    exit: Option<Exit>,
    /// Goes out after everything else, and is the end.
    farewell: Option<Gone>,
    closed: bool,
    /// What goes out is counted there, and goes no faster than that allows.
    meter: Option<(Arc<Meter>, Direction)>,
    /// It is being waited for until it may go on.
    paced: bool,
}

/// Where packets go.
#[derive(Debug)]
struct Exit {
    link: Weak<Link>,
    route: u32,
    source: SourceId,
    /// The header of the first packet, if it is not a plain one.
    opening: Option<Incoming>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is the first one of the lane.
    First,
    /// One of many, or dropped.
    Further,
}

impl Lane {
    /// A lane that packets of `route` of `sender` can be put into. They stay until it has an exit.
    pub(crate) fn new(pool: &Arc<Pool>, sender: &Arc<Link>, route: u32) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            pool: Arc::clone(pool),
            sender: Arc::downgrade(sender),
            sender_route: route,
            since: clock::now(),
            passed: AtomicU64::new(0),
            state: Mutex::new(State {
                queue: Queue::new(pool.marks, Arc::clone(&pool.room)),
                exit: None,
                farewell: None,
                closed: false,
                meter: None,
                paced: false,
            }),
        })
    }

    /// What goes out from now on is counted by this meter, and goes no faster than it allows: what has to wait fills the
    /// queue, and whoever sends it is told to wait.
    pub(crate) fn measure(&self, meter: Arc<Meter>, direction: Direction) {
        self.lock().meter = Some((meter, direction));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives the lane its exit; what has gathered goes out, the first packet under `opening`.
    pub(crate) fn set_exit(
        self: &Arc<Self>,
        link: &Arc<Link>,
        route: u32,
        opening: Option<Incoming>,
    ) {
        let source = link.attach_source(self.clone());
        {
            let mut state = self.lock();
            if state.closed {
                drop(state);
                return link.detach_source(source);
            }
            state.exit = Some(Exit {
                link: Arc::downgrade(link),
                route,
                source,
                opening,
            });
        }
        link.wake(source);
    }

    /// Takes a packet from the sender.
    pub(crate) fn push(self: &Arc<Self>, payload: Bytes) -> Pushed {
        let (told, starved, wake, pushed) = {
            let mut state = self.lock();
            if state.closed || state.farewell.is_some() {
                return Pushed::Further;
            }
            let (len, before) = (payload.len(), state.queue.bytes());
            let told = state.queue.push(payload);
            // What was dropped comes again.
            if state.queue.bytes() > before {
                self.passed.fetch_add(len as u64, Ordering::Relaxed);
            }
            let first = state.queue.received() == 1;
            let pushed = if first {
                Pushed::First
            } else {
                Pushed::Further
            };
            (told, state.queue.is_starved(), state.way_out(), pushed)
        };
        if let Some((link, source)) = wake {
            link.wake(source);
        }
        self.tell(told);
        if starved {
            self.pool.note_starved(self);
        }
        pushed
    }

    /// When it was made.
    pub(crate) fn since(&self) -> Time {
        self.since
    }

    /// Payload that was taken in, in bytes: sealed packets, without the headers of the hop.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Sends on what had to wait, at that time.
    fn go_on_at(&self, at: Time) {
        let me = Weak::clone(&self.me);
        tokio::spawn(async move {
            tokio::time::sleep_until(clock::instant(at)).await;
            let Some(lane) = me.upgrade() else {
                return;
            };
            let way_out = {
                let mut state = lane.lock();
                state.paced = false;
                state.way_out()
            };
            if let Some((link, source)) = way_out {
                link.wake(source);
            }
        });
    }

    /// Whether nothing waits in the lane.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Tells the sender of room that was made. True when there is none again.
    fn relieve(&self) -> bool {
        let (told, starved) = {
            let mut state = self.lock();
            (state.queue.relieve(), state.queue.is_starved())
        };
        self.tell(told);
        starved
    }

    fn tell(&self, told: Told) {
        if told.is_empty() {
            return;
        }
        let Some(sender) = self.sender.upgrade() else {
            return;
        };
        let route = self.sender_route;
        if let Some(run) = told.dropped {
            let (first, count) = (run.first, run.count);
            sender.send_header(
                route::Dropped {
                    route,
                    first,
                    count,
                }
                .into(),
            );
        }
        if told.wait {
            sender.send_header(route::Wait { route }.into());
        }
        if told.go_on {
            sender.send_header(route::GoOn { route }.into());
        }
    }

    /// Nothing more is taken in; what waits goes out, then `gone`.
    pub(crate) fn finish(&self, gone: Gone) {
        let way_out = {
            let mut state = self.lock();
            state.farewell = Some(gone);
            state.way_out()
        };
        if let Some((link, source)) = way_out {
            link.wake(source);
        }
    }

    /// Lets go of everything.
    pub(crate) fn close(&self) {
        let way_out = {
            let mut state = self.lock();
            state.closed = true;
            state.queue.clear();
            let way_out = state.way_out();
            state.exit = None;
            way_out
        };
        if let Some((link, source)) = way_out {
            link.detach_source(source);
        }
        self.pool.relieve();
    }
}

/// Whether a lane has more to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    No,
    Now,
    /// It has to wait until then.
    At(Time),
}

impl State {
    fn way_out(&self) -> Option<(Arc<Link>, SourceId)> {
        let exit = self.exit.as_ref()?;
        Some((exit.link.upgrade()?, exit.source))
    }

    /// Adds packets to `out`; what the sender is to be told comes back.
    fn pull(&mut self, out: &mut Outgoing) -> (Vec<Told>, More) {
        let mut told = Vec::new();
        let end = out.len() + TURN;
        let Some(exit) = &mut self.exit else {
            return (told, More::No);
        };
        while !out.is_full() && out.len() < end {
            if self.queue.is_empty() {
                return (told, More::No);
            }
            if let Some((meter, direction)) = &self.meter
                && let Err(at) = meter.ready(*direction)
            {
                let first = !std::mem::replace(&mut self.paced, true);
                return (told, if first { More::At(at) } else { More::No });
            }
            let Some((payload, news)) = self.queue.pull() else {
                return (told, More::No);
            };
            if let Some((meter, direction)) = &self.meter {
                meter.pass(*direction, payload.len());
            }
            if !news.is_empty() {
                told.push(news);
            }
            let header: RouteHeader = match exit.opening.take() {
                Some(incoming) => incoming.into(),
                None => route::Data { route: exit.route }.into(),
            };
            out.push_routed(&header, payload);
        }
        (told, More::Now)
    }

    /// Ends the lane if its farewell is all that is left.
    fn say_farewell(&mut self, out: &mut Outgoing) -> Option<SourceId> {
        if !self.queue.is_empty() {
            return None;
        }
        let gone = self.farewell.take()?;
        let exit = self.exit.take()?;
        self.closed = true;
        // Whoever was never told of the route need not be told of its end.
        if exit.opening.is_none() {
            out.push_routed(&gone.into(), Bytes::new());
        }
        Some(exit.source)
    }
}

impl RouteSource for Lane {
    fn pull(&self, link: &Link, out: &mut Outgoing) -> bool {
        let (told, more, done) = {
            let mut state = self.lock();
            let (told, more) = state.pull(out);
            (told, more, state.say_farewell(out))
        };
        if let Some(source) = done {
            link.detach_source(source);
        }
        for told in told {
            self.tell(told);
        }
        self.pool.relieve();
        if let More::At(at) = more {
            self.go_on_at(at);
        }
        more == More::Now && done.is_none()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
