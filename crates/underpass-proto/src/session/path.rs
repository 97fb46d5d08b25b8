//! What a leg's path was measured to carry, and how much may be under way on it.
//!
//! Every carrier is reliable and does its own congestion control, so nothing here reacts to loss.
//! What is bounded is the queue that this session builds somewhere on the path: without a bound a
//! keystroke would wait behind megabytes of bulk in some middlebox.
//!
//! A long round trip alone does not show a queue: boxes that cork, poll or wait for company delay
//! what they carry. So the window answers to both: where the rate follows the window, the window is
//! what limits and grows; where it does not and the delay is high, there is a queue, and it shrinks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;

/// Under way before anything was measured (design: windows start at 256 KiB).
const INITIAL_WINDOW: u64 = 256 * 1024;
/// Under way at least, however slow the path: a few of the smallest records and their headers.
const MIN_WINDOW: u64 = 16 * 1024;
/// Under way at most.
const MAX_WINDOW: u64 = 64 << 20;
/// How much delay on top of twice the minimum round trip a full window may build.
const QUEUE: Duration = Duration::from_millis(10);
/// One sample covers at least this, so that a token bucket's burst is not taken for the rate.
const SAMPLE: Duration = Duration::from_millis(40);
/// The same while the rate still grows.
const STARTUP_SAMPLE: Duration = Duration::from_millis(5);
/// The rate is the highest of so many samples.
const SAMPLES: usize = 10;
/// A minimum round trip older than this is measured anew with a shorter queue.
const MIN_RTT_AGE: Duration = Duration::from_secs(10);
/// A record should take about this long to send, so that nothing waits long behind one.
const RECORD_TIME: Duration = Duration::from_millis(10);
/// Smallest and largest target for a record's payload.
const RECORD_MIN: u64 = 1024;
const RECORD_MAX: u64 = 64 * 1024;
/// The target before anything was measured.
const RECORD_INITIAL: u64 = 16 * 1024;

/// Round trip, delivery rate and window of one leg.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    smoothed_rtt: Option<Duration>,
    min_rtt: Option<(Duration, Time)>,
    /// Delivered bytes per second, the newest last.
    rates: VecDeque<u64>,
    window: u64,
    /// Window and rate of the last sample that the window limited.
    last: Option<(u64, u64)>,
    /// Until the rate stops to grow with the window.
    startup: bool,
    sample: Sample,
    draining_until: Option<Time>,
}

/// What is being measured at this time.
#[derive(Clone, Debug)]
struct Sample {
    start: Time,
    bytes: u64,
    /// The shortest round trip in it.
    rtt: Option<Duration>,
    /// Whether the sender had more to send than the window allowed.
    limited: bool,
}

impl Sample {
    fn new(start: Time) -> Self {
        Sample {
            start,
            bytes: 0,
            rtt: None,
            limited: false,
        }
    }
}

impl Path {
    pub(crate) fn new(now: Time) -> Self {
        Path {
            smoothed_rtt: None,
            min_rtt: None,
            rates: VecDeque::with_capacity(SAMPLES),
            window: INITIAL_WINDOW,
            last: None,
            startup: true,
            sample: Sample::new(now),
            draining_until: None,
        }
    }

    /// The smoothed round trip; a second before the first measurement, as RFC 6298 §2.1 has it.
    pub(crate) fn rtt(&self) -> Duration {
        self.smoothed_rtt.unwrap_or(Duration::from_secs(1))
    }

    pub(crate) fn measured_rtt(&self) -> Option<Duration> {
        self.smoothed_rtt
    }

    fn min_rtt(&self) -> Duration {
        self.min_rtt.map_or(Duration::ZERO, |(rtt, _)| rtt)
    }

    /// Bytes per second that the path was seen to deliver; zero before the first sample.
    pub(crate) fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// Takes a round trip measured from one record or ping.
    pub(crate) fn on_rtt(&mut self, now: Time, rtt: Duration) {
        self.smoothed_rtt = Some(match self.smoothed_rtt {
            None => rtt,
            Some(old) => old * 7 / 8 + rtt / 8,
        });
        self.sample.rtt = Some(self.sample.rtt.map_or(rtt, |shortest| shortest.min(rtt)));
        let drained = self.draining_until.is_some();
        match self.min_rtt {
            Some((min, at)) if rtt > min && !(drained && now.since(at) > MIN_RTT_AGE) => {}
            _ => self.min_rtt = Some((rtt, now)),
        }
    }

    /// The sender had something to send and the window was full.
    pub(crate) fn on_limited(&mut self) {
        self.sample.limited = true;
    }

    /// Nothing had been under way before: time without traffic is no sample.
    pub(crate) fn on_busy(&mut self, now: Time) {
        self.sample = Sample::new(now);
    }

    /// Takes bytes that the peer newly acknowledged.
    pub(crate) fn on_delivered(&mut self, now: Time, bytes: u64) {
        self.sample.bytes += bytes;
        let least = if self.startup { STARTUP_SAMPLE } else { SAMPLE };
        let span = now.since(self.sample.start);
        // Shorter than a round trip says nothing about the last change of the window.
        if span >= least.max(self.sample.rtt.unwrap_or_default()) {
            let sample = std::mem::replace(&mut self.sample, Sample::new(now));
            self.finish(&sample, span);
            self.drain_if_stale(now, sample.limited);
        }
    }

