//! Joins a channel and a TCP connection: bytes both ways, ends kept as they are.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;
use underpass_proto::code::Code;

use crate::channel::{Channel, ChannelError, ChannelReader, ChannelWriter};
use crate::session::Redial;

/// TCP is read in pieces of up to this many bytes, each handed on without copying.
const PIECE: usize = 64 * 1024;
/// Least room for a read; below it a new buffer is made.
const LEAST: usize = 8 * 1024;

/// For so long a host that is to be cut may take what is being written to it.
const CUT_LIMIT: Duration = Duration::from_secs(1);

/// What passed through a splice.
#[derive(Clone, Debug, Default)]
pub struct SpliceReport {
    /// Bytes from TCP to the channel.
    pub sent: u64,
    /// Bytes from the channel to TCP.
    pub received: u64,
    /// Times that the channel was moved to another host service, or to its own at another place.
    pub redials: u64,
    /// Why it ended, unless both sides ended in order.
    pub error: Option<String>,
}

/// Why a direction, or a redial, came to no orderly end.
enum Broken {
    Tcp(io::Error),
    Channel(ChannelError),
    /// The new host service of a redial did not answer.
    Redial(Code),
    /// The host side has ended the channel.
    Ended(Code),
}

impl Broken {
    fn code(&self) -> Code {
        match self {
            Broken::Tcp(_) => Code::Aborted,
            Broken::Channel(error) => error.code(),
            Broken::Redial(code) | Broken::Ended(code) => *code,
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Tcp(error) => error.fmt(f),
            Broken::Channel(error) => error.fmt(f),
            Broken::Redial(code) => write!(f, "the new host service: {code}"),
            Broken::Ended(code) => code.fmt(f),
        }
    }
}

/// How one direction went.
enum Passed {
    /// To its end.
    Ended,
    /// Until it was cut on the host side; what had been taken in was passed on.
    Cut,
}

/// How joining a channel with one TCP connection went.
enum Joined {
    /// The host side wants to be dialled anew.
    Cut,
    /// Both directions have ended in order.
    Ended,
    /// The peer wants the channel to go on with another host service.
    Redial(Redial),
}

/// Moves bytes both ways until both sides have ended. Half-close is kept; an abort on one side is an
/// abort on the other (RESET with [`Code::Aborted`], or a TCP reset), never a clean end.
pub async fn splice(channel: Channel, tcp: TcpStream) -> SpliceReport {
    splice_host(channel, tcp, Never).await
}

/// What the far end of a channel may do about its host service.
pub trait HostSide: Sync {
    /// Connects to the service of this name, or (none) to the one in use, wherever that is by now.
    fn dial(&self, service: Option<String>)
    -> impl Future<Output = Result<TcpStream, Code>> + Send;

    /// Waits until the connection to the host is to be cut and made anew. What the host has not read yet,
    /// or has not answered, is lost with it: for services whose programs can bear that. Cancel safe.
    fn cut(&self) -> impl Future<Output = ()> + Send;

    /// Is told of bytes that are about to be passed on, and may have them wait. Not of those that are dropped with a
    /// connection that breaks.
    fn passes(&self, _way: Way, _bytes: usize) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Waits until the channel is to be ended, and why. Cancel safe.
    fn end(&self) -> impl Future<Output = Code> + Send {
        std::future::pending()
    }
}

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the host.
    ToHost,
    /// From the host.
    FromHost,
}

/// A host side at which nothing changes.
struct Never;

impl HostSide for Never {
    async fn dial(&self, _: Option<String>) -> Result<TcpStream, Code> {
        Err(Code::NoService)
    }

    async fn cut(&self) {
        std::future::pending().await
    }
}

/// A host side that dials what the peer asks for.
struct ByName<F>(F);

