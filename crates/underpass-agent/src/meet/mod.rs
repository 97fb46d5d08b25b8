//! Meeting by user and application, where neither side publishes anything.
//!
//! Both sides wish for each other; the relays find the two and say which of them opens the session. A [`Meeting`] is such a
//! wish: it stands at all relays until it is dropped, and gives an [`Encounter`] whenever the other side is there. What
//! the other side publishes under the same name is there for whom its access list names, as it is by its service's name.

mod doors;
mod pairs;
mod talk;
mod trust;
mod wishing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use underpass_endpoint::{AttachError, ConnectError, PeerInfo, Session};
use underpass_proto::control::Met;
use underpass_proto::meeting::{self, MeetingError, Peer, Place};
use underpass_proto::{Code, names};
use underpass_seal::PublicKey;

use crate::connect::PinnedTrust;
use crate::standing::RequestError;
use crate::standings::{Seen, Standings};
use crate::status::{Board, SessionEntry, Shown};

pub use doors::{Doors, DoorsError};
pub use pairs::{Pair, keep_pair, serve_all};

use trust::MetTrust;
use wishing::Wishing;

/// Sessions that wait to be taken; further ones are ended.
const BACKLOG: usize = 64;
/// Whoever is to open the session does so within this, or is looked for anew.
const OPENED_WITHIN: Duration = Duration::from_secs(30);
/// Between attempts to reach somebody who is there, from this, twice as long each time, to that.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Why nobody is met.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeetError {
    /// The user or the application is no name.
    #[error(transparent)]
    Name(#[from] MeetingError),
    /// The relay refuses the wish, or cannot be asked.
    #[error(transparent)]
    Refused(#[from] RequestError),
    /// This program meets the same user for the same application already.
    #[error("this program has the same wish already")]
    Twice,
    /// Nobody came in time.
    #[error("the other side is not there yet")]
    Alone,
    /// The other side is not who it was before.
    #[error("{0}")]
    NotTrusted(String),
    /// There is no way to the other side.
    #[error(transparent)]
    Connect(ConnectError),
    /// There is no attachment to a relay any more.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl MeetError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Name(_) => Code::NameInvalid,
            Self::Refused(error) => error.code(),
            Self::Twice => Code::Connected,
            Self::Alone => Code::PeerWaiting,
            Self::NotTrusted(_) => Code::KeyMismatch,
            Self::Connect(error) => error.code(),
            Self::Attach(error) => error.code(),
        }
    }
}

impl From<ConnectError> for MeetError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NotTrusted(text) => Self::NotTrusted(text),
            error => Self::Connect(error),
        }
    }
}

/// An application, and whom a wish is for.
type Key = (String, Peer);

/// Somebody has come to where this agent waits.
type Came = (Session, PeerInfo);

/// Where those go who come for a wish.
#[derive(Debug)]
struct Entry {
    came: mpsc::Sender<Came>,
    /// The last session, and the machine that it is with.
    session: Option<Session>,
    with: Option<PublicKey>,
}

type Table = Mutex<HashMap<Key, Entry>>;

/// Meets others over an agent's standings. Clones are the same one.
#[derive(Clone)]
pub struct Rendezvous {
    inner: Arc<Inner>,
}

struct Inner {
    standings: Standings,
    trust: PinnedTrust,
    board: Board,
    table: Arc<Table>,
    serving: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rendezvous")
            .field(&self.inner.standings)
            .finish()
    }
}

impl Rendezvous {
    /// There is one for an agent: it takes all sessions that come to where the agent waits. Must be called on a runtime.
    #[must_use]
    pub fn new(standings: impl Into<Standings>, trust: PinnedTrust, board: Board) -> Self {
        let (standings, table) = (standings.into(), Arc::<Table>::default());
        let serving = tokio::spawn(serve(standings.clone(), Arc::clone(&table)));
        Self {
            inner: Arc::new(Inner {
                standings,
                trust,
                board,
                table,
                serving,
            }),
        }
    }

