//! The server's side of numbered POSTs: bodies go into a [`Window`], the session reads them in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Body as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Source;
use crate::body::{ReadBodyError, read_whole};
use crate::coding::Coding;
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply, Slot};
use crate::span::number_span;
use crate::window::{Taken, Window};

/// Requests of one carrier at a time. Ours have at most 24 bodies and four polls under way; each may
/// be here twice, because its connection was cut and nobody has told the relay.
const MAX_REQUESTS: usize = 64;
/// The most that is read of a body that is too large, so that the client gets to read why.
const DRAIN: usize = 4 * 1024 * 1024;
/// How long a body waits for room before the client is asked to send it again; below the shortest
/// idle limits of boxes (10 s).
const ROOM_HOLD: Duration = Duration::from_secs(8);
/// What the process-wide budget of bodies is counted in.
const KIB: usize = 1024;

struct State {
    window: Window,
    failed: Option<CarrierError>,
    reader_gone: bool,
    waker: Option<Waker>,
    /// The part of the budget that stands for the bytes in the window.
    paid: Option<OwnedSemaphorePermit>,
}

/// What arrived for one carrier and was not yet read.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// Told when the reader has made room.
    room: Notify,
}

enum Offered {
    Taken,
    NoRoom,
    Gone,
    Wrong,
}

impl Inbox {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                window: Window::new(capacity as u64),
                failed: None,
                reader_gone: false,
                waker: None,
                paid: None,
            }),
            room: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The carrier is dead; the reader learns so unless the stream has ended in order.
    pub(crate) fn fail(&self, error: CarrierError) {
        let mut state = self.lock();
        if !state.window.is_complete() {
            state.failed.get_or_insert(error);
        }
        state.wake();
        drop(state);
        self.room.notify_waiters();
    }

    fn offer(
        &self,
        offset: u64,
        body: &Bytes,
        end: bool,
        paid: &mut Option<OwnedSemaphorePermit>,
    ) -> Offered {
        let mut state = self.lock();
        if state.window.is_complete() {
            // The answer to the last body may have been lost.
            return match state.window.offer(offset, body, end) {
                Ok(_) => Offered::Taken,
                Err(_) => Offered::Wrong,
            };
        }
        if state.failed.is_some() || state.reader_gone {
            return Offered::Gone;
        }
        match state.window.offer(offset, body, end) {
            Ok(Taken::NoRoom) => Offered::NoRoom,
            Ok(Taken::Kept) => {
                match (&mut state.paid, paid.take()) {
                    (Some(all), Some(more)) => all.merge(more),
                    (all, more) => *all = all.take().or(more),
                }
                state.settle();
                state.wake();
                Offered::Taken
            }
            Err(error) => {
                state.failed = Some(CarrierError::protocol(error.to_string()));
                state.wake();
                Offered::Wrong
            }
        }
    }

    /// Waits for room for a body, at most until `deadline`.
    async fn offer_until(
        &self,
        deadline: Instant,
        (offset, end): (u64, bool),
        body: &Bytes,
        mut paid: Option<OwnedSemaphorePermit>,
    ) -> Offered {
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            match self.offer(offset, body, end, &mut paid) {
                Offered::NoRoom => {}
                settled => return settled,
            }
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return Offered::NoRoom;
            }
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Gives back what of the budget is not needed for the bytes in the window.
    fn settle(&mut self) {
        let needed = usize::try_from(self.window.held_bytes()).unwrap_or(usize::MAX);
        let needed = needed.div_ceil(KIB);
        if let Some(paid) = &mut self.paid {
            let spare = paid.num_permits().saturating_sub(needed);
            drop(paid.split(spare));
        }
    }
}

/// The reader's end of an inbox.
pub(crate) struct InboxSource(Arc<Inbox>);

impl InboxSource {
    pub(crate) fn new(inbox: &Arc<Inbox>) -> Self {
        Self(Arc::clone(inbox))
    }
}

