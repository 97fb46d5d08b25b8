//! Opening connections to the relay: straight, or through proxies.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;

use super::auth::{Authenticator, Gate};
use super::error::ProxyError;
use super::passing::{Passed, pass};
use super::{ProxyScheme, ProxyUrl, Route, socks};
use crate::CarrierInfo;
use crate::body::FlowBody;
use crate::client::{Client, Forward, HttpConnection};
use crate::dial::{BoxedConnection, Speech, connect_tcp, start_tls};
use crate::error::CarrierError;
use crate::tls::{self, TlsTrust};
use crate::url::Scheme;

/// Connections that one way through a proxy may take: one that learns what the proxy wants, one that
/// brings it, and one more for a nonce that became too old in between.
const MOST_CONNECTIONS: usize = 3;

/// How a carrier's connection passes a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyUse {
    /// The proxy, without credentials.
    pub proxy: String,
    /// Whether it only passes bytes on (CONNECT, SOCKS), or requests.
    pub tunnel: bool,
}

/// A connection on which the relay is spoken to, and no proxy.
pub(crate) struct Opened {
    pub(crate) connection: BoxedConnection,
    pub(crate) info: CarrierInfo,
}

type Going<'a, T> = Pin<Box<dyn Future<Output = Result<T, CarrierError>> + Send + 'a>>;

/// A TCP connection (with TLS, for `https://` proxies) to a relay or proxy.
struct Reached {
    connection: BoxedConnection,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl Client {
    /// A new connection that HTTP/1.1 is spoken on. Requests may be sent to a proxy that forwards
    /// them.
    pub(crate) async fn open(&self) -> Result<HttpConnection, CarrierError> {
        self.by_some_route(|route| Box::pin(self.open_by(route)))
            .await
    }

    /// A new connection on which nothing but the relay hears what is spoken, through a tunnel where
    /// there is a proxy.
    pub(crate) async fn open_stream(&self, speech: Speech) -> Result<Opened, CarrierError> {
        let go = move |route| -> Going<'_, Opened> { Box::pin(self.open_straight(route, speech)) };
        self.by_some_route(go).await
    }

    async fn open_by(&self, route: Route) -> Result<HttpConnection, CarrierError> {
        match route {
            Route::Proxy(proxy) if self.url.scheme() == Scheme::Http => {
                self.open_past(&self.settings.proxies.gate(&proxy)).await
            }
            route => {
                let Opened { connection, info } = self.open_straight(route, Speech::Http1).await?;
                HttpConnection::speak(connection, info, None).await
            }
        }
    }

    /// Goes the ways to the relay in their order, until one does not end before its proxy; asks for
    /// credentials, where that helps.
    async fn by_some_route<'a, T>(
        &'a self,
        go: impl Fn(Route) -> Going<'a, T>,
    ) -> Result<T, CarrierError> {
        let Self { settings, url, .. } = self;
        let after = settings.connect_timeout;
        loop {
            let routes = settings.proxies.routes(url, &settings.roots).await?;
            let mut outcome = Err(CarrierError::setting("there is no way to the relay"));
            for route in routes {
                let what = "connecting to the relay";
                outcome = tokio::time::timeout(after, go(route.clone()))
                    .await
                    .unwrap_or(Err(CarrierError::TimedOut { what, after }));
                match &outcome {
                    Err(error) if error.another_route_may_do() => {
                        tracing::debug!(?route, %error, "not by this way");
                    }
                    _ => break,
                }
            }
            match outcome {
                Err(CarrierError::Proxy(error)) if settings.proxies.ask_somebody(&error).await => {}
                outcome => return outcome,
            }
        }
    }

    async fn open_straight(&self, route: Route, speech: Speech) -> Result<Opened, CarrierError> {
        let (reached, proxy) = match &route {
            Route::Direct => {
                let limit = self.settings.connect_timeout;
                let stream = connect_tcp(self.url.host(), self.url.port(), limit).await?;
                (Reached::over_tcp(stream), None)
            }
            Route::Proxy(proxy) => {
                let gate = self.settings.proxies.gate(proxy);
                (self.tunnel(&gate).await?, Some(proxy))
            }
        };
        self.finish(reached, proxy, speech).await
    }

