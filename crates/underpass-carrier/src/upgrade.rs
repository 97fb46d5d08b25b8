//! `upgrade`: one HTTP/1.1 request turned into raw bytes both ways (RFC 9110 section 7.8).
//!
//! The fastest carrier, and the first to be stopped: most proxies remove `Upgrade`. The bytes are
//! spans, so that the end of each direction is told apart from a broken connection.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode, header};
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use crate::client::Client;
use crate::dial::{BoxedConnection, ReadHalf, WriteHalf};
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply};
use crate::kind::{Abilities, Kind};
use crate::span::{self, Decoder, Event, SpanBuf};
use crate::{Carrier, Sink, Source};

/// The protocol named in `Upgrade`.
const TOKEN: &str = "underpass";
/// The most bytes that one span takes from the session's queue.
const BATCH: usize = 128 * 1024;
/// Slices handed to one vectored write.
const SLICES: usize = 64;
/// The read buffer starts small, for the many carriers that are idle, and grows with use.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 256 * 1024;

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "upgrade",
    abilities: Abilities {
        two_way_streaming: true,
        needs_upgrade: true,
        connections: 1,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange)),
};

async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    let upgraded = client.upgrade(&[(header::UPGRADE, TOKEN)]).await?;
    let (sink, mut source) = raw(upgraded.stream, upgraded.early);
    let what = "the first byte after the upgrade (something on the way holds it back)";
    client.within_proof(what, source.opening()).await?;
    Ok(Carrier {
        sink: Box::new(sink),
        source: Box::new(source),
        info: upgraded.info,
    })
}

async fn serve(mut exchange: Exchange) -> Reply {
    let asked = exchange.request.headers().get(header::UPGRADE);
    if exchange.request.method() != Method::GET {
        return Err(Refusal::NotFound);
    }
    if asked.is_none_or(|token| !token.as_bytes().eq_ignore_ascii_case(TOKEN.as_bytes())) {
        return Err(Refusal::UpgradeRequired(TOKEN));
    }
    let half_made = exchange.begin()?;
    let info = exchange.info(KIND.name);
    let upgrading = exchange.take_upgrade();
    exchange.spawn(async move {
        let Some((stream, early)) = upgrading.await else {
            return;
        };
        let (sink, source) = raw(stream, early);
        let sink = sink.beginning_with(SpanBuf::header_only(span::empty_fill()));
        let carrier = Carrier {
            sink: Box::new(sink),
            source: Box::new(source),
            info,
        };
        half_made.introduce(carrier).await;
    });
    Ok(
        exchange.respond(StatusCode::SWITCHING_PROTOCOLS, |headers| {
            headers.insert(header::UPGRADE, header::HeaderValue::from_static(TOKEN));
            let upgrade = header::HeaderValue::from_static("Upgrade");
            headers.insert(header::CONNECTION, upgrade);
        }),
    )
}

fn raw(stream: BoxedConnection, early: Bytes) -> (RawSink, RawSource) {
    let (read, write) = stream.halves();
    raw_halves(read, write, early)
}

/// The halves of a carrier on those of a raw connection, from which `early` was read already.
pub(crate) fn raw_halves(read: ReadHalf, write: WriteHalf, early: Bytes) -> (RawSink, RawSource) {
    let sink = RawSink {
        write,
        pending: SpanBuf::default(),
        shuts_down: false,
        closing: false,
        closed: false,
    };
    let mut decoder = Decoder::default();
    decoder.push(early);
    let source = RawSource {
        read,
        decoder,
        buffer: BytesMut::new(),
        read_size: FIRST_READ,
    };
    (sink, source)
}

/// Writes spans to a raw connection.
pub(crate) struct RawSink {
    write: WriteHalf,
    /// What of the current span is not yet written.
    pending: SpanBuf,
    /// The end of the stream is that of the connection's direction, too.
    shuts_down: bool,
    closing: bool,
    closed: bool,
}

impl RawSink {
    /// The same, with a span that goes before all others.
    pub(crate) fn beginning_with(mut self, first: SpanBuf) -> Self {
        self.pending = first;
        self
    }

    /// The same, whose end shuts its direction of the connection down: only where nothing on the way
    /// takes that for the end of both.
    pub(crate) fn ending_in_shutdown(mut self) -> Self {
        self.shuts_down = true;
        self
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        while self.pending.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.pending.chunks_vectored(&mut slices);
            let write = Pin::new(&mut self.write);
            let written = ready!(write.poll_write_vectored(cx, &slices[..filled]))?;
            if written == 0 {
                return Poll::Ready(Err(CarrierError::broken("the connection takes no bytes")));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink for RawSink {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        if self.closing {
            return Poll::Ready(Err(CarrierError::Closed));
        }
        ready!(self.poll_pending(cx))?;
        if self.pending.refill(queue, BATCH) > 0 {
            // The bytes are taken, whether or not the connection has room for all of them now.
            if let Poll::Ready(Err(error)) = self.poll_pending(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        ready!(self.poll_pending(cx))?;
        ready!(Pin::new(&mut self.write).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        ready!(self.poll_pending(cx))?;
        if !self.closing {
            self.closing = true;
            self.pending = SpanBuf::header_only(span::end_span());
        }
        ready!(self.poll_flush(cx))?;
        if self.shuts_down {
            ready!(Pin::new(&mut self.write).poll_shutdown(cx))?;
        }
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for RawSink {
    fn drop(&mut self) {
        if !self.closed {
            // The other half may live on and keep the connection open; without its end span the
            // other side takes this for the break that it is.
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = Pin::new(&mut self.write).poll_shutdown(&mut cx);
        }
    }
}

/// Reads spans from a raw connection.
pub(crate) struct RawSource {
    read: ReadHalf,
    decoder: Decoder,
    buffer: BytesMut,
    read_size: usize,
}

impl RawSource {
    /// Waits for the filling span with which the server opens: bytes of ours do come through.
    pub(crate) async fn opening(&mut self) -> Result<(), CarrierError> {
        match std::future::poll_fn(|cx| self.poll_event(cx)).await? {
            Event::Fill => Ok(()),
            _ => Err(CarrierError::protocol("no filling span where one is due")),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, CarrierError>> {
        loop {
            if let Some(event) = self.decoder.next_event()? {
                return Poll::Ready(Ok(event));
            }
            let chunk = ready!(self.poll_chunk(cx))?;
            self.decoder.push(chunk);
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierError>> {
        // Small reads share one allocation; a new one is made when little of it is left.
        if self.buffer.capacity() < self.read_size / 4 {
            self.buffer.reserve(self.read_size);
        }
        let room = self.buffer.capacity();
        let count = ready!(poll_read_buf(
            Pin::new(&mut self.read),
            cx,
            &mut self.buffer
        ))?;
        if count == 0 {
            let error = CarrierError::broken("the connection closed before the stream's end");
            return Poll::Ready(Err(error));
        }
        if count == room {
            self.read_size = (self.read_size * 2).min(LARGEST_READ);
        } else if count < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(FIRST_READ);
        }
        Poll::Ready(Ok(self.buffer.split().freeze()))
    }
}

impl Source for RawSource {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        if self.decoder.ended() {
            return Poll::Ready(None);
        }
        loop {
            match ready!(self.poll_event(cx))? {
                Event::Data(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Event::Fill => {}
                Event::End => return Poll::Ready(None),
                Event::Number(_) => {
                    let error = CarrierError::protocol("a poll's number in a stream");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
