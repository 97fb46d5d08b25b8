//! What a new carrier must show before it takes over. Pure: the driver sends and tells what comes back.
//!
//! Before the first message of a session a relay sends each padding packet back. Small ones alone on
//! the carrier show whether something waits for more before it passes them on, and how long a round
//! trip takes; larger ones in a row show that a body of the usual size comes through whole.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use underpass_proto::Time;

/// How long a carrier is on probation.
const LENGTH: Duration = Duration::from_secs(5);
/// The same for one that was cut before: longer than the lives that count as short.
const LASTING: Duration = Duration::from_secs(12);
/// How many bytes it must bring there and back.
const BYTES: usize = 64 * 1024;
/// An answer that is missing for so long was held back. As long as the session waits before it
/// suspects a leg.
const LATE: Duration = Duration::from_secs(2);
/// The first answer may take longer: the first message of some carriers makes connections.
const FIRST_LATE: Duration = Duration::from_secs(4);
/// Size and number of the large pieces.
const LARGE: usize = 4 * 1024;
/// Large pieces under way at a time.
const MOST_UNDER_WAY: usize = 4;
/// Size of the small pieces, smaller than any keystroke's record.
const SMALL: usize = 32;
/// Between the small pieces that follow the large ones.
const PAUSE: Duration = Duration::from_millis(500);
/// Small pieces that a carrier in need has to answer.
const RELIEF_ANSWERS: usize = 3;

/// What is to be done for a probation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes as the body of a padding packet.
    Send(Bytes),
    /// Nothing before this time, unless something comes in.
    Wait(Time),
    /// It is over: the carrier does. The usual round trip on it.
    Passed(Duration),
    /// It is over: the carrier does not, and why.
    Failed(String),
}

/// One carrier's probation.
#[derive(Debug)]
pub struct Probation {
    started: Time,
    length: Duration,
    bytes: usize,
    answers: usize,
    sent: usize,
    heard: usize,
    next_send: Time,
    /// Pieces that are to come back, in this order: since when, and how long.
    under_way: VecDeque<(Time, usize)>,
    round_trips: Vec<Duration>,
    failed: Option<String>,
}

impl Probation {
    /// A probation in full: a carrier that is to replace one which works.
    #[must_use]
    pub fn full(now: Time) -> Self {
        Self::new(now, LENGTH, BYTES, 1)
    }

    /// A long one: a carrier that was cut soon after it was made, and has to show that it lasts.
    #[must_use]
    pub fn lasting(now: Time) -> Self {
        Self::new(now, LASTING, BYTES, 1)
    }

    /// A short one: a carrier that is to replace one which hardly works.
    #[must_use]
    pub fn relief(now: Time) -> Self {
        Self::new(now, Duration::ZERO, 0, RELIEF_ANSWERS)
    }

    /// One that shows what a carrier brings there and back, for its own sake: nothing waits for the rest.
    #[must_use]
    pub fn brief(now: Time) -> Self {
        Self::new(now, Duration::ZERO, BYTES, RELIEF_ANSWERS)
    }

    fn new(now: Time, length: Duration, bytes: usize, answers: usize) -> Self {
        Probation {
            started: now,
            length,
            bytes,
            answers,
            sent: 0,
            heard: 0,
            next_send: now,
            under_way: VecDeque::new(),
            round_trips: Vec::new(),
            failed: None,
        }
    }

    /// What to do next; to be asked until it says to wait.
    pub fn step(&mut self, now: Time) -> Step {
        if let Some(reason) = &self.failed {
            return Step::Failed(reason.clone());
        }
        if let Some(deadline) = self.deadline()
            && deadline <= now
        {
            return Step::Failed("holds back what is sent on it".into());
        }
        if let Some(length) = self.next_length(now) {
            let piece = pattern(self.sent, length);
            self.sent += length;
            self.under_way.push_back((now, length));
            self.next_send = now + PAUSE;
            return Step::Send(piece);
        }
        if self.is_done(now) {
            return Step::Passed(self.round_trip());
        }
        Step::Wait(self.wake_at())
    }

    /// The body of a padding packet came back.
    pub fn heard(&mut self, now: Time, piece: &[u8]) {
        let Some((since, length)) = self.under_way.pop_front() else {
            self.fail("brings what nobody sent");
            return;
        };
        if piece != pattern(self.heard, length) {
            self.fail("changes the bytes that it carries");
            return;
        }
        self.heard += length;
        if length == SMALL {
            self.round_trips.push(now.since(since));
        }
    }