impl<F, D> HostSide for ByName<F>
where
    F: Fn(String) -> D + Sync,
    D: Future<Output = Result<TcpStream, Code>> + Send,
{
    fn dial(
        &self,
        service: Option<String>,
    ) -> impl Future<Output = Result<TcpStream, Code>> + Send {
        let dialling = service.map(&self.0);
        async {
            match dialling {
                Some(dialling) => dialling.await,
                None => Err(Code::NoService),
            }
        }
    }

    async fn cut(&self) {
        std::future::pending().await
    }
}

/// As [`splice`], at the far end: where the peer asks for another host service, `dial` connects to
/// the service of that name, and the channel goes on with it. The near program notices nothing.
pub async fn splice_far<F, D>(channel: Channel, tcp: TcpStream, dial: F) -> SpliceReport
where
    F: Fn(String) -> D + Sync,
    D: Future<Output = Result<TcpStream, Code>> + Send,
{
    splice_host(channel, tcp, ByName(dial)).await
}

/// As [`splice_far`], and the host side too may have the channel go on with another connection.
pub async fn splice_host(
    channel: Channel,
    mut tcp: TcpStream,
    host: impl HostSide,
) -> SpliceReport {
    let mut report = SpliceReport::default();
    let (mut reader, mut writer) = channel.into_split();
    end_by_reset(&tcp);
    loop {
        let joined = tokio::select! {
            joined = join(&mut reader, &mut writer, &mut tcp, &mut report, &host) => joined,
            code = host.end() => Err(Broken::Ended(code)),
        };
        let asked_by_peer = matches!(joined, Ok(Joined::Redial(_)));
        let moved = match joined {
            Ok(Joined::Ended) => {
                end_in_order(&tcp);
                return report;
            }
            Ok(Joined::Redial(redial)) => {
                let dialled = host.dial(Some(redial.service)).await;
                dialled.map_err(Broken::Redial)
            }
            Ok(Joined::Cut) => host.dial(None).await.map_err(Broken::Redial),
            Err(broken) => Err(broken),
        };
        match moved {
            Ok(new) => {
                report.redials += 1;
                end_by_reset(&new);
                // The old connection is interrupted; the new one takes over where it stood.
                tcp = new;
                if asked_by_peer {
                    reader.accept_redial();
                }
            }
            Err(broken) => {
                writer.reset(broken.code());
                reader.stop(broken.code());
                report.error = Some(broken.to_string());
                return report;
            }
        }
    }
}

async fn join(
    reader: &mut ChannelReader,
    writer: &mut ChannelWriter,
    tcp: &mut TcpStream,
    report: &mut SpliceReport,
    host: &impl HostSide,
) -> Result<Joined, Broken> {
    // Borrowed halves: an owned one says a clean end (FIN) when it is dropped, as it is when the whole process ends in
    // the middle of a conversation.
    let (mut from_tcp, mut to_tcp) = tcp.split();
    let cut = CancellationToken::new();
    let mut up = pin!(upload(&mut from_tcp, writer, &mut report.sent, &cut, host));
    let mut down = pin!(download(
        reader,
        &mut to_tcp,
        &mut report.received,
        &cut,
        host
    ));
    // The first failure ends both directions; the first orderly end only its own.
    tokio::select! {
        outcome = &mut up => { outcome?; down.await }
        outcome = &mut down => match outcome? {
            Joined::Ended => up.await.map(|_| Joined::Ended),
            redial => Ok(redial),
        },
        () = host.cut() => {
            cut.cancel();
            // What is half passed on comes to its end: the near side must not see half of a piece. A host that
            // reads no more is not waited for long.
            let (up, down) = tokio::join!(up, tokio::time::timeout(CUT_LIMIT, down));
            match (up?, down) {
                // It ended by itself in the last moment, and so has the conversation.
                (Passed::Ended, _) => Err(Broken::Redial(Code::Aborted)),
                (Passed::Cut, Ok(Ok(Joined::Redial(redial)))) => Ok(Joined::Redial(redial)),
                (Passed::Cut, Ok(Err(Broken::Channel(error)))) => Err(Broken::Channel(error)),
                (Passed::Cut, _) => Ok(Joined::Cut),
            }
        }
    }
}