    /// Wishes to meet `peer` (a user, or `*` for whoever comes) for `application`.
    ///
    /// # Errors
    /// There is no such user, it is oneself, another program of this machine has the same wish, or the relay cannot be
    /// asked: [`MeetError::code`] tells.
    pub async fn meet(&self, peer: &str, application: &str) -> Result<Meeting, MeetError> {
        names::check(application).map_err(MeetingError::from)?;
        let key: Key = (application.to_owned(), peer.parse()?);
        let (sender, came) = mpsc::channel(BACKLOG);
        {
            let mut table = lock(&self.inner.table);
            if table.contains_key(&key) {
                return Err(MeetError::Twice);
            }
            let entry = Entry {
                came: sender,
                session: None,
                with: None,
            };
            table.insert(key.clone(), entry);
        }
        let place = Taken {
            table: Arc::clone(&self.inner.table),
            key,
        };
        let standings = self.inner.standings.clone();
        let wishing = Wishing::begin(standings, application, peer).await?;
        Ok(Meeting {
            rendezvous: self.clone(),
            place,
            came,
            wishing,
            met_before: false,
        })
    }
}

/// Takes those who come over any attachment to their wishes.
async fn serve(standings: Standings, table: Arc<Table>) {
    let mut seen = Seen::default();
    loop {
        let standing = standings.joined(&mut seen).await;
        let (table, own) = (Arc::downgrade(&table), standing.attachment().machine_key());
        standing.attachment().serve_meetings(move |session, peer| {
            let refused = match table.upgrade() {
                Some(table) => take_in(&table, own, &session, peer),
                None => Err(Code::ServiceAway),
            };
            if let Err(code) = refused {
                session.close(code, code.explain().what);
            }
        });
    }
}

/// Takes a session to the wish for which it comes.
fn take_in(table: &Table, own: PublicKey, session: &Session, peer: PeerInfo) -> Result<(), Code> {
    let place = peer.service.parse::<Place>();
    let place = place.map_err(|_| Code::ServiceAway)?;
    if place.waiting != *own.fingerprint().as_bytes() {
        return Err(Code::ServiceAway);
    }
    let is_named = match &place.peer {
        Peer::Anybody => false,
        Peer::User(name) if *name == peer.user => true,
        Peer::User(_) => return Err(Code::Denied),
    };
    let mut table = lock(table);
    let entry = table.get_mut(&(place.application, place.peer));
    let entry = entry.ok_or(Code::ServiceAway)?;
    let living = entry.session.as_ref().filter(|it| !it.is_closed());
    if let Some(living) = living.filter(|_| is_named) {
        // The same machine has begun anew: what it had before is gone.
        match entry.with == Some(peer.machine) {
            true => living.close(Code::Cancelled, "the other side has begun anew"),
            false => return Err(Code::Connected),
        }
    }
    entry.with = Some(peer.machine);
    entry.session = Some(session.clone());
    let sent = entry.came.try_send((session.clone(), peer));
    sent.map_err(|_| Code::Busy)
}

/// A wish's place in the table, until it is dropped.
#[derive(Debug)]
struct Taken {
    table: Arc<Table>,
    key: Key,
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

/// A wish to meet somebody. It stands until it is dropped, which sessions outlive only as long as their paths do.
#[derive(Debug)]
pub struct Meeting {
    rendezvous: Rendezvous,
    place: Taken,
    came: mpsc::Receiver<Came>,
    wishing: Wishing,
    met_before: bool,
}

/// Somebody was met.
#[derive(Debug)]
pub struct Encounter {
    /// The session with the other side. Either side may open channels, unless it is published.
    pub session: Session,
    /// The other side's user, by the relay's word.
    pub user: String,
    /// The key of the other side's machine, proven.
    pub machine: PublicKey,
    /// What channels are opened to: the application, or the name of the service that the other side publishes.
    pub service: String,
    /// Whether channels may be compressed.
    pub compression: bool,
    /// Whether this side has opened the session.
    pub opened: bool,
    /// Whether the other side publishes a service of that name, and so opens no channels.
    pub published: bool,
    _shown: Shown,
}

impl Meeting {
    /// What it is for.
    #[must_use]
    pub fn application(&self) -> &str {
        &self.place.key.0
    }

    /// Whom it is for.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.place.key.1
    }

