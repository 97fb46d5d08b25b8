//! The client's side of numbered POSTs: sends what [`Uplink`] cuts, and sends it again until the
//! relay has it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Sink;
use crate::body::FlowBody;
use crate::client::{Client, refused};
use crate::coding::Coding;
use crate::error::CarrierError;
use crate::inbox::receipt;
use crate::request::Part;
use crate::uplink::{Post, Uplink};

/// Bodies in flight at a time, each on a connection of its own; more where they have to be small.
const MAX_IN_FLIGHT: usize = 8;
/// How far bodies reach beyond the first one that is not answered: what a relay keeps of a carrier.
const AHEAD: u64 = 4 * 1024 * 1024;
/// How often a request is sent again when its answer does not come or tells of passing trouble.
const RETRIES: u32 = 5;
/// The pause before the second repetition; it doubles from there. The first comes at once, because
/// the usual cause is a kept connection that the other side has closed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The most bytes that an answer without content may carry: a page of a box on the way.
pub(crate) const SMALL_ANSWER: usize = 64 * 1024;

/// Counts repetitions of one request.
#[derive(Debug, Default)]
pub(crate) struct Retries(u32);

impl Retries {
    /// How many there were.
    pub(crate) fn count(&self) -> u32 {
        self.0
    }

    /// Waits before the next try, or gives `error` back when there were enough. Kept connections are
    /// forgotten: most likely they have met the same fate.
    pub(crate) async fn pause(
        &mut self,
        client: &Client,
        error: CarrierError,
    ) -> Result<(), CarrierError> {
        client.forget_idle();
        // A relay without room has none for the same carrier a moment later either.
        if self.0 >= RETRIES || matches!(error, CarrierError::Busy) {
            return Err(error);
        }
        tracing::debug!(%error, again = self.0 + 1, "a request failed");
        if self.0 > 0 {
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(self.0 - 1)).await;
        }
        self.0 += 1;
        Ok(())
    }
}

