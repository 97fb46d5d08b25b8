//! A channel to or from a service: a stream of bytes both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use underpass_endpoint as endpoint;
use underpass_proto::Code as Reason;
use underpass_proto::frame::Class;

use crate::error::{Error, Result, outward};
use crate::messages::Messages;

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
/// Dropping it before both directions have ended breaks the connection off. What was written before a `shutdown` still
/// arrives, unless the client disconnects before.
#[derive(Debug)]
pub struct Channel {
    reader: ChannelReader,
    writer: ChannelWriter,
}

/// The receiving half of a [`Channel`]. Dropping it before the end tells the other side to send no more.
#[derive(Debug)]
pub struct ChannelReader {
    pub(crate) inner: endpoint::ChannelReader,
}

/// The sending half of a [`Channel`]. Dropping it before `shutdown` is an error at the other side.
#[derive(Debug)]
pub struct ChannelWriter {
    pub(crate) inner: endpoint::ChannelWriter,
}

impl Channel {
    pub(crate) fn new(channel: endpoint::Channel) -> Self {
        let (reader, writer) = channel.into_split();
        Self {
            reader: ChannelReader { inner: reader },
            writer: ChannelWriter { inner: writer },
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
        Messages::new(self.reader.inner, self.writer.inner, max)
    }

    /// Has the publisher go on with another of its services from here on, if this user may use it. What the old one sent
    /// before still arrives.
    ///
    /// Cancel safe, before the request has begun to wait for room; it is made wholly or not at all.
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
        self.reader.inner.stop(Reason::Aborted);
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
        let chunk = self.inner.read_chunk().await;
        chunk.map_err(|error| Error::channel(&error))
    }
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
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner)
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
        Pin::new(&mut self.inner).poll_shutdown(cx).map_err(outward)
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
