//! `poll`: numbered GETs, several at a time, that the relay holds until it has bytes for them, and
//! numbered POSTs the other way.
//!
//! Slow, and all but unstoppable: every request has a complete answer, each one a path of its own,
//! and each can be repeated by whoever lost it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use http::{Method, StatusCode};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::answers::{Answer, Answers, Ask, DEPTH, Received, read_answer};
use crate::body::FlowBody;
use crate::client::{Client, refused};
use crate::coding::Coding;
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply};
use crate::guard::Guarded;
use crate::inbox::{Inbox, InboxSource, Presence, supervise, take_post};
use crate::kind::{Abilities, Kind};
use crate::posting::{Lease, PostSink, Retries, may_pass};
use crate::request::Part;
use crate::{Carrier, Sink, Source};

/// The longest answer that a client reads: far more than a relay of ours sends.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;
/// A poll that was cut after it was held for so long was cut for that: some boxes end requests that
/// are idle for 10 s.
const LONG_HELD: Duration = Duration::from_secs(5);
/// Polls are always held this long.
const SHORTEST_HOLD: Duration = Duration::from_secs(4);
/// How long a poll is held where the client does not say.
const DEFAULT_HOLD: Duration = Duration::from_secs(25);

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "poll",
    abilities: Abilities {
        survives_holding_proxy: true,
        survives_repeated_requests: true,
        largest_body: Some(1_000_000),
        connections: 28,
        survives_cut_connections: true,
        works_over_http10: true,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange, MANNER)),
};

const MANNER: Manner = Manner {
    kind: "poll",
    coding: Coding::Binary,
};

/// What kinds of numbered requests differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// The kind's name.
    pub(crate) kind: &'static str,
    /// How bodies are written.
    pub(crate) coding: Coding,
}

/// The client's side of each of them; connections and bodies are those of `client`.
pub(crate) async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    let info = client.open_idle().await?;
    let what = "the answer to the first poll";
    let opening = client.within_limit(what, ask(&client, 0)).await?;
    let lease = Lease::new(Arc::clone(&client));
    let (items, received) = mpsc::channel(1);
    let polling = poll_on(Arc::clone(&client), Arc::clone(&lease), items);
    let mut first = opening.data;
    if opening.end {
        return Err(CarrierError::protocol(
            "the relay ended the carrier at once",
        ));
    }
    let source = PollSource {
        received,
        ready: std::mem::take(&mut first),
        ended: false,
        _polling: AbortOnDropHandle::new(tokio::spawn(polling)),
        _lease: Arc::clone(&lease),
    };
    let dead = lease.dead.clone();
    Ok(Carrier {
        sink: Box::new(PostSink::new(client, lease)),
        source: Box::new(Guarded::new(source, dead)),
        info,
    })
}

/// Asks poll `number` until its answer has come whole, or trying is of no more use.
async fn ask(client: &Client, number: u64) -> Result<Received, CarrierError> {
    let mut retries = Retries::default();
    loop {
        let began = Instant::now();
        let error = match ask_once(client, number, retries.count()).await {
            Ok((StatusCode::OK, body)) => return read_answer(body, number),
            Ok((status, _)) if may_pass(status) => refused(status, "a poll"),
            Ok((status, _)) => return Err(refused(status, "a poll")),
            Err(error) => error,
        };
        if let Some(hold) = shorter(began.elapsed(), hold(client)) {
            tracing::debug!(%error, ?hold, "a poll that was held was cut");
            client.settings.path.holds_up_to(hold);
            client.forget_idle();
        } else {
            retries.pause(client, error).await?;
        }
    }
}

/// How long polls should be held, if one of them was cut after `held` because that is too long. Always
/// less than `hold`, so lowering it comes to an end.
fn shorter(held: Duration, hold: Duration) -> Option<Duration> {
    let shorter = (held * 2 / 3).max(SHORTEST_HOLD);
    (held >= LONG_HELD && held < hold).then_some(shorter)
}

/// How long the relay may hold a poll on this path.
fn hold(client: &Client) -> Duration {
    let known = client.settings.path.bounds().longest_hold;
    known.map_or(client.settings.poll_hold, |known| {
        known.min(client.settings.poll_hold)
    })
}

async fn ask_once(
    client: &Client,
    number: u64,
    again: u32,
) -> Result<(StatusCode, Bytes), CarrierError> {
    let hold = hold(client);
    let asked = (number == 0 || hold < client.settings.poll_hold).then_some(hold);
    let (method, body) = match client.settings.poll_by_post {
        true => (Method::POST, FlowBody::no_bytes()),
        false => (Method::GET, FlowBody::empty()),
    };
    let part = Part::Poll(number);
    let mut request = client.request_with(method, part, asked, body)?;
    if again > 0 {
        client.make_unique(&mut request)?;
    }
    let after = hold * 2 + client.settings.connect_timeout;
    let answer = client.exchange(request, LONGEST_ANSWER);
    let (status, body) =
        tokio::time::timeout(after, answer)
            .await
            .unwrap_or(Err(CarrierError::TimedOut {
                what: "the answer to a poll",
                after,
            }))?;
    match status {
        StatusCode::OK => Ok((status, client.coding.read(body)?)),
        _ => Ok((status, body)),
    }
}

