//! Joins a channel and a TCP connection: bytes both ways, ends kept as they are.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use underpass_proto::code::Code;

use crate::channel::{Channel, ChannelError, ChannelReader, ChannelWriter};

/// TCP is read in pieces of up to this many bytes, each handed on without copying.
const PIECE: usize = 64 * 1024;
/// Least room for a read; below it a new buffer is made.
const LEAST: usize = 8 * 1024;

/// What passed through a splice.
#[derive(Clone, Debug, Default)]
pub struct SpliceReport {
    /// Bytes from TCP to the channel.
    pub sent: u64,
    /// Bytes from the channel to TCP.
    pub received: u64,
    /// Why it ended, unless both sides ended in order.
    pub error: Option<String>,
}

/// One direction's end.
enum Broken {
    Tcp(io::Error),
    Channel(ChannelError),
}

/// Moves bytes both ways until both sides have ended. Half-close is kept; an abort on one side is an
/// abort on the other (RESET with [`Code::Aborted`], or a TCP reset), never a clean end.
pub async fn splice(channel: Channel, tcp: TcpStream) -> SpliceReport {
    let mut report = SpliceReport::default();
    let (mut reader, mut writer) = channel.into_split();
    let (mut from_tcp, mut to_tcp) = tcp.into_split();
    let outcome = {
        let up = upload(&mut from_tcp, &mut writer, &mut report.sent);
        let down = download(&mut reader, &mut to_tcp, &mut report.received);
        tokio::pin!(up, down);
        // The first failure ends both directions; the first orderly end only its own.
        tokio::select! {
            outcome = &mut up => match outcome { Ok(()) => down.await, failed => failed },
            outcome = &mut down => match outcome { Ok(()) => up.await, failed => failed },
        }
    };
    if let Err(broken) = outcome {
        let code = match &broken {
            Broken::Tcp(_) => Code::Aborted,
            Broken::Channel(error) => error.code(),
        };
        writer.reset(code);
        reader.stop(code);
        abort(from_tcp, to_tcp);
        report.error = Some(match broken {
            Broken::Tcp(error) => error.to_string(),
            Broken::Channel(error) => error.to_string(),
        });
    }
    report
}

/// Closes a TCP connection by a reset, so that its program sees an error and no end.
fn abort(from_tcp: OwnedReadHalf, to_tcp: OwnedWriteHalf) {
    if let Ok(tcp) = from_tcp.reunite(to_tcp) {
        reset(tcp);
    }
}

/// Closes a TCP connection by a reset: what its peer would see of a service that refused it.
pub fn reset(tcp: TcpStream) {
    // Where it fails the connection is closed in order, which is the best that is left.
    let _ = tcp.set_zero_linger();
}

async fn upload(
    tcp: &mut OwnedReadHalf,
    channel: &mut ChannelWriter,
    count: &mut u64,
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() < LEAST {
            buffer = BytesMut::with_capacity(PIECE);
        }
        // Waits for bytes, or for the news that the other side wants no more of them.
        let read = tokio::select! {
            read = tcp.read_buf(&mut buffer) => read.map_err(Broken::Tcp)?,
            stopped = channel.stopped() => return stopped_by_peer(stopped),
        };
        if read == 0 {
            return channel.finish().await.map_err(Broken::Channel);
        }
        *count += read as u64;
        match channel.write_chunk(buffer.split().freeze()).await {
            Ok(()) => {}
            Err(error) => return stopped_by_peer(error),
        }
    }
}

/// A peer that stopped reading after all is said is no failure of the other direction.
fn stopped_by_peer(error: ChannelError) -> Result<(), Broken> {
    match error {
        ChannelError::Stopped(code) if code == Code::NoError.number() => Ok(()),
        error => Err(Broken::Channel(error)),
    }
}

async fn download(
    channel: &mut ChannelReader,
    tcp: &mut OwnedWriteHalf,
    count: &mut u64,
) -> Result<(), Broken> {
    loop {
        match channel.read_chunk().await.map_err(Broken::Channel)? {
            Some(chunk) => {
                *count += chunk.len() as u64;
                write(tcp, chunk).await.map_err(Broken::Tcp)?;
            }
            None => return tcp.shutdown().await.map_err(Broken::Tcp),
        }
    }
}

async fn write(tcp: &mut OwnedWriteHalf, chunk: Bytes) -> io::Result<()> {
    tcp.write_all(&chunk).await
}
