//! A ticket authority that is a process of its own, as a relay asks it.
//!
//! One connection at a time, over which any number of questions are under way. It is made again whenever
//! it is lost, and what had no answer is asked again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use underpass_carrier::IdentityError;
use underpass_carrier::mutual::{MutualConnector, MutualIdentity, MutualStream, unknown_there};
use underpass_proto::DecodeError;
use underpass_proto::authority::{
    AUTHORITY_VERSION, AuthorityHello, AuthorityMessage, Check, Discard, Issue, MAX_RENEWED, Party,
    Renew,
};
use underpass_proto::ticket::{Claim, Handle, Ticket};
use underpass_seal::Fingerprint;

use super::asking::{ANSWER_WITHIN, Asking, PATIENCE};
use super::{
    ALPN, Authority, AuthorityAddress, AuthorityError, AuthorityFuture, Granted, read_more,
};
use crate::clock;

/// How long a connection may take to be made, with all that must be said on it first.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts to connect, at first; then twice as long each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// And at the most: an authority that is back is found within that.
const MOST_BACKOFF: Duration = Duration::from_secs(2);
/// After such a silence the authority is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(15);
/// How much is said at once.
const WRITE_AT_ONCE: usize = 16 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "it ends the connection at once; perhaps it does not know this relay: start it with --allow {0}"
    )]
    Unknown(Fingerprint),
    #[error("{0} took too long")]
    Slow(&'static str),
    #[error("it has ended the connection")]
    Ended,
    #[error("it says what is no answer: {0}")]
    Wrong(#[from] DecodeError),
    #[error("it begins with something else than a welcome")]
    NoWelcome,
}

type Whose = oneshot::Sender<AuthorityMessage>;

/// An authority at the other end of a connection.
#[derive(Debug)]
pub struct Remote {
    address: AuthorityAddress,
    connector: MutualConnector,
    own: Fingerprint,
    asking: Mutex<Asking<Whose>>,
    /// Something is to be said.
    more: Notify,
}

impl Remote {
    /// The authority at `address`, which knows this relay as `identity`. [`Self::keep_connected`] must
    /// run for any answer to come.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn new(
        address: AuthorityAddress,
        identity: &MutualIdentity,
    ) -> Result<Self, IdentityError> {
        let connector = identity.connector(*address.certificate.as_bytes(), ALPN)?;
        Ok(Self {
            address,
            connector,
            own: Fingerprint::from_bytes(identity.fingerprint()),
            asking: Mutex::new(Asking::new(clock::now())),
            more: Notify::new(),
        })
    }

    /// The SHA-256 of the certificate that this relay shows, by which the authority must know it.
    #[must_use]
    pub fn own_certificate(&self) -> Fingerprint {
        self.own
    }

    /// Connects, and connects again, until `stop`.
    pub async fn keep_connected(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = FIRST_BACKOFF;
        let mut told = None;
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = stop.cancelled() => return,
            };
            let error = match connected {
                Ok((stream, rest)) => {
                    tracing::info!("the ticket authority at {} is there", self.address.place);
                    told = None;
                    tokio::select! {
                        error = self.converse(stream, rest) => error,
                        () = stop.cancelled() => return,
                    }
                }
                Err(error) => error,
            };
            // One that ends connections as soon as they are made is not asked all the time.
            if self.asking().lost(clock::now()) {
                backoff = FIRST_BACKOFF;
            }
            // Each new reason once, not each attempt.
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                let place = &self.address.place;
                tracing::warn!("the ticket authority at {place} cannot be reached: {text}");
                told = Some(text);
            }
            // At a random time, so that relays do not come all at once.
            tokio::select! {
                () = sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)) => {}
                () = stop.cancelled() => return,
            }
            backoff = (backoff * 2).min(MOST_BACKOFF);
        }
    }

    async fn connect(&self) -> Result<(MutualStream, BytesMut), LineError> {
        let greeted = timeout(CONNECT_WITHIN, async {
            let tcp = TcpStream::connect(self.address.place.to_string()).await?;
            tcp.set_nodelay(true)?;
            let stream = self.connector.connect(tcp).await?;
            self.greet(stream).await
        });
        let greeted = greeted.await;
        greeted.map_err(|_| LineError::Slow("the beginning of a connection"))?
    }

    async fn greet(&self, mut stream: MutualStream) -> Result<(MutualStream, BytesMut), LineError> {
        let mut hello = BytesMut::new();
        let versions = AuthorityHello {
            version: AUTHORITY_VERSION,
            min_version: AUTHORITY_VERSION,
        };
        AuthorityMessage::from(versions).put_framed(&mut hello);
        // A side that does not know us says so only now, and may be gone before its word is here.
        let unknown = |error: io::Error| match error.kind() {
            _ if unknown_there(&error) => LineError::Unknown(self.own),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => LineError::Unknown(self.own),
            _ => LineError::Io(error),
        };
        stream.write_all(&hello).await.map_err(unknown)?;
        stream.flush().await.map_err(unknown)?;
        let mut buf = BytesMut::new();
        loop {
            match AuthorityMessage::take(Party::Authority, &mut buf)? {
                Some(AuthorityMessage::Welcome(it)) if it.version == AUTHORITY_VERSION => {
                    return Ok((stream, buf));
                }
                Some(_) => return Err(LineError::NoWelcome),
                None => {}
            }
            if stream.read_buf(&mut buf).await.map_err(unknown)? == 0 {
                return Err(LineError::Unknown(self.own));
            }
        }
    }

    /// Asks and hears answers, until the connection is lost.
    async fn converse(&self, stream: MutualStream, rest: BytesMut) -> LineError {
        self.asking().connected();
        let (reader, writer) = tokio::io::split(stream);
        let ended = tokio::select! {
            ended = self.hear(reader, rest) => ended,
            ended = self.say(writer) => ended,
            ended = self.watch() => ended,
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn hear(&self, mut reader: ReadHalf<MutualStream>, mut buf: BytesMut) -> Never {
        loop {
            while let Some(answer) = AuthorityMessage::take(Party::Authority, &mut buf)? {
                let whose = self.asking().answered(&answer);
                if let Some(whose) = whose {
                    // Who gave up meanwhile does not hear it.
                    let _ = whose.send(answer);
                }
            }
            if read_more(&mut reader, &mut buf).await? == 0 {
                return Err(LineError::Ended);
            }
        }
    }

    async fn say(&self, mut writer: WriteHalf<MutualStream>) -> Never {
        loop {
            let mut words = BytesMut::new();
            {
                let (mut asking, now) = (self.asking(), clock::now());
                while words.len() < WRITE_AT_ONCE
                    && let Some(question) = asking.say(now)
                {
                    question.put_framed(&mut words);
                }
            }
            if words.is_empty() {
                if timeout(PING_AFTER, self.more.notified()).await.is_err() {
                    self.asking().ping();
                }
                continue;
            }
            let saying = async {
                writer.write_all(&words).await?;
                writer.flush().await
            };
            let said = timeout(ANSWER_WITHIN, saying).await;
            said.map_err(|_| LineError::Slow("a question"))??;
        }
    }

    /// Ends when an answer is late. What is asked during a sleep is due after it.
    async fn watch(&self) -> Never {
        loop {
            let (due, now) = (self.asking().overdue_at(), clock::now());
            if due.is_some_and(|due| due <= now) {
                return Err(LineError::Slow("an answer"));
            }
            sleep_until(clock::instant(due.unwrap_or(now + ANSWER_WITHIN))).await;
        }
    }

    async fn ask(&self, question: AuthorityMessage) -> Result<AuthorityMessage, AuthorityError> {
        let (whose, answer) = oneshot::channel();
        let asked = self.asking().ask(question, whose, clock::now());
        let (number, patience) =
            asked.map_err(|error| AuthorityError::Unreachable(error.to_string()))?;
        let _open = Waiting {
            remote: self,
            number,
        };
        self.more.notify_one();
        match timeout(patience, answer).await {
            Ok(Ok(AuthorityMessage::Refused(it))) => {
                Err(AuthorityError::NotGood(it.because.into()))
            }
            Ok(Ok(AuthorityMessage::NoAnswer(it))) => Err(AuthorityError::Unreachable(it.text)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(AuthorityError::Unreachable(format!(
                "no answer within {PATIENCE:?}"
            ))),
        }
    }

    async fn ask_for_ticket(&self, question: AuthorityMessage) -> Result<Granted, AuthorityError> {
        match self.ask(question).await? {
            AuthorityMessage::Granted(it) => Ok(Granted {
                ticket: Ticket::new(it.ticket),
                handle: Handle(it.handle),
                lifetime: Duration::from_secs(it.lifetime_s),
                far: it.far.to_vec(),
            }),
            other => Err(beside(&other)),
        }
    }

    async fn have_done(&self, question: AuthorityMessage) -> Result<(), AuthorityError> {
        match self.ask(question).await? {
            AuthorityMessage::Settled(_) => Ok(()),
            other => Err(beside(&other)),
        }
    }

    fn asking(&self) -> MutexGuard<'_, Asking<Whose>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What only ever ends with an error.
type Never = Result<std::convert::Infallible, LineError>;

/// A question whose asker waits; dropped with them, it is not asked any more.
struct Waiting<'a> {
    remote: &'a Remote,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.remote.asking().give_up(self.number);
    }
}

fn beside(answer: &AuthorityMessage) -> AuthorityError {
    let kind = answer.kind().name();
    AuthorityError::Unreachable(format!("its answer, {kind}, is none to this question"))
}

impl Authority for Remote {
    fn issue(&self, claim: Claim, far: Vec<u8>, keep: Duration) -> AuthorityFuture<'_, Granted> {
        let question = Issue {
            request: 0,
            holder: claim.holder,
            session: claim.session.0,
            keep_s: keep.as_secs(),
            far: far.into(),
        };
        Box::pin(self.ask_for_ticket(question.into()))
    }

    fn check(&self, claim: Claim, ticket: Ticket) -> AuthorityFuture<'_, Granted> {
        let question = Check {
            request: 0,
            holder: claim.holder,
            session: claim.session.0,
            ticket: *ticket.as_bytes(),
        };
        Box::pin(self.ask_for_ticket(question.into()))
    }

    fn renew(&self, handles: Vec<Handle>) -> AuthorityFuture<'_, ()> {
        Box::pin(async move {
            for some in handles.chunks(MAX_RENEWED) {
                let handles = some.iter().map(|handle| handle.0).collect();
                let renew = Renew {
                    request: 0,
                    handles,
                };
                self.have_done(renew.into()).await?;
            }
            Ok(())
        })
    }

    fn forget(&self, handle: Handle) -> AuthorityFuture<'_, ()> {
        let discard = Discard {
            request: 0,
            handle: handle.0,
        };
        Box::pin(self.have_done(discard.into()))
    }
}
