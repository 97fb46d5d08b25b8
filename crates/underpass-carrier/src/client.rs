//! The client's side of every carrier: settings, requests, connections kept for the next request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::body::{FlowBody, ReadBodyError, read_whole};
use crate::coding::Coding;
use crate::dial::{BoxedConnection, Speech};
use crate::error::CarrierError;
use crate::http2;
use crate::kind::{Abilities, Kind};
use crate::memory::PathMemory;
use crate::portal;
use crate::posting::SMALL_ANSWER;
use crate::proxy::{Authenticator, Passed, Proxies, pass};
use crate::quic;
use crate::request::{Address, CarrierId, IdPlace, Part};
use crate::tls::{self, TlsRoots, TlsTrust};
use crate::url::{RelayUrl, Scheme};
use crate::{Carrier, CarrierInfo};

/// The media type of bodies where nothing else is set.
pub const DEFAULT_MEDIA_TYPE: &str = "binary/tcp";
/// The media type of bodies of text where nothing else is set.
pub(crate) const DEFAULT_TEXT_TYPE: &str = "text/plain";
/// Connections kept open for the next request of one carrier.
const MAX_IDLE_CONNECTIONS: usize = 28;
/// Bytes that HTTP keeps in memory per connection and direction.
const HTTP_BUFFER: usize = 64 * 1024;

/// How a client makes its carriers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientSettings {
    /// How long TCP and TLS may take together, and after that the first answer. 10 s.
    pub connect_timeout: Duration,
    /// How long the path may take to show that it passes a body on before its end, for carriers
    /// that need that; it starts when TCP and TLS are made. 3 s.
    pub proving_timeout: Duration,
    /// Headers added to each request; they replace ours of the same name.
    pub headers: HeaderMap,
    /// The media type of bodies, so that nothing on the way interprets them.
    pub media_type: HeaderValue,
    /// The same where bodies are text.
    pub text_type: HeaderValue,
    /// Where the id of a carrier of several requests stands.
    pub id_place: IdPlace,
    /// The largest request body, in bytes; halved by itself where the path answers 413. 1,000,000,
    /// which is below nginx's default limit of 1 MiB. No more than 256 KiB of that are
    /// used: more bodies at a time bring more than larger ones.
    pub largest_body: usize,
    /// How long the relay may hold a poll that it has no bytes for. 25 s, below the idle limits of
    /// most boxes (30 s); shortened by itself where polls are cut earlier.
    pub poll_hold: Duration,
    /// Polls are POSTs, for paths where GETs are answered from a cache or not let through.
    pub poll_by_post: bool,
    /// The UDP port at which the relay speaks QUIC. 443.
    pub quic_port: u16,
    /// How long connecting over QUIC may take: where UDP does not pass, nothing tells. 1.5 s.
    pub quic_timeout: Duration,
    /// What carriers have learned about the path; shared by clones of these settings.
    pub path: Arc<PathMemory>,
    /// Which certificate is accepted for `https`.
    pub tls: TlsTrust,
    /// Roots that are trusted beside the system's.
    pub roots: TlsRoots,
    /// The proxies on the way. None.
    pub proxies: Proxies,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            proving_timeout: Duration::from_secs(3),
            headers: HeaderMap::new(),
            media_type: HeaderValue::from_static(DEFAULT_MEDIA_TYPE),
            text_type: HeaderValue::from_static(DEFAULT_TEXT_TYPE),
            id_place: IdPlace::default(),
            largest_body: 1_000_000,
            poll_hold: Duration::from_secs(25),
            poll_by_post: false,
            quic_port: quic::DEFAULT_PORT,
            quic_timeout: Duration::from_millis(1500),
            path: Arc::default(),
            tls: TlsTrust::default(),
            roots: TlsRoots::default(),
            proxies: Proxies::default(),
        }
    }
}

/// Makes a carrier of this kind to the relay.
///
/// # Errors
/// The relay cannot be reached, or the path does not let this kind through.
pub async fn connect(
    target: &RelayUrl,
    kind: &'static Kind,
    settings: &ClientSettings,
) -> Result<Carrier, CarrierError> {
    let client = Client::new(target, kind.name, kind.abilities, settings)?;
    (kind.connect)(Arc::new(client)).await
}

/// One carrier's client: where it goes, its id, its idle connections.
pub(crate) struct Client {
    pub(crate) url: RelayUrl,
    pub(crate) settings: ClientSettings,
    pub(crate) kind: &'static str,
    pub(crate) abilities: Abilities,
    pub(crate) coding: Coding,
    http2: Option<http2::Shared>,
    id: CarrierId,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    idle: Mutex<Vec<HttpConnection>>,
}

/// A connection that HTTP is spoken on.
pub(crate) struct HttpConnection {
    pub(crate) sender: SendRequest<FlowBody>,
    /// Ends the connection whatever it is doing.
    pub(crate) stop: CancellationToken,
    pub(crate) info: CarrierInfo,
    /// Set where requests go to a proxy, which forwards them.
    forward: Option<Forward>,
}

