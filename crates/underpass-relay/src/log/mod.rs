//! The relay's log of events: what happened on the way into the store.
//!
//! Writing never waits for the store: events go through a bounded queue, and when that is full the
//! number of those left out is written instead, with the time that they fell in.

mod gap;
mod ledger;
mod repeats;
#[cfg(test)]
mod tests;
mod writer;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use underpass_carrier::SourceLimit;
pub(crate) use underpass_proto::event::EventKind as Kind;
use underpass_proto::packet::SessionId;
use underpass_store::{EventFilter, EventId, Fault, NewEvent, Store, UnixMillis};

use crate::clock;
use crate::hub::{Ended, Opened, RouteEvent, RouteNews};
use crate::refusal::Refusal;
use gap::Gap;
pub(crate) use ledger::Ledger;
use repeats::Repeats;
pub(crate) use writer::{Destination, LogWriter, forget_old};

/// The name of the detail that says which relay of a group wrote an event.
const RELAY: &str = "relay";
/// Starts and stops that are looked at for the last ones of this relay: more than a group has relays.
const STARTS: u32 = 64;

/// An event on its way.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    kind: Kind,
    at: UnixMillis,
    actor: Option<String>,
    peer: Option<String>,
    address: Option<String>,
    details: serde_json::Map<String, serde_json::Value>,
}

impl Note {
    /// An event of this kind, now.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            at: clock::calendar(),
            actor: None,
            peer: None,
            address: None,
            details: serde_json::Map::new(),
        }
    }

    /// Who did it.
    pub(crate) fn by(mut self, user: &str) -> Self {
        self.actor = Some(user.to_owned());
        self
    }

    /// To whom.
    pub(crate) fn to(mut self, user: &str) -> Self {
        self.peer = Some(user.to_owned());
        self
    }

    /// From where.
    pub(crate) fn from(mut self, address: Option<&str>) -> Self {
        self.address = address.map(str::to_owned);
        self
    }

    /// More about it. Never a secret.
    pub(crate) fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// A source has reached a limit. Its port is not named: with another one each time no note would repeat another.
    pub(crate) fn of_source(limit: SourceLimit, source: Option<IpAddr>) -> Self {
        let source = source.map(|source| source.to_string());
        let note = Note::new(Kind::Limit).with("limit", limit.words());
        note.from(source.as_deref())
    }

    /// A refusal: of this kind, or the hit of a limit if it is one.
    pub(crate) fn of_refusal(kind: Kind, why: &Refusal) -> Self {
        if why.is_limit() {
            Note::new(Kind::Limit)
                .with("code", why.code.up())
                .with("limit", why.text.as_str())
        } else {
            Note::new(kind).with("code", why.code.up())
        }
    }

    /// What the hub says about a route; of one that has ended, with what passed there and back, and for
    /// how long it was there.
    pub(crate) fn of_route(event: RouteEvent, passed: Option<Passed>) -> Self {
        let RouteEvent {
            opener: _,
            user,
            machine,
            service,
            owner,
            session,
            news,
        } = event;
        let mut note = match news {
            RouteNews::Opened(Opened::New) => Note::new(Kind::Connect),
            RouteNews::Opened(Opened::Again { beside }) => {
                Note::new(Kind::Resume).with("beside", beside)
            }
            RouteNews::Opened(Opened::FromElsewhere) => Note::new(Kind::Failover),
            RouteNews::Refused(why) => Note::of_refusal(Kind::Refuse, &why),
            RouteNews::Ended(Ended { code, by, .. }) => Note::new(Kind::Disconnect)
                .with("code", underpass_proto::code::name(code))
                .with("by", by.word()),
        };
        if let Some(Passed {
            sent,
            received,
            seconds,
        }) = passed
        {
            note = note
                .with("sent", sent)
                .with("received", received)
                .with("seconds", seconds);
        }
        if let Some(session) = session {
            note = note.with("session", short(&session));
        }
        note.peer = owner;
        note.by(&user)
            .with("machine", machine)
            .with("service", service)
    }

    fn into_event(mut self, relay: &str) -> NewEvent {
        self.details.insert(RELAY.to_owned(), relay.into());
        NewEvent {
            at: self.at,
            kind: self.kind.word().to_owned(),
            actor: self.actor,
            peer: self.peer,
            address: self.address,
            details: serde_json::Value::Object(self.details).to_string(),
        }
    }
}

