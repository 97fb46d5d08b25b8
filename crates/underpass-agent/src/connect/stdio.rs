//! A service on standard input and output.

use std::io;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::Code;

/// Input is read in pieces of up to this many bytes.
const PIECE: usize = 64 * 1024;

/// Why a conversation did not end in order.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NcError {
    /// The service, or the way to it, broke off.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Our own input or output failed.
    #[error("standard input or output failed: {0}")]
    Local(#[from] io::Error),
}

/// Moves bytes between a channel and an input and output until both directions have ended; the end of
/// each is passed on.
///
/// # Errors
/// Either side broke off; the other is told.
pub async fn nc(
    channel: Channel,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
) -> Result<(), NcError> {
    let (mut reader, mut writer) = channel.into_split();
    let outcome = {
        let up = send(input, &mut writer);
        let down = receive(&mut reader, output);
        tokio::pin!(up, down);
        tokio::select! {
            outcome = &mut up => match outcome {
                Ok(()) => down.await,
                failed => failed,
            },
            outcome = &mut down => match outcome {
                Ok(()) => up.await,
                failed => failed,
            },
        }
    };
    if let Err(error) = &outcome {
        let code = match error {
            NcError::Channel(error) => error.code(),
            NcError::Local(_) => Code::Aborted,
        };
        writer.reset(code);
        reader.stop(code);
    }
    outcome
}

async fn send(
    mut input: impl AsyncRead + Unpin,
    writer: &mut ChannelWriter,
) -> Result<(), NcError> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let read = tokio::select! {
            read = input.read_buf(&mut buffer) => read?,
            stopped = writer.stopped() => return wanted_no_more(stopped),
        };
        if read == 0 {
            return Ok(writer.finish().await?);
        }
        if let Err(error) = writer.write_chunk(buffer.split().freeze()).await {
            return wanted_no_more(error);
        }
    }
}

/// A service that reads no more, and says that all is well, may still be answering.
fn wanted_no_more(error: ChannelError) -> Result<(), NcError> {
    match error {
        ChannelError::Stopped(code) if code == Code::NoError.number() => Ok(()),
        error => Err(error.into()),
    }
}

async fn receive(
    reader: &mut ChannelReader,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), NcError> {
    while let Some(chunk) = reader.read_chunk().await? {
        output.write_all(&chunk).await?;
        output.flush().await?;
    }
    // Dropping the output closes it where it can be closed: its reader sees the end.
    Ok(output.shutdown().await?)
}