impl Source for InboxSource {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        let mut state = self.0.lock();
        if let Some(bytes) = state.window.pop() {
            state.settle();
            drop(state);
            self.0.room.notify_waiters();
            return Poll::Ready(Some(Ok(bytes)));
        }
        if state.window.is_finished() {
            return Poll::Ready(None);
        }
        if let Some(error) = &state.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for InboxSource {
    fn drop(&mut self) {
        self.0.lock().reader_gone = true;
        self.0.room.notify_waiters();
    }
}

/// Who is there: the requests of one carrier under way, and when the last one ended.
pub(crate) struct Presence {
    state: Mutex<(usize, Instant)>,
    changed: Notify,
}

impl Presence {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new((0, Instant::now())),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Instant)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request until the answer is dropped; none if there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Present, Refusal> {
        let mut state = self.lock();
        if state.0 >= MAX_REQUESTS {
            return Err(Refusal::Busy);
        }
        state.0 += 1;
        Ok(Present(Arc::clone(self)))
    }

    /// Ends when no request has been there for `silence`.
    async fn silent(&self, silence: Duration) {
        loop {
            let changed = self.changed.notified();
            let (count, last) = *self.lock();
            if count > 0 {
                changed.await;
                continue;
            }
            tokio::time::sleep_until(last + silence).await;
            let (count, last) = *self.lock();
            if count == 0 && last.elapsed() >= silence {
                return;
            }
        }
    }
}

/// One request under way.
pub(crate) struct Present(Arc<Presence>);

impl Drop for Present {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.0 -= 1;
        state.1 = Instant::now();
        drop(state);
        // Only the supervisor waits for this; a permit is kept if it is not yet waiting.
        self.0.changed.notify_one();
    }
}

/// Keeps a carrier of several requests known until it is given up, lost, or silent for too long.
pub(crate) async fn supervise(
    slot: Slot,
    inbox: Arc<Inbox>,
    presence: Arc<Presence>,
    gone: CancellationToken,
    silence: Duration,
) {
    let error = tokio::select! {
        () = gone.cancelled() => CarrierError::broken("the carrier was given up"),
        () = presence.silent(silence) => CarrierError::TimedOut {
            what: "the client's next request",
            after: silence,
        },
    };
    drop(slot);
    gone.cancel();
    inbox.fail(error);
}

/// Answers a POST with bytes from `offset` on.
pub(crate) async fn take_post(
    exchange: Exchange,
    inbox: Arc<Inbox>,
    gone: CancellationToken,
    coding: Coding,
    (offset, end): (u64, bool),
) -> Reply {
    let settings = &exchange.front.settings;
    let (largest, body_timeout) = (settings.largest_body, settings.body_timeout);
    let hold = settings.longest_hold.min(ROOM_HOLD);
    let budget = std::sync::Arc::clone(&exchange.front.budget);
    let taken = match coding {
        Coding::Binary => exchange.respond(StatusCode::NO_CONTENT, |_| ()),
        Coding::Text => exchange.respond_with(coding.write(receipt(offset))),
    };
    let no_room = exchange.respond(StatusCode::ACCEPTED, |_| ());
    let body = exchange.into_body();
    let announced = body.size_hint().exact();
    let reading = async {
        if announced.is_some_and(|len| len > largest as u64) {
            let _ = read_whole(body, DRAIN).await;
            return Err(Refusal::TooLarge);
        }
        let wanted = announced.map_or(largest, |len| len as usize);
        let paid = pay(budget, wanted).await;
        match read_whole(body, largest).await {
            Ok(body) => Ok((body, paid)),
            Err(ReadBodyError::TooLong) => Err(Refusal::TooLarge),
            Err(ReadBodyError::Broken(_)) => Err(Refusal::Incomplete),
        }
    };
    let read = tokio::time::timeout(body_timeout, reading).await;
    let (body, paid) = read.unwrap_or(Err(Refusal::TooSlow))?;
    // What is no text of ours was changed on the way: the client has to send it again.
    let body = coding.read(body).map_err(|_| Refusal::Incomplete)?;
    let deadline = Instant::now() + hold;
    let offered = tokio::select! {
        offered = inbox.offer_until(deadline, (offset, end), &body, paid) => offered,
        () = gone.cancelled() => Offered::Gone,
    };
    match offered {
        Offered::Taken => Ok(taken),
        Offered::NoRoom => Ok(no_room),
        Offered::Gone => Err(Refusal::NotFound),
        Offered::Wrong => {
            gone.cancel();
            Err(Refusal::NotFound)
        }
    }
}