/// Whether a box or relay that answers so may answer otherwise a moment later.
pub(crate) fn may_pass(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The client's hold on a carrier of several requests. The relay is told once that it is given up:
/// otherwise it would only notice by silence.
pub(crate) struct Lease {
    client: Arc<Client>,
    given_up: AtomicBool,
    /// Cancelled when the carrier is dead, whoever saw it first.
    pub(crate) dead: CancellationToken,
}

impl Lease {
    pub(crate) fn new(client: Arc<Client>) -> Arc<Self> {
        Arc::new(Self {
            client,
            given_up: AtomicBool::new(false),
            dead: CancellationToken::new(),
        })
    }

    /// Tells the relay, as well as may be, that no more requests will come.
    pub(crate) fn give_up(&self) {
        if self.given_up.swap(true, Ordering::Relaxed) {
            return;
        }
        self.dead.cancel();
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let client = Arc::clone(&self.client);
        runtime.spawn(async move {
            let (method, body) = match client.coding {
                Coding::Binary => (Method::DELETE, FlowBody::empty()),
                Coding::Text => (Method::POST, FlowBody::no_bytes()),
            };
            let request = client.request(method, Part::Whole, body)?;
            let limit = client.settings.connect_timeout;
            let told = client.exchange(request, SMALL_ANSWER);
            let _ = tokio::time::timeout(limit, told).await;
            Ok::<_, CarrierError>(())
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// What has become of a body.
enum Settled {
    Delivered,
    /// Refused for its size.
    TooLarge,
    /// Its connections are cut, perhaps for its size.
    Cut,
}

struct State {
    uplink: Uplink,
    failed: Option<CarrierError>,
    waker: Option<Waker>,
}

struct Shared {
    client: Arc<Client>,
    state: Mutex<State>,
    lease: Arc<Lease>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task for each body that should go now.
    fn pump(self: &Arc<Self>, state: &mut State) {
        while let Some(post) = state.uplink.next_post() {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let dead = this.lease.dead.clone();
                tokio::select! {
                    () = this.deliver(post) => {}
                    () = dead.cancelled() => {}
                }
            });
        }
    }

    /// Posts one body until the relay has it or the carrier is dead.
    async fn deliver(self: Arc<Self>, post: Post) {
        let started = Instant::now();
        let outcome = self.post_until_answered(&post).await;
        let mut state = self.lock();
        match outcome {
            Ok(Settled::Cut) => {
                let len = post.len;
                if state.uplink.cut(post) {
                    self.remember_largest(&state);
                }
                tracing::debug!(len, "a body is cut again and again, perhaps for its size");
            }
            Ok(Settled::TooLarge) => {
                let len = post.len;
                if state.uplink.too_large(post) {
                    self.remember_largest(&state);
                    tracing::debug!(len, "the path refuses bodies of this size");
                } else {
                    let error = refused(StatusCode::PAYLOAD_TOO_LARGE, "a small body");
                    self.fail(&mut state, error);
                }
            }
            Ok(Settled::Delivered) => state.uplink.delivered(&post, started.elapsed()),
            Err(error) => self.fail(&mut state, error),
        }
        self.pump(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Larger bodies than now do not pass.
    fn remember_largest(&self, state: &State) {
        let largest = state.uplink.largest_body();
        let largest = self.client.coding.written_len(largest);
        self.client.settings.path.bodies_up_to(largest);
    }

    fn fail(&self, state: &mut State, error: CarrierError) {
        state.failed.get_or_insert(error);
        self.lease.dead.cancel();
    }

    /// Sends a body until something settles what becomes of it.
    async fn post_until_answered(&self, post: &Post) -> Result<Settled, CarrierError> {
        let mut retries = Retries::default();
        let before = self.lock().uplink.deliveries();
        loop {
            let error = match self.post_once(post).await {
                Ok(StatusCode::NO_CONTENT) => return Ok(Settled::Delivered),
                Ok(StatusCode::PAYLOAD_TOO_LARGE) => return Ok(Settled::TooLarge),
                // The relay is there but has no room; it has held the request for a while already.
                Ok(StatusCode::ACCEPTED) => continue,
                Ok(status) if may_pass(status) => refused(status, "a numbered POST"),
                Ok(status) => return Err(refused(status, "a numbered POST")),
                Err(error) => error,
            };
            let failures = retries.count() + 1;
            let cut = matches!(error, CarrierError::ClosedAbruptly { .. });
            if cut
                && self
                    .lock()
                    .uplink
                    .is_cut_for_its_size(post, failures, before)
            {
                self.client.forget_idle();
                return Ok(Settled::Cut);
            }
            retries.pause(&self.client, error).await?;
        }
    }

    async fn post_once(&self, post: &Post) -> Result<StatusCode, CarrierError> {
        let Post {
            offset,
            end,
            chunks,
            len: _,
        } = post.clone();
        let part = Part::Post { offset, end };
        let coding = self.client.coding;
        let body = FlowBody::from(coding.write(chunks));
        let request = self.client.request(Method::POST, part, body)?;
        let settings = &self.client.settings;
        // The relay may hold a body for which it has no room as long as a poll.
        let after = settings.poll_hold + settings.connect_timeout * 2;
        match tokio::time::timeout(after, self.client.exchange(request, SMALL_ANSWER)).await {
            Ok(Ok((StatusCode::OK, body))) if coding == Coding::Text => {
                // Not the page that a box gives to everybody.
                let receipt: Vec<u8> = receipt(offset).into_iter().flatten().collect();
                match coding.read(body)? == receipt {
                    true => Ok(StatusCode::NO_CONTENT),
                    false => Err(CarrierError::protocol("the answer is to another body")),
                }
            }
            Ok(answer) => answer.map(|(status, _)| status),
            Err(_) => Err(CarrierError::TimedOut {
                what: "the answer to a numbered POST",
                after,
            }),
        }
    }
}

/// A sending half made of numbered POSTs.
pub(crate) struct PostSink {
    shared: Arc<Shared>,
    closed: bool,
}

impl PostSink {
    pub(crate) fn new(client: Arc<Client>, lease: Arc<Lease>) -> Self {
        let known = client.settings.path.bounds().largest_body;
        let largest = client
            .settings
            .largest_body
            .min(known.unwrap_or(usize::MAX));
        let largest = client.coding.room_in(largest);
        let state = State {
            uplink: Uplink::new(largest, MAX_IN_FLIGHT, AHEAD),
            failed: None,
            waker: None,
        };
        Self {
            shared: Arc::new(Shared {
                client,
                state: Mutex::new(state),
                lease,
            }),
            closed: false,
        }
    }

    fn alive(&self) -> Result<MutexGuard<'_, State>, CarrierError> {
        let state = self.shared.lock();
        match &state.failed {
            Some(error) => Err(error.clone()),
            None if self.shared.lease.dead.is_cancelled() => Err(CarrierError::broken(
                "the carrier's other direction was lost",
            )),
            None => Ok(state),
        }
    }
}

impl Sink for PostSink {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        if self.closed {
            return Poll::Ready(Err(CarrierError::Closed));
        }
        let mut state = self.alive()?;
        let taken = state.uplink.offer(queue);
        if taken == 0 && !queue.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.shared.pump(&mut state);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        let mut state = self.alive()?;
        state.uplink.flush();
        self.shared.pump(&mut state);
        if state.uplink.is_idle() {
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        let mut state = self.alive()?;
        state.uplink.finish();
        self.shared.pump(&mut state);
        if state.uplink.is_idle() {
            drop(state);
            self.closed = true;
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for PostSink {
    fn drop(&mut self) {
        if !self.closed {
            self.shared.lease.give_up();
        }
    }
}
