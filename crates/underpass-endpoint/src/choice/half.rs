//! One side of the path by one relay: what is taken for it, out of single measurements.

use std::time::Duration;

use underpass_proto::Time;

/// After so many seconds a measurement has moved the smoothed one by most of the difference.
const SMOOTHED_OVER: f64 = 10.0;
/// Of so many measurements the middle one counts: a single one tells nothing.
const MIDDLE_OF: usize = 3;
/// While a path is full its round trip is longer than the way is. It counts as longer when it is so many
/// times as long,
const FULL_FACTOR: f64 = 3.0;
/// and by so many seconds.
const FULL_AT_LEAST: f64 = 0.05;
/// What a path was seen to deliver so long ago, in seconds, tells nothing any more.
const RATE_FORGOTTEN_AFTER: f64 = 300.0;

/// One measurement of one side's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Round trip to the relay.
    pub round_trip: Duration,
    /// Bytes per second that a session which had more to send was seen to send by this path; 0 where that is
    /// not known.
    pub rate: u64,
    /// Whether so much passed meanwhile that the round trip may be one of a queue.
    pub full: bool,
}

/// What is known of one side of a relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    /// Seconds.
    round_trip: Smoothed,
    /// Bytes per second, where there was more to send.
    rate: Option<Smoothed>,
}

impl Half {
    pub(super) fn first(now: Time, measured: Measured) -> Self {
        let Measured {
            round_trip,
            rate,
            full: _,
        } = measured;
        let mut half = Self {
            round_trip: Smoothed::first(now, round_trip.as_secs_f64()),
            rate: None,
        };
        half.delivers(now, rate);
        half
    }

    pub(super) fn take_in(&mut self, now: Time, measured: Measured) {
        let Measured {
            round_trip,
            rate,
            full,
        } = measured;
        self.delivers(now, rate);
        let new = round_trip.as_secs_f64();
        let old = self.round_trip();
        if full && new > old && new < (old * FULL_FACTOR).max(old + FULL_AT_LEAST) {
            self.round_trip.at = now;
        } else {
            self.round_trip.take_in(now, new);
        }
    }

    /// So many bytes per second were seen, of more than that to send; 0 where that is not known: a path that was
    /// idle tells nothing of its rate.
    pub(super) fn delivers(&mut self, now: Time, rate: u64) {
        if rate == 0 {
            return;
        }
        match &mut self.rate {
            Some(old) if old.age(now) <= RATE_FORGOTTEN_AFTER => old.take_in(now, rate as f64),
            rate_before => *rate_before = Some(Smoothed::first(now, rate as f64)),
        }
    }

    /// When it was measured last.
    pub(super) fn at(&self) -> Time {
        self.round_trip.at
    }

    /// In seconds.
    pub(super) fn round_trip(&self) -> f64 {
        self.round_trip.value
    }

    /// What was seen of it not too long ago, in bytes per second.
    pub(super) fn rate(&self, now: Time) -> Option<u64> {
        let rate = self.rate?;
        (rate.age(now) <= RATE_FORGOTTEN_AFTER).then_some(rate.value as u64)
    }
}

/// A quantity that is measured again and again.
#[derive(Clone, Copy, Debug)]
struct Smoothed {
    value: f64,
    /// The last ones as they were measured.
    recent: [f64; MIDDLE_OF],
    /// When the last one was.
    at: Time,
}

impl Smoothed {
    fn first(now: Time, value: f64) -> Self {
        Self {
            value,
            recent: [value; MIDDLE_OF],
            at: now,
        }
    }

    fn take_in(&mut self, now: Time, new: f64) {
        let part = 1.0 - (-self.age(now) / SMOOTHED_OVER).exp();
        self.at = now;
        self.recent.rotate_left(1);
        self.recent[MIDDLE_OF - 1] = new;
        let mut sorted = self.recent;
        sorted.sort_by(f64::total_cmp);
        self.value += part * (sorted[MIDDLE_OF / 2] - self.value);
    }

    /// Seconds since the last measurement.
    fn age(&self, now: Time) -> f64 {
        now.since(self.at).as_secs_f64()
    }
}