/// What answers a body where an answer without content may not come through, or where one with any
/// content would be taken for it: the body's offset, as a number span.
pub(crate) fn receipt(offset: u64) -> VecDeque<Bytes> {
    [Bytes::copy_from_slice(&number_span(offset))].into()
}

/// Waits until the budget has room for a body of `len` bytes.
async fn pay(budget: Arc<Semaphore>, len: usize) -> Option<OwnedSemaphorePermit> {
    let permits = u32::try_from(len.div_ceil(KIB)).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    budget.acquire_many_owned(permits).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: (u64, bool) = (6, true);

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[tokio::test]
    async fn the_budget_is_given_back_as_bytes_are_read() {
        let budget = Arc::new(Semaphore::new(80));
        let inbox = Inbox::new(100_000);
        let mut source = InboxSource::new(&inbox);
        let later = Instant::now() + Duration::from_secs(3600);
        for at in [32_768u64, 0] {
            let paid = pay(Arc::clone(&budget), 32_768).await;
            let body = Bytes::from(vec![1; 32_768]);
            let offered = inbox.offer_until(later, (at, false), &body, paid).await;
            assert!(matches!(offered, Offered::Taken));
        }
        assert_eq!(budget.available_permits(), 16);
        assert!(source.poll_recv(&mut noop()).is_ready());
        assert_eq!(budget.available_permits(), 48);
        assert!(source.poll_recv(&mut noop()).is_ready());
        assert_eq!(budget.available_permits(), 80);
        // What is known already costs nothing.
        let paid = pay(Arc::clone(&budget), 32_768).await;
        let body = Bytes::from(vec![1; 32_768]);
        let offered = inbox.offer_until(later, (0, false), &body, paid).await;
        assert!(matches!(offered, Offered::Taken));
        assert_eq!(budget.available_permits(), 80);
    }

    #[tokio::test]
    async fn a_repeated_last_body_is_answered_after_the_reader_has_left() {
        let inbox = Inbox::new(100);
        let mut source = InboxSource::new(&inbox);
        let now = Instant::now();
        let body = Bytes::from_static(b"abcdef");
        let first = inbox.offer_until(now, (0, false), &body, None).await;
        assert!(matches!(first, Offered::Taken));
        let empty = Bytes::new();
        assert!(matches!(
            inbox.offer_until(now, END, &empty, None).await,
            Offered::Taken
        ));
        assert!(source.poll_recv(&mut noop()).is_ready());
        assert!(matches!(source.poll_recv(&mut noop()), Poll::Ready(None)));
        drop(source);
        assert!(matches!(
            inbox.offer_until(now, END, &empty, None).await,
            Offered::Taken
        ));
    }

    #[tokio::test]
    async fn a_body_waits_for_room_and_no_longer_than_it_may() {
        let inbox = Inbox::new(4);
        let mut source = InboxSource::new(&inbox);
        let body = Bytes::from_static(b"abcd");
        let now = Instant::now();
        inbox.offer_until(now, (0, false), &body, None).await;
        let offered = inbox.offer_until(now, (4, false), &body, None).await;
        assert!(matches!(offered, Offered::NoRoom));
        let later = now + Duration::from_secs(3600);
        let waiting = inbox.offer_until(later, (4, false), &body, None);
        let reading = async { source.poll_recv(&mut noop()) };
        let (offered, read) = tokio::join!(waiting, reading);
        assert!(matches!(offered, Offered::Taken) && read.is_ready());
    }

    #[tokio::test]
    async fn too_many_requests_at_once_are_refused() {
        let presence = Presence::new();
        let all: Vec<_> = std::iter::from_fn(|| presence.enter().ok()).collect();
        assert_eq!(all.len(), MAX_REQUESTS);
        drop(all);
        assert!(presence.enter().is_ok());
        presence.silent(Duration::ZERO).await;
    }
}
