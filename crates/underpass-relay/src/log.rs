//! The relay's log of events: what happened on the way into the store.
//!
//! Writing never waits for the store: events go through a bounded queue, and when that is full the
//! number of those left out is written instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use underpass_store::{EventRetention, NewEvent, Store, UnixMillis};

use crate::clock;
use crate::hub::RouteEvent;

/// Events that may wait for the store.
const QUEUE: usize = 1024;
/// Events that are written together.
const BATCH: usize = 128;
/// How often old events and invitations are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What happened: the stable words of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The relay began to serve.
    Start,
    /// The relay stopped.
    Stop,
    /// A machine was enrolled.
    Enrol,
    /// A machine was not enrolled.
    EnrolRefused,
    /// A new user has registered, and waits for approval.
    Register,
    /// A user who waited was let in.
    Approve,
    /// A user who waited was not let in, and is forgotten.
    Deny,
    /// A user was shut out.
    Disable,
    /// A user was let in again.
    Enable,
    /// A user got another role.
    Role,
    /// A user's password was set.
    Password,
    /// An enrolled machine attached.
    Attach,
    /// An enrolled machine's attachment ended.
    Detach,
    /// Somebody was invited.
    Invite,
    /// A service was published.
    Publish,
    /// A service was withdrawn.
    Withdraw,
    /// A manager has approved a service.
    ServiceApprove,
    /// A manager has refused a service.
    ServiceRefuse,
    /// It was said whether what a user publishes waits for approval.
    Publishing,
    /// An entry of an access list was set.
    Access,
    /// A machine was shut out.
    Revoke,
    /// A token for a bare HTTP client was made.
    Token,
    /// A user was connected to a service.
    Connect,
    /// A user was not connected to a service, or no longer.
    Refuse,
    /// Events were left out for want of time.
    Lost,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Start => "start",
            Kind::Stop => "stop",
            Kind::Enrol => "enrol",
            Kind::EnrolRefused => "enrol-refused",
            Kind::Register => "register",
            Kind::Approve => "approve",
            Kind::Deny => "deny",
            Kind::Disable => "disable",
            Kind::Enable => "enable",
            Kind::Role => "role",
            Kind::Password => "password",
            Kind::Attach => "attach",
            Kind::Detach => "detach",
            Kind::Invite => "invite",
            Kind::Publish => "publish",
            Kind::Withdraw => "withdraw",
            Kind::ServiceApprove => "service-approve",
            Kind::ServiceRefuse => "service-refuse",
            Kind::Publishing => "publishing",
            Kind::Access => "access",
            Kind::Revoke => "revoke",
            Kind::Token => "token",
            Kind::Connect => "connect",
            Kind::Refuse => "refuse",
            Kind::Lost => "lost",
        }
    }
}

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

    /// What the hub says about a route.
    pub(crate) fn of_route(kind: Kind, event: RouteEvent) -> Self {
        let RouteEvent {
            user,
            machine,
            service,
            owner,
            refused,
        } = event;
        let mut note = Note::new(kind)
            .by(&user)
            .with("machine", machine)
            .with("service", service);
        note.peer = owner;
        match refused {
            Some(why) => note.with("code", why.code.up()),
            None => note,
        }
    }

    fn into_event(self) -> NewEvent {
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

/// Where events are handed in; clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    queue: mpsc::Sender<Note>,
    lost: Arc<AtomicU64>,
}

/// What writes the events of a [`Log`] to the store.
pub(crate) struct LogWriter {
    queue: mpsc::Receiver<Note>,
    lost: Arc<AtomicU64>,
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
    /// A log, and what writes it.
    pub(crate) fn new() -> (Self, LogWriter) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let log = Self {
            queue: sender,
            lost: Arc::clone(&lost),
        };
        (log, LogWriter { queue, lost })
    }

    /// Hands in an event.
    pub(crate) fn write(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl LogWriter {
    /// Writes events until the last [`Log`] is gone, and forgets old ones from time to time.
    pub(crate) async fn run(mut self, store: Arc<dyn Store>, keep: Keep) {
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                count = self.queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    let lost = self.lost.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        batch.push(Note::new(Kind::Lost).with("events", lost));
                    }
                    append(store.as_ref(), batch.drain(..)).await;
                }
                _ = prune.tick() => forget_old(store.as_ref(), keep).await,
            }
        }
    }
}

async fn append(store: &dyn Store, notes: impl Iterator<Item = Note>) {
    let events: Vec<NewEvent> = notes.map(Note::into_event).collect();
    if let Err(error) = store.append_events(&events).await {
        tracing::warn!(events = events.len(), "events were not written: {error}");
    }
}

async fn forget_old(store: &dyn Store, keep: Keep) {
    let now = clock::calendar();
    let retention = EventRetention {
        not_before: Some(now.saturating_sub(keep.age)),
        at_most: Some(keep.count),
    };
    let pruned = store.prune_events(retention).await;
    let invitations = store.prune_invitations(now.saturating_sub(keep.age)).await;
    for result in [pruned, invitations] {
        if let Err(error) = result {
            tracing::warn!("old events were not forgotten: {error}");
        }
    }
}
