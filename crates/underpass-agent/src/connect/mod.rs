//! Using services of others: sessions that all local connections share, local listeners, and
//! standard input and output.

pub(crate) mod datagrams;
mod lead;
mod listen;
mod listeners;
mod local;
mod opened;
mod plan;
mod sources;
mod stdio;
mod trust;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use thiserror::Error;
use underpass_endpoint::{Channel, ChannelError, ConnectError, OpenOptions, PeerTrust, Session};
use underpass_proto::control::{FarEnd, Resolved, ServiceRow};
use underpass_proto::far_host::{FarHost, FarPort, open_text, readings, split_port};
use underpass_proto::frame::{ChannelKind, Class};
use underpass_proto::{Code, Grade};
use underpass_seal::PublicKey;

use crate::ftp::{Asked, Expected};
use crate::standing::RequestError;
use crate::standings::Standings;
use crate::status::{Board, SessionEntry, Shown};

pub(crate) use opened::Opened;

pub use datagrams::FlowLimits;
pub use lead::LeadError;
pub use listen::{ListenError, Listener};
pub use listeners::{Change, Listeners};
pub use local::{Local, LocalError};
pub use plan::Wanted;
pub(crate) use sources::Block;
pub use sources::{Sources, SourcesError};
pub use stdio::{NcError, nc};
pub use trust::PinnedTrust;

/// How long a program that is done waits for what it wrote to arrive.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// Between looks at what is under way.
const DRAIN_STEP: Duration = Duration::from_millis(10);
/// So many names are remembered with what they mean; with one more all are asked for anew. Programs may ask for any number
/// of hosts of a network.
const REMEMBERED: usize = 4096;

/// Why a service could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The relay does not say where it is.
    #[error(transparent)]
    Resolve(#[from] RequestError),
    /// The relay names another service than the one that was asked for.
    #[error("{asked} was asked for, and the relay names {named}")]
    Misnamed {
        /// What was asked for.
        asked: String,
        /// What the relay says that it is.
        named: String,
    },
    /// There is no session with its publisher.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It, or its publisher, refused.
    #[error(transparent)]
    Refused(#[from] ChannelError),
    /// It is a host of a network that is published, of which a port must be named.
    #[error("{0} is a host of a published network, of which a port must be named: {0}:PORT")]
    NoPort(String),
    /// It is a host whose name is longer than can be asked for.
    #[error("{0} is too long for a host of a published network")]
    TooLong(String),
}

/// An error with its code behind it, unless its words end with that: what the other side said does.
pub(crate) fn with_code(error: &impl std::fmt::Display, code: Code) -> String {
    let (mut text, code) = (error.to_string(), code.up());
    if !text.contains(code) {
        text += &format!(" [{code}]");
    }
    text
}

impl OpenError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Resolve(error) => error.code(),
            Self::Misnamed { .. } => Code::ProtocolViolation,
            Self::Connect(error) => error.code(),
            Self::Refused(error) => error.code(),
            Self::NoPort(_) => Code::HostNeeded,
            Self::TooLong(_) => Code::NameInvalid,
        }
    }

    /// Whether the session ended while it was being used, so that a new one may do.
    fn session_ended(&self) -> bool {
        matches!(self, Self::Refused(ChannelError::SessionClosed(_)))
    }
}

/// What a relay said about a name.
#[derive(Debug, Clone)]
struct Found {
    /// Which relay.
    relay: usize,
    /// The service, as it was asked for.
    service: String,
    /// What that is.
    resolved: Resolved,
    /// The host in it, where it is a network.
    host: Option<FarHost>,
}

impl Found {
    /// What is to be opened for a program that wants `port` of what `name` means. A service leads to its one address by any
    /// port.
    fn to_open(&self, name: &str, port: Option<u16>) -> Result<String, OpenError> {
        let full_name = &self.resolved.full_name;
        let Some(host) = self.host.clone() else {
            return Ok(full_name.clone());
        };
        let Some(port) = port else {
            return Err(OpenError::NoPort(name.to_owned()));
        };
        // All services of a publisher have one owner.
        let service = full_name.split('.').next().unwrap_or_default();
        let text = open_text(service, &FarPort { host, port });
        text.ok_or_else(|| OpenError::TooLong(name.to_owned()))
    }
}

