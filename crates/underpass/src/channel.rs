//! A channel to or from a service: a stream of bytes both ways.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use underpass_endpoint as endpoint;
use underpass_proto::Code as Reason;
use underpass_proto::frame::Class;

use crate::error::{Error, Result, outward};
use crate::messages::Messages;

/// So long, and so many bytes, what still comes is thrown away after a channel was dropped whose own direction has ended.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: usize = 256 << 10;

/// What a channel is for: what waits to be sent goes in this order, beside other channels between the same two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Priority {
    /// Keystrokes and the like: first.
    Interactive,
    /// Whatever nobody said more about.
    #[default]
    Normal,
    /// Big transfers: what is left, with a small share in any case.
    Bulk,
}

impl Priority {
    pub(crate) fn class(self) -> Class {
        match self {
            Self::Interactive => Class::Interactive,
            Self::Normal => Class::Normal,
            Self::Bulk => Class::Bulk,
        }
    }
}

/// A stream of bytes both ways. Each direction ends by itself: `shutdown` ends ours, and reading ends (with zero bytes)
/// only after the other side has ended its own; any other end is an error, with an [`Error`] inside
/// ([`Error::of_io`]). While there is no path it waits, and goes on as if nothing had happened.
///
/// Dropping it before `shutdown` breaks the connection off. After `shutdown` what was written still arrives, unless the
/// client disconnects before; what the other side goes on to send is thrown away for a moment, and then it is told to stop.
#[derive(Debug)]
pub struct Channel {
    reader: ChannelReader,
    writer: ChannelWriter,
}

/// The receiving half of a [`Channel`]. Dropping it before the end tells the other side to send no more.
#[derive(Debug)]
pub struct ChannelReader {
    /// There until it is dropped.
    inner: Option<endpoint::ChannelReader>,
    other_ended: Arc<AtomicBool>,
}

/// The sending half of a [`Channel`]. Dropping it before `shutdown` is an error at the other side.
#[derive(Debug)]
pub struct ChannelWriter {
    inner: endpoint::ChannelWriter,
    /// Whether this direction has ended in order.
    ended: Arc<AtomicBool>,
}

impl Channel {
    pub(crate) fn new(channel: endpoint::Channel) -> Self {
        let (reader, writer) = channel.into_split();
        let ended = Arc::new(AtomicBool::new(false));
        Self {
            reader: ChannelReader {
                inner: Some(reader),
                other_ended: Arc::clone(&ended),
            },
            writer: ChannelWriter {
                inner: writer,
                ended,
            },
        }
    }

    /// Both halves, to be used by different tasks.
    #[must_use]
    pub fn into_split(self) -> (ChannelReader, ChannelWriter) {
        (self.reader, self.writer)
    }

    /// Carries whole messages from here on, of at most [`Messages::DEFAULT_MAX`] bytes each. The other side must do the
    /// same.
    #[must_use]
    pub fn into_messages(self) -> Messages {
        self.into_messages_up_to(Messages::DEFAULT_MAX)
    }

    /// The same, where larger messages than `max` bytes are not received.
    #[must_use]
    pub fn into_messages_up_to(self, max: u32) -> Messages {
        Messages::new(self.reader, self.writer, max)
    }

    /// Has the publisher go on with another of its services from here on, if this user may use it. What the old one sent
    /// before still arrives.
    ///
    /// Cancel safe: it is asked for wholly or not at all.
    ///
    /// # Errors
    /// The channel has broken off.
    pub async fn redial(&mut self, service: &str) -> Result<()> {
        let redialled = self.writer.inner.redial(service).await;
        redialled.map_err(|error| Error::channel(&error))
    }

    /// Breaks it off, both ways: the other side gets [`Code::ABORTED`](crate::Code::ABORTED).
    pub fn abort(mut self) {
        self.writer.inner.reset(Reason::Aborted);
        self.reader.stop(Reason::Aborted);
    }
}

impl ChannelReader {
    /// The next bytes, without copying them; `None` once the other side has ended its direction.
    ///
    /// Cancel safe: nothing is lost by dropping the future.
    ///
    /// # Errors
    /// The channel has ended in any other way.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.inner().read_chunk().await;
        chunk.map_err(|error| Error::channel(&error))
    }

    pub(crate) fn stop(&mut self, code: Reason) {
        self.inner().stop(code);
    }

    fn inner(&mut self) -> &mut endpoint::ChannelReader {
        self.inner.as_mut().expect("only dropping takes it out")
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        let reader = self.inner.take().filter(|reader| !reader.is_ended());
        let lingers = reader.filter(|_| self.other_ended.load(Ordering::Relaxed));
        if let (Some(reader), Ok(runtime)) = (lingers, Handle::try_current()) {
            runtime.spawn(linger(reader));
        }
    }
}

/// Throws away what still comes. To be told to stop is the end of the conversation for some programs, also while they
/// have not read yet what was sent to them before.
async fn linger(mut reader: endpoint::ChannelReader) {
    let mut left = LINGER_BYTES;
    let ended = async {
        while let Ok(Some(bytes)) = reader.read_chunk().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whoever sends on is told to stop by dropping the reader.
    let _ = tokio::time::timeout(LINGER, ended).await;
}

impl ChannelWriter {
    /// Sends bytes without copying them; waits while there is no room.
    ///
    /// Not cancel safe: a part of them may have been sent.
    ///
    /// # Errors
    /// The other side takes no more, or the channel has broken off.
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<()> {
        let written = self.inner.write_chunk(bytes).await;
        written.map_err(|error| Error::channel(&error))
    }

    pub(crate) async fn finish(&mut self) -> Result<()> {
        let finished = self.inner.finish().await;
        self.ended.store(finished.is_ok(), Ordering::Relaxed);
        finished.map_err(|error| Error::channel(&error))
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.inner())
            .poll_read(cx, buffer)
            .map_err(outward)
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner)
            .poll_write(cx, bytes)
            .map_err(outward)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(outward)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
        self.ended.store(ended.is_ok(), Ordering::Relaxed);
        Poll::Ready(ended.map_err(outward))
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
