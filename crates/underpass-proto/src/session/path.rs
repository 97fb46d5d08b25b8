//! What a leg's path was measured to carry, and how much may be under way on it.
//!
//! Every carrier is reliable and does its own congestion control, so nothing here reacts to loss.
//! What is bounded is the queue that this session builds somewhere on the path: without a bound a
//! keystroke would wait behind megabytes of bulk in some middlebox.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;

/// Under way before anything was measured (design: windows start at 256 KiB).
const INITIAL_WINDOW: u64 = 256 * 1024;
/// Under way at least, however slow the path: a few of the smallest records and their headers.
const MIN_WINDOW: u64 = 16 * 1024;
/// How much queue at the bottleneck a full window may build on top of one minimum round trip.
const QUEUE: Duration = Duration::from_millis(10);
/// One rate sample covers at least this, so that a token bucket's burst is not taken for the rate.
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

/// Round trip and delivery rate of one leg.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    smoothed_rtt: Option<Duration>,
    min_rtt: Option<(Duration, Time)>,
    /// Delivered bytes per second, the newest last.
    samples: VecDeque<u64>,
    startup: Startup,
    sample_start: Time,
    sample_bytes: u64,
    /// Whether the sender had more to send than it was allowed to during the sample.
    sample_limited: bool,
    draining_until: Option<Time>,
}

/// Startup ends when the rate stopped growing for three samples in a row.
#[derive(Clone, Copy, Debug)]
struct Startup {
    best: u64,
    flat: u8,
}

impl Path {
    pub(crate) fn new(now: Time) -> Self {
        Path {
            smoothed_rtt: None,
            min_rtt: None,
            samples: VecDeque::with_capacity(SAMPLES),
            startup: Startup { best: 0, flat: 0 },
            sample_start: now,
            sample_bytes: 0,
            sample_limited: false,
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

    /// Bytes per second that the path was seen to deliver; zero before the first sample.
    pub(crate) fn rate(&self) -> u64 {
        self.samples.iter().copied().max().unwrap_or(0)
    }

    /// Takes a round trip measured from one record or ping.
    pub(crate) fn on_rtt(&mut self, now: Time, sample: Duration) {
        self.smoothed_rtt = Some(match self.smoothed_rtt {
            None => sample,
            Some(old) => old * 7 / 8 + sample / 8,
        });
        let draining = self.draining_until.is_some();
        match self.min_rtt {
            Some((min, at)) if sample > min && !(draining && now.since(at) > MIN_RTT_AGE) => {}
            _ => self.min_rtt = Some((sample, now)),
        }
    }

    /// The sender had something to send and the window was full.
    pub(crate) fn on_limited(&mut self) {
        self.sample_limited = true;
    }

    /// Nothing had been under way before: time without traffic is no sample.
    pub(crate) fn on_busy(&mut self, now: Time) {
        self.sample_start = now;
        self.sample_bytes = 0;
    }

    /// Takes bytes that the peer newly acknowledged.
    pub(crate) fn on_delivered(&mut self, now: Time, bytes: u64) {
        self.sample_bytes += bytes;
        let least = if self.in_startup() {
            STARTUP_SAMPLE
        } else {
            SAMPLE
        };
        let span = now.since(self.sample_start);
        if span >= least.max(self.min_rtt.map_or(Duration::ZERO, |(rtt, _)| rtt)) {
            self.finish_sample(span);
            self.sample_start = now;
            self.sample_bytes = 0;
            self.sample_limited = false;
        }
        self.drain_if_stale(now);
    }

    fn finish_sample(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = self.sample_bytes.saturating_mul(1_000_000) / micros;
        // A sample in which there was nothing to send says nothing against the old ones.
        if !self.sample_limited && rate <= self.rate() {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(rate);
        if rate > self.startup.best + self.startup.best / 4 {
            self.startup = Startup {
                best: rate,
                flat: 0,
            };
        } else if self.sample_limited {
            self.startup.flat = self.startup.flat.saturating_add(1);
        }
    }

    fn in_startup(&self) -> bool {
        self.startup.flat < 3
    }

    /// A standing queue hides the true minimum: let it run dry once in a while.
    fn drain_if_stale(&mut self, now: Time) {
        match self.draining_until {
            Some(end) if now >= end => self.draining_until = None,
            None if self.sample_limited
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
    ///
    /// Twice the product of rate and minimum round trip keeps the path busy however the
    /// acknowledgements bunch; `QUEUE` more keeps a path with next to no delay busy.
    pub(crate) fn window(&self) -> u64 {
        let (Some((min_rtt, _)), rate @ 1..) = (self.min_rtt, self.rate()) else {
            return INITIAL_WINDOW;
        };
        let full = product(rate, min_rtt * 2 + QUEUE);
        if self.in_startup() {
            return full.max(INITIAL_WINDOW);
        }
        let full = if self.draining_until.is_some() {
            full / 4
        } else {
            full
        };
        full.max(MIN_WINDOW)
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

fn product(rate: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    u64::try_from(u128::from(rate) * u128::from(micros) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of `rate` bytes per second and `rtt`, always offered a full window.
    fn run(rate: u64, rtt: Duration, time: Duration) -> (Path, Duration) {
        let mut now = Time::ZERO;
        let mut path = Path::new(now);
        path.on_rtt(now, rtt); // the first ping
        let mut worst_late = Duration::ZERO;
        let step = Duration::from_millis(1);
        let per_step = rate / 1000;
        let end = now + time;
        while now < end {
            now = now + step;
            let window = path.window();
            let queue = window.saturating_sub(product(rate, rtt));
            let queueing = Duration::from_micros(queue * 1_000_000 / rate);
            if now > end - time / 4 {
                worst_late = worst_late.max(queueing);
            }
            let delivered = per_step.min(window * 1000 / (rtt.as_micros() as u64));
            path.on_rtt(now, rtt + queueing);
            path.on_limited();
            path.on_delivered(now, delivered);
        }
        (path, worst_late)
    }

    #[test]
    fn a_slow_link_gets_a_short_queue() {
        let (path, queueing) = run(2_500_000, Duration::from_millis(2), Duration::from_secs(5));
        assert!(
            (2_300_000..2_700_000).contains(&path.rate()),
            "{}",
            path.rate()
        );
        assert!(queueing < Duration::from_millis(20), "{queueing:?}");
        assert!((20_000..27_000).contains(&path.record_target()));
    }

    #[test]
    fn a_long_fat_link_is_filled() {
        let rate = 100_000_000;
        let (path, _) = run(rate, Duration::from_millis(100), Duration::from_secs(20));
        assert!(path.rate() > rate * 9 / 10, "{}", path.rate());
        assert!(path.window() > product(rate, Duration::from_millis(100)));
        assert_eq!(path.record_target(), 64 * 1024);
    }

    #[test]
    fn idle_time_does_not_lower_the_rate() {
        let (mut path, _) = run(
            10_000_000,
            Duration::from_millis(10),
            Duration::from_secs(3),
        );
        let before = path.rate();
        let mut now = Time::from_micros(3_000_000);
        for _ in 0..1000 {
            now = now + Duration::from_secs(1);
            path.on_delivered(now, 100);
        }
        assert_eq!(path.rate(), before);
    }
}
