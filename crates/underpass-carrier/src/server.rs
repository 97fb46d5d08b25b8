//! Listening for clients.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::Carrier;
use crate::dial::{BoxedConnection, tune};
use crate::doors::Doors;
use crate::front::{ConnectedPeer, Fallback, Front, Line};
use crate::http2;
use crate::quic;
use crate::quic_listen::QuicListening;
use crate::sources::{OfSource, SourceLimit, Watcher};
use crate::stall::StallGuard;
use crate::streams;
use crate::tls::{self, TlsIdentity, TlsInfo};
use crate::url::Scheme;

/// Bytes that HTTP keeps in memory per connection and direction; also the longest head of a request.
const HTTP_BUFFER: usize = 64 * 1024;
/// Headers in one request.
const MAX_HEADERS: usize = 100;
/// Carriers that wait to be accepted.
const ACCEPT_QUEUE: usize = 64;
/// Pause after the system refused a connection (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// For `https`: who we are. None: plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// A socket that listens there already, from whoever started this process.
    pub socket: Option<Arc<std::net::TcpListener>>,
}

/// How a server treats its clients. Everything that a client can make it keep has a bound here.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The path under which carriers are answered: empty, or `/` and more without a `/` at its end.
    pub prefix: String,
    /// The longest time for TLS, and for the head of each request, idle time before it included. 10 s
    /// is enough for a slow mobile network and short enough to shed the silent.
    pub header_timeout: Duration,
    /// The longest time from a carrier's beginning to its first byte. 10 s.
    pub first_byte_timeout: Duration,
    /// The longest time for the body of one request of many. 30 s.
    pub body_timeout: Duration,
    /// How long a client may not take what is written to it before its connection is cut. 60 s.
    pub write_stall: Duration,
    /// A carrier of several requests ends when none came for this long. 30 s.
    pub silence: Duration,
    /// The longest time that a poll or a body without room is held, whatever the client asks. 60 s.
    pub longest_hold: Duration,
    /// Connections at a time; more are closed at once. 10,000.
    pub max_connections: usize,
    /// Carriers at a time on which no byte has come. 1,000.
    pub max_half_made: usize,
    /// Of one source (an IPv4 address, a /64 of IPv6), the most connections at a time on which no whole request has come,
    /// and the most carriers on which no byte has come; more are refused. 800: nobody alone takes all the room there is.
    pub max_half_open_per_source: usize,
    /// Is told of sources that reach a limit.
    pub watcher: Option<Watcher>,
    /// Carriers at a time. 10,000.
    pub max_carriers: usize,
    /// The largest request body, in bytes. 1,000,000.
    pub largest_body: usize,
    /// The most bytes in the answer to one poll. 1,000,000.
    pub largest_answer: usize,
    /// How many bytes of one carrier may wait for its reader, when they come in numbered bodies.
    /// 4 MiB, which is four of the largest bodies.
    pub receive_window: usize,
    /// QUIC handshakes at a time from which on clients have to show that packets to the address that
    /// they name do come to them (RFC 9000 section 8.1.2), which takes them a round trip. 64.
    pub quic_unvalidated: usize,
    /// Request bodies of all carriers in memory at a time, in bytes. 256 MiB.
    pub body_budget: usize,
    /// Takes nobody in before [`Doors::open`] is called. False.
    pub begin_closed: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            header_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_stall: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            longest_hold: Duration::from_secs(60),
            max_connections: 10_000,
            max_half_made: 1_000,
            max_half_open_per_source: 800,
            watcher: None,
            max_carriers: 10_000,
            largest_body: 1_000_000,
            largest_answer: 1_000_000,
            receive_window: 4 * 1024 * 1024,
            quic_unvalidated: 64,
            body_budget: 256 * 1024 * 1024,
            begin_closed: false,
        }
    }
}

