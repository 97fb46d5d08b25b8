//! A ticket authority as a process of its own: what `underpass authority` runs.
//!
//! Whoever has not shown a certificate that is allowed is a stranger: there are few of those at a time, each
//! for a short time, and the oldest makes room for the newest. A relay has a bounded number of
//! connections, of questions under way on each, and of bytes that wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use underpass_carrier::mutual::{MutualAcceptor, MutualIdentity, MutualStream};
use underpass_carrier::{Fingerprint as TlsFingerprint, IdentityError};
use underpass_proto::DecodeError;
use underpass_proto::authority::{
    AUTHORITY_VERSION, AuthorityHello, AuthorityMessage, Granted as GrantedMessage, MAX_FAR,
    NoAnswer, Party, Refused, Settled, Welcome,
};
use underpass_proto::packet::SessionId;
use underpass_proto::ticket::{Claim, Handle, Ticket};
use underpass_seal::Fingerprint;
use underpass_store::{DataFolder, DataFolderError, Fault, OpenError, SqliteStore, Store};

use super::{ALPN, Authority as _, AuthorityError, Granted, InStore, read_more};
use crate::switch::LONGEST_KEEP;

/// The most connections that have not shown who they are.
const MOST_STRANGERS: usize = 64;
/// How long they have for that.
const GREET_WITHIN: Duration = Duration::from_secs(10);
/// The most connections of one relay: its processes, and those that are gone and not yet known to be.
const MOST_CONNECTIONS: usize = 16;
/// The most questions of one connection that are looked at together; more are not read.
const MOST_AT_ONCE: usize = 64;
/// A relay says something more often than that.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a relay may take to read what it is told.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept, such as for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What an authority of its own needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Where relays reach it, by TCP.
    pub listen: Vec<SocketAddr>,
    /// The folder with its certificate and its tickets.
    pub data: PathBuf,
    /// The certificates of the relays that may ask; nobody else is told anything.
    pub allow: Vec<Fingerprint>,
}

/// Why an authority did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The data folder cannot be used.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] Fault),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] IdentityError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Starts authorities.
#[derive(Debug)]
pub struct AuthorityProcess;

/// A running authority. Dropping it ends it at once.
#[derive(Debug)]
pub struct AuthorityHandle {
    addresses: Vec<SocketAddr>,
    certificate: Fingerprint,
    served: Arc<Served>,
    store: Arc<dyn Store>,
    _stop: DropGuard,
}

impl AuthorityProcess {
    /// Starts an authority on the tokio runtime it is called on. It goes on where the last one with this
    /// data folder was.
    ///
    /// # Errors
    /// See [`ProcessError`]; nothing runs then.
    pub async fn start(settings: ProcessSettings) -> Result<AuthorityHandle, ProcessError> {
        let folder = DataFolder::open(&settings.data)?;
        let identity = MutualIdentity::kept_in(folder.path())?;
        let allowed = watch::Sender::new(prints(&settings.allow));
        let asked = allowed.subscribe();
        let acceptor = identity.acceptor(move |shown| asked.borrow().contains(shown), ALPN)?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.database_file()).await?);
        let own = Arc::new(InStore::begin(Arc::clone(&store)).await?);
        let mut listeners = Vec::new();
        for address in settings.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| ProcessError::Listen { address, source })?);
        }
        let stop = CancellationToken::new();
        let served = Arc::new(Served {
            own: Arc::clone(&own),
            acceptor,
            allowed,
            connections: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        served.tasks.spawn(own.keep_time(stop.clone()));
        let bound = listeners.iter().filter_map(|it| it.local_addr().ok());
        let addresses = bound.collect();
        for listener in listeners {
            served.tasks.spawn(Arc::clone(&served).accept(listener));
        }
        Ok(AuthorityHandle {
            addresses,
            certificate: Fingerprint::from_bytes(identity.fingerprint()),
            served,
            store,
            _stop: stop.drop_guard(),
        })
    }
}

impl AuthorityHandle {
    /// Where it listens, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The SHA-256 of its certificate.
    #[must_use]
    pub fn certificate(&self) -> Fingerprint {
        self.certificate
    }

