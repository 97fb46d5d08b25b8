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
    pub(super) round_trip: f64,
    /// The last ones as they were measured, in seconds.
    recent: [f64; MIDDLE_OF],
    /// Bytes per second that were seen last, and when.
    pub(super) rate: Option<(u64, Time)>,
    /// When the last one was.
    pub(super) at: Time,
}

impl Half {
    pub(super) fn first(now: Time, measured: Measured) -> Self {
        let round_trip = measured.round_trip.as_secs_f64();
        Self {
            round_trip,
            recent: [round_trip; MIDDLE_OF],
            rate: (measured.rate > 0).then_some((measured.rate, now)),
            at: now,
        }
    }

    pub(super) fn take_in(&mut self, now: Time, measured: Measured) {
        let Measured {
            round_trip,
            rate,
            full,
        } = measured;
        let part = 1.0 - (-now.since(self.at).as_secs_f64() / SMOOTHED_OVER).exp();
        self.at = now;
        // A path that was idle tells nothing of its rate.
        if rate > 0 {
            self.rate = Some((rate, now));
        }
        let new = round_trip.as_secs_f64();
        let old = self.round_trip;
        if full && new > old && new < (old * FULL_FACTOR).max(old + FULL_AT_LEAST) {
            return;
        }
        self.recent.rotate_left(1);
        self.recent[MIDDLE_OF - 1] = new;
        let mut sorted = self.recent;
        sorted.sort_by(f64::total_cmp);
        self.round_trip += part * (sorted[MIDDLE_OF / 2] - old);
    }

    /// What was seen of it not too long ago.
    pub(super) fn rate(&self, now: Time) -> Option<u64> {
        let (rate, at) = self.rate?;
        (now.since(at).as_secs_f64() <= RATE_FORGOTTEN_AFTER).then_some(rate)
    }
}
