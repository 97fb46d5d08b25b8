//! One channel and the host connection behind it, which may be exchanged for another while the
//! program at the far end stays connected (REDIAL).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use underpass_endpoint::splice::reset;
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter, Redial};
use underpass_proto::Code;

/// The host is read in pieces of up to this many bytes, each handed on without copying.
const PIECE: usize = 64 * 1024;
/// With less room than this a new buffer is made.
const LEAST_ROOM: usize = 8 * 1024;

/// How a channel ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both sides were done.
    InOrder,
    /// The far side moved it to a service that did not answer.
    NotRedialled(String, Code),
    /// One side broke it off.
    Broken(Broken),
}

/// Which side broke it off.
#[derive(Debug)]
pub(super) enum Broken {
    /// The host.
    Host(io::Error),
    /// The far side, or the session.
    Channel(ChannelError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InOrder => f.write_str("ended in order"),
            Self::NotRedialled(service, code) => write!(f, "cannot go on with {service}: {code}"),
            Self::Broken(Broken::Host(error)) => write!(f, "the host broke it off: {error}"),
            Self::Broken(Broken::Channel(error)) => write!(f, "the far side broke it off: {error}"),
        }
    }
}

/// Connects to the hosts of services, for one peer.
pub(super) trait Hosts: Sync {
    /// Connects to the host of `service`, if the peer may use it.
    fn reach(&self, service: &str) -> impl Future<Output = Result<TcpStream, Code>> + Send;
}

/// Moves bytes both ways until both sides have ended, each end kept as it is.
pub(super) async fn serve(channel: Channel, mut tcp: TcpStream, hosts: &impl Hosts) -> Ended {
    let (reader, mut writer) = channel.into_split();
    let mut reader = Incoming {
        reader,
        redial: None,
        rest: Bytes::new(),
    };
    loop {
        let service = match join(&mut reader, &mut writer, tcp).await {
            Ok(None) => return Ended::InOrder,
            Ok(Some(service)) => service,
            Err(broken) => {
                let code = match &broken {
                    Broken::Host(_) => Code::Aborted,
                    Broken::Channel(error) => error.code(),
                };
                writer.reset(code);
                reader.reader.stop(code);
                return Ended::Broken(broken);
            }
        };
        match hosts.reach(&service).await {
            Ok(next) => {
                tracing::info!("a connection goes on with {service}");
                reader.reader.redialled();
                tcp = next;
            }
            Err(code) => {
                writer.reset(code);
                reader.reader.stop(code);
                return Ended::NotRedialled(service, code);
            }
        }
    }
}

/// What the far side sends, up to where it wants another service.
struct Incoming {
    reader: ChannelReader,
    /// Wished for, not yet reached.
    redial: Option<Redial>,
    /// Read already, and for the next service.
    rest: Bytes,
}

/// The next thing from the far side.
enum Next {
    Data(Bytes),
    Redial(String),
    End,
}

impl Incoming {
    async fn next(&mut self) -> Result<Next, ChannelError> {
        if !self.rest.is_empty() {
            return Ok(Next::Data(std::mem::take(&mut self.rest)));
        }
        let before = self.reader.position();
        // Both wait for the same wake-up, so that neither is missed.
        let chunk = poll_fn(|cx| {
            if let Poll::Ready(redial) = self.reader.poll_redial(cx) {
                self.redial = Some(redial);
            }
            match (&self.redial, before) {
                (Some(redial), Some(position)) if redial.offset <= position => {
                    Poll::Ready(Ok(None))
                }
                _ => self.reader.poll_chunk(cx).map_ok(Some),
            }
        });
        match chunk.await? {
            // The place is reached.
            None => Ok(self
                .redial
                .take()
                .map_or(Next::End, |redial| Next::Redial(redial.service))),
            Some(None) => Ok(Next::End),
            Some(Some(mut chunk)) => {
                self.rest = self.split(&mut chunk, before);
                Ok(Next::Data(chunk))
            }
        }
    }

    /// Takes off what lies behind the place of the redial. Compressed bytes are never torn: a block
    /// belongs to the service that its first byte belongs to.
    fn split(&self, chunk: &mut Bytes, before: Option<u64>) -> Bytes {
        match (&self.redial, before, self.reader.position()) {
            (Some(redial), Some(before), Some(after))
                if redial.offset < after && after - before == chunk.len() as u64 =>
            {
                let part = usize::try_from(redial.offset - before).unwrap_or(usize::MAX);
                chunk.split_off(part.min(chunk.len()))
            }
            _ => Bytes::new(),
        }
    }
}

/// Moves bytes until both sides ended (`None`) or the far side wants another service.
async fn join(
    reader: &mut Incoming,
    writer: &mut ChannelWriter,
    tcp: TcpStream,
) -> Result<Option<String>, Broken> {
    let (mut from_host, mut to_host) = tcp.into_split();
    let outcome = {
        let up = upload(&mut from_host, writer);
        let down = download(reader, &mut to_host);
        tokio::pin!(up, down);
        // The first failure ends both directions; the first orderly end only its own.
        tokio::select! {
            outcome = &mut down => match outcome {
                Ok(None) => up.await.map(|()| None),
                other => other,
            },
            outcome = &mut up => match outcome {
                Ok(()) => down.await,
                Err(broken) => Err(broken),
            },
        }
    };
    if outcome.is_err()
        && let Ok(tcp) = from_host.reunite(to_host)
    {
        reset(tcp);
    }
    outcome
}

async fn upload(from_host: &mut OwnedReadHalf, writer: &mut ChannelWriter) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() < LEAST_ROOM {
            buffer = BytesMut::with_capacity(PIECE);
        }
        let read = tokio::select! {
            read = from_host.read_buf(&mut buffer) => read.map_err(Broken::Host)?,
            stopped = writer.stopped() => return wanted_no_more(stopped),
        };
        if read == 0 {
            return writer.finish().await.map_err(Broken::Channel);
        }
        if let Err(error) = writer.write_chunk(buffer.split().freeze()).await {
            return wanted_no_more(error);
        }
    }
}

/// A far side that stops reading when all is said does no harm to the other direction.
fn wanted_no_more(error: ChannelError) -> Result<(), Broken> {
    match error {
        ChannelError::Stopped(code) if code == Code::NoError.number() => Ok(()),
        error => Err(Broken::Channel(error)),
    }
}

async fn download(
    reader: &mut Incoming,
    to_host: &mut OwnedWriteHalf,
) -> Result<Option<String>, Broken> {
    loop {
        match reader.next().await.map_err(Broken::Channel)? {
            Next::Data(chunk) => to_host.write_all(&chunk).await.map_err(Broken::Host)?,
            Next::End => {
                to_host.shutdown().await.map_err(Broken::Host)?;
                return Ok(None);
            }
            Next::Redial(service) => {
                // The old host sees an orderly end; it may have gone before.
                let _ = to_host.shutdown().await;
                return Ok(Some(service));
            }
        }
    }
}