/// What a proxy that forwards requests wants to know with each of them.
pub(crate) struct Forward {
    /// Who asks.
    pub(crate) auth: Authenticator,
    /// Scheme and authority of the relay.
    pub(crate) base: String,
}

impl HttpConnection {
    /// Begins to speak HTTP/1.1 on a connection.
    pub(crate) async fn speak(
        connection: BoxedConnection,
        info: CarrierInfo,
        forward: Option<Forward>,
    ) -> Result<Self, CarrierError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HTTP_BUFFER)
            .handshake(TokioIo::new(connection))
            .await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection.with_upgrades() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection to the relay ended");
                    }
                }
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self {
            sender,
            stop,
            info,
            forward,
        })
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<FlowBody>,
    ) -> Result<Response<Incoming>, CarrierError> {
        let headers = request.headers();
        let asked = headers.get(header::CONTENT_TYPE);
        let asked = asked.or_else(|| headers.get(header::ACCEPT)).cloned();
        let response = match &mut self.forward {
            None => {
                self.sender.ready().await?;
                self.sender.send_request(request).await?
            }
            Some(Forward { auth, base }) => {
                let (mut head, body) = request.into_parts();
                let target = format!("{base}{}", head.uri);
                head.uri = target.parse().map_err(CarrierError::setting)?;
                match pass(&mut self.sender, auth, head, &target, body).await? {
                    Passed::Through(response) => response,
                    Passed::Again => {
                        return Err(CarrierError::broken("the proxy asks anew who sends this"));
                    }
                }
            }
        };
        match portal::recognise(response.status(), response.headers(), asked.as_ref()) {
            _ if portal::is_busy(&response) => Err(CarrierError::Busy),
            Some(error) => Err(error),
            None => Ok(response),
        }
    }

    /// Sends a request for its own sake, and reads the answer away. False if the connection cannot
    /// be used for another one.
    pub(crate) async fn knock(&mut self, request: Request<FlowBody>) -> Result<bool, CarrierError> {
        let response = match self.send(request).await {
            Err(CarrierError::ClosedAbruptly { .. }) => return Ok(false),
            response => response?,
        };
        let whole = read_whole(response.into_body(), SMALL_ANSWER).await;
        Ok(whole.is_ok() && self.sender.ready().await.is_ok())
    }

    /// What was said to the proxy so far, for the next connection to it.
    pub(crate) fn take_auth(&mut self) -> Option<Authenticator> {
        self.forward.take().map(|forward| forward.auth)
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        // Whoever still reads an answer from it holds it too.
        self.stop.cancel();
    }
}