/// What passed on a route, or to a service of the relay's own, seen from the user who opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Bytes from the user to the service.
    pub(crate) sent: u64,
    /// Bytes back.
    pub(crate) received: u64,
    /// For how long it was there.
    pub(crate) seconds: u64,
}

/// Enough of a session's random id to tell it from others.
pub(crate) fn short(session: &SessionId) -> String {
    session.0[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Where events are handed in; clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    queue: mpsc::Sender<Note>,
    missed: Arc<Mutex<Gap>>,
}

/// A log for whoever may outlive it: the writer ends although there is one of these.
#[derive(Clone, Debug)]
pub(crate) struct WeakLog {
    queue: mpsc::WeakSender<Note>,
    missed: Arc<Mutex<Gap>>,
}

impl WeakLog {
    /// The log, unless it has ended.
    pub(crate) fn upgrade(&self) -> Option<Log> {
        Some(Log {
            queue: self.queue.upgrade()?,
            missed: Arc::clone(&self.missed),
        })
    }
}

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// For how long.
    pub(crate) age: Duration,
    /// At most so many events.
    pub(crate) count: u64,
}

impl Log {
    /// A log with room for so many events that wait for the store, and what writes it.
    pub(crate) fn new(room: usize) -> (Self, LogWriter) {
        let (sender, queue) = mpsc::channel(room.max(1));
        let missed = Arc::new(Mutex::default());
        let log = Self {
            queue: sender,
            missed: Arc::clone(&missed),
        };
        let writer = LogWriter {
            queue,
            missed,
            repeats: Repeats::default(),
            batch: Vec::new(),
            gap: Gap::default(),
            failing: false,
        };
        (log, writer)
    }

    /// The same, without keeping it open.
    pub(crate) fn weak(&self) -> WeakLog {
        WeakLog {
            queue: self.queue.downgrade(),
            missed: Arc::clone(&self.missed),
        }
    }

    /// Hands in an event.
    pub(crate) fn write(&self, note: Note) {
        let at = note.at;
        if self.queue.try_send(note).is_err() {
            let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
            missed.add(at);
        }
    }

    /// Writes an event before anything goes on, so that it is there whatever comes after. Where the store cannot take it
    /// now, it waits with the others.
    pub(crate) async fn write_now(&self, store: &dyn Store, relay: &str, note: Note) {
        let event = note.clone().into_event(relay);
        if store.append_events(&[event]).await.is_err() {
            self.write(note);
        }
    }
}

/// Whether the last time that this relay ran it did not stop in order, by its own events.
///
/// # Errors
/// The store cannot be asked.
pub(crate) async fn ended_unclean(store: &dyn Store, relay: &str) -> Result<bool, Fault> {
    let started = last(store, Kind::Start, relay).await?;
    let stopped = last(store, Kind::Stop, relay).await?;
    Ok(started > stopped)
}

async fn last(store: &dyn Store, kind: Kind, relay: &str) -> Result<Option<EventId>, Fault> {
    let filter = EventFilter {
        kind: Some(kind.word().to_owned()),
        limit: STARTS,
        ..EventFilter::default()
    };
    let events = store.events(&filter).await?;
    let ours = events.into_iter().find(|it| {
        let details = serde_json::from_str::<serde_json::Value>(&it.event.details);
        details.is_ok_and(|details| details[RELAY] == relay)
    });
    Ok(ours.map(|it| it.id))
}
