//! TCP for clients that are nothing but an HTTP library: a session is opened by a request, bytes go up
//! in the bodies of POSTs and come down in the answers to GETs. `docs/plain-http.md` specifies it.
//!
//! | module | what |
//! |---|---|
//! | `ask` | what a request asks for, pure |
//! | `upward`, `downward` | offsets, repetitions, ends of both streams, pure |
//! | `answer` | which status and headers say what, pure |
//! | `token` | what a client shows, pure |
//! | `table` | which sessions there are, and how many there may be |
//! | `session` | moves bytes between the streams and a channel |
//! | `far`, `wire` | how the relay reaches the service in the client's place |

mod answer;
mod ask;
mod downward;
mod far;
#[doc(hidden)]
pub mod fuzzing;
mod session;
mod table;
mod token;
mod upward;
mod wire;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{self, HeaderValue};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use underpass_carrier::{ConnectedPeer, Fallback, NotFound, Page, Scheme};
use underpass_proto::Code;
use underpass_proto::session::Config;
use underpass_seal::PublicKey;
use underpass_store::Enrolled;

pub use token::{TOKEN_LEN, Token};

use crate::attempts::{Attempts, Source};
use crate::clock;
use crate::policy::Standing;
use crate::reception::Reception;
use crate::refusal::Refusal;
use crate::settings::Settings;
use answer::{refused, refused_at};
use ask::{Ask, Parts, SessionName, understand};
use downward::Given;
use far::Client;
use session::{Answer, Limits, Session, Taken};
use table::{Most, Place, Table};
use upward::Untaken;

/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 1_000_000;
/// How long a body may take to come.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// Bodies that are read, or wait for room in their session, at a time: 64 MB.
const MOST_BODIES: usize = 64;
/// What the near end of a session may buffer for its client, below what the streams keep.
const WINDOW: u64 = 1 << 20;

/// What the interface works with, known once the relay serves.
struct Service {
    reception: Weak<Reception>,
    relay_key: PublicKey,
    /// For the near ends of sessions.
    config: Config,
    stop: CancellationToken,
}

/// The plain HTTP interface of a relay.
pub(crate) struct Plain {
    prefix: String,
    limits: Limits,
    table: Arc<Table>,
    attempts: Mutex<Attempts>,
    bodies: Semaphore,
    service: OnceLock<Service>,
}

/// [`Plain`] as the relay's HTTP front takes it.
pub(crate) struct PlainFront(pub(crate) Arc<Plain>);

impl Fallback for PlainFront {
    fn answer(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Page> + Send>> {
        if !ask::is_ours(&self.0.prefix, request.uri().path()) {
            return NotFound.answer(request);
        }
        let plain = Arc::clone(&self.0);
        Box::pin(async move {
            let answered = plain.try_answer(request).await;
            answered.unwrap_or_else(|why| refused(&why))
        })
    }
}

/// Whose token a request shows.
struct Holder {
    enrolled: Enrolled,
    token: Token,
}

/// Why a request is not looked at.
enum Shut {
    Refused(Refusal),
    /// Too many wrong tokens came from where it comes from.
    Waits(Duration),
}

impl From<Refusal> for Shut {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

impl Plain {
    /// An interface that answers nobody before [`Plain::begin`].
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        let limits = Limits {
            room: settings.plain_buffer.0,
            hold: settings.plain_hold.0,
            idle: settings.plain_idle.0,
        };
        let most = Most {
            all: settings.plain_sessions,
            of_user: settings.plain_sessions_per_user,
        };
        Arc::new(Self {
            prefix: settings.prefix.clone(),
            limits,
            table: Table::new(most),
            attempts: Mutex::default(),
            bodies: Semaphore::new(MOST_BODIES),
            service: OnceLock::new(),
        })
    }

    /// From now on requests are answered, until `stop`; sessions go through `reception`.
    pub(crate) fn begin(
        &self,
        reception: &Arc<Reception>,
        relay_key: PublicKey,
        config: Config,
        stop: CancellationToken,
    ) {
        let config = Config {
            max_channel_window: WINDOW,
            max_session_window: 2 * WINDOW,
            ..config
        };
        let service = Service {
            reception: Arc::downgrade(reception),
            relay_key,
            config,
            stop,
        };
        let first = self.service.set(service).is_ok();
        debug_assert!(first, "a relay begins once");
    }

    fn service(&self) -> Result<(&Service, Arc<Reception>), Refusal> {
        let going = || Refusal::of(Code::GoingAway);
        let service = self.service.get().ok_or_else(going)?;
        if service.stop.is_cancelled() {
            return Err(going());
        }
        let reception = service.reception.upgrade().ok_or_else(going)?;
        Ok((service, reception))
    }

    async fn try_answer(&self, request: Request<Incoming>) -> Result<Page, Refusal> {
        // Who shows no token learns nothing but that.
        let holder = match self.holder(&request).await {
            Ok(holder) => holder,
            Err(Shut::Refused(why)) => return Err(why),
            Err(Shut::Waits(wait)) => return Ok(answer::too_many_attempts(wait)),
        };
        let ask = match self.understand(&request) {
            Ok(ask) => ask,
            Err(why) => return Ok(answer::unclear(&why)),
        };
        match ask {
            Ask::Open { service, once } => self.open(holder, &request, service, once).await,
            Ask::Up {
                session,
                offset,
                end,
            } => {
                let session = self.find(&holder, session)?;
                self.take(&session, request, offset, end).await
            }
            Ask::Down {
                session,
                offset,
                wait,
            } => {
                let session = self.find(&holder, session)?;
                let wait = wait.map(Duration::from_secs);
                let answer = session.give(offset, wait).await?;
                Ok(show(answer, offset, answer::media_type(request.headers())))
            }
            Ask::Close { session } => {
                self.find(&holder, session)?.close();
                Ok(answer::closed())
            }
        }
    }