/// Keeps [`DEPTH`] polls under way and hands their answers on in order. Slows down when nobody takes
/// them.
async fn poll_on(
    client: Arc<Client>,
    lease: Arc<Lease>,
    items: mpsc::Sender<Result<Received, CarrierError>>,
) {
    let mut next = 1;
    let mut asked = FuturesOrdered::new();
    loop {
        while asked.len() < DEPTH as usize {
            let (client, number) = (Arc::clone(&client), next);
            let asking = tokio::spawn(async move { ask(&client, number).await });
            asked.push_back(AbortOnDropHandle::new(asking));
            next += 1;
        }
        let answer = tokio::select! {
            answer = asked.next() => answer,
            () = lease.dead.cancelled() => return,
        };
        let answer = match answer {
            Some(Ok(answer)) => answer,
            // The runtime is being shut down.
            Some(Err(_)) | None => return,
        };
        let last = answer.as_ref().map_or(true, |received| received.end);
        let failed = answer.is_err();
        if items.send(answer).await.is_err() || last {
            if failed {
                lease.dead.cancel();
            }
            return;
        }
    }
}

/// The client's receiving half.
struct PollSource {
    received: mpsc::Receiver<Result<Received, CarrierError>>,
    ready: VecDeque<Bytes>,
    ended: bool,
    _polling: AbortOnDropHandle<()>,
    _lease: Arc<Lease>,
}