/// Opens channels to services, over one session for each publisher. Clones share the sessions.
///
/// A service is named `SERVICE` or `SERVICE.OWNER`, and a host of a network that is published as one `HOST.SERVICE:PORT` or
/// `HOST.SERVICE.OWNER:PORT`, as [`far_host`](underpass_proto::far_host) has it.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    standings: Standings,
    trust: PinnedTrust,
    class: Class,
    grade: Grade,
    board: Board,
    /// What a relay said about names, and which one; forgotten when it turns out to be wrong.
    resolved: Mutex<HashMap<String, Found>>,
    slots: Mutex<HashMap<PublicKey, Arc<Slot>>>,
    /// Where data connections of FTP are waited for.
    expected: Expected,
}

/// Waits until nothing of what was written is under way, and only `staying` channels are left.
pub(crate) async fn drained(session: &Session, staying: usize) {
    loop {
        let status = session.status();
        if status.closed.is_some() || (status.channels <= staying && status.unacknowledged == 0) {
            return;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
}

/// Waits until what was written in a session that the peer began has arrived, for a few seconds at the most: for a
/// program that ends afterwards.
pub async fn arrived(session: &Session) {
    let _ = tokio::time::timeout(FINISH_LIMIT, drained(session, 0)).await;
}

/// Where the session with one publisher is kept. Whoever makes it holds the lock, so that others wait
/// for it and do not make their own.
type Slot = tokio::sync::Mutex<Option<Held>>;

/// A session with a publisher.
struct Held {
    session: Session,
    /// The key that the publisher has proven.
    key: PublicKey,
    /// The services whose publisher is known to have this key.
    services: HashSet<String>,
    _shown: Shown,
}

/// Remembers the key that was found to be trusted.
struct Noting<'a> {
    trust: &'a PinnedTrust,
    key: OnceLock<PublicKey>,
}

impl PeerTrust for Noting<'_> {
    fn check(&self, service: &str, peer: &PublicKey) -> Result<(), String> {
        self.trust.check(service, peer)?;
        // One that is tried again shows the same key: any other would not be trusted by now.
        let _ = self.key.set(*peer);
        Ok(())
    }
}

/// Whether a service that was asked for as `asked` may have this full name: nobody is led to another one. Left out can be
/// the suffix, the owner, or both.
fn is_named(asked: &str, full_name: &str) -> bool {
    let asked = asked
        .strip_suffix('.')
        .unwrap_or(asked)
        .to_ascii_lowercase();
    let Some((service, rest)) = full_name.split_once('.') else {
        return asked == full_name;
    };
    let suffix = rest.split_once('.').map(|(_, suffix)| suffix);
    match asked.split_once('.') {
        None => asked == service,
        Some((of, _)) if of != service => false,
        Some((_, more)) => {
            let begins = rest.strip_prefix(more);
            begins.is_some_and(|left| left.is_empty() || left.starts_with('.'))
                || suffix == Some(more)
        }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector")
            .field(&self.inner.standings)
            .finish()
    }
}

