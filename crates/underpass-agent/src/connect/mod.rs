//! Using services of others: sessions that all local connections share, local listeners, and
//! standard input and output.

pub(crate) mod datagrams;
mod lead;
mod listen;
mod local;
mod opened;
mod sources;
mod stdio;
mod trust;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use underpass_endpoint::{Channel, ChannelError, ConnectError, OpenOptions, Session};
use underpass_proto::Code;
use underpass_proto::control::{FarEnd, Resolved, ServiceRow};
use underpass_proto::frame::{ChannelKind, Class};
use underpass_seal::PublicKey;

use crate::ftp::{Asked, Expected};
use crate::standing::RequestError;
use crate::standings::Standings;
use crate::status::{Board, SessionEntry, Shown};

pub(crate) use opened::Opened;

pub use datagrams::FlowLimits;
pub use lead::LeadError;
pub use listen::{ListenError, Listener};
pub use local::{Local, LocalError};
pub use sources::{Sources, SourcesError};
pub use stdio::{NcError, nc};
pub use trust::PinnedTrust;

/// How long a program that is done waits for what it wrote to arrive.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// Between looks at what is under way.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// Why a service could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The relay does not say where it is.
    #[error(transparent)]
    Resolve(#[from] RequestError),
    /// There is no session with its publisher.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It, or its publisher, refused.
    #[error(transparent)]
    Refused(#[from] ChannelError),
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
            Self::Connect(error) => error.code(),
            Self::Refused(error) => error.code(),
        }
    }

    /// Whether the session ended while it was being used, so that a new one may do.
    fn session_ended(&self) -> bool {
        matches!(self, Self::Refused(ChannelError::SessionClosed(_)))
    }
}

/// Opens channels to services, over one session for each publisher. Clones share the sessions.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    standings: Standings,
    trust: PinnedTrust,
    class: Class,
    board: Board,
    /// What a relay said about names, and which one; forgotten when it turns out to be wrong.
    resolved: Mutex<HashMap<String, (usize, Resolved)>>,
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

/// Where the session with one publisher is kept. Whoever makes it holds the lock, so that others wait
/// for it and do not make their own.
type Slot = tokio::sync::Mutex<Option<(Session, Shown)>>;

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector")
            .field(&self.inner.standings)
            .finish()
    }
}

impl Connector {
    /// Channels will have the priority `class`.
    #[must_use]
    pub fn new(
        standings: impl Into<Standings>,
        trust: PinnedTrust,
        class: Class,
        board: Board,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                standings: standings.into(),
                trust,
                class,
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
        Ok(self.ask(service).await?.1)
    }

    /// The services that this user may use or manage, as the best relay knows them.
    ///
    /// # Errors
    /// The relay does not say.
    pub async fn services(&self) -> Result<Vec<ServiceRow>, RequestError> {
        let (_, standing) = self.inner.standings.best();
        standing.services().await
    }

    async fn ask(&self, service: &str) -> Result<(usize, Resolved), RequestError> {
        let answer = self.inner.standings.resolve(service).await?;
        self.known().insert(service.to_owned(), answer.clone());
        Ok(answer)
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
        self.known().remove(service);
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

    /// Opens the channel that `name` makes of the service's full name, and does not wait for the service.
    async fn begin(
        &self,
        service: &str,
        kind: ChannelKind,
        class: Class,
        name: impl Fn(&str) -> String,
    ) -> Result<Channel, OpenError> {
        let (best, standing) = self.inner.standings.best();
        // What a relay reaches itself is asked for at the one that is used.
        let is_good = |(relay, resolved): &(usize, Resolved)| {
            resolved.far_end == FarEnd::Publisher || *relay == best
        };
        let known = self.known().get(service).cloned();
        let (relay, resolved) = match known.filter(is_good) {
            Some(answer) => answer,
            None => self.ask(service).await?,
        };
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
        Ok(session.open(&name(&resolved.full_name), options).await?)
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
        if let Some((session, _)) = kept.as_ref().filter(|(session, _)| !session.is_closed()) {
            return Ok(session.clone());
        }
        *kept = None;
        let fleet = self.inner.standings.fleet();
        let service = &resolved.full_name;
        let session = fleet.connect(service, &self.inner.trust).await?;
        tracing::info!("connected to {service}");
        let peer = key.fingerprint();
        let entry = SessionEntry::outbound(service, peer, session.clone(), fleet.clone());
        *kept = Some((session.clone(), self.inner.board.show_session(entry)));
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
                    .map(|(session, _)| (session.clone(), 0)),
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
            if let Some((session, _)) = slot.lock().await.take() {
                session.close(Code::NoError, "the program ended");
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, (usize, Resolved)>> {
        self.inner
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_end(service: String, session: Session) {
    let closed = session.closed().await;
    tracing::info!(
        "the session with the publisher of {service} ended: {}",
        closed.reason
    );
}