    /// Whether nobody was there when the wish was made.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.wishing.is_alone()
    }

    /// Waits for the other side: `limit` at the most until it is there, or for ever. A wish for a user gives one encounter,
    /// and another one when it is asked for again, which is for after the first one's session has ended; a wish for anybody
    /// gives one for each who comes. Where it is cancelled while it connects, that attempt is lost, and nothing else.
    ///
    /// # Errors
    /// Nobody came in time, who came is not who it was, or there is no way any more.
    pub async fn next(&mut self, limit: Option<Duration>) -> Result<Encounter, MeetError> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        if self.met_before && *self.peer() != Peer::Anybody {
            self.wishing.renew();
        }
        let (mut opened_by, mut pause) = (None, FIRST_PAUSE);
        loop {
            let fleet = self.rendezvous.inner.standings.fleet().clone();
            let met = tokio::select! {
                biased;
                Some((session, peer)) = self.came.recv() => match self.greet(session, peer) {
                    // Whoever waits for anybody goes on waiting for others.
                    Err(MeetError::NotTrusted(reason)) if *self.peer() == Peer::Anybody => {
                        tracing::warn!("turned away: {reason}");
                        continue;
                    }
                    greeted => return greeted,
                },
                met = self.wishing.heard() => met?,
                () = at(opened_by) => {
                    tracing::debug!("who was to open a session has not");
                    opened_by = None;
                    self.wishing.renew();
                    continue;
                }
                () = at(deadline), if opened_by.is_none() => return Err(MeetError::Alone),
                ended = fleet.ended() => return Err(ended.into()),
            };
            if !met.opens {
                opened_by = Some(Instant::now() + OPENED_WITHIN);
                continue;
            }
            opened_by = None;
            match self.open(met).await {
                Err(MeetError::Connect(error)) if may_pass(error.code()) => {
                    tracing::debug!("{} is there, but: {error}", self.peer());
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    self.wishing.renew();
                }
                met => return met,
            }
        }
    }

    /// Takes up a session that the other side has opened.
    fn greet(&mut self, session: Session, peer: PeerInfo) -> Result<Encounter, MeetError> {
        let PeerInfo {
            service: _,
            user,
            machine,
            grade,
        } = peer;
        let pinned = &self.rendezvous.inner.trust;
        let checked = match self.peer() {
            Peer::Anybody => pinned.users().check(&user, &machine),
            Peer::User(_) => {
                let trust = MetTrust {
                    pinned,
                    user: &user,
                    application: self.application(),
                    named: machine,
                };
                trust.check_key(&machine)
            }
        };
        if let Err(reason) = checked {
            session.close(Code::KeyMismatch, Code::KeyMismatch.explain().what);
            return Err(MeetError::NotTrusted(reason));
        }
        if *self.peer() != Peer::Anybody {
            self.wishing.settle(machine);
        }
        self.met_before = true;
        let shown_peer = PeerInfo {
            service: self.application().to_owned(),
            user: user.clone(),
            machine,
            grade,
        };
        let entry = SessionEntry::inbound(&shown_peer, session.clone());
        Ok(Encounter {
            service: self.application().to_owned(),
            compression: true,
            opened: false,
            published: false,
            _shown: self.rendezvous.inner.board.show_session(entry),
            session,
            user,
            machine,
        })
    }

    /// Opens a session with who was met.
    async fn open(&mut self, met: Met) -> Result<Encounter, MeetError> {
        let Inner {
            standings,
            trust,
            board,
            table,
            ..
        } = &*self.rendezvous.inner;
        let machine = PublicKey(met.machine);
        let published = !met.service.starts_with(meeting::PREFIX);
        let fleet = standings.fleet();
        let session = if published {
            fleet.connect(&met.service, trust).await?
        } else {
            let trust = MetTrust {
                pinned: trust,
                user: &met.user,
                application: self.application(),
                named: machine,
            };
            fleet.connect(&met.service, &trust).await?
        };
        self.met_before = true;
        let service = match published {
            true => met.service,
            false => self.application().to_owned(),
        };
        if !published {
            self.wishing.settle(machine);
            if let Some(entry) = lock(table).get_mut(&self.place.key) {
                entry.with = Some(machine);
                entry.session = Some(session.clone());
            }
        }
        let shown_as = match published {
            true => service.clone(),
            false => format!("{service} with {}", met.user),
        };
        let peer = machine.fingerprint();
        let entry = SessionEntry::outbound(&shown_as, peer, session.clone(), fleet.clone());
        Ok(Encounter {
            service,
            compression: met.compression,
            opened: true,
            published,
            _shown: board.show_session(entry),
            session,
            user: met.user,
            machine,
        })
    }

    /// Takes the wish back, and waits a little until the relays know.
    pub async fn part(mut self) {
        self.wishing.part().await;
    }
}

/// Whether somebody who was there a moment ago may be again.
fn may_pass(code: Code) -> bool {
    let passing = [
        Code::Connected,
        Code::UnknownSession,
        Code::NoService,
        Code::Cancelled,
    ];
    code.retry_helps() || passing.contains(&code)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn lock(table: &Table) -> MutexGuard<'_, HashMap<Key, Entry>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
