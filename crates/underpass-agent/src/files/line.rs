//! A channel between sender and receiver, for threads that may wait.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Handle;
use underpass_proto::Role;
use underpass_proto::transfer::{NotTaken, Transfer, TransferDecoder};

use super::{FilesError, Trouble};

/// Bytes that are gathered before they are sent.
const GATHERED: usize = 64 * 1024;
/// Bytes that are read at once.
const READ: usize = 256 * 1024;

/// Both directions of a channel.
pub struct Line {
    /// What the other side says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What this side says.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    /// Of these two.
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
        }
    }

    /// For a thread that may wait for the runtime's tasks; `peer` is the other end.
    pub(super) fn split(self, peer: Role, runtime: &Handle) -> (Hearing, Telling) {
        let hearing = Hearing {
            reader: self.reader,
            decoder: TransferDecoder::new(peer),
            buffer: BytesMut::new(),
            runtime: runtime.clone(),
        };
        let telling = Telling {
            writer: self.writer,
            gathered: BytesMut::new(),
            runtime: runtime.clone(),
        };
        (hearing, telling)
    }
}

/// Hears the other side.
pub(super) struct Hearing {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    decoder: TransferDecoder,
    buffer: BytesMut,
    runtime: Handle,
}

impl Hearing {
    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The line broke, or the message cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Transfer>, FilesError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.hear())
    }

    /// The same for a task. Cancel safe.
    ///
    /// # Errors
    /// As [`Hearing::next`].
    pub(super) async fn hear(&mut self) -> Result<Option<Transfer>, FilesError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            let Some(bytes) = self.read().await? else {
                return match self.decoder.is_between_messages() {
                    true => Ok(None),
                    false => Err(FilesError::Turn("an end in the middle of a message")),
                };
            };
            self.decoder.push(&bytes);
        }
    }

    /// The next message, which the other side owes us. What it says instead, that it takes nothing, is an error.
    ///
    /// # Errors
    /// As [`Hearing::next`].
    pub(super) fn expect(&mut self) -> Result<Transfer, FilesError> {
        match self.next()? {
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Some(Transfer::NotTaken(NotTaken { code, text })) => {
                Err(Trouble::said(code, &text).into())
            }
            Some(message) => Ok(message),
        }
    }

    /// The next bytes, where no messages stand; `None` at the end.
    ///
    /// # Errors
    /// The line broke.
    pub(super) fn bytes(&mut self) -> Result<Option<Bytes>, FilesError> {
        let runtime = self.runtime.clone();
        Ok(runtime.block_on(self.read())?)
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let Self { reader, buffer, .. } = self;
        buffer.reserve(READ);
        match reader.read_buf(buffer).await? {
            0 => Ok(None),
            _ => Ok(Some(buffer.split().freeze())),
        }
    }
}

/// Tells the other side.
pub(super) struct Telling {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    gathered: BytesMut,
    runtime: Handle,
}

impl Telling {
    /// Says something, which is sent with the next [`Telling::flush`] at the latest.
    ///
    /// # Errors
    /// The line broke.
    pub(super) fn say(&mut self, message: impl Into<Transfer>) -> Result<(), FilesError> {
        message.into().put_framed(&mut self.gathered);
        match self.gathered.len() >= GATHERED {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Sends what was said.
    ///
    /// # Errors
    /// The line broke.
    pub(super) fn flush(&mut self) -> Result<(), FilesError> {
        let Self {
            writer, gathered, ..
        } = self;
        let sending = async {
            writer.write_all_buf(gathered).await?;
            writer.flush().await
        };
        Ok(self.runtime.block_on(sending)?)
    }

    /// Ends this direction after all that was said.
    ///
    /// # Errors
    /// The line broke.
    pub(super) fn end(&mut self) -> Result<(), FilesError> {
        self.flush()?;
        Ok(self.runtime.block_on(self.writer.shutdown())?)
    }

    /// What is left when messages are over and sealed bytes follow.
    pub(super) fn into_writer(self) -> Box<dyn AsyncWrite + Send + Unpin> {
        self.writer
    }
}
