//! One channel as an application uses it: a byte stream that ends only when the peer said so.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use underpass_proto::code::{self, Code};
use underpass_proto::compress::{BlockError, Compressor, Decompressor};
use underpass_proto::frame::{ChannelId, Encoding};
use underpass_proto::session::{Closed, ClosedBy, ReadOutcome, WriteError};

use crate::session::{Redial, Session, State};

/// Bytes that one read takes out of the session at the most.
const READ_CHUNK: usize = 256 * 1024;

/// Why a channel is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The peer gave up, or its service did: never a clean end.
    #[error("{}", code::describe(*.0))]
    Reset(u64),
    /// The peer reads no more.
    #[error("the other side takes no more data: {}", code::describe(*.0))]
    Stopped(u64),
    /// The whole session ended.
    #[error("the session ended: {} ({})", .0.reason, code::describe(.0.code))]
    SessionClosed(Closed),
    /// This side has ended the channel already.
    #[error("the channel was ended on this side before")]
    Closed,
    /// Compressed data that cannot be read, or that was cut short.
    #[error("{0}")]
    Encoding(String),
}

impl From<BlockError> for ChannelError {
    fn from(error: BlockError) -> Self {
        ChannelError::Encoding(error.to_string())
    }
}

impl ChannelError {
    /// The reason from the table of codes, as far as there is one.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            ChannelError::Reset(code) | ChannelError::Stopped(code) => {
                Code::from_number(*code).unwrap_or(Code::Internal)
            }
            ChannelError::SessionClosed(closed)
                if closed.by == ClosedBy::Peer && closed.code == 0 =>
            {
                Code::Ended
            }
            ChannelError::SessionClosed(closed) => {
                Code::from_number(closed.code).unwrap_or(Code::Internal)
            }
            ChannelError::Closed => Code::Cancelled,
            ChannelError::Encoding(_) => Code::ProtocolViolation,
        }
    }

    /// Whether the same thing may succeed when tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code().retry_helps()
    }
}

impl From<ChannelError> for io::Error {
    fn from(error: ChannelError) -> Self {
        let kind = match error.code() {
            // An end that nobody authenticated must not look like one.
            Code::NoError => io::ErrorKind::ConnectionAborted,
            code => code.io_kind(),
        };
        io::Error::new(kind, error)
    }
}

/// A channel: both directions. Dropping it before its end tells the peer that it was cancelled.
#[derive(Debug)]
pub struct Channel {
    reader: ChannelReader,
    writer: ChannelWriter,
}

/// The receiving half.
pub struct ChannelReader {
    session: Session,
    id: ChannelId,
    decompressor: Option<Decompressor>,
    /// Taken from the session, not yet by the application.
    pending: Bytes,
    ended: bool,
}

/// The sending half.
pub struct ChannelWriter {
    session: Session,
    id: ChannelId,
    compressor: Option<Compressor>,
    /// Encoded, not yet taken by the session.
    pending: Bytes,
    encoded: BytesMut,
    ended: bool,
}

impl std::fmt::Debug for ChannelReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelReader")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ChannelWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelWriter")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Channel {
    pub(crate) fn new(session: Session, id: ChannelId, encoding: Encoding, codecs: u8) -> Channel {
        let blocks = encoding == Encoding::Blocks;
        Channel {
            reader: ChannelReader {
                session: session.clone(),
                id,
                decompressor: blocks.then(Decompressor::new),
                pending: Bytes::new(),
                ended: false,
            },
            writer: ChannelWriter {
                session,
                id,
                compressor: blocks.then(|| Compressor::new(codecs)),
                pending: Bytes::new(),
                encoded: BytesMut::new(),
                ended: false,
            },
        }
    }