    fn finish(&mut self, sample: &Sample, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = sample.bytes.saturating_mul(1_000_000) / micros;
        // A sample in which there was nothing to send says nothing against the old ones.
        if !sample.limited && rate <= self.rate() {
            return;
        }
        if self.rates.len() == SAMPLES {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        if sample.limited && self.draining_until.is_none() {
            self.adjust(rate, sample.rtt.unwrap_or_else(|| self.rtt()));
        }
    }

    /// Sets the window by what its last change did to the rate, and by the delay.
    fn adjust(&mut self, rate: u64, rtt: Duration) {
        let follows = match self.last {
            None => true,
            Some((window, before)) => follows(window, self.window, before, rate),
        };
        self.last = Some((self.window, rate));
        let short = rtt <= self.min_rtt() * 2 + QUEUE;
        let window = if follows && (self.startup || !short) {
            self.window * 2
        } else if short {
            self.startup = false;
            self.window + self.window / 4
        } else {
            self.startup = false;
            product(rate, self.min_rtt() * 2 + QUEUE)
                .max(self.window * 3 / 5)
                .min(self.window)
        };
        self.window = window.clamp(MIN_WINDOW, MAX_WINDOW);
    }

    /// A standing queue hides the true minimum: let it run dry once in a while.
    fn drain_if_stale(&mut self, now: Time, limited: bool) {
        match self.draining_until {
            Some(end) if now >= end => self.draining_until = None,
            None if limited
                && self
                    .min_rtt
                    .is_some_and(|(_, at)| now.since(at) > MIN_RTT_AGE) =>
            {
                self.draining_until = Some(now + self.rtt().max(QUEUE * 2));
            }
            _ => {}
        }
    }

    /// How many bytes may be under way at once.
    pub(crate) fn window(&self) -> u64 {
        match self.draining_until {
            Some(_) => (self.window / 4).max(MIN_WINDOW),
            None => self.window,
        }
    }

    /// How large the next record's payload should be, in bytes.
    pub(crate) fn record_target(&self) -> usize {
        let bytes = match self.rate() {
            0 => RECORD_INITIAL,
            rate => product(rate, RECORD_TIME).clamp(RECORD_MIN, RECORD_MAX),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// Whether the rate changed by more than half as much as the window did, in the same direction: then
/// the window is what limits it.
fn follows(window_before: u64, window: u64, rate_before: u64, rate: u64) -> bool {
    let change = |before: u64, now: u64| (now as f64 - before as f64) / (before.max(1) as f64);
    let (window, rate) = (change(window_before, window), change(rate_before, rate));
    window.abs() > 0.02 && rate / window > 0.5
}

fn product(rate: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    u64::try_from(u128::from(rate) * u128::from(micros) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of `rate` bytes per second and `rtt`, always offered a full window. `extra` is delay
    /// that comes with traffic but is no queue. Returns the longest queueing in the last quarter.
    fn run(rate: u64, rtt: Duration, extra: Duration, time: Duration) -> (Path, Duration) {
        let mut now = Time::ZERO;
        let mut path = Path::new(now);
        path.on_rtt(now, rtt); // the first ping
        let mut longest = Duration::ZERO;
        let (step, end) = (Duration::from_millis(1), now + time);
        let rtt = rtt + extra;
        while now < end {
            now = now + step;
            let window = path.window();
            let queue = window.saturating_sub(product(rate, rtt));
            let queueing = Duration::from_micros(queue * 1_000_000 / rate);
            if now > end - time / 4 {
                longest = longest.max(queueing);
            }
            path.on_rtt(now, rtt + queueing);
            path.on_limited();
            let most = window * 1000 / u64::try_from(rtt.as_micros()).unwrap();
            path.on_delivered(now, most.min(rate / 1000));
        }
        (path, longest)
    }

    const NONE: Duration = Duration::ZERO;

    #[test]
    fn a_slow_link_gets_a_short_queue() {
        let (rtt, time) = (Duration::from_millis(2), Duration::from_secs(5));
        let (path, queueing) = run(2_500_000, rtt, NONE, time);
        assert!(
            (2_300_000..2_700_000).contains(&path.rate()),
            "{}",
            path.rate()
        );
        assert!(queueing < Duration::from_millis(30), "{queueing:?}");
        assert!((20_000..27_000).contains(&path.record_target()));
    }

    #[test]
    fn a_long_fat_link_is_filled() {
        let (rate, rtt) = (100_000_000, Duration::from_millis(100));
        let (path, _) = run(rate, rtt, NONE, Duration::from_secs(5));
        assert!(path.rate() > rate * 9 / 10, "{}", path.rate());
        assert!(path.window() > product(rate, rtt) * 9 / 10);
        assert_eq!(path.record_target(), 64 * 1024);
    }

    #[test]
    fn delay_that_is_no_queue_does_not_starve_the_path() {
        let (rate, extra) = (20_000_000, Duration::from_millis(42));
        let (path, _) = run(
            rate,
            Duration::from_micros(60),
            extra,
            Duration::from_secs(5),
        );
        assert!(path.rate() > rate * 8 / 10, "{}", path.rate());
    }

    #[test]
    fn idle_time_does_not_lower_the_rate() {
        let rtt = Duration::from_millis(10);
        let (mut path, _) = run(10_000_000, rtt, NONE, Duration::from_secs(3));
        let before = path.rate();
        let mut now = Time::from_micros(3_000_000);
        for _ in 0..1000 {
            now = now + Duration::from_secs(1);
            path.on_delivered(now, 100);
        }
        assert_eq!(path.rate(), before);
    }
}