/// Closes a TCP connection by a reset: what its peer would see of a service that refused it.
pub fn reset(tcp: TcpStream) {
    end_by_reset(&tcp);
}

/// From now on the connection is reset when it is closed, whoever closes it: also the system does, when this process
/// ends in the middle of a conversation. Its program must not take that for the end of the conversation.
pub fn end_by_reset(tcp: &TcpStream) {
    // Where it fails the connection is closed in order, which is the best that is left.
    let _ = tcp.set_zero_linger();
}

/// Takes that back, for a conversation that has ended: what is still unsent goes out before the end.
pub fn end_in_order(tcp: &TcpStream) {
    // Fails only for what is no socket.
    let _ = SockRef::from(tcp).set_linger(None);
}

async fn upload(
    tcp: &mut ReadHalf<'_>,
    channel: &mut ChannelWriter,
    count: &mut u64,
    cut: &CancellationToken,
    host: &impl HostSide,
) -> Result<Passed, Broken> {
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() < LEAST {
            buffer = BytesMut::with_capacity(PIECE);
        }
        // Waits for bytes, or for the news that the other side wants no more of them.
        let read = tokio::select! {
            biased;
            () = cut.cancelled() => return Ok(Passed::Cut),
            read = tcp.read_buf(&mut buffer) => read.map_err(Broken::Tcp)?,
            stopped = channel.stopped() => return stopped_by_peer(stopped),
        };
        if read == 0 {
            let finished = channel.finish().await;
            return finished.map(|()| Passed::Ended).map_err(Broken::Channel);
        }
        *count += read as u64;
        host.passes(Way::FromHost, read).await;
        if let Err(error) = channel.write_chunk(buffer.split().freeze()).await {
            return stopped_by_peer(error);
        }
    }
}

/// A peer that stopped reading after all is said is no failure of the other direction.
fn stopped_by_peer(error: ChannelError) -> Result<Passed, Broken> {
    match error {
        ChannelError::Stopped(code) if code == Code::NoError.number() => Ok(Passed::Ended),
        error => Err(Broken::Channel(error)),
    }
}

async fn download(
    channel: &mut ChannelReader,
    tcp: &mut WriteHalf<'_>,
    count: &mut u64,
    cut: &CancellationToken,
    host: &impl HostSide,
) -> Result<Joined, Broken> {
    loop {
        let next = tokio::select! {
            biased;
            () = cut.cancelled() => return Ok(Joined::Cut),
            next = channel.next() => next,
        };
        match next.map_err(Broken::Channel)? {
            Next::Chunk(chunk) => {
                *count += chunk.len() as u64;
                host.passes(Way::ToHost, chunk.len()).await;
                write(tcp, chunk).await.map_err(Broken::Tcp)?;
            }
            Next::Redial(redial) => return Ok(Joined::Redial(redial)),
            Next::End => {
                tcp.shutdown().await.map_err(Broken::Tcp)?;
                return Ok(Joined::Ended);
            }
        }
    }
}

async fn write(tcp: &mut WriteHalf<'_>, chunk: Bytes) -> io::Result<()> {
    tcp.write_all(&chunk).await
}

/// What comes next on a channel that may be moved.
enum Next {
    Chunk(Bytes),
    Redial(Redial),
    End,
}

impl ChannelReader {
    /// The next bytes, or the redial once everything before it was read.
    async fn next(&mut self) -> Result<Next, ChannelError> {
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(chunk) = self.poll_chunk(cx) {
                return std::task::Poll::Ready(chunk.map(|c| c.map_or(Next::End, Next::Chunk)));
            }
            self.poll_redial(cx).map(|redial| Ok(Next::Redial(redial)))
        })
        .await
    }
}