impl ServerSettings {
    /// Tells who wants to know that a source has reached a limit.
    pub(crate) fn tell(&self, limit: SourceLimit, source: Option<SocketAddr>) {
        if let (Some(Watcher(tell)), Some(source)) = (&self.watcher, source) {
            tell(limit, source);
        }
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The system refused the address.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The certificate cannot be used for QUIC.
    #[error("the certificate cannot be used for QUIC: {0}")]
    Quic(#[from] rustls::Error),
}

/// A running server. Dropping it ends everything at once.
pub struct Server {
    front: Arc<Front>,
    connections: Arc<Semaphore>,
    carriers: mpsc::Receiver<Carrier>,
    addresses: Vec<(Scheme, SocketAddr)>,
    doors: Doors,
    /// Asks for an end without haste: no new connections, no further request on the old ones.
    closing: CancellationToken,
}

impl Server {
    /// Starts to listen, on the runtime it is called on.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn bind(
        listen: &[Listen],
        settings: ServerSettings,
        fallback: Arc<dyn Fallback>,
    ) -> Result<Self, ServerError> {
        let (accepted, carriers) = mpsc::channel(ACCEPT_QUEUE);
        let connections = Arc::new(Semaphore::new(settings.max_connections));
        let front = Arc::new(Front::new(settings, fallback, accepted));
        let closing = CancellationToken::new();
        let doors = Doors::new(&front);
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for Listen {
            address,
            tls,
            socket,
        } in listen
        {
            let failed = |source| ServerError::Bind {
                address: *address,
                source,
            };
            let listener = match socket {
                None => crate::listen(*address),
                Some(socket) => take_up(socket),
            };
            let listener = listener.map_err(failed)?;
            let scheme = if tls.is_some() {
                Scheme::Https
            } else {
                Scheme::Http
            };
            addresses.push((scheme, listener.local_addr().map_err(failed)?));
            listeners.push((listener, tls.clone()));
        }
        for (listener, tls) in listeners {
            let listening = Listening {
                front: Arc::clone(&front),
                connections: Arc::clone(&connections),
                closing: closing.clone(),
                tls,
            };
            doors.spawn(listening.run(listener));
        }
        Ok(Self {
            front,
            connections,
            carriers,
            addresses,
            doors,
            closing,
        })
    }

    /// Listens for QUIC as well, on a UDP address; port 0 lets the system choose. Returns the address.
    ///
    /// # Errors
    /// The address cannot be listened on, or the certificate not be used.
    pub fn listen_quic(
        &self,
        address: SocketAddr,
        identity: &TlsIdentity,
    ) -> Result<SocketAddr, ServerError> {
        let failed = |source| ServerError::Bind { address, source };
        let config = quic::server_config(identity)?;
        let endpoint = quic::endpoint(address, Some(config)).map_err(failed)?;
        let bound = endpoint.local_addr().map_err(failed)?;
        self.doors.spawn(self.quic_listening().run(endpoint));
        Ok(bound)
    }

    /// The same on a socket that is bound already. It is read only once the doors are open: what a
    /// process before this one is being told on it is not ours.
    ///
    /// # Errors
    /// The socket has no address, or the certificate cannot be used.
    pub fn listen_quic_on(
        &self,
        socket: UdpSocket,
        identity: &TlsIdentity,
    ) -> Result<SocketAddr, ServerError> {
        let config = quic::server_config(identity)?;
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let bound = socket.local_addr().map_err(|source| ServerError::Bind {
            address: unknown,
            source,
        })?;
        let listening = self.quic_listening();
        self.doors.spawn(async move {
            match quic::endpoint_on(socket, Some(config)) {
                Ok(endpoint) => listening.run(endpoint).await,
                Err(error) => tracing::error!(%bound, "QUIC cannot be spoken: {error}"),
            }
        });
        Ok(bound)
    }

    fn quic_listening(&self) -> QuicListening {
        QuicListening {
            front: Arc::clone(&self.front),
            connections: Arc::clone(&self.connections),
            closing: self.closing.clone(),
            closed: self.doors.closed.clone(),
        }
    }

    /// What lets clients in.
    #[must_use]
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Where it listens, in the order asked for.
    #[must_use]
    pub fn addresses(&self) -> &[(Scheme, SocketAddr)] {
        &self.addresses
    }

    /// The next carrier that a client has made, with a first byte on it. None when no more can come.
    /// Cancel safe.
    pub async fn accept(&mut self) -> Option<Carrier> {
        self.carriers.recv().await
    }

    /// Carriers of several requests that are known at the moment, and carriers of every kind that no
    /// byte has come on; both are bounded by the settings.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.front.known(), self.front.half_made())
    }