impl Source for PollSource {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.received.poll_recv(cx)) {
                Some(Ok(Received { data, end })) => {
                    self.ready = data;
                    self.ended = end;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let error = CarrierError::broken("polling has stopped");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// What the server knows of a carrier of this kind.
struct Entry {
    kind: &'static str,
    inbox: Arc<Inbox>,
    presence: Arc<Presence>,
    gone: CancellationToken,
    outbox: Arc<Outbox>,
    hold: Duration,
}

/// The bytes on their way out, shared by the session's sink and the polls that are held.
struct Outbox {
    state: Mutex<(Answers, Option<Waker>)>,
    /// Told when a held poll may have an answer.
    changed: Notify,
    began: Instant,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, (Answers, Option<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to poll `number`, or none while it is to be held.
    fn ask(&self, number: u64, expired: bool) -> Result<Option<Answer>, Refusal> {
        let now = self.began.elapsed();
        let mut state = self.lock();
        let (answers, waker) = &mut *state;
        let under_way = answers.in_flight();
        let answer = match answers.ask(number, now) {
            Ok(Ask::Answer(answer)) => Some(answer),
            Ok(Ask::Wait) if expired => {
                answers.expire(number, now).map_err(|_| Refusal::NotFound)?
            }
            Ok(Ask::Wait) => None,
            Err(error) => {
                tracing::debug!(number, %error, "refused a poll");
                return Err(Refusal::NotFound);
            }
        };
        // A poll also tells that an earlier answer has arrived, which makes room for the next one.
        if answer.is_some() || answers.in_flight() != under_way {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
            drop(state);
            // The poll behind this one may be the next in turn.
            self.changed.notify_waiters();
        }
        Ok(answer)
    }

    /// Holds poll `number` until there is an answer. One whose turn does not come (because the poll
    /// before it was lost) is told to come again after twice its time.
    async fn answer(&self, number: u64, hold: Duration) -> Result<Answer, Refusal> {
        let began = Instant::now();
        let mut expired = false;
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(answer) = self.ask(number, expired)? {
                return Ok(answer);
            }
            let until = if expired {
                began + hold * 2
            } else {
                began + hold
            };
            if tokio::time::timeout_at(until, changed).await.is_err() {
                if expired {
                    return Err(Refusal::Busy);
                }
                expired = true;
            }
        }
    }
}

/// The server's sending half.
struct AnswerSink {
    outbox: Arc<Outbox>,
    gone: CancellationToken,
    closing: bool,
}

impl AnswerSink {
    fn alive(&self) -> Result<MutexGuard<'_, (Answers, Option<Waker>)>, CarrierError> {
        let state = self.outbox.lock();
        // An end that stands in an answer counts, whatever happens to the carrier afterwards.
        if self.gone.is_cancelled() && !state.0.is_finished() {
            return Err(CarrierError::broken("the carrier was given up"));
        }
        Ok(state)
    }
}

impl Sink for AnswerSink {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        if self.closing {
            return Poll::Ready(Err(CarrierError::Closed));
        }
        let mut state = self.alive()?;
        let taken = state.0.offer(queue);
        if taken == 0 && !queue.is_empty() {
            state.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.outbox.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        let mut state = self.alive()?;
        if state.0.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        let news = state.0.flush();
        state.1 = Some(cx.waker().clone());
        drop(state);
        if news {
            self.outbox.changed.notify_waiters();
        }
        Poll::Pending
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        self.closing = true;
        let mut state = self.alive()?;
        if state.0.is_finished() {
            return Poll::Ready(Ok(()));
        }
        state.0.finish();
        state.1 = Some(cx.waker().clone());
        drop(state);
        self.outbox.changed.notify_waiters();
        Poll::Pending
    }
}

impl Drop for AnswerSink {
    fn drop(&mut self) {
        if !self.closing {
            self.gone.cancel();
        }
        let mut state = self.outbox.lock();
        state.1 = None;
    }
}

/// The entry of the carrier that is asked for; an id is known under its own kind only.
fn find(exchange: &Exchange, manner: Manner) -> Result<Arc<Entry>, Refusal> {
    let entry = exchange.find::<Entry>()?;
    match entry.kind == manner.kind {
        true => Ok(entry),
        false => Err(Refusal::NotFound),
    }
}

/// The server's side of each of the kinds.
pub(crate) async fn serve(exchange: Exchange, manner: Manner) -> Reply {
    match (exchange.request.method(), exchange.part) {
        (&Method::GET | &Method::POST, Part::Poll(number)) => {
            let entry = match find(&exchange, manner) {
                Ok(entry) => entry,
                Err(_) if number == 0 => begin(&exchange, manner)?,
                Err(refusal) => return Err(refusal),
            };
            let _present = entry.presence.enter()?;
            let longest = exchange.front.settings.longest_hold;
            let hold = exchange.hold.map_or(entry.hold, |hold| hold.min(longest));
            let answer = tokio::select! {
                answer = entry.outbox.answer(number, hold) => answer?,
                () = entry.gone.cancelled() => return Err(Refusal::NotFound),
            };
            Ok(exchange.respond_with(manner.coding.write(answer.chunks)))
        }
        (&Method::POST, Part::Post { offset, end }) => {
            let entry = find(&exchange, manner)?;
            let _present = entry.presence.enter()?;
            let (inbox, gone) = (Arc::clone(&entry.inbox), entry.gone.clone());
            take_post(exchange, inbox, gone, manner.coding, (offset, end)).await
        }
        // Some boxes pass no other methods than GET and POST.
        (&Method::DELETE | &Method::POST, Part::Whole) => {
            find(&exchange, manner)?.gone.cancel();
            Ok(exchange.respond(StatusCode::NO_CONTENT, |_| ()))
        }
        _ => Err(Refusal::NotFound),
    }
}

fn begin(exchange: &Exchange, manner: Manner) -> Result<Arc<Entry>, Refusal> {
    let half_made = exchange.begin()?;
    let settings = &exchange.front.settings;
    let hold = exchange.hold.unwrap_or(DEFAULT_HOLD);
    let largest = manner.coding.room_in(settings.largest_answer);
    let entry = Arc::new(Entry {
        kind: manner.kind,
        inbox: Inbox::new(settings.receive_window),
        presence: Presence::new(),
        gone: CancellationToken::new(),
        outbox: Arc::new(Outbox {
            state: Mutex::new((Answers::new(largest), None)),
            changed: Notify::new(),
            began: Instant::now(),
        }),
        hold: hold.min(settings.longest_hold),
    });
    let slot = exchange.register(&entry).ok_or(Refusal::NotFound)?;
    let carrier = Carrier {
        sink: Box::new(AnswerSink {
            outbox: Arc::clone(&entry.outbox),
            gone: entry.gone.clone(),
            closing: false,
        }),
        source: Box::new(InboxSource::new(&entry.inbox)),
        info: exchange.info(manner.kind),
    };
    exchange.spawn(half_made.introduce_or(carrier, entry.gone.clone()));
    exchange.spawn(supervise(
        slot,
        Arc::clone(&entry.inbox),
        Arc::clone(&entry.presence),
        entry.gone.clone(),
        settings.silence,
    ));
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_that_are_cut_are_held_for_less_until_they_are_not() {
        let seconds = Duration::from_secs_f64;
        let box_limit = seconds(10.0);
        let mut hold = DEFAULT_HOLD;
        while hold >= box_limit {
            hold = shorter(box_limit, hold).expect("it was cut");
        }
        assert_eq!(hold, box_limit * 2 / 3);
        assert_eq!(shorter(seconds(5.5), hold), Some(SHORTEST_HOLD));
        // A connection that broke at once tells nothing, nor one that broke after its answer was due.
        assert_eq!(shorter(seconds(0.5), hold), None);
        assert_eq!(shorter(hold, hold), None);
        assert_eq!(shorter(SHORTEST_HOLD, SHORTEST_HOLD), None);
    }
}
