//! A connection to or from a service.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use underpass_endpoint::Channel;

/// A stream of bytes both ways. Each direction ends by itself: `shutdown` ends ours, and reading ends
/// (with zero bytes) only after the other side has ended its own; any other end is an error.
///
/// Dropping it before both directions have ended breaks the connection off.
#[derive(Debug)]
pub struct Stream {
    channel: Channel,
}

impl Stream {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Has the publisher go on with another of its services from here on, if this user may use it.
    /// What the old one sent before still arrives.
    pub fn redial(&self, service: &str) {
        self.channel.redial(service);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.channel).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}