    /// Takes no new connections, lets requests under way finish for at most `grace`, then cuts what
    /// is left. Carriers that should end well are to be closed before.
    pub async fn shutdown(self, grace: Duration) {
        self.closing.cancel();
        self.doors.never_mind();
        self.front.tasks.close();
        let finished = self.front.tasks.wait();
        if tokio::time::timeout(grace, finished).await.is_err() {
            self.front.stop.cancel();
            self.front.tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.cancel();
        self.front.stop.cancel();
    }
}

/// Listens on a socket that is bound already.
fn take_up(socket: &std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.try_clone()?)
}

/// A connection of which is known what is spoken on it.
struct Opened {
    stream: BoxedConnection,
    tls: Option<TlsInfo>,
    http2: bool,
}

/// One listening address.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) front: Arc<Front>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) closing: CancellationToken,
    pub(crate) tls: Option<TlsIdentity>,
}

impl Listening {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.closing.cancelled() => return,
                () = self.front.closed.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(counted) = Arc::clone(&self.connections).try_acquire_owned() else {
                tracing::debug!(%peer, "too many connections");
                continue;
            };
            let Some(opening) = self.front.half_open.begin(Some(peer.ip())) else {
                self.front.settings.tell(SourceLimit::HalfOpen, Some(peer));
                continue;
            };
            let this = self.clone();
            let stop = self.front.stop.clone();
            self.front.tasks.spawn(async move {
                tokio::select! {
                    () = this.serve(stream, peer, opening) => {}
                    () = stop.cancelled() => {}
                }
                drop(counted);
            });
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, opening: OfSource) {
        let local = stream.local_addr().ok();
        let limit = self.front.settings.header_timeout;
        let opened = tokio::time::timeout(limit, self.open(stream)).await;
        let Opened { stream, tls, http2 } = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no connection"),
            Err(_) => {
                self.front.settings.tell(SourceLimit::SlowHead, Some(peer));
                return tracing::debug!(%peer, "TLS took too long");
            }
        };
        let scheme = match tls {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        };
        let line = Line {
            peer: ConnectedPeer {
                scheme,
                peer: Some(peer),
                local,
                tls,
            },
            stop: CancellationToken::new(),
            opening: Arc::new(Mutex::new(Some(opening))),
        };
        if http2 {
            self.speak_http2(stream, line).await;
        } else {
            self.speak_http(stream, line).await;
        }
    }

    async fn open(&self, stream: TcpStream) -> io::Result<Opened> {
        tune(&stream)?;
        let Some(identity) = &self.tls else {
            let http2 = streams::begins_as_http2(&stream).await?;
            return Ok(Opened {
                stream: Box::new(stream),
                tls: None,
                http2,
            });
        };
        let stream = identity.acceptor().accept(stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(http2::ALPN);
        let version = tls::version_name(stream.get_ref().1.protocol_version());
        let info = TlsInfo::new(version, None);
        Ok(Opened {
            stream: Box::new(stream),
            tls: Some(info),
            http2,
        })
    }

    /// Answers the requests on one connection until it ends.
    pub(crate) async fn speak_http(self, stream: BoxedConnection, line: Line) {
        let settings = &self.front.settings;
        let stream = StallGuard::new(stream, settings.write_stall);
        let stop = line.stop.clone();
        let peer = line.peer.peer;
        let first = line.clone();
        let front = Arc::clone(&self.front);
        let service = service_fn(move |request| {
            let (front, line) = (Arc::clone(&front), line.clone());
            async move { Ok::<_, Infallible>(front.answer(request, line).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(HTTP_BUFFER)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => return,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = stop.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            if error.is_timeout() && first.is_opening() {
                settings.tell(SourceLimit::SlowHead, peer);
            }
            tracing::debug!(?peer, %error, "connection ended");
        }
    }
}
