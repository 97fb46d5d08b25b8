//! The publisher's side of FTP: connections in the client's place to the server, listeners in the client's place.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use underpass_endpoint::splice::{SpliceReport, end_by_reset, end_in_order};
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::Code;

use super::client::{PIECE, take_from};
use super::far::{Far, Step};
use super::{Asked, Garbled, speech};

/// A channel for a data connection may overtake the command that announces it by this much.
const OVERTAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why a control connection came to no orderly end.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Tcp(#[from] io::Error),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("this is not FTP: {0}")]
    Garbled(#[from] Garbled),
    /// The service leads elsewhere by now, or the peer may not use it any more.
    #[error("it was cut on the host side")]
    Cut,
}

impl Broken {
    fn code(&self) -> Code {
        match self {
            Self::Tcp(_) | Self::Cut => Code::Aborted,
            Self::Channel(error) => error.code(),
            Self::Garbled(garbled) => garbled.code(),
        }
    }

    /// Tells the peer, and the report.
    pub(super) fn end(
        self,
        reader: &mut ChannelReader,
        writer: &mut ChannelWriter,
        report: &mut SpliceReport,
    ) {
        let code = self.code();
        writer.reset(code);
        reader.stop(code);
        report.error = Some(format!("{self} [{}]", code.up()));
    }
}

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
    mut tcp: TcpStream,
    service: &str,
    announced: &Arc<Announced>,
    cut: impl Future<Output = ()>,
) -> SpliceReport {
    let mut report = SpliceReport::default();
    let (mut reader, mut writer) = channel.into_split();
    end_by_reset(&tcp);
    let carried = {
        let conversing = async {
            let mut server = Server {
                at: tcp.peer_addr()?,
                local: tcp.local_addr()?.ip(),
                place: announced.begin(service),
            };
            server
                .converse(&mut reader, &mut writer, &mut tcp, &mut report)
                .await
        };
        tokio::select! {
            carried = conversing => carried,
            () = cut => Err(Broken::Cut),
        }
    };
    match carried {
        Ok(()) => end_in_order(&tcp),
        Err(broken) => broken.end(&mut reader, &mut writer, &mut report),
    }
    report
}

struct Server {
    at: SocketAddr,
    /// From where it is reached, and where it reaches us for data.
    local: IpAddr,
    place: Place,
}

impl Server {
    async fn converse(
        &mut self,
        reader: &mut ChannelReader,
        writer: &mut ChannelWriter,
        tcp: &mut TcpStream,
        report: &mut SpliceReport,
    ) -> Result<(), Broken> {
        let (mut from, mut to) = tcp.split();
        let mut far = Far::new(self.at);
        let mut buffer = [0; PIECE];
        let mut steps = Vec::new();
        let (mut client_ended, mut server_ended) = (false, false);
        while !(client_ended && server_ended) {
            tokio::select! {
                read = from.read(&mut buffer), if !server_ended => match read? {
                    0 => {
                        server_ended = true;
                        writer.write_chunk(far.server_ends()).await?;
                        writer.finish().await?;
                    }
                    read => {
                        report.sent += read as u64;
                        far.from_server(&buffer[..read], &mut steps)?;
                    }
                },
                chunk = reader.read_chunk(), if !client_ended => match chunk? {
                    None => {
                        client_ended = true;
                        to.write_all(&far.client_ends()).await?;
                        to.shutdown().await?;
                    }
                    Some(bytes) => {
                        report.received += bytes.len() as u64;
                        far.from_client(&bytes, &mut steps)?;
                    }
                },
            }
            for step in steps.drain(..) {
                match step {
                    Step::ToServer(line) => to.write_all(&line).await?,
                    Step::ToClient(line) => writer.write_chunk(line).await?,
                    Step::Announce(port) => {
                        self.place.passive(SocketAddr::new(self.at.ip(), port));
                    }
                    Step::Listen(at) => match self.listen(at) {
                        Ok(command) => to.write_all(&command).await?,
                        Err(error) => {
                            tracing::warn!("cannot listen for data of an FTP server: {error}");
                            let no = b"425 the agent cannot listen for the data connection\r\n";
                            writer.write_chunk(Bytes::from_static(no)).await?;
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// Listens in the client's place; the command that tells the server where.
    fn listen(&mut self, at: SocketAddr) -> io::Result<Bytes> {
        let listener = underpass_carrier::listen((self.local, 0).into())?;
        let here = listener.local_addr()?;
        self.place.active(at, listener, self.at.ip());
        Ok(speech::active(here))
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