    fn understand(&self, request: &Request<Incoming>) -> Result<Ask, ask::Unclear> {
        let cookies = request.headers().get_all(header::COOKIE);
        let cookies: Vec<&str> = cookies
            .iter()
            .filter_map(|cookie| cookie.to_str().ok())
            .collect();
        let parts = Parts {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query(),
            cookies: &cookies,
        };
        understand(&self.prefix, parts)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose token the request shows, as of now.
    async fn holder(&self, request: &Request<Incoming>) -> Result<Holder, Shut> {
        let invalid = || Refusal::of(Code::InvalidToken);
        let shown = request.headers().get(header::AUTHORIZATION);
        // That there is none is no attempt.
        let shown = shown.ok_or_else(invalid)?;
        let token = shown.to_str().ok().and_then(ask::bearer);
        let key = token.as_ref().map(|token| token.key().public().0);
        let peer = request.extensions().get::<ConnectedPeer>();
        let address = peer.and_then(|it| it.peer);
        let source = address.map(|address| Source::of(address.ip()));
        let (_, reception) = self.service()?;
        if let Some(source) = source {
            let admitted = self.attempts().admit(source, key.as_ref(), clock::now());
            admitted.map_err(|wait| {
                reception.note_token_refused(address, Code::TooManyAttempts);
                Shut::Waits(wait)
            })?;
        }
        let standing = match key {
            Some(key) => reception.token_holder(key).await?,
            None => Standing::Stranger,
        };
        match (standing, token, key) {
            (Standing::Member(enrolled), Some(token), Some(key)) => {
                self.attempts().right(key, clock::now());
                Ok(Holder { enrolled, token })
            }
            _ => {
                if let Some(source) = source {
                    let wait = self.attempts().wrong(source, key.as_ref(), clock::now());
                    if !wait.is_zero() {
                        tracing::info!(%source, ?wait, "too many wrong tokens");
                    }
                }
                reception.note_token_refused(address, Code::InvalidToken);
                Err(invalid().into())
            }
        }
    }

    fn find(&self, holder: &Holder, name: SessionName) -> Result<Arc<Session>, Refusal> {
        let found = self.table.find(name, holder.enrolled.machine.id);
        found.ok_or_else(|| Refusal::of(Code::UnknownSession))
    }

    async fn open(
        &self,
        holder: Holder,
        request: &Request<Incoming>,
        service: String,
        once: String,
    ) -> Result<Page, Refusal> {
        let Holder { enrolled, token } = holder;
        let peer = request.extensions().get::<ConnectedPeer>();
        let scheme = peer.map_or(Scheme::Http, |peer| peer.scheme);
        let peer = peer.and_then(|peer| peer.peer);
        let (all, reception) = self.service()?;
        let place = self.table.open(&enrolled, &once, || {
            let name = SessionName::from_random(rand::random());
            Session::new(name, enrolled.machine.id, once.clone(), self.limits)
        })?;
        let session = match place {
            Place::Known(session) => session,
            Place::New(session, seat) => {
                let counted = reception.begin_channel(&enrolled, peer)?;
                let client = Client {
                    key: token.key(),
                    name: enrolled.machine.name.to_string(),
                    peer,
                    scheme,
                };
                let config = all.config.clone();
                let reach = far::reach(
                    Arc::clone(&reception),
                    all.relay_key,
                    config,
                    client,
                    service,
                );
                let (running, stop) = (Arc::clone(&session), all.stop.clone());
                // It outlives this request: a proxy may cut it off and ask again.
                reception.tasks.spawn(async move {
                    running.run(reach, stop).await;
                    drop((seat, counted));
                });
                session
            }
        };
        session.opened().await?;
        let secure = scheme == Scheme::Https;
        Ok(answer::opened(session.name, &self.prefix, secure))
    }

    async fn take(
        &self,
        session: &Session,
        request: Request<Incoming>,
        offset: u64,
        end: bool,
    ) -> Result<Page, Refusal> {
        let turn = self.bodies.try_acquire();
        let _turn = turn.map_err(|_| Refusal::busy("requests with a body at a time"))?;
        let body = read_body(request.into_body()).await?;
        let Taken { next, outcome } = session.take(offset, body, end).await?;
        Ok(match outcome {
            Ok(()) => answer::taken(next),
            Err(Untaken::Misplaced) => refused_at(next, &Refusal::of(Code::WrongOffset)),
            Err(Untaken::Full) => {
                let full = Refusal::busy("bytes that the service has not read yet");
                refused_at(next, &full)
            }
            Err(Untaken::Broken(code)) => answer::broken(code),
        })
    }
}

fn show(answer: Answer, offset: u64, media_type: HeaderValue) -> Page {
    let Answer { given, base } = answer;
    match given {
        Given::Bytes { bytes, last } => {
            let end = last.then_some(offset + bytes.len() as u64);
            answer::bytes(media_type, offset, bytes, end)
        }
        Given::Nothing => answer::bytes(media_type, offset, Bytes::new(), None),
        Given::End => answer::bytes(media_type, offset, Bytes::new(), Some(offset)),
        Given::Broken(code) => answer::broken(code),
        Given::Misplaced => refused_at(base, &Refusal::of(Code::WrongOffset)),
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let reading = Limited::new(body, LARGEST_BODY).collect();
    match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let next = Code::TooLarge.explain().next;
            let text = format!("the body is larger than {LARGEST_BODY} bytes; {next}");
            Err(Refusal::new(Code::TooLarge, text))
        }
        // Whoever still listens may send it again.
        Ok(Err(_)) | Err(_) => Err(Refusal::new(Code::TimedOut, "the body did not come whole")),
    }
}