    /// How many connections of relays there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.served.with_connections(|it| it.values().sum())
    }

    /// From now on these relays may ask, and no others; connections of others end.
    pub fn allow(&self, relays: &[Fingerprint]) {
        self.served.allowed.send_replace(prints(relays));
    }

    /// Ends it. Relays ask again what has no answer, wherever it is started next.
    pub async fn shutdown(self) {
        self.served.stop.cancel();
        self.served.tasks.close();
        self.served.tasks.wait().await;
        self.store.close().await;
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wrong(#[from] DecodeError),
    #[error("it begins with something else than a greeting")]
    NoHello,
    #[error("it speaks no version that is spoken here")]
    Version,
    #[error("it has {MOST_CONNECTIONS} connections already")]
    TooMany,
    #[error("it may not ask any more")]
    NotAllowed,
    #[error("{0} took too long")]
    Slow(&'static str),
}

#[derive(Debug)]
struct Served {
    own: Arc<InStore>,
    acceptor: MutualAcceptor,
    /// Who may ask.
    allowed: watch::Sender<HashSet<TlsFingerprint>>,
    /// How many of each relay.
    connections: Mutex<HashMap<TlsFingerprint, usize>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A relay that has shown who it is.
struct Known {
    stream: MutualStream,
    /// What it has said already.
    rest: BytesMut,
    slot: Slot,
}

/// One of the connections that a relay may have.
struct Slot {
    served: Arc<Served>,
    relay: TlsFingerprint,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.served.with_connections(|connections| {
            if let Some(count) = connections.get_mut(&self.relay) {
                *count -= 1;
            }
        });
    }
}

impl Served {
    fn with_connections<T>(
        &self,
        with: impl FnOnce(&mut HashMap<TlsFingerprint, usize>) -> T,
    ) -> T {
        let connections = self.connections.lock();
        with(&mut connections.unwrap_or_else(PoisonError::into_inner))
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut strangers: VecDeque<tokio::task::AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let (tcp, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            strangers.retain(|it| !it.is_finished());
            if strangers.len() >= MOST_STRANGERS
                && let Some(oldest) = strangers.pop_front()
            {
                oldest.abort();
            }
            let greeting = self.tasks.spawn(Arc::clone(&self).meet(tcp, from));
            strangers.push_back(greeting.abort_handle());
        }
    }

    /// From a connection to a relay that is served.
    async fn meet(self: Arc<Self>, tcp: TcpStream, from: SocketAddr) {
        let greeting = timeout(GREET_WITHIN, Arc::clone(&self).greet(tcp));
        let greeted = tokio::select! {
            greeted = greeting => greeted.unwrap_or(Err(Ended::Slow("its greeting"))),
            () = self.stop.cancelled() => return,
        };
        match greeted {
            Ok(known) => {
                let relay = Fingerprint::from_bytes(known.slot.relay);
                tracing::info!("the relay {relay} has connected from {from}");
                self.tasks.spawn(Arc::clone(&self).serve(known, from));
            }
            Err(error) => tracing::debug!("nobody was let in from {from}: {error}"),
        }
    }

    async fn greet(self: Arc<Self>, tcp: TcpStream) -> Result<Known, Ended> {
        tcp.set_nodelay(true)?;
        let (mut stream, relay) = self.acceptor.accept(tcp).await?;
        let mut rest = BytesMut::new();
        let hello = loop {
            match AuthorityMessage::take(Party::Relay, &mut rest)? {
                Some(AuthorityMessage::AuthorityHello(hello)) => break hello,
                Some(_) => return Err(Ended::NoHello),
                None if stream.read_buf(&mut rest).await? == 0 => return Err(Ended::NoHello),
                None => {}
            }
        };
        let AuthorityHello {
            version,
            min_version,
        } = hello;
        if !(min_version..=version).contains(&AUTHORITY_VERSION) {
            return Err(Ended::Version);
        }
        let slot = self.slot(relay)?;
        let version = AUTHORITY_VERSION;
        let mut welcome = BytesMut::new();
        AuthorityMessage::from(Welcome { version }).put_framed(&mut welcome);
        stream.write_all(&welcome).await?;
        stream.flush().await?;
        Ok(Known { stream, rest, slot })
    }

    fn slot(self: Arc<Self>, relay: TlsFingerprint) -> Result<Slot, Ended> {
        let room = self.with_connections(|connections| {
            let count = connections.entry(relay).or_default();
            let room = *count < MOST_CONNECTIONS;
            *count += usize::from(room);
            room
        });
        match room {
            true => Ok(Slot {
                served: self,
                relay,
            }),
            false => Err(Ended::TooMany),
        }
    }

    async fn serve(self: Arc<Self>, known: Known, from: SocketAddr) {
        let Known { stream, rest, slot } = known;
        let (reader, writer) = tokio::io::split(stream);
        let (tell, told) = mpsc::channel(MOST_AT_ONCE);
        let both =
            async { tokio::try_join!(self.hear(reader, rest, tell), write_answers(writer, told)) };
        let mut allowed = self.allowed.subscribe();
        let shut_out = async { drop(allowed.wait_for(|it| !it.contains(&slot.relay)).await) };
        let ended = tokio::select! {
            biased;
            () = shut_out => Err(Ended::NotAllowed),
            ended = both => ended.map(drop),
            () = self.stop.cancelled() => return,
        };
        let relay = Fingerprint::from_bytes(slot.relay);
        match ended {
            Ok(()) => tracing::info!("the relay {relay} has disconnected from {from}"),
            Err(error) => tracing::warn!("the relay {relay} at {from} was disconnected: {error}"),
        }
    }

    /// Hears questions and passes answers on, until the relay has said its last word.
    async fn hear(
        &self,
        mut reader: ReadHalf<MutualStream>,
        mut buf: BytesMut,
        tell: mpsc::Sender<AuthorityMessage>,
    ) -> Result<(), Ended> {
        let mut answers = FuturesUnordered::new();
        loop {
            while answers.len() < MOST_AT_ONCE
                && let Some(question) = AuthorityMessage::take(Party::Relay, &mut buf)?
            {
                answers.push(self.answer(checked(question)?));
            }
            tokio::select! {
                Some(answer) = answers.next() => pass_on(&tell, answer).await,
                read = timeout(SILENCE, read_more(&mut reader, &mut buf)), if answers.len() < MOST_AT_ONCE => {
                    if read.map_err(|_| Ended::Slow("its next question"))?? == 0 {
                        break;
                    }
                }
            }
        }
        while let Some(answer) = answers.next().await {
            pass_on(&tell, answer).await;
        }
        Ok(())
    }

    async fn answer(&self, question: AuthorityMessage) -> AuthorityMessage {
        let number = question.request().unwrap_or(0);
        let answered = match question {
            AuthorityMessage::Issue(it) => {
                let claim = claim(it.holder, it.session);
                let keep = Duration::from_secs(it.keep_s).min(LONGEST_KEEP);
                let granted = self.own.issue(claim, it.far.to_vec(), keep).await;
                granted.map(granted_message)
            }
            AuthorityMessage::Check(it) => {
                let claim = claim(it.holder, it.session);
                let granted = self.own.check(claim, Ticket::new(it.ticket)).await;
                granted.map(granted_message)
            }
            AuthorityMessage::Renew(it) => {
                let handles = it.handles.into_iter().map(Handle).collect();
                self.own.renew(handles).await.map(|()| settled())
            }
            AuthorityMessage::Discard(it) => {
                self.own.forget(Handle(it.handle)).await.map(|()| settled())
            }
            // What is left is a ping: the rest is not a relay's to say.
            _ => Ok(settled()),
        };
        let answer = answered.unwrap_or_else(|error| match error {
            AuthorityError::NotGood(why) => {
                let because = why.into();
                let request = number;
                Refused { request, because }.into()
            }
            AuthorityError::Unreachable(text) => {
                let request = number;
                NoAnswer { request, text }.into()
            }
        });
        answer.numbered(number)
    }
}

fn prints(relays: &[Fingerprint]) -> HashSet<TlsFingerprint> {
    relays.iter().map(|it| *it.as_bytes()).collect()
}

/// What a relay says after its greeting.
fn checked(question: AuthorityMessage) -> Result<AuthorityMessage, DecodeError> {
    match &question {
        AuthorityMessage::AuthorityHello(_) => Err(DecodeError::NotAllowed {
            what: "AuthorityHello",
            place: "the middle of a conversation",
        }),
        AuthorityMessage::Issue(it) if it.far.len() > MAX_FAR => Err(DecodeError::TooLong {
            what: "Issue.far",
            limit: MAX_FAR,
        }),
        _ => Ok(question),
    }
}

fn claim(holder: [u8; 32], session: [u8; 16]) -> Claim {
    let session = SessionId(session);
    Claim { holder, session }
}

fn settled() -> AuthorityMessage {
    Settled { request: 0 }.into()
}

fn granted_message(granted: Granted) -> AuthorityMessage {
    let Granted {
        ticket,
        handle,
        lifetime,
        far,
    } = granted;
    let granted = GrantedMessage {
        request: 0,
        ticket: *ticket.as_bytes(),
        handle: handle.0,
        lifetime_s: lifetime.as_secs(),
        far: far.into(),
    };
    granted.into()
}

/// To the writer; when that is gone, all ends with it.
async fn pass_on(tell: &mpsc::Sender<AuthorityMessage>, answer: AuthorityMessage) {
    let _ = tell.send(answer).await;
}

async fn write_answers(
    mut writer: WriteHalf<MutualStream>,
    mut told: mpsc::Receiver<AuthorityMessage>,
) -> Result<(), Ended> {
    let mut next = Vec::new();
    while told.recv_many(&mut next, MOST_AT_ONCE).await > 0 {
        let mut words = BytesMut::new();
        next.drain(..).for_each(|it| it.put_framed(&mut words));
        let writing = async {
            writer.write_all(&words).await?;
            writer.flush().await
        };
        let written = timeout(WRITE_WITHIN, writing).await;
        written.map_err(|_| Ended::Slow("reading an answer"))??;
    }
    Ok(())
}
