//! One session: two streams and a channel to the service, and what the client's requests do to them.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::Code;
use underpass_store::MachineId;

use super::ask::SessionName;
use super::downward::{Downward, Given};
use super::far::Far;
use super::upward::{Onward, Untaken, Upward};
use crate::refusal::Refusal;

/// Requests of one session at a time; a client needs two, and proxies repeat some.
const MOST_REQUESTS: usize = 8;
/// The most bytes in one answer.
const LARGEST_ANSWER: usize = 1_000_000;

/// What one session may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes that are kept in each direction.
    pub(super) room: usize,
    /// The longest time for which a request is held.
    pub(super) hold: Duration,
    /// The session ends when no request came for this long.
    pub(super) idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            room: 1 << 20,
            hold: Duration::from_secs(25),
            idle: Duration::from_secs(120),
        }
    }
}

/// A session of a bare HTTP client.
pub(super) struct Session {
    pub(super) name: SessionName,
    /// The token that it belongs to.
    pub(super) owner: MachineId,
    /// By which attempts to open it are known to be the same.
    pub(super) once: String,
    limits: Limits,
    state: Mutex<State>,
    /// Something in the state has changed.
    changed: Notify,
    opened: watch::Sender<Option<Result<(), Refusal>>>,
    /// The client has closed it.
    closed: CancellationToken,
}

struct State {
    up: Upward,
    down: Downward,
    /// Requests under way.
    requests: usize,
    /// When the last one came or ended.
    touched: Instant,
    /// The newest request for bytes; older ones give way to it.
    newest: u64,
}

/// A request under way.
struct Visit<'a>(&'a Session);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.touched = Instant::now();
    }
}

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// From where the client goes on.
    pub(super) next: u64,
    /// Whether it was taken, or why not.
    pub(super) outcome: Result<(), Untaken>,
}

/// What a request for bytes gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) given: Given,
    /// The first offset that can be asked for.
    pub(super) base: u64,
}

/// Why the work on a session is over.
enum Over {
    /// Both directions have ended in order.
    Finished,
    /// One of them broke.
    Broken(Code),
    /// The client closed it, or came no more, or the relay stops.
    Left(Code),
}

