//! Between HTTP and the carriers: who is asked for, what is half made, what is too much.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_proto::Time;

use crate::body::{BodyError, FlowBody};
use crate::client::{DEFAULT_MEDIA_TYPE, DEFAULT_TEXT_TYPE};
use crate::dial::BoxedConnection;
use crate::guard::Started;
use crate::kind::kind_by_name;
use crate::portal;
use crate::probe::{self, Allowance, Ask};
use crate::request::{CarrierId, Part, parse_request};
use crate::server::ServerSettings;
use crate::sources::{OfSource, SourceLimit, Sources};
use crate::stall::StallGuard;
use crate::tls::TlsInfo;
use crate::url::Scheme;
use crate::{Carrier, CarrierInfo};

/// Probes that are answered at a time.
const MOST_PROBES: usize = 64;
/// The longest media type that is echoed to a client, in bytes.
const MAX_MEDIA_TYPE_LEN: usize = 128;

/// A response that is not a carrier's.
pub type Page = Response<UnsyncBoxBody<Bytes, BodyError>>;

/// Who answers the requests that are no carrier's: the relay's pages, or nobody.
pub trait Fallback: Send + Sync + 'static {
    /// Answers one request. Its extensions hold a [`ConnectedPeer`].
    fn answer(&self, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Page> + Send>>;
}

/// The fallback that answers "not found" and gives no name away.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotFound;

impl Fallback for NotFound {
    fn answer(&self, _request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Page> + Send>> {
        let body = Full::new(Bytes::from_static(b"not found\n"));
        let mut page = Response::new(body.map_err(|never| match never {}).boxed_unsync());
        *page.status_mut() = StatusCode::NOT_FOUND;
        Box::pin(std::future::ready(page))
    }
}

/// Who is at the other end of a connection to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectedPeer {
    /// Plain HTTP or TLS.
    pub scheme: Scheme,
    /// The other end of the TCP connection: a client, or the last box on its way.
    pub peer: Option<SocketAddr>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// What TLS agreed on.
    pub tls: Option<TlsInfo>,
}

/// One accepted connection.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) peer: ConnectedPeer,
    /// Ends it whatever it is doing.
    pub(crate) stop: CancellationToken,
    /// It counts as half open until its first request has come.
    pub(crate) opening: Arc<Mutex<Option<OfSource>>>,
}

impl Line {
    /// Whether no request has come yet.
    pub(crate) fn is_opening(&self) -> bool {
        lock(&self.opening).is_some()
    }
}

/// Why a carrier's request gets no carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing of that name, or not in this way.
    NotFound,
    /// Something on the way has removed the upgrade, or the client has not asked for it.
    UpgradeRequired(&'static str),
    /// A bound is reached; later, perhaps.
    Busy,
    /// No room for another carrier, of whatever kind.
    Full,
    /// The body is larger than allowed.
    TooLarge,
    /// The body did not come whole.
    Incomplete,
    /// The body did not come in time.
    TooSlow,
}

/// What becomes of a request.
pub(crate) type Reply = Result<Response<FlowBody>, Refusal>;

/// What all connections of a server share.
pub(crate) struct Front {
    pub(crate) settings: ServerSettings,
    fallback: Arc<dyn Fallback>,
    accepted: mpsc::Sender<Carrier>,
    /// Carriers of several requests, by id. Each entry is of the type that its kind puts there.
    table: Mutex<HashMap<CarrierId, Entry>>,
    half_made: Arc<Semaphore>,
    /// The same by source.
    half_made_of: Sources,
    /// Connections on which no whole request has come, by source.
    pub(crate) half_open: Sources,
    carriers: Arc<Semaphore>,
    /// Request bodies in memory, in KiB.
    pub(crate) budget: Arc<Semaphore>,
    /// Probes that are being answered.
    pub(crate) probes: Semaphore,
    allowance: Mutex<Allowance>,
    /// When the front was made: the origin of its times.
    origin: Instant,
    pub(crate) tasks: TaskTracker,
    /// No further carrier is taken.
    pub(crate) closed: CancellationToken,
    /// Ends everything at once.
    pub(crate) stop: CancellationToken,
}

