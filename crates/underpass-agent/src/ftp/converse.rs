//! Carries a control connection between a channel and TCP, at either end.

use std::io;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use underpass_endpoint::splice::{SpliceReport, end_by_reset, end_in_order};
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::Code;

use super::Garbled;

/// A control connection is read in pieces of up to this many bytes.
const PIECE: usize = 4096;

/// What goes on to either side.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// To the program at this end.
    pub(super) tcp: BytesMut,
    /// To the other end.
    pub(super) channel: BytesMut,
}

/// What one end does with what is said.
pub(super) trait End {
    /// The program at this end says something.
    fn tcp_says(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Garbled>;

    /// The other end says something.
    fn channel_says(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Garbled>;

    /// The program says no more: what is left of it.
    fn tcp_ends(&mut self) -> Bytes;

    /// The other end says no more.
    fn channel_ends(&mut self) -> Bytes;
}

/// Why a control connection came to no orderly end.
#[derive(Debug, Error)]
enum Broken {
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
}

/// Carries a control connection until both sides have ended it, or it is `cut`.
pub(super) async fn carry(
    end: &mut impl End,
    channel: Channel,
    mut tcp: TcpStream,
    cut: impl Future<Output = ()>,
) -> SpliceReport {
    let mut report = SpliceReport::default();
    let (mut reader, mut writer) = channel.into_split();
    end_by_reset(&tcp);
    let carried = tokio::select! {
        carried = converse(end, &mut reader, &mut writer, &mut tcp, &mut report) => carried,
        () = cut => Err(Broken::Cut),
    };
    match carried {
        Ok(()) => end_in_order(&tcp),
        Err(broken) => {
            let code = broken.code();
            writer.reset(code);
            reader.stop(code);
            report.error = Some(format!("{broken} [{}]", code.up()));
        }
    }
    report
}

async fn converse(
    end: &mut impl End,
    reader: &mut ChannelReader,
    writer: &mut ChannelWriter,
    tcp: &mut TcpStream,
    report: &mut SpliceReport,
) -> Result<(), Broken> {
    let (mut from, mut to) = tcp.split();
    let (mut buffer, mut out) = ([0; PIECE], Out::default());
    let (mut tcp_ended, mut channel_ended) = (false, false);
    while !(tcp_ended && channel_ended) {
        tokio::select! {
            read = from.read(&mut buffer), if !tcp_ended => match read? {
                0 => {
                    tcp_ended = true;
                    writer.write_chunk(end.tcp_ends()).await?;
                    writer.finish().await?;
                }
                read => {
                    report.sent += read as u64;
                    end.tcp_says(&buffer[..read], &mut out)?;
                }
            },
            chunk = reader.read_chunk(), if !channel_ended => match chunk? {
                None => {
                    channel_ended = true;
                    to.write_all(&end.channel_ends()).await?;
                    to.shutdown().await?;
                }
                Some(bytes) => {
                    report.received += bytes.len() as u64;
                    end.channel_says(&bytes, &mut out)?;
                }
            },
        }
        to.write_all(&out.tcp.split()).await?;
        let line = out.channel.split().freeze();
        if !line.is_empty() {
            writer.write_chunk(line).await?;
        }
    }
    Ok(())
}