    /// Whether anything has come back: what ends after that has worked, and was cut.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.heard > 0
    }

    fn fail(&mut self, reason: &str) {
        self.failed.get_or_insert_with(|| reason.to_owned());
    }

    /// By when the oldest piece under way must be back.
    fn deadline(&self) -> Option<Time> {
        let (since, _) = self.under_way.front()?;
        let limit = if self.heard == 0 { FIRST_LATE } else { LATE };
        // Pieces of a burst are behind each other.
        Some(*since + limit * u32::try_from(self.under_way.len()).unwrap_or(u32::MAX))
    }

    fn next_length(&self, now: Time) -> Option<usize> {
        if self.heard == 0 {
            return self.under_way.is_empty().then_some(SMALL);
        }
        if self.sent < self.bytes {
            return (self.under_way.len() < MOST_UNDER_WAY).then_some(LARGE);
        }
        let due = self.bytes == 0 || self.next_send <= now;
        (self.under_way.is_empty() && due && !self.is_done(now)).then_some(SMALL)
    }

    fn is_done(&self, now: Time) -> bool {
        self.under_way.is_empty()
            && now.since(self.started) >= self.length
            && self.heard >= self.bytes.max(SMALL)
            && self.round_trips.len() >= self.answers
    }

    fn wake_at(&self) -> Time {
        let over = self.started + self.length;
        match self.deadline() {
            Some(deadline) => deadline,
            None => over.min(self.next_send),
        }
    }

    /// The median: one late answer says little.
    fn round_trip(&self) -> Duration {
        let mut sorted = self.round_trips.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// The bytes from `offset` of what is sent: all values of a byte, in an order that does not repeat
/// itself soon, so that whatever is changed, left out or doubled shows.
#[must_use]
pub(crate) fn pattern(offset: usize, length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length);
    for index in offset as u64..(offset + length) as u64 {
        let mixed = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [byte, ..] = mixed.to_be_bytes();
        bytes.extend_from_slice(&[byte]);
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs against a path that returns each piece after `delay(index, length)`, or never.
    fn run(
        mut probation: Probation,
        delay: impl Fn(usize, usize) -> Option<Duration>,
        change: impl Fn(Bytes) -> Bytes,
    ) -> (Step, Duration, usize) {
        let mut now = Time::ZERO;
        let mut back: VecDeque<(Time, Bytes)> = VecDeque::new();
        let (mut count, mut free, mut bytes) = (0, Time::ZERO, 0);
        loop {
            while let Some((_, piece)) = back.pop_front_if(|(at, _)| *at <= now) {
                bytes += piece.len();
                probation.heard(now, &piece);
            }
            match probation.step(now) {
                Step::Send(piece) => {
                    if let Some(delay) = delay(count, piece.len()) {
                        free = free.max(now + delay);
                        back.push_back((free, change(piece)));
                    }
                    count += 1;
                }
                Step::Wait(until) => {
                    assert!(until > now, "would spin");
                    now = back.front().map_or(until, |(at, _)| until.min(*at));
                }
                step => return (step, now.since(Time::ZERO), bytes),
            }
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_good_path_passes_after_its_time_and_bytes() {
        let (step, took, bytes) = run(Probation::full(Time::ZERO), |_, _| Some(ms(40)), |b| b);
        assert_eq!(step, Step::Passed(ms(40)));
        assert!(took >= LENGTH && took < LENGTH + ms(600), "{took:?}");
        assert!(bytes >= BYTES, "{bytes}");
    }

    #[test]
    fn a_lasting_one_outlives_short_lives() {
        let (step, took, _) = run(Probation::lasting(Time::ZERO), |_, _| Some(ms(40)), |b| b);
        assert_eq!(step, Step::Passed(ms(40)));
        assert!(took > crate::ladder::mark::SHORT_LIFE, "{took:?}");
    }

    #[test]
    fn a_slow_path_gets_the_time_that_the_bytes_need() {
        let slow = |_, length| Some(ms(100) + ms(length as u64 / 8));
        let (step, took, _) = run(Probation::full(Time::ZERO), slow, |b| b);
        assert!(matches!(step, Step::Passed(_)), "{step:?}");
        assert!(took >= LENGTH, "{took:?}");
    }

    #[test]
    fn a_box_that_waits_for_more_is_found_by_the_first_piece() {
        let holds = |_, length| (length >= LARGE).then_some(ms(1));
        let (step, took, _) = run(Probation::full(Time::ZERO), holds, |b| b);
        assert!(matches!(step, Step::Failed(_)), "{step:?}");
        assert_eq!(took, FIRST_LATE);
    }

    #[test]
    fn a_box_that_begins_to_hold_is_found() {
        let holds = |index, _| (index < 20).then_some(ms(1));
        let (step, took, _) = run(Probation::full(Time::ZERO), holds, |b| b);
        assert!(matches!(step, Step::Failed(_)), "{step:?}");
        assert!(took < LENGTH + LATE, "{took:?}");
    }

    #[test]
    fn changed_bytes_fail() {
        for value in [0x00, 0x0a, 0x7f, 0x80, 0xff] {
            let change = move |bytes: Bytes| {
                bytes
                    .iter()
                    .map(|byte| if *byte == value { b'?' } else { *byte })
                    .collect()
            };
            let (step, ..) = run(Probation::full(Time::ZERO), |_, _| Some(ms(1)), change);
            let expected = Step::Failed("changes the bytes that it carries".into());
            assert_eq!(step, expected, "{value:#x}");
        }
    }

    #[test]
    fn relief_comes_after_three_answers() {
        let (step, took, bytes) = run(Probation::relief(Time::ZERO), |_, _| Some(ms(30)), |b| b);
        assert_eq!((step, took, bytes), (Step::Passed(ms(30)), ms(90), 96));
    }
}