    /// TLS with the relay, where its address wants it.
    async fn finish(
        &self,
        reached: Reached,
        proxy: Option<&ProxyUrl>,
        speech: Speech,
    ) -> Result<Opened, CarrierError> {
        let info = self.info_of(&reached, proxy, true);
        let Some(config) = &self.tls else {
            let connection = reached.connection;
            return Ok(Opened { connection, info });
        };
        let config = tls::speaking(config, speech);
        let (stream, agreed) = start_tls(self.url.host(), &config, reached.connection).await?;
        Ok(Opened {
            connection: Box::new(stream),
            info: CarrierInfo {
                tls: Some(agreed),
                ..info
            },
        })
    }

    fn info_of(&self, reached: &Reached, proxy: Option<&ProxyUrl>, tunnel: bool) -> CarrierInfo {
        CarrierInfo {
            carrier: self.kind,
            scheme: self.url.scheme(),
            peer: reached.peer,
            local: reached.local,
            tls: None,
            proxy: proxy.map(|proxy| ProxyUse {
                proxy: proxy.to_string(),
                tunnel,
            }),
        }
    }

    /// Past a proxy to an `http://` relay: carriers that need more than requests and answers try a
    /// tunnel first; where that is refused, and for all others, the proxy forwards requests.
    async fn open_past(&self, gate: &Arc<Gate>) -> Result<HttpConnection, CarrierError> {
        let by_socks = gate.proxy().scheme() == ProxyScheme::Socks5;
        let tunnel = self.abilities.wants_tunnel() && gate.connect_refused().is_none();
        if by_socks || tunnel {
            match self.tunnel(gate).await {
                Err(CarrierError::Proxy(ProxyError::Refused { .. })) if !by_socks => {}
                Err(error) => return Err(error),
                Ok(reached) => {
                    let opened = self.finish(reached, Some(gate.proxy()), Speech::Http1);
                    let Opened { connection, info } = opened.await?;
                    return HttpConnection::speak(connection, info, None).await;
                }
            }
        }
        self.open_forwarding(gate).await
    }

    /// A connection to a proxy that forwards requests, which knows already who asks.
    async fn open_forwarding(&self, gate: &Arc<Gate>) -> Result<HttpConnection, CarrierError> {
        let _first = self.first_to_ask(gate).await;
        gate.credentials()?;
        let mut auth = Authenticator::new(Arc::clone(gate));
        for _ in 0..MOST_CONNECTIONS {
            let reached = self.reach_proxy(gate.proxy()).await?;
            let info = self.info_of(&reached, Some(gate.proxy()), false);
            let base = format!("http://{}", self.url.authority());
            let forward = Forward { auth, base };
            let mut connection =
                HttpConnection::speak(reached.connection, info, Some(forward)).await?;
            if !gate.wants_exchange() {
                return Ok(connection);
            }
            // A request that asks for nothing: what follows it may be a stream, which cannot be sent twice.
            let request =
                self.request(Method::GET, crate::request::Part::Whole, FlowBody::empty())?;
            if connection.knock(request).await? {
                return Ok(connection);
            }
            auth = match connection.take_auth() {
                Some(auth) => auth,
                None => Authenticator::new(Arc::clone(gate)),
            };
        }
        Err(closes(gate))
    }