impl Session {
    pub(super) fn new(name: SessionName, owner: MachineId, once: String, limits: Limits) -> Self {
        Self {
            name,
            owner,
            once,
            limits,
            state: Mutex::new(State {
                up: Upward::new(limits.room),
                down: Downward::new(limits.room),
                requests: 0,
                touched: Instant::now(),
                newest: 0,
            }),
            changed: Notify::new(),
            opened: watch::Sender::new(None),
            closed: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the state and wakes whoever waits for a change of it.
    fn change<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let result = act(&mut self.state());
        self.changed.notify_waiters();
        result
    }

    /// Waits until `look` finds something, but not longer than until `deadline`.
    async fn wait<R>(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state()) {
                return Some(found);
            }
            match deadline {
                None => changed.await,
                Some(deadline) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(deadline) => return None,
                },
            }
        }
    }

    fn visit(&self) -> Result<Visit<'_>, Refusal> {
        let mut state = self.state();
        if state.requests >= MOST_REQUESTS {
            return Err(Refusal::busy("requests of one session at a time"));
        }
        state.requests += 1;
        state.touched = Instant::now();
        Ok(Visit(self))
    }

    /// Waits until the service was reached.
    ///
    /// # Errors
    /// It was not.
    pub(super) async fn opened(&self) -> Result<(), Refusal> {
        let mut opened = self.opened.subscribe();
        let opened = opened.wait_for(Option::is_some).await;
        let outcome = opened.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(Refusal::of(Code::GoingAway)))
    }

    /// Takes a body, waiting for room where there is none.
    ///
    /// # Errors
    /// There are too many requests.
    pub(super) async fn take(&self, offset: u64, body: Bytes, end: bool) -> Result<Taken, Refusal> {
        let _visit = self.visit()?;
        let deadline = Instant::now() + self.limits.hold;
        let take = |state: &mut State| match state.up.take(offset, &body, end) {
            Err(Untaken::Full) => None,
            outcome => Some(outcome),
        };
        let outcome = self.wait(Some(deadline), take).await;
        let outcome = outcome.unwrap_or(Err(Untaken::Full));
        let next = self.change(|state| state.up.next());
        Ok(Taken { next, outcome })
    }

    /// The bytes from `offset` on; waits for some, for `wait` at the most, and no longer than until the
    /// client asks again.
    ///
    /// # Errors
    /// There are too many requests.
    pub(super) async fn give(
        &self,
        offset: u64,
        wait: Option<Duration>,
    ) -> Result<Answer, Refusal> {
        let _visit = self.visit()?;
        let hold = wait.unwrap_or(self.limits.hold).min(self.limits.hold);
        let deadline = Instant::now() + hold;
        let turn = self.change(|state| {
            state.newest += 1;
            state.newest
        });
        let mut first = true;
        let give = |state: &mut State| {
            if !first && state.newest != turn {
                return Some(Given::Nothing);
            }
            first = false;
            match state.down.ask(offset, LARGEST_ANSWER) {
                Given::Nothing => None,
                given => Some(given),
            }
        };
        let given = self.wait(Some(deadline), give).await;
        // What was acknowledged makes room.
        let base = self.change(|state| state.down.base());
        let given = given.unwrap_or(Given::Nothing);
        Ok(Answer { given, base })
    }

    /// The client is done with it.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Reaches the service, then moves bytes until the session is over; keeps what there is to read
    /// until the client closes the session or comes no more.
    pub(super) async fn run(
        &self,
        reach: impl Future<Output = Result<Far, Refusal>>,
        stop: CancellationToken,
    ) {
        let reached = tokio::select! {
            reached = reach => reached,
            () = stop.cancelled() => Err(Refusal::of(Code::GoingAway)),
        };
        let (attachment, channel) = match reached {
            Ok(Far {
                attachment,
                channel,
            }) => (attachment, channel),
            Err(why) => {
                self.opened.send_replace(Some(Err(why)));
                return;
            }
        };
        self.opened.send_replace(Some(Ok(())));
        let over = self.carry(channel, &stop).await;
        if let Over::Broken(code) | Over::Left(code) = over {
            self.change(|state| {
                state.up.fail(code);
                state.down.fail(code);
            });
        }
        super::far::leave(&attachment).await;
        if !matches!(over, Over::Left(_)) {
            self.left(&stop).await;
        }
    }

    /// Moves bytes both ways. Whatever ends one direction out of order ends the other.
    async fn carry(&self, channel: Channel, stop: &CancellationToken) -> Over {
        let (mut reader, mut writer) = channel.into_split();
        let over = tokio::select! {
            moved = async { tokio::try_join!(self.upload(&mut writer), self.download(&mut reader)) } => {
                match moved {
                    Ok(_) => Over::Finished,
                    Err(code) => Over::Broken(code),
                }
            }
            code = self.cut(stop) => Over::Left(code),
        };
        if let Over::Broken(code) | Over::Left(code) = over {
            writer.reset(code);
            reader.stop(code);
        }
        over
    }

    async fn upload(&self, writer: &mut ChannelWriter) -> Result<(), Code> {
        loop {
            let next = self.wait(None, |state| match state.up.onward() {
                Onward::Nothing => None,
                onward => Some(onward),
            });
            let onward = tokio::select! {
                onward = next => onward.unwrap_or(Onward::Nothing),
                stopped = writer.stopped() => return stopped_by_service(&stopped),
            };
            // There is room for the next body.
            self.change(|_| ());
            let outcome = match onward {
                Onward::Bytes(bytes) => writer.write_chunk(bytes).await,
                Onward::End => return writer.finish().await.map_err(|error| error.code()),
                Onward::Nothing => Ok(()),
            };
            if let Err(error) = outcome {
                return stopped_by_service(&error);
            }
        }
    }

    async fn download(&self, reader: &mut ChannelReader) -> Result<(), Code> {
        loop {
            self.wait(None, |state| state.down.has_room().then_some(()))
                .await;
            match reader.read_chunk().await {
                Ok(Some(bytes)) => self.change(|state| state.down.push(bytes)),
                Ok(None) => {
                    self.change(|state| state.down.finish());
                    return Ok(());
                }
                Err(error) => return Err(error.code()),
            }
        }
    }

    /// As [`Session::left`], but a client that closes a session after both sides have said all that they
    /// had to say cuts nothing off that is still on its way.
    async fn cut(&self, stop: &CancellationToken) -> Code {
        let closed_early = async {
            self.closed.cancelled().await;
            self.wait(None, |state| {
                let complete = state.up.is_ended() && state.down.is_ended();
                (!complete).then_some(())
            })
            .await
        };
        tokio::select! {
            _ = closed_early => Code::Cancelled,
            () = stop.cancelled() => Code::GoingAway,
            () = self.idle() => Code::SessionExpired,
        }
    }

    /// Waits until the client has closed the session, or came no more, or the relay stops; the code
    /// says which.
    async fn left(&self, stop: &CancellationToken) -> Code {
        tokio::select! {
            () = self.closed.cancelled() => Code::Cancelled,
            () = stop.cancelled() => Code::GoingAway,
            () = self.idle() => Code::SessionExpired,
        }
    }

    async fn idle(&self) {
        loop {
            let now = Instant::now();
            let until = {
                let state = self.state();
                let since = if state.requests > 0 {
                    now
                } else {
                    state.touched
                };
                since + self.limits.idle
            };
            if until <= now {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A service that wants no more after all is said is no failure of the other direction.
fn stopped_by_service(error: &ChannelError) -> Result<(), Code> {
    match error {
        ChannelError::Stopped(code) if *code == Code::NoError.number() => Ok(()),
        error => Err(error.code()),
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as a test may take, and no time at all.
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(1);

    fn session(hold: Duration) -> Session {
        let limits = Limits {
            room: 4,
            hold,
            idle: SHORT,
        };
        let name = SessionName::from_random(1);
        Session::new(name, MachineId(1), String::new(), limits)
    }

    fn given(text: &'static str) -> Given {
        let bytes = Bytes::from_static(text.as_bytes());
        Given::Bytes { bytes, last: false }
    }

    #[tokio::test]
    async fn a_request_for_bytes_is_held_until_there_are_some() {
        let session = session(LONG);
        let asking = session.give(0, None);
        let pushing = async { session.change(|state| state.down.push("abc".into())) };
        let (answer, ()) = tokio::join!(asking, pushing);
        assert_eq!(answer.unwrap().given, given("abc"));
        let nothing = session.give(3, Some(SHORT)).await.unwrap();
        assert_eq!((nothing.given, nothing.base), (Given::Nothing, 3));
    }

    #[tokio::test]
    async fn nobody_is_held_longer_than_the_relay_wants() {
        let answer = session(SHORT).give(0, Some(LONG)).await.unwrap();
        assert_eq!(answer.given, Given::Nothing);
    }

    #[tokio::test]
    async fn an_older_request_gives_way_to_a_newer_one() {
        let session = session(LONG);
        let pushing = async {
            // Both wait by now; the newer one gets the bytes.
            session.change(|state| state.down.push("abc".into()));
        };
        let (older, newer, ()) =
            tokio::join!(session.give(0, None), session.give(0, None), pushing);
        assert_eq!(older.unwrap().given, Given::Nothing);
        assert_eq!(newer.unwrap().given, given("abc"));
    }

    #[tokio::test]
    async fn a_body_waits_for_room_and_is_refused_when_there_comes_none() {
        let patient = session(LONG);
        patient.take(0, "abcd".into(), false).await.unwrap();
        let reading = async { patient.change(|state| state.up.onward()) };
        let (taken, _) = tokio::join!(patient.take(4, "e".into(), false), reading);
        let (next, outcome) = (5, Ok(()));
        assert_eq!(taken.unwrap(), Taken { next, outcome });

        let hasty = session(SHORT);
        hasty.take(0, "abcd".into(), false).await.unwrap();
        let taken = hasty.take(4, "e".into(), false).await.unwrap();
        let (next, outcome) = (4, Err(Untaken::Full));
        assert_eq!(taken, Taken { next, outcome });
    }

    #[tokio::test]
    async fn requests_are_counted_and_keep_the_session() {
        let session = session(SHORT);
        let stop = CancellationToken::new();
        let visits: Vec<_> = (0..MOST_REQUESTS)
            .map(|_| session.visit().unwrap())
            .collect();
        assert!(session.visit().is_err());
        let kept = tokio::time::timeout(20 * SHORT, session.left(&stop)).await;
        assert!(kept.is_err(), "a session with requests is not idle");
        drop(visits);
        assert_eq!(session.left(&stop).await, Code::SessionExpired);
    }

    #[tokio::test]
    async fn closing_after_both_ends_cuts_nothing_off() {
        let session = session(LONG);
        session.take(0, "abc".into(), true).await.unwrap();
        session.change(|state| state.down.finish());
        session.close();
        let stop = CancellationToken::new();
        // What ends it is that nobody comes any more, not that it was closed.
        assert_eq!(session.cut(&stop).await, Code::SessionExpired);
    }

    #[tokio::test]
    async fn a_client_may_close_it() {
        let session = session(LONG);
        let _visit = session.visit().unwrap();
        session.close();
        let stop = CancellationToken::new();
        assert_eq!(session.cut(&stop).await, Code::Cancelled);
    }
}
