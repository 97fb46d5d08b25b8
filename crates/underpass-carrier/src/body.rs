//! HTTP bodies: what we send in them, and a carrier's bytes read from them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

use crate::Source;
use crate::error::CarrierError;
use crate::pipe::{self, PipeBody};
use crate::span::{Decoder, Event, SpanBuf};

/// Any error in making a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or response's body, of one of the few forms that carriers need.
pub(crate) enum FlowBody {
    /// All of it at once, with its length.
    Whole(Option<SpanBuf>),
    /// A carrier's sending half.
    Pipe(PipeBody),
    /// From elsewhere: a page of the relay.
    Other(UnsyncBoxBody<Bytes, BodyError>),
}

impl FlowBody {
    /// No body at all.
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    /// The same body once more, where it is one that can be sent twice.
    pub(crate) fn again(&self) -> Option<Self> {
        match self {
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Pipe(_) | Self::Other(_) => None,
        }
    }

    /// A body of no bytes, with its length.
    pub(crate) fn no_bytes() -> Self {
        Self::Whole(Some(SpanBuf::default()))
    }
}

impl From<SpanBuf> for FlowBody {
    fn from(bytes: SpanBuf) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Body for FlowBody {
    type Data = SpanBuf;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<SpanBuf>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pipe(body) => pipe::poll_pinned(Pin::new(body), cx),
            Self::Other(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(SpanBuf::from))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Pipe(_) => false,
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let len = bytes.as_ref().map_or(0, bytes::Buf::remaining);
                SizeHint::with_exact(len as u64)
            }
            Self::Pipe(_) => SizeHint::default(),
            Self::Other(body) => body.size_hint(),
        }
    }
}

/// A carrier's receiving half that reads spans from an HTTP body.
pub(crate) struct BodySource {
    body: Incoming,
    decoder: Decoder,
    /// Told when the end was read, so that the request can be answered.
    finished: Option<oneshot::Sender<()>>,
    /// The connection that the body comes from; it ends with the source.
    _connection: Option<Box<dyn Send>>,
}

impl BodySource {
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            decoder: Decoder::default(),
            finished: None,
            _connection: None,
        }
    }

    /// The body of an answer that comes over `connection`.
    pub(crate) fn of_answer(body: Incoming, connection: impl Send + 'static) -> Self {
        Self {
            _connection: Some(Box::new(connection)),
            ..Self::new(body)
        }
    }

    /// The same, telling `finished` when the orderly end was read; dropped otherwise.
    pub(crate) fn with_finished(body: Incoming, finished: oneshot::Sender<()>) -> Self {
        Self {
            finished: Some(finished),
            ..Self::new(body)
        }
    }

    /// Waits for one filling span, with which both sides open.
    ///
    /// # Errors
    /// Anything else comes first, or the body breaks.
    pub(crate) async fn fill(&mut self) -> Result<(), CarrierError> {
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
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => {
                    let error = CarrierError::broken("the body stopped before the stream's end");
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl Source for BodySource {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        if self.decoder.ended() {
            return Poll::Ready(None);
        }
        loop {
            match ready!(self.poll_event(cx))? {
                Event::Data(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Event::Fill => {}
                Event::End => {
                    if let Some(finished) = self.finished.take() {
                        // The request may be gone already; its answer then matters to nobody.
                        let _ = finished.send(());
                    }
                    return Poll::Ready(None);
                }
                Event::Number(_) => {
                    let error = CarrierError::protocol("a poll's number in a stream");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// Why a body could not be read whole.
#[derive(Debug)]
pub(crate) enum ReadBodyError {
    /// It is longer than allowed.
    TooLong,
    /// It broke off.
    Broken(CarrierError),
}

impl ReadBodyError {
    /// The same of an answer.
    pub(crate) fn into_error(self) -> CarrierError {
        match self {
            Self::TooLong => CarrierError::protocol("the answer is too long"),
            Self::Broken(error) => error,
        }
    }
}

/// Reads a whole body of at most `limit` bytes, without a copy if it comes in one piece.
pub(crate) async fn read_whole(body: Incoming, limit: usize) -> Result<Bytes, ReadBodyError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadBodyError::TooLong);
    }
    let expected = body.size_hint().exact().unwrap_or(0);
    let mut body = Limited::new(body, limit);
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => ReadBodyError::Broken((*error).into()),
            Err(_) => ReadBodyError::TooLong,
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.is_none() && joined.is_empty() {
            first = Some(data);
            continue;
        }
        if let Some(first) = first.take() {
            // Bounded by `limit`, which the length was checked against.
            joined.reserve((expected as usize).max(first.len() + data.len()));
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&data);
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}