    /// Only one connection at a time finds out what a proxy wants, so that wrong credentials are
    /// shown once.
    async fn first_to_ask<'a>(&self, gate: &'a Gate) -> Option<tokio::sync::MutexGuard<'a, ()>> {
        match gate.is_unknown() {
            true => Some(gate.asking.lock().await),
            false => None,
        }
    }

    /// A connection to the proxy itself.
    async fn reach_proxy(&self, proxy: &ProxyUrl) -> Result<Reached, CarrierError> {
        let unreachable = |error: CarrierError| ProxyError::Unreachable {
            proxy: proxy.to_string(),
            reason: error.to_string(),
        };
        // Half of the time is for what follows, so that a dead proxy is not taken for a dead relay.
        let limit: Duration = self.settings.connect_timeout / 2;
        let stream = connect_tcp(proxy.host(), proxy.port(), limit).await;
        let reached = Reached::over_tcp(stream.map_err(unreachable)?);
        if proxy.scheme() != ProxyScheme::Https {
            return Ok(reached);
        }
        let roots = &self.settings.roots;
        let config = tls::client_config(&TlsTrust::System, roots, Speech::Http1)?;
        let config = Arc::new(config);
        let started = start_tls(proxy.host(), &config, reached.connection);
        let (stream, _) = started.await.map_err(unreachable)?;
        Ok(Reached {
            connection: Box::new(stream),
            ..reached
        })
    }

    /// A connection to the relay through the proxy (RFC 9110 section 9.3.6).
    async fn tunnel(&self, gate: &Arc<Gate>) -> Result<Reached, CarrierError> {
        let _first = self.first_to_ask(gate).await;
        gate.credentials()?;
        let mut auth = Authenticator::new(Arc::clone(gate));
        for _ in 0..MOST_CONNECTIONS {
            let mut reached = self.reach_proxy(gate.proxy()).await?;
            let (host, port) = (self.url.host(), self.url.port());
            if gate.proxy().scheme() == ProxyScheme::Socks5 {
                socks::connect(gate, &mut reached.connection, host, port).await?;
                return Ok(reached);
            }
            let Reached {
                connection,
                peer,
                local,
            } = reached;
            if let Some(connection) = self.connect_by(gate, &mut auth, connection).await? {
                return Ok(Reached {
                    connection,
                    peer,
                    local,
                });
            }
        }
        Err(closes(gate))
    }

    /// Sends CONNECT. None where the proxy wants that on a new connection.
    async fn connect_by(
        &self,
        gate: &Arc<Gate>,
        auth: &mut Authenticator,
        connection: BoxedConnection,
    ) -> Result<Option<BoxedConnection>, CarrierError> {
        let target = self.url.host_and_port();
        let request = Request::connect(&target)
            .header(header::HOST, &target)
            .body(())
            .map_err(CarrierError::setting)?;
        let (head, ()) = request.into_parts();
        let info = CarrierInfo {
            carrier: self.kind,
            scheme: self.url.scheme(),
            peer: None,
            local: None,
            tls: None,
            proxy: None,
        };
        let mut wire = HttpConnection::speak(connection, info, None).await?;
        let passed = pass(&mut wire.sender, auth, head, &target, FlowBody::empty()).await?;
        let Passed::Through(mut response) = passed else {
            return Ok(None);
        };
        let (proxy, status) = (gate.proxy().to_string(), response.status());
        if status.is_success() {
            let upgraded = hyper::upgrade::on(&mut response).await?;
            let parts = upgraded
                .downcast::<TokioIo<BoxedConnection>>()
                .map_err(|_| CarrierError::broken("the tunnel is of another type"))?;
            let speaks_first = !parts.read_buf.is_empty();
            if (speaks_first || announces_body(response.headers()))
                && let Some(portal) = crate::portal::recognise(status, response.headers(), None)
            {
                return Err(portal);
            }
            if speaks_first {
                let reason = "bytes come out of the tunnel before any went in".to_owned();
                return Err(ProxyError::Broken { proxy, reason }.into());
            }
            return Ok(Some(parts.io.into_inner()));
        }
        let status = match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                return Err(ProxyError::Beyond {
                    proxy,
                    target,
                    status: status.as_u16(),
                }
                .into());
            }
            status => status,
        };
        if let Some(portal) = crate::portal::recognise(status, response.headers(), None) {
            return Err(portal);
        }
        let status = status.as_u16();
        gate.set_connect_refused(status);
        Err(ProxyError::Refused {
            proxy,
            target,
            status,
        }
        .into())
    }
}

/// Whether the answer to a CONNECT tells of a body, which a tunnel has not (RFC 9110 section 9.3.6): a page may still be
/// on its way.
fn announces_body(headers: &header::HeaderMap) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length != "0")
}

fn closes(gate: &Gate) -> CarrierError {
    ProxyError::Broken {
        proxy: gate.proxy().to_string(),
        reason: "it closes each connection before it has let a request pass".to_owned(),
    }
    .into()
}

impl Reached {
    fn over_tcp(stream: tokio::net::TcpStream) -> Self {
        Self {
            peer: stream.peer_addr().ok(),
            local: stream.local_addr().ok(),
            connection: Box::new(stream),
        }
    }
}