impl Client {
    fn new(
        target: &RelayUrl,
        kind: &'static str,
        abilities: Abilities,
        settings: &ClientSettings,
    ) -> Result<Self, CarrierError> {
        let tls = match target.scheme() {
            Scheme::Http => None,
            Scheme::Https => {
                let config = tls::client_config(&settings.tls, &settings.roots, Speech::Http1)?;
                Some(Arc::new(config))
            }
        };
        Ok(Self {
            url: target.clone(),
            settings: settings.clone(),
            kind,
            abilities,
            coding: match abilities.text_only {
                true => Coding::Text,
                false => Coding::Binary,
            },
            // One connection for all of a carrier's requests, where there are several.
            http2: (abilities.needs_http2 && !abilities.two_way_streaming)
                .then(http2::Shared::default),
            id: CarrierId::from_random(rand::random()),
            tls,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// A client of no carrier: it makes requests as the carrier does that asks least of the path.
    pub(crate) fn for_probes(
        target: &RelayUrl,
        settings: &ClientSettings,
    ) -> Result<Self, CarrierError> {
        let abilities = crate::poll::KIND.abilities;
        Self::new(target, "probe", abilities, settings)
    }

    /// A new connection, kept for the first request; what is known about it.
    pub(crate) async fn open_idle(&self) -> Result<CarrierInfo, CarrierError> {
        if let Some(shared) = &self.http2 {
            return shared.open(self).await;
        }
        let connection = self.open().await?;
        let info = connection.info.clone();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok(info)
    }

    /// A request about one part of this carrier.
    pub(crate) fn request(
        &self,
        method: Method,
        part: Part,
        body: FlowBody,
    ) -> Result<Request<FlowBody>, CarrierError> {
        self.request_with(method, part, None, body)
    }

    /// The same, with the time that the relay may hold an idle poll.
    pub(crate) fn request_with(
        &self,
        method: Method,
        part: Part,
        hold: Option<Duration>,
        body: FlowBody,
    ) -> Result<Request<FlowBody>, CarrierError> {
        let in_one_request = part == Part::Whole && method == Method::GET;
        let address = Address {
            kind: self.kind,
            id: (!in_one_request).then_some(self.id),
            part,
            hold,
        };
        let text = self.coding == Coding::Text;
        // A cookie is a header, which may get lost.
        let place = match text {
            true => IdPlace::Url,
            false => self.settings.id_place,
        };
        let carries_body = method == Method::POST;
        let mut request = Request::builder()
            .method(method)
            .uri(address.to_target(self.url.prefix(), place, rand::random()))
            .header(header::HOST, self.url.authority())
            .header(header::CACHE_CONTROL, "no-store")
            .body(body)
            .map_err(CarrierError::setting)?;
        let headers = request.headers_mut();
        let name = if carries_body {
            header::CONTENT_TYPE
        } else {
            header::ACCEPT
        };
        let media_type = match text {
            true => &self.settings.text_type,
            false => &self.settings.media_type,
        };
        headers.insert(name, media_type.clone());
        if text {
            // For caches of HTTP/1.0 (RFC 1945 section 10.12).
            headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        }
        for (name, value) in &self.settings.headers {
            headers.insert(name, value.clone());
        }
        if let Some(cookie) = address.to_cookie(place) {
            add_cookie(headers, &cookie)?;
        }
        Ok(request)
    }

    /// Gives `request` a path that it never had: an answer to the same request that failed may have
    /// been kept on the way.
    pub(crate) fn make_unique(&self, request: &mut Request<FlowBody>) -> Result<(), CarrierError> {
        let target = request.uri().to_string();
        let separator = if target.contains('?') { '&' } else { '?' };
        let unique: u64 = rand::random();
        *request.uri_mut() = format!("{target}{separator}r={unique:016x}")
            .parse()
            .map_err(CarrierError::setting)?;
        Ok(())
    }

    /// Sends `request` on an idle connection, or a new one, and reads the whole answer of at most
    /// `limit` bytes. The connection is kept for the next request.
    pub(crate) async fn exchange(
        &self,
        request: Request<FlowBody>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), CarrierError> {
        if let Some(shared) = &self.http2 {
            return shared.exchange(self, request, limit).await;
        }
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let response = connection.send(request).await?;
        let status = response.status();
        let lasts = response.version() == Version::HTTP_11;
        let body = read_whole(response.into_body(), limit)
            .await
            .map_err(ReadBodyError::into_error)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if lasts && idle.len() < MAX_IDLE_CONNECTIONS && !connection.sender.is_closed() {
            idle.push(connection);
        }
        Ok((status, body))
    }

    /// Closes what is kept for the next request: one of them has failed, and what cut it may have cut
    /// all of them.
    pub(crate) fn forget_idle(&self) {
        if let Some(shared) = &self.http2 {
            shared.forget();
        }
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn take_idle(&self) -> Option<HttpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.sender.is_closed());
        idle.pop()
    }

    /// Waits for `work`, as long as a first answer may take.
    pub(crate) async fn within_limit<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, CarrierError>>,
    ) -> Result<T, CarrierError> {
        within(self.settings.connect_timeout, what, work).await
    }

    /// Waits for `work`, as long as the path may take to show that it passes bytes on.
    pub(crate) async fn within_proof<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, CarrierError>>,
    ) -> Result<T, CarrierError> {
        within(self.settings.proving_timeout, what, work).await
    }

    /// Turns one connection into a plain two-way stream (RFC 9110 section 7.8). Gives the stream,
    /// the bytes that came behind the answer, and the answer's headers.
    pub(crate) async fn upgrade(
        &self,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<Upgraded, CarrierError> {
        let mut connection = self.open().await?;
        let mut request = self.request(Method::GET, Part::Whole, FlowBody::empty())?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(CarrierError::setting)?;
            request.headers_mut().insert(name, value);
        }
        request
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let what = "the answer to the upgrade";
        let mut response = self.within_limit(what, connection.send(request)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response.status(), "the upgrade"));
        }
        let upgraded = hyper::upgrade::on(&mut response).await?;
        let parts = upgraded
            .downcast::<TokioIo<BoxedConnection>>()
            .map_err(|_| CarrierError::broken("the upgraded connection is of another type"))?;
        Ok(Upgraded {
            stream: parts.io.into_inner(),
            early: parts.read_buf,
            headers: std::mem::take(response.headers_mut()),
            info: connection.info.clone(),
        })
    }
}

async fn within<T>(
    after: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, CarrierError>>,
) -> Result<T, CarrierError> {
    tokio::time::timeout(after, work)
        .await
        .unwrap_or(Err(CarrierError::TimedOut { what, after }))
}

/// A connection that speaks HTTP no more.
pub(crate) struct Upgraded {
    pub(crate) stream: BoxedConnection,
    /// Bytes of the new protocol that were read already.
    pub(crate) early: Bytes,
    pub(crate) headers: HeaderMap,
    pub(crate) info: CarrierInfo,
}

/// The error for a status that ends a carrier.
pub(crate) fn refused(status: StatusCode, what: &'static str) -> CarrierError {
    CarrierError::Refused {
        status: status.as_u16(),
        what,
    }
}

/// Adds to the `Cookie` header, of which there may be only one (RFC 6265 section 5.4).
fn add_cookie(headers: &mut HeaderMap, cookie: &str) -> Result<(), CarrierError> {
    let joined = match headers.get(header::COOKIE) {
        Some(theirs) => [theirs.as_bytes(), b"; ", cookie.as_bytes()].concat(),
        None => cookie.as_bytes().to_vec(),
    };
    let value = HeaderValue::from_bytes(&joined).map_err(CarrierError::setting)?;
    headers.insert(header::COOKIE, value);
    Ok(())
}