    /// The channel's number in its session.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.reader.id
    }

    /// Waits until the service at the far side has answered.
    ///
    /// # Errors
    /// It refused, with the reason that a program on the far side's own network would have got.
    pub async fn accepted(&mut self) -> Result<(), ChannelError> {
        std::future::poll_fn(|cx| self.reader.poll_accepted(cx)).await
    }

    /// Asks the far side to go on with another of its host services, at this point of what was
    /// written. What it sent before still arrives.
    pub fn redial(&self, service: &str) {
        let id = self.reader.id;
        self.reader
            .session
            .with(|state, _| state.core.redial(id, service));
    }

    /// Both halves, to be used by different tasks.
    #[must_use]
    pub fn into_split(self) -> (ChannelReader, ChannelWriter) {
        (self.reader, self.writer)
    }
}

impl ChannelReader {
    fn poll_accepted(&mut self, cx: &Context<'_>) -> Poll<Result<(), ChannelError>> {
        let id = self.id;
        let outcome = self.session.with(|state, _| {
            if state
                .channels
                .get(&id)
                .is_some_and(|wakers| wakers.accepted)
            {
                return Poll::Ready(Some(Ok(())));
            }
            match state.core.reset_code(id) {
                Some(code) => Poll::Ready(Some(Err(ChannelError::Reset(code)))),
                None if state.core.is_closing() => Poll::Ready(None),
                None => {
                    register(state, id, cx.waker(), false);
                    Poll::Pending
                }
            }
        });
        outcome.map(|found| found.unwrap_or_else(|| Err(self.session.closed_error())))
    }

