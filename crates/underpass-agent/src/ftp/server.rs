//! The publisher's side of FTP: connections in the client's place to the server, listeners in the client's place.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use underpass_endpoint::Channel;
use underpass_endpoint::splice::SpliceReport;
use underpass_proto::Code;

use super::client::take_from;
use super::converse::{self, End, Out};
use super::far::{Far, Step};
use super::{Asked, Garbled, speech};

/// A channel for a data connection may overtake the command that announces it by this much.
const OVERTAKE_LIMIT: Duration = Duration::from_secs(10);

/// The data connections that the control connections of one session have announced.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The next control connection's number.
    next: u64,
    /// By service and port of the server.
    passive: HashMap<(String, u16), (u64, SocketAddr)>,
    /// By service and address of the client.
    active: HashMap<(String, SocketAddr), (u64, Waiting)>,
}

/// A server is waited for, in a client's place.
#[derive(Debug)]
struct Waiting {
    listener: TcpListener,
    server: IpAddr,
    /// Closed when another data connection was announced, or the control connection has ended.
    over: watch::Receiver<()>,
}

impl Announced {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, service: &str) -> Place {
        let mut state = self.state();
        state.next += 1;
        Place {
            announced: Arc::clone(self),
            service: service.to_owned(),
            number: state.next,
            waiting: None,
        }
    }

    /// Takes the announcement of a client's listener. The command that announces it may come a little later.
    async fn take_active(&self, service: &str, at: SocketAddr) -> Option<Waiting> {
        let key = (service.to_owned(), at);
        let taking = async {
            loop {
                let mut changed = pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some((_, waiting)) = self.state().active.remove(&key) {
                    return waiting;
                }
                changed.await;
            }
        };
        tokio::time::timeout(OVERTAKE_LIMIT, taking).await.ok()
    }
}

/// What one control connection has announced last, until it is dropped.
struct Place {
    announced: Arc<Announced>,
    service: String,
    number: u64,
    /// Kept for as long as a server is waited for.
    waiting: Option<watch::Sender<()>>,
}

impl Place {
    /// Forgets what was announced before: each announcement takes its place.
    fn clear(&mut self) {
        self.waiting = None;
        let mut state = self.announced.state();
        state
            .passive
            .retain(|_, (number, _)| *number != self.number);
        state.active.retain(|_, (number, _)| *number != self.number);
    }

    fn passive(&mut self, server: SocketAddr) {
        self.clear();
        let key = (self.service.clone(), server.port());
        let mut state = self.announced.state();
        state.passive.insert(key, (self.number, server));
    }

    fn active(&mut self, at: SocketAddr, listener: TcpListener, server: IpAddr) {
        self.clear();
        let (sender, over) = watch::channel(());
        self.waiting = Some(sender);
        let waiting = Waiting {
            listener,
            server,
            over,
        };
        let key = (self.service.clone(), at);
        self.announced
            .state()
            .active
            .insert(key, (self.number, waiting));
        self.announced.changed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Carries the control connection of a client to the server at the other end of `tcp`, until both have ended it, or it is
/// `cut`.
pub(crate) async fn control(
    channel: Channel,
    tcp: TcpStream,
    service: &str,
    announced: &Arc<Announced>,
    cut: impl Future<Output = ()>,
) -> SpliceReport {
    match Server::new(&tcp, announced.begin(service)) {
        Ok(mut server) => converse::carry(&mut server, channel, tcp, cut).await,
        // The server is gone; the channel is dropped, which resets it.
        Err(error) => SpliceReport {
            error: Some(error.to_string()),
            ..SpliceReport::default()
        },
    }
}

struct Server {
    at: SocketAddr,
    /// From where it is reached, and where it reaches us for data.
    local: IpAddr,
    far: Far,
    place: Place,
}

impl Server {
    fn new(tcp: &TcpStream, place: Place) -> io::Result<Self> {
        let at = tcp.peer_addr()?;
        Ok(Self {
            at,
            local: tcp.local_addr()?.ip(),
            far: Far::new(at),
            place,
        })
    }

    fn take_all(&mut self, steps: Vec<Step>, out: &mut Out) {
        for step in steps {
            match step {
                Step::ToServer(line) => out.tcp.extend_from_slice(&line),
                Step::ToClient(line) => out.channel.extend_from_slice(&line),
                Step::Announce(port) => self.place.passive(SocketAddr::new(self.at.ip(), port)),
                Step::Listen(at) => match self.listen(at) {
                    Ok(command) => out.tcp.extend_from_slice(&command),
                    Err(error) => {
                        tracing::warn!("cannot listen for data of an FTP server: {error}");
                        let no = b"425 the agent cannot listen for the data connection\r\n";
                        out.channel.extend_from_slice(no);
                    }
                },
            }
        }
    }

    /// Listens in the client's place; the command that tells the server where.
    fn listen(&mut self, at: SocketAddr) -> io::Result<Bytes> {
        let listener = underpass_carrier::listen((self.local, 0).into())?;
        let here = listener.local_addr()?;
        self.place.active(at, listener, self.at.ip());
        Ok(speech::active(here))
    }
}

impl End for Server {
    fn tcp_says(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Garbled> {
        let mut steps = Vec::new();
        self.far.server_says(bytes, &mut steps)?;
        self.take_all(steps, out);
        Ok(())
    }

    fn channel_says(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Garbled> {
        let mut steps = Vec::new();
        self.far.client_says(bytes, &mut steps)?;
        self.take_all(steps, out);
        Ok(())
    }

    fn tcp_ends(&mut self) -> Bytes {
        self.far.server_ends()
    }

    fn channel_ends(&mut self) -> Bytes {
        self.far.client_ends()
    }
}

/// The server's end of a data connection that was announced in the session; it is connected to within `limit`.
pub(crate) async fn data(
    announced: &Announced,
    asked: &Asked,
    service: &str,
    limit: Duration,
) -> Result<TcpStream, Code> {
    match asked {
        Asked::Control { .. } => Err(Code::NoService),
        Asked::Passive { port, .. } => {
            let key = (service.to_owned(), *port);
            let taken = announced.state().passive.remove(&key);
            let (_, at) = taken.ok_or(Code::FtpNotAnnounced)?;
            let connecting = tokio::time::timeout(limit, TcpStream::connect(at)).await;
            let connected = connecting.map_err(|_| Code::TimedOut)?;
            connected.map_err(|error| Code::of_io(error.kind()))
        }
        Asked::Active { at, .. } => {
            let waiting = announced.take_active(service, *at).await;
            let Waiting {
                listener,
                server,
                mut over,
            } = waiting.ok_or(Code::FtpNotAnnounced)?;
            tokio::select! {
                taken = take_from(&listener, server) => taken.ok_or(Code::TimedOut),
                // Nothing is ever sent: it is closed.
                _ = over.changed() => Err(Code::FtpNotAnnounced),
            }
        }
    }
}