impl Connector {
    /// Channels will have the priority `class`, sessions the grade of secrecy `grade`.
    #[must_use]
    pub fn new(
        standings: impl Into<Standings>,
        trust: PinnedTrust,
        class: Class,
        grade: Grade,
        board: Board,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                standings: standings.into(),
                trust,
                class,
                grade,
                board,
                resolved: Mutex::default(),
                slots: Mutex::default(),
                expected: Expected::default(),
            }),
        }
    }

    /// Where a service is, as the relay has it now.
    ///
    /// # Errors
    /// There is no such service for this user, or the relay cannot be asked.
    pub async fn resolve(&self, service: &str) -> Result<Resolved, RequestError> {
        Ok(self.ask(split_port(service).0).await?.resolved)
    }

    /// The services that this user may use or manage, as the best relay knows them.
    ///
    /// # Errors
    /// The relay does not say.
    pub async fn services(&self) -> Result<Vec<ServiceRow>, RequestError> {
        let (_, standing) = self.inner.standings.best();
        standing.services().await
    }

    /// Asks what a name means: a service; where there is none, a host in one.
    async fn ask(&self, name: &str) -> Result<Found, RequestError> {
        let refused = match self.found(name, name, None).await {
            Err(error) if means_nothing(error.code()) => error,
            answer => return answer,
        };
        for reading in readings(name).unwrap_or_default() {
            let Some(host) = reading.host else {
                continue;
            };
            match self.found(name, &reading.service, Some(host)).await {
                Err(error) if means_nothing(error.code()) => {}
                answer => return answer,
            }
        }
        Err(refused)
    }

    async fn found(
        &self,
        name: &str,
        service: &str,
        host: Option<FarHost>,
    ) -> Result<Found, RequestError> {
        let (relay, resolved) = self.inner.standings.resolve(service).await?;
        let found = Found {
            relay,
            service: service.to_owned(),
            resolved,
            host,
        };
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    /// Opens a channel and waits for the service to answer.
    ///
    /// # Errors
    /// See [`OpenError`]; its code tells what a program on the service's own network would have seen.
    pub async fn open(&self, service: &str) -> Result<Channel, OpenError> {
        let opened = match self.try_open(service).await {
            // The session was kept for longer than it lived: once more with a new one.
            Err(error) if error.session_ended() => self.try_open(service).await,
            opened => opened,
        };
        if opened.is_err() {
            self.forget(service);
        }
        opened
    }

    /// Opens a channel of datagrams. These may be sent before the service has answered; if it does not take them the
    /// channel is reset, and [`Connector::forget`] has the relay asked anew.
    ///
    /// # Errors
    /// There is no session with the service's publisher.
    pub async fn open_datagrams(&self, service: &str) -> Result<Channel, OpenError> {
        let begin = || {
            self.begin(
                service,
                ChannelKind::Datagram,
                self.inner.class,
                str::to_owned,
            )
        };
        let opened = match begin().await {
            Err(error) if error.session_ended() => begin().await,
            opened => opened,
        };
        if opened.is_err() {
            self.forget(service);
        }
        opened
    }

    /// What the relay said about `service` has turned out to be wrong.
    pub fn forget(&self, service: &str) {
        self.known().remove(split_port(service).0);
    }

    /// Where data connections of FTP are waited for.
    pub(crate) fn expected(&self) -> &Expected {
        &self.inner.expected
    }

    /// Opens a channel of FTP, which `asked` names when it is given the service's full name, and waits for the answer. What
    /// is no control connection gives way to others.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub(crate) async fn open_ftp(
        &self,
        service: &str,
        asked: impl Fn(String) -> Asked,
    ) -> Result<Channel, OpenError> {
        let class = match asked(String::new()) {
            Asked::Control { .. } => self.inner.class,
            Asked::Passive { .. } | Asked::Active { .. } => Class::Bulk,
        };
        let name = |service: &str| asked(service.to_owned()).to_string();
        let mut channel = self
            .begin(service, ChannelKind::Stream, class, name)
            .await?;
        channel.accepted().await?;
        Ok(channel)
    }

    async fn try_open(&self, service: &str) -> Result<Channel, OpenError> {
        let class = self.inner.class;
        let mut channel = self
            .begin(service, ChannelKind::Stream, class, str::to_owned)
            .await?;
        channel.accepted().await?;
        Ok(channel)
    }

    /// Opens the channel that `name` makes of what is to be opened, mostly the service's full name, and does not wait for the
    /// service.
    async fn begin(
        &self,
        service: &str,
        kind: ChannelKind,
        class: Class,
        name: impl Fn(&str) -> String,
    ) -> Result<Channel, OpenError> {
        let (best, standing) = self.inner.standings.best();
        // What a relay reaches itself is asked for at the one that is used.
        let is_good =
            |found: &Found| found.resolved.far_end == FarEnd::Publisher || found.relay == best;
        let (named, port) = split_port(service);
        let known = self.known().get(named).cloned();
        let found = match known.filter(is_good) {
            Some(found) => found,
            None => self.ask(named).await?,
        };
        if !is_named(&found.service, &found.resolved.full_name) {
            return Err(OpenError::Misnamed {
                asked: service.to_owned(),
                named: found.resolved.full_name,
            });
        }
        let to_open = found.to_open(named, port)?;
        let Found {
            relay, resolved, ..
        } = found;
        let session = match resolved.far_end {
            FarEnd::Relay => {
                let asked = self.inner.standings.fleet().attachment(relay);
                let asked = asked.unwrap_or_else(|| standing.attachment().clone());
                asked.session()
            }
            FarEnd::Publisher => self.session(&resolved).await?,
        };
        let options = OpenOptions {
            kind,
            class,
            // A datagram stands alone, and what is lost would be missing for the next.
            compress: resolved.compression && kind == ChannelKind::Stream,
        };
        Ok(session.open(&name(&to_open), options).await?)
    }

    /// The session with a service's publisher: the one there is, or a new one.
    async fn session(&self, resolved: &Resolved) -> Result<Session, ConnectError> {
        let key = PublicKey(resolved.publisher_key);
        let slot = {
            let mut slots = self
                .inner
                .slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(key).or_default())
        };
        let mut kept = slot.lock().await;
        let service = &resolved.full_name;
        if let Some(held) = kept.as_mut().filter(|held| !held.session.is_closed()) {
            // That this publisher has the other service too is only what the relay says.
            if !held.services.contains(service) {
                let checked = self.inner.trust.check(service, &held.key);
                checked.map_err(ConnectError::NotTrusted)?;
                held.services.insert(service.clone());
            }
            return Ok(held.session.clone());
        }
        *kept = None;
        let fleet = self.inner.standings.fleet();
        let noting = Noting {
            trust: &self.inner.trust,
            key: OnceLock::new(),
        };
        let session = fleet.connect_graded(service, &noting, self.inner.grade);
        let session = session.await?;
        let key = noting.key.into_inner().unwrap_or(key);
        tracing::info!("connected to {service}");
        let peer = key.fingerprint();
        let entry = SessionEntry::outbound(service, peer, session.clone(), fleet.clone());
        *kept = Some(Held {
            session: session.clone(),
            key,
            services: HashSet::from([service.clone()]),
            _shown: self.inner.board.show_session(entry),
        });
        tokio::spawn(tell_end(service.clone(), session.clone()));
        Ok(session)
    }

    /// Waits until everything that was written has arrived and all channels are done, for a few
    /// seconds at the most; then ends all sessions.
    pub async fn finish(&self) {
        let slots: Vec<_> = {
            let slots = self
                .inner
                .slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            slots.values().cloned().collect()
        };
        // The session with a relay also carries the control channel, which stays. One that is away is not
        // waited for.
        let all = self.inner.standings.all().into_iter();
        let with_relays = all.map(|(_, standing)| standing.attachment().clone());
        let there = with_relays.filter(|attachment| attachment.status().carrier.is_some());
        let mut sessions: Vec<_> = there.map(|it| (it.session(), 1)).collect();
        for slot in slots {
            sessions.extend(
                slot.lock()
                    .await
                    .as_ref()
                    .map(|held| (held.session.clone(), 0)),
            );
        }
        let done = async {
            for (session, staying) in &sessions {
                drained(session, *staying).await;
            }
        };
        // A path that is gone just now is worth a little waiting, and no more.
        let _ = tokio::time::timeout(FINISH_LIMIT, done).await;
        self.close().await;
    }

    /// Ends all sessions, telling their peers. What was not sent yet is not waited for.
    pub async fn close(&self) {
        let slots: Vec<_> = {
            let mut slots = self
                .inner
                .slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            slots.drain().map(|(_, slot)| slot).collect()
        };
        for slot in slots {
            if let Some(held) = slot.lock().await.take() {
                held.session.close(Code::NoError, "the program ended");
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Found>> {
        self.inner
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a relay said that a name means no service.
fn means_nothing(code: Code) -> bool {
    matches!(code, Code::NoService | Code::NameInvalid)
}

async fn tell_end(service: String, session: Session) {
    let closed = session.closed().await;
    tracing::info!(
        "the session with the publisher of {service} ended: {}",
        closed.reason
    );
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn a_service_is_the_one_that_was_asked_for() {
        let full = "db.alice.underpass.internal";
        for asked in ["db", "db.alice", "db.underpass.internal", "DB.Alice.", full] {
            assert!(is_named(asked, full), "{asked}");
        }
        for asked in [
            "d",
            "web",
            "db.al",
            "db.bob",
            "alice",
            "",
            "db.bob.underpass.internal",
            "web.underpass.internal",
            "db.internal",
        ] {
            assert!(!is_named(asked, full), "{asked}");
        }
        assert!(is_named("db", "db") && !is_named("web", "db"));
    }
}