type Entry = Arc<dyn Any + Send + Sync>;

impl Front {
    pub(crate) fn new(
        settings: ServerSettings,
        fallback: Arc<dyn Fallback>,
        accepted: mpsc::Sender<Carrier>,
    ) -> Self {
        Self {
            half_made: Arc::new(Semaphore::new(settings.max_half_made)),
            half_made_of: Sources::new(settings.max_half_open_per_source),
            half_open: Sources::new(settings.max_half_open_per_source),
            carriers: Arc::new(Semaphore::new(settings.max_carriers)),
            // One body must fit, or none would ever be taken.
            budget: Arc::new(Semaphore::new(
                settings.body_budget.max(settings.largest_body) / 1024 + 1,
            )),
            table: Mutex::new(HashMap::new()),
            probes: Semaphore::new(MOST_PROBES),
            allowance: Mutex::default(),
            origin: Instant::now(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            stop: CancellationToken::new(),
            settings,
            fallback,
            accepted,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        line: Line,
    ) -> Response<FlowBody> {
        drop(lock(&line.opening).take());
        let (path, query) = (request.uri().path(), request.uri().query());
        if let Some(ask) = Ask::parse(&self.settings.prefix, request.method(), path) {
            return self.answer_probe(ask, request, &line).await;
        }
        let cookies = request.headers().get(header::COOKIE);
        let cookies = cookies.map(HeaderValue::as_bytes);
        let found = parse_request(&self.settings.prefix, path, query, cookies)
            .and_then(|address| Some((kind_by_name(address.kind)?, address)))
            .map(|(kind, address)| (kind, address.id, address.part, address.hold));
        let Some((kind, id, part, hold)) = found else {
            request.extensions_mut().insert(line.peer);
            return self.fallback.answer(request).await.map(FlowBody::Other);
        };
        let media_type = media_type(request.headers(), kind.abilities.text_only);
        let may_close = request.version() < Version::HTTP_2;
        let closed = self.closed.clone();
        let (front, peer) = (Arc::clone(&self), line.peer.peer);
        let exchange = Exchange {
            front: self,
            request,
            id,
            part,
            hold,
            line,
            media_type: media_type.clone(),
        };
        match (kind.serve)(exchange).await {
            Ok(response) => response,
            Err(refusal) => {
                if refusal == Refusal::TooSlow {
                    front.settings.tell(SourceLimit::SlowBody, peer);
                }
                let mut response = refuse(refusal, media_type);
                if may_close && closed.is_cancelled() {
                    // A box that keeps its connections finds whoever listens after us on a new one.
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                response
            }
        }
    }

    async fn answer_probe(
        &self,
        ask: Ask,
        request: Request<Incoming>,
        line: &Line,
    ) -> Response<FlowBody> {
        let (head, body) = request.into_parts();
        let elapsed = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let source = line.peer.peer.map(|peer| peer.ip());
        let allowed = self
            .allowance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(Time::from_micros(elapsed), source);
        let answered = match allowed {
            true => probe::serve(self, ask, &head.headers, body).await,
            false => Err(Refusal::Busy),
        };
        answered.unwrap_or_else(|refusal| refuse(refusal, media_type(&head.headers, false)))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<CarrierId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` beside the requests, until the server is stopped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Counts a carrier as half made, unless there are too many.
    pub(crate) fn begin(self: &Arc<Self>, peer: Option<SocketAddr>) -> Result<HalfMade, Refusal> {
        if self.closed.is_cancelled() {
            return Err(Refusal::Busy);
        }
        let of_source = self.half_made_of.begin(peer.map(|peer| peer.ip()));
        let of_source = of_source.ok_or_else(|| {
            self.settings.tell(SourceLimit::HalfMade, peer);
            Refusal::Full
        })?;
        let take = |of: &Arc<Semaphore>| {
            let permit = Arc::clone(of).try_acquire_owned();
            permit.map_err(|_| Refusal::Full)
        };
        Ok(HalfMade {
            counted_half: (take(&self.half_made)?, of_source),
            counted: take(&self.carriers)?,
            front: Arc::clone(self),
        })
    }

    /// Carriers of several requests that the table knows.
    pub(crate) fn known(&self) -> usize {
        self.table().len()
    }

    /// Carriers on which no byte has come yet.
    pub(crate) fn half_made(&self) -> usize {
        self.settings.max_half_made - self.half_made.available_permits()
    }
}

/// The media type that the client uses, so that one setting on its side decides for both ways.
pub(crate) fn media_type(headers: &HeaderMap, text: bool) -> HeaderValue {
    let theirs = headers
        .get(header::CONTENT_TYPE)
        .or_else(|| headers.get(header::ACCEPT));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-+._".contains(&byte);
    theirs
        .filter(|value| value.len() <= MAX_MEDIA_TYPE_LEN && value.as_bytes().contains(&b'/'))
        .filter(|value| value.as_bytes().iter().copied().all(plain))
        .filter(|value| !text || value.as_bytes().starts_with(b"text/"))
        .cloned()
        .unwrap_or(HeaderValue::from_static(match text {
            true => DEFAULT_TEXT_TYPE,
            false => DEFAULT_MEDIA_TYPE,
        }))
}

fn refuse(refusal: Refusal, media_type: HeaderValue) -> Response<FlowBody> {
    let status = match refusal {
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::UpgradeRequired(_) => StatusCode::UPGRADE_REQUIRED,
        Refusal::Busy | Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Incomplete | Refusal::TooSlow => StatusCode::REQUEST_TIMEOUT,
    };
    let mut response = bare_response(status, media_type);
    if let Refusal::UpgradeRequired(token) = refusal {
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static(token));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    if refusal == Refusal::Full {
        portal::mark_busy(response.headers_mut());
    }
    response
}

/// A response that no box on the way may keep, change or gather, as far as boxes can be told so.
pub(crate) fn bare_response(status: StatusCode, media_type: HeaderValue) -> Response<FlowBody> {
    let mut response = Response::new(FlowBody::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let value = HeaderValue::from_static;
    headers.insert(header::CACHE_CONTROL, value("no-store, no-transform"));
    // nginx, and others that follow it.
    headers.insert("x-accel-buffering", value("no"));
    if status != StatusCode::NO_CONTENT && status != StatusCode::SWITCHING_PROTOCOLS {
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    response
}

/// One request to a carrier, and all that is needed to answer it.
pub(crate) struct Exchange {
    pub(crate) front: Arc<Front>,
    pub(crate) request: Request<Incoming>,
    pub(crate) id: Option<CarrierId>,
    pub(crate) part: Part,
    pub(crate) hold: Option<Duration>,
    pub(crate) line: Line,
    media_type: HeaderValue,
}

impl Exchange {
    /// Counts a carrier as half made, unless there are too many.
    pub(crate) fn begin(&self) -> Result<HalfMade, Refusal> {
        self.front.begin(self.line.peer.peer)
    }

    /// What is known about a carrier that began with this request.
    pub(crate) fn info(&self, carrier: &'static str) -> CarrierInfo {
        let ConnectedPeer {
            scheme,
            peer,
            local,
            tls,
        } = self.line.peer.clone();
        CarrierInfo {
            carrier,
            scheme,
            peer,
            local,
            tls,
            proxy: None,
        }
    }

    /// An answer with the headers that every answer to a carrier has, and more.
    pub(crate) fn respond(
        &self,
        status: StatusCode,
        more: impl FnOnce(&mut HeaderMap),
    ) -> Response<FlowBody> {
        let mut response = bare_response(status, self.media_type.clone());
        more(response.headers_mut());
        response
    }

    /// An answer with a body.
    pub(crate) fn respond_with(&self, body: impl Into<FlowBody>) -> Response<FlowBody> {
        self.respond(StatusCode::OK, |_| ()).map(|_| body.into())
    }

    /// Runs `work` beside the request, until the server is stopped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.front.spawn(work);
    }

    /// The connection itself, once the answer 101 was sent, and the bytes read from it too far.
    pub(crate) fn take_upgrade(
        &mut self,
    ) -> impl Future<Output = Option<(BoxedConnection, Bytes)>> + Send + use<> {
        let upgrade = hyper::upgrade::on(&mut self.request);
        let limit = self.front.settings.first_byte_timeout;
        async move {
            let upgraded = tokio::time::timeout(limit, upgrade).await.ok()?.ok()?;
            let parts = upgraded.downcast::<TokioIo<StallGuard>>().ok()?;
            Some((parts.io.into_inner().into_inner(), parts.read_buf))
        }
    }

    /// Makes `entry` known under this request's id until the slot is dropped. None if the id is
    /// missing or in use.
    pub(crate) fn register<T: Send + Sync + 'static>(&self, entry: &Arc<T>) -> Option<Slot> {
        let id = self.id?;
        let mut table = self.front.table();
        if table.contains_key(&id) || table.len() >= self.front.settings.max_carriers * 2 {
            return None;
        }
        table.insert(id, Arc::clone(entry) as Entry);
        Some(Slot {
            front: Arc::clone(&self.front),
            id,
        })
    }

    /// The entry of this request's id, if it is of the type that the kind keeps.
    pub(crate) fn find<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, Refusal> {
        let entry = self.id.and_then(|id| self.front.table().get(&id).cloned());
        let found = entry.and_then(|entry| entry.downcast::<T>().ok());
        found.ok_or(Refusal::NotFound)
    }

    /// The request's body; to be called once.
    pub(crate) fn into_body(self) -> Incoming {
        self.request.into_body()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the table of carriers; given up by dropping it.
pub(crate) struct Slot {
    front: Arc<Front>,
    id: CarrierId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.front.table().remove(&self.id);
    }
}

/// A carrier that has begun and on which no byte has come.
pub(crate) struct HalfMade {
    front: Arc<Front>,
    counted_half: (OwnedSemaphorePermit, OfSource),
    counted: OwnedSemaphorePermit,
}

impl HalfMade {
    /// As [`HalfMade::introduce`], and cancels `gone` if it comes to nothing.
    pub(crate) async fn introduce_or(self, carrier: Carrier, gone: CancellationToken) {
        if !self.introduce(carrier).await {
            gone.cancel();
        }
    }

    /// Waits for the carrier's first byte and hands it out. False if that takes too long, the
    /// carrier ends, or nobody takes it; it is dropped then.
    pub(crate) async fn introduce(self, carrier: Carrier) -> bool {
        let Self {
            front,
            counted_half,
            counted,
        } = self;
        let Carrier {
            mut sink,
            mut source,
            info,
        } = carrier;
        let limit = front.settings.first_byte_timeout;
        let first = poll_fn(|cx| {
            // What opens the carrier on our side has to leave too.
            if let std::task::Poll::Ready(Err(error)) = sink.poll_flush(cx) {
                return std::task::Poll::Ready(Some(Err(error)));
            }
            source.poll_recv(cx)
        });
        let first = match tokio::time::timeout(limit, first).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(error))) => {
                tracing::debug!(carrier = info.carrier, %error, "ended before its first byte");
                return false;
            }
            Ok(None) => return false,
            Err(_) => {
                tracing::debug!(carrier = info.carrier, "cut: no byte came in time");
                return false;
            }
        };
        drop(counted_half);
        let carrier = Carrier {
            sink,
            source: Box::new(Started {
                first: Some(first),
                inner: source,
                _counted: counted,
            }),
            info,
        };
        let handed = tokio::time::timeout(limit, front.accepted.send(carrier)).await;
        matches!(handed, Ok(Ok(())))
    }
}