    /// The next bytes, without copying them; `None` at the peer's authenticated end.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// Everything that is not the peer's own, proven end.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, ChannelError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// As [`ChannelReader::read_chunk`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, ChannelError>> {
        loop {
            if !self.pending.is_empty() {
                return Poll::Ready(Ok(Some(std::mem::take(&mut self.pending))));
            }
            if let Some(decompressor) = &mut self.decompressor
                && let Some(block) = decompressor.next_block()?
            {
                self.pending = block;
                continue;
            }
            match ready!(self.poll_raw(cx))? {
                None if self
                    .decompressor
                    .as_ref()
                    .is_some_and(|d| !d.is_between_blocks()) =>
                {
                    let text = "the channel ended in the middle of a compressed block";
                    return Poll::Ready(Err(ChannelError::Encoding(text.into())));
                }
                None => return Poll::Ready(Ok(None)),
                Some(data) => match &mut self.decompressor {
                    Some(decompressor) => decompressor.push(&data),
                    None => return Poll::Ready(Ok(Some(data))),
                },
            }
        }
    }

    fn poll_raw(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, ChannelError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let id = self.id;
        let outcome = self.session.with(|state, _| {
            // Bytes behind a redial are for the next host service.
            let redial = state
                .channels
                .get(&id)
                .and_then(|wakers| wakers.redial.as_ref());
            let most = match (redial, state.core.read_offset(id)) {
                (Some(redial), Some(read)) => redial.offset.saturating_sub(read),
                _ => READ_CHUNK as u64,
            };
            let most = usize::try_from(most).unwrap_or(READ_CHUNK).min(READ_CHUNK);
            let outcome = match most {
                0 => ReadOutcome::Blocked,
                most => state.core.read(id, most),
            };
            if outcome == ReadOutcome::Blocked {
                register(state, id, cx.waker(), false);
            }
            outcome
        });
        Poll::Ready(match outcome {
            ReadOutcome::Data(data) => Ok(Some(data)),
            ReadOutcome::Finished => {
                self.ended = true;
                Ok(None)
            }
            ReadOutcome::Blocked => return Poll::Pending,
            ReadOutcome::Reset(code) => Err(ChannelError::Reset(code)),
            ReadOutcome::Closed => Err(self.session.closed_error()),
        })
    }

    /// The peer's wish to go on with another host service, once everything before it was read.
    /// Pending for ever on channels without one.
    pub fn poll_redial(&mut self, cx: &Context<'_>) -> Poll<Redial> {
        let id = self.id;
        self.session.with(|state, _| {
            let read = state.core.read_offset(id);
            let Some(wakers) = state.channels.get_mut(&id) else {
                return Poll::Pending;
            };
            let due = wakers
                .redial
                .as_ref()
                .is_some_and(|redial| Some(redial.offset) == read);
            match wakers.redial.take_if(|_| due) {
                Some(redial) => Poll::Ready(redial),
                None => {
                    wakers.read = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// The channel goes on with the new host service: the peer is told and sends on.
    pub fn accept_redial(&mut self) {
        let id = self.id;
        self.session.with(|state, _| state.core.accept(id));
    }

    /// Whether the end was read, or nothing more is wanted.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Wants no more, and tells the peer why.
    pub fn stop(&mut self, code: Code) {
        let id = self.id;
        self.ended = true;
        self.session
            .with(|state, _| state.core.stop(id, code.number()));
    }
}

impl ChannelWriter {
    /// Sends a piece without copying it (unless it is compressed); waits while there is no room.
    ///
    /// Not cancel safe: part of the piece may have been taken.
    ///
    /// # Errors
    /// The peer takes no more, or the session ended.
    pub async fn write_chunk(&mut self, mut data: Bytes) -> Result<(), ChannelError> {
        while !data.is_empty() {
            std::future::poll_fn(|cx| self.poll_take(cx, &mut data)).await?;
        }
        std::future::poll_fn(|cx| self.poll_pending(cx)).await
    }

    /// Takes some bytes off the front of `data`.
    fn poll_take(&mut self, cx: &Context<'_>, data: &mut Bytes) -> Poll<Result<(), ChannelError>> {
        ready!(self.poll_pending(cx))?;
        match self.compressor {
            Some(_) => {
                let taken = self.encode(data);
                data.advance(taken);
                // Sent with the next call; what was taken is ours now.
                match self.poll_pending(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Ready(Ok(())),
                }
            }
            None => self.poll_write_raw(cx, data),
        }
    }

    fn encode(&mut self, data: &[u8]) -> usize {
        let Some(compressor) = &mut self.compressor else {
            return 0;
        };
        let rate = self.session.status().rate;
        let taken = compressor.block(data, rate, &mut self.encoded);
        self.pending = self.encoded.split().freeze();
        taken
    }

    /// Hands over what was encoded before.
    fn poll_pending(&mut self, cx: &Context<'_>) -> Poll<Result<(), ChannelError>> {
        while !self.pending.is_empty() {
            let mut pending = std::mem::take(&mut self.pending);
            let outcome = self.poll_write_raw(cx, &mut pending);
            self.pending = pending;
            ready!(outcome)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_raw(&self, cx: &Context<'_>, data: &mut Bytes) -> Poll<Result<(), ChannelError>> {
        let id = self.id;
        let outcome = self.session.with(|state, _| {
            let outcome = state.core.write(id, data);
            if outcome == Err(WriteError::Blocked) {
                register(state, id, cx.waker(), true);
            }
            outcome
        });
        self.write_outcome(outcome)
    }

    fn write_outcome<T>(&self, outcome: Result<T, WriteError>) -> Poll<Result<(), ChannelError>> {
        Poll::Ready(match outcome {
            Ok(_) => Ok(()),
            Err(WriteError::Blocked) => return Poll::Pending,
            Err(WriteError::Stopped(code)) => Err(ChannelError::Stopped(code)),
            Err(WriteError::Closed) => Err(self.session.closed_error()),
        })
    }

    /// Sends one datagram on a channel of datagrams, whole or not at all, and never again. It is dropped if it still
    /// waits here at `deadline`, and where too many wait the oldest ones are. Empty ones are sent too.
    ///
    /// # Errors
    /// It is larger than the peer takes ([`Session::max_datagram`]), the peer takes no more, or the session ended.
    pub fn send_datagram(&mut self, data: Bytes, deadline: Instant) -> Result<(), ChannelError> {
        let id = self.id;
        let wait = deadline.saturating_duration_since(Instant::now());
        let outcome = self
            .session
            .with(|state, now| state.core.send_datagram(id, data, now + wait));
        match outcome {
            Ok(()) => Ok(()),
            Err(WriteError::Stopped(code)) => Err(ChannelError::Stopped(code)),
            Err(WriteError::Closed | WriteError::Blocked) => Err(self.session.closed_error()),
        }
    }

    /// The largest datagram that can be sent on the channel, in bytes.
    #[must_use]
    pub fn max_datagram(&self) -> usize {
        self.session.max_datagram()
    }

    /// How many bytes may be written at once, at least one.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, ChannelError>> {
        let id = self.id;
        let outcome = self.session.with(|state, _| {
            let outcome = state.core.write_room(id);
            if outcome == Err(WriteError::Blocked) {
                register(state, id, cx.waker(), true);
            }
            outcome
        });
        match outcome {
            Ok(room) => Poll::Ready(Ok(room)),
            Err(error) => self.write_outcome::<()>(Err(error)).map_ok(|()| 0),
        }
    }

    /// Ends this direction after everything that was written: the peer reads its end.
    ///
    /// # Errors
    /// As for writing.
    pub async fn finish(&mut self) -> Result<(), ChannelError> {
        std::future::poll_fn(|cx| self.poll_finish(cx)).await
    }

    fn poll_finish(&mut self, cx: &Context<'_>) -> Poll<Result<(), ChannelError>> {
        ready!(self.poll_pending(cx))?;
        let id = self.id;
        self.ended = true;
        self.session.with(|state, _| state.core.finish(id));
        Poll::Ready(Ok(()))
    }

    /// Gives up: the peer learns the code, and what was not sent yet is forgotten.
    pub fn reset(&mut self, code: Code) {
        let id = self.id;
        self.ended = true;
        self.session
            .with(|state, _| state.core.reset(id, code.number()));
    }

    /// As [`Channel::redial`].
    ///
    /// # Errors
    /// As for writing.
    pub async fn redial(&mut self, service: &str) -> Result<(), ChannelError> {
        std::future::poll_fn(|cx| self.poll_pending(cx)).await?;
        let id = self.id;
        self.session.with(|state, _| state.core.redial(id, service));
        Ok(())
    }

    /// Waits until the peer stops reading, with its code.
    pub async fn stopped(&mut self) -> ChannelError {
        std::future::poll_fn(|cx| {
            let id = self.id;
            let stopped = self.session.with(|state, _| {
                let code = state.core.stopped_code(id);
                if code.is_none() && !state.core.is_closing() {
                    register(state, id, cx.waker(), true);
                    return Poll::Pending;
                }
                Poll::Ready(code)
            });
            stopped.map(|code| match code {
                Some(code) => ChannelError::Stopped(code),
                None => self.session.closed_error(),
            })
        })
        .await
    }
}

fn register(state: &mut State, id: ChannelId, waker: &Waker, writer: bool) {
    let wakers = state.channels.entry(id).or_default();
    let slot = if writer {
        &mut wakers.write
    } else {
        &mut wakers.read
    };
    *slot = Some(waker.clone());
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut chunk) = ready!(self.poll_chunk(cx))? {
            let part = chunk.split_to(chunk.len().min(buf.remaining()));
            buf.put_slice(&part);
            self.pending = chunk;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        if self.compressor.is_some() {
            let taken = self.encode(buf);
            if let Poll::Ready(Err(error)) = self.poll_pending(cx) {
                return Poll::Ready(Err(error.into()));
            }
            return Poll::Ready(Ok(taken));
        }
        let room = ready!(self.poll_room(cx))?.min(buf.len());
        let mut piece = Bytes::copy_from_slice(&buf[..room]);
        ready!(self.poll_write_raw(cx, &mut piece))?;
        Poll::Ready(Ok(room - piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pending(cx).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        self.poll_finish(cx).map_err(Into::into)
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(Code::Cancelled);
        }
        forget(&self.session, self.id, false);
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(Code::Cancelled);
        }
        forget(&self.session, self.id, true);
    }
}

/// One half is gone; the second one takes the wakers with it.
fn forget(session: &Session, id: ChannelId, writer: bool) {
    session.with(|state, _| {
        let Some(wakers) = state.channels.get_mut(&id) else {
            return;
        };
        if writer {
            wakers.writer_gone = true;
        } else {
            wakers.reader_gone = true;
        }
        if wakers.writer_gone && wakers.reader_gone {
            state.channels.remove(&id);
        }
    });
}
