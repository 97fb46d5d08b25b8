//! The two halves of a carrier on one QUIC stream, for both sides.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, StoppedError, VarInt};
use tokio::io::AsyncWrite;

use crate::error::CarrierError;
use crate::quic::full_window;
use crate::span::SpanBuf;
use crate::upgrade::{RawSink, RawSource, raw_halves};
use crate::{Sink, Source};

/// What a connection is closed with when both directions had ended, and when not.
const DONE: VarInt = VarInt::from_u32(0);
const GIVEN_UP: VarInt = VarInt::from_u32(1);
/// How many bytes may wait beyond those that the path takes now (design: keep little unsent data
/// below the session, so that its priorities mean something).
const NOT_SENT: u64 = 64 * 1024;

/// The connection, as long as one half of the carrier lives.
struct Held {
    connection: Connection,
    /// Our end has arrived at the other side.
    sent: AtomicBool,
    /// The other side's end was read.
    read: AtomicBool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let done = *self.sent.get_mut() && *self.read.get_mut();
        let code = if done { DONE } else { GIVEN_UP };
        self.connection.close(code, b"");
    }
}

/// Both halves of a carrier on `stream`, which is the only one of `connection`. `first` is what this
/// side sends before anything else.
pub(crate) fn halves(
    connection: Connection,
    (send, recv): (SendStream, RecvStream),
    first: SpanBuf,
) -> (QuicSink, QuicSource) {
    let held = Arc::new(Held {
        connection: connection.clone(),
        sent: AtomicBool::new(false),
        read: AtomicBool::new(false),
    });
    let send = SendHalf {
        stream: send,
        connection,
        window: 0,
        stopped: None,
    };
    let (sink, source) = raw_halves(Box::new(recv), Box::new(send), Bytes::new());
    let sink = QuicSink {
        inner: sink.beginning_with(first).ending_in_shutdown(),
        held: Arc::clone(&held),
    };
    let source = QuicSource {
        inner: source,
        held,
        begun: false,
    };
    (sink, source)
}

/// The sending half, which keeps little unsent and whose shutdown lasts until all has arrived.
struct SendHalf {
    stream: SendStream,
    connection: Connection,
    /// What may be sent and not acknowledged, or wait to be sent.
    window: u64,
    stopped: Option<Stopped>,
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

impl SendHalf {
    fn limit_unsent(&mut self) {
        let window = self.connection.stats().path.cwnd + NOT_SENT;
        if window != self.window {
            self.window = window;
            self.connection.set_send_window(window);
        }
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.limit_unsent();
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limit_unsent();
        let mut written = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, buf) {
                Poll::Ready(Ok(count)) => {
                    written += count;
                    if count < buf.len() {
                        break;
                    }
                }
                // An error comes again.
                _ if written > 0 => break,
                failed => return failed,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ready when the other side has everything: closing the connection would throw away what it has
    /// not.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stopped.is_none() {
            // An error tells that the stream has ended already, of which `stopped` knows more.
            let _ = self.stream.finish();
            self.stopped = Some(Box::pin(self.stream.stopped()));
        }
        let Some(stopped) = &mut self.stopped else {
            return Poll::Ready(Ok(()));
        };
        Poll::Ready(match ready!(stopped.as_mut().poll(cx)) {
            Ok(None) => Ok(()),
            // It closes so only when it has read our end.
            Err(StoppedError::ConnectionLost(ConnectionError::ApplicationClosed(close)))
                if close.error_code == DONE =>
            {
                Ok(())
            }
            Ok(Some(_)) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
            Err(error) => Err(io::Error::other(error)),
        })
    }
}

/// A carrier's sending half.
pub(crate) struct QuicSink {
    inner: RawSink,
    held: Arc<Held>,
}

impl Sink for QuicSink {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        self.inner.poll_send(cx, queue)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        self.inner.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        ready!(self.inner.poll_close(cx))?;
        self.held.sent.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// A carrier's receiving half.
pub(crate) struct QuicSource {
    inner: RawSource,
    held: Arc<Held>,
    /// A byte of the stream has come: this is a carrier, and may have more memory.
    begun: bool,
}

impl QuicSource {
    /// Waits for the filling span with which the other side opens.
    pub(crate) async fn opening(&mut self) -> Result<(), CarrierError> {
        self.inner.opening().await
    }
}

impl Source for QuicSource {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        let received = ready!(self.inner.poll_recv(cx));
        match received {
            None => self.held.read.store(true, Ordering::Relaxed),
            Some(_) if !std::mem::replace(&mut self.begun, true) => {
                self.held.connection.set_receive_window(full_window());
            }
            Some(_) => {}
        }
        Poll::Ready(received)
    }
}
