//! A carrier's sending half that ends in an HTTP body: spans go in, body frames come out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::Sink;
use crate::body::BodyError;
use crate::error::CarrierError;
use crate::span::{self, SpanBuf, take_front};

/// The most bytes that wait for the HTTP layer to take them.
const CAPACITY: usize = 32 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Asked,
    Taken,
}

struct State {
    chunks: VecDeque<Bytes>,
    len: usize,
    /// Empty filling spans to send before anything else.
    fills: usize,
    end: End,
    /// The sink was dropped before its end.
    given_up: bool,
    failed: Option<CarrierError>,
    /// Closing waits for [`Pipe::answered`].
    answer_due: bool,
    sink_waker: Option<Waker>,
    body_waker: Option<Waker>,
}

/// What sink and body share.
pub(crate) struct Pipe {
    state: Mutex<State>,
    lost: CancellationToken,
}

/// A pipe, with one empty filling span in it so that the first body byte leaves at once. `connection`
/// is cancelled when the sink is dropped before its end, `lost` when nothing can be sent any more
/// although the end was not. With `answer_due`, closing waits until [`Pipe::answered`] tells that the
/// other side has everything.
pub(crate) fn pipe(
    connection: CancellationToken,
    lost: CancellationToken,
    answer_due: bool,
) -> (PipeSink, PipeBody) {
    let pipe = Arc::new(Pipe {
        state: Mutex::new(State {
            chunks: VecDeque::new(),
            len: 0,
            fills: 1,
            end: End::Open,
            given_up: false,
            failed: None,
            answer_due,
            sink_waker: None,
            body_waker: None,
        }),
        lost,
    });
    let sink = PipeSink {
        pipe: Arc::clone(&pipe),
        connection,
    };
    let body = PipeBody {
        pipe,
        kept: None,
        lingers: None,
    };
    (sink, body)
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection under the pipe failed.
    pub(crate) fn fail(&self, error: CarrierError) {
        let mut state = self.lock();
        state.failed.get_or_insert(error);
        wake(&mut state.sink_waker);
        wake(&mut state.body_waker);
        drop(state);
        self.lost.cancel();
    }

    /// The other side has everything, the end included.
    pub(crate) fn answered(&self) {
        let mut state = self.lock();
        if state.end == End::Taken {
            state.answer_due = false;
            wake(&mut state.sink_waker);
        } else {
            drop(state);
            self.fail(CarrierError::protocol("answered before the end was sent"));
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The end that the session writes to.
pub(crate) struct PipeSink {
    pipe: Arc<Pipe>,
    connection: CancellationToken,
}

impl PipeSink {
    /// What is shared with the body.
    pub(crate) fn pipe(&self) -> Arc<Pipe> {
        Arc::clone(&self.pipe)
    }

    /// Sends an empty filling span.
    pub(crate) fn fill(&self) {
        let mut state = self.pipe.lock();
        state.fills += 1;
        wake(&mut state.body_waker);
    }

    /// Locks the state unless the pipe has failed.
    fn alive(&self) -> Result<MutexGuard<'_, State>, CarrierError> {
        let state = self.pipe.lock();
        match &state.failed {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }
}

impl Sink for PipeSink {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        let mut state = self.alive()?;
        if state.end != End::Open {
            return Poll::Ready(Err(CarrierError::Closed));
        }
        let state = &mut *state;
        let taken = take_front(queue, &mut state.chunks, CAPACITY - state.len);
        state.len += taken;
        if taken == 0 && !queue.is_empty() {
            state.sink_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wake(&mut state.body_waker);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        let mut state = self.alive()?;
        if state.len == 0 {
            return Poll::Ready(Ok(()));
        }
        state.sink_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        let mut state = self.alive()?;
        if state.end == End::Open {
            state.end = End::Asked;
            wake(&mut state.body_waker);
        }
        if state.end == End::Taken && !state.answer_due {
            return Poll::Ready(Ok(()));
        }
        state.sink_waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for PipeSink {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        if state.end == End::Open {
            state.given_up = true;
            wake(&mut state.body_waker);
        }
        if state.end == End::Open || state.answer_due {
            // A connection that the other side does not read from would never look at its body.
            self.connection.cancel();
        }
    }
}

/// The end that the HTTP layer reads from.
pub(crate) struct PipeBody {
    pipe: Arc<Pipe>,
    /// What is to live as long as the body.
    kept: Option<Box<dyn Send>>,
    /// What the body waits for between the stream's end and its own.
    lingers: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl PipeBody {
    /// Keeps `guard` until the body is over, in whatever way.
    pub(crate) fn keep(mut self, guard: impl Send + 'static) -> Self {
        self.kept = Some(Box::new(guard));
        self
    }

    /// The body ends only when `over` is cancelled, though its stream may have ended before: boxes take
    /// the end of an answer for that of the request, too.
    pub(crate) fn linger_until(mut self, over: CancellationToken) -> Self {
        self.lingers = Some(Box::pin(over.cancelled_owned()));
        self
    }

    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<SpanBuf>, BodyError>>> {
        let mut state = self.pipe.lock();
        if state.given_up || state.failed.is_some() {
            return Poll::Ready(Some(Err("the carrier was given up".into())));
        }
        let frame = if state.fills > 0 {
            state.fills -= 1;
            SpanBuf::header_only(span::empty_fill())
        } else if state.len > 0 {
            let chunks = std::mem::take(&mut state.chunks);
            SpanBuf::data(chunks, std::mem::take(&mut state.len))
        } else {
            match state.end {
                End::Open => {
                    state.body_waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                End::Asked => {
                    state.end = End::Taken;
                    SpanBuf::header_only(span::end_span())
                }
                End::Taken => return Poll::Ready(None),
            }
        };
        wake(&mut state.sink_waker);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        if self.pipe.lock().end != End::Taken {
            let error = CarrierError::broken("the connection that carried the bytes out closed");
            self.pipe.fail(error);
        }
    }
}

/// For `Body::poll_frame` of the enclosing body.
pub(crate) fn poll_pinned(
    body: Pin<&mut PipeBody>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<SpanBuf>, BodyError>>> {
    let body = body.get_mut();
    let frame = ready!(body.poll_frame(cx));
    if let (None, Some(over)) = (&frame, &mut body.lingers) {
        ready!(over.as_mut().poll(cx));
    }
    Poll::Ready(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf as _;

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn next(body: &PipeBody) -> Option<Vec<u8>> {
        match body.poll_frame(&mut noop()) {
            Poll::Ready(Some(Ok(frame))) => {
                let mut data = frame.into_data().expect("data frame");
                Some(data.copy_to_bytes(data.remaining()).to_vec())
            }
            _ => None,
        }
    }

    #[test]
    fn spans_come_out_in_order_and_the_end_last() {
        let lost = CancellationToken::new();
        let (mut sink, body) = pipe(CancellationToken::new(), lost.clone(), false);
        assert_eq!(next(&body), Some(span::empty_fill().to_vec()));
        let mut queue = VecDeque::from([Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        assert!(sink.poll_send(&mut noop(), &mut queue).is_ready());
        assert!(sink.poll_flush(&mut noop()).is_pending());
        assert!(sink.poll_close(&mut noop()).is_pending());
        assert_eq!(
            next(&body),
            Some([&span::data_header(3)[..], b"abc"].concat())
        );
        assert!(sink.poll_flush(&mut noop()).is_ready());
        assert_eq!(next(&body), Some(span::end_span().to_vec()));
        assert!(matches!(body.poll_frame(&mut noop()), Poll::Ready(None)));
        assert!(sink.poll_close(&mut noop()).is_ready());
        drop(body);
        assert!(!lost.is_cancelled());
    }

    #[test]
    fn a_full_pipe_takes_no_more() {
        let (mut sink, body) = pipe(CancellationToken::new(), CancellationToken::new(), false);
        next(&body);
        let mut queue = VecDeque::from([Bytes::from(vec![0; 3 * CAPACITY])]);
        assert!(sink.poll_send(&mut noop(), &mut queue).is_ready());
        assert!(sink.poll_send(&mut noop(), &mut queue).is_pending());
        assert_eq!(queue[0].len(), 2 * CAPACITY);
        next(&body);
        assert!(sink.poll_send(&mut noop(), &mut queue).is_ready());
    }

    #[test]
    fn a_sink_dropped_early_breaks_the_body_and_a_body_dropped_early_the_sink() {
        let connection = CancellationToken::new();
        let (sink, body) = pipe(connection.clone(), CancellationToken::new(), false);
        next(&body);
        drop(sink);
        let frame = body.poll_frame(&mut noop());
        assert!(matches!(frame, Poll::Ready(Some(Err(_)))));
        assert!(connection.is_cancelled());

        let lost = CancellationToken::new();
        let (mut sink, body) = pipe(CancellationToken::new(), lost.clone(), false);
        drop(body);
        assert!(lost.is_cancelled());
        let mut queue = VecDeque::from([Bytes::from_static(b"x")]);
        let sent = sink.poll_send(&mut noop(), &mut queue);
        assert!(matches!(sent, Poll::Ready(Err(_))));
    }

    #[test]
    fn an_answer_before_the_end_is_an_error() {
        let (mut sink, body) = pipe(CancellationToken::new(), CancellationToken::new(), true);
        next(&body);
        sink.pipe().answered();
        let closed = sink.poll_close(&mut noop());
        let code = |error: &CarrierError| error.code() == "protocol";
        assert!(matches!(closed, Poll::Ready(Err(error)) if code(&error)));
    }
}
