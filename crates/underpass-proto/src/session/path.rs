//! What a leg's path was measured to carry, and how much may be under way on it.
//!
//! Every carrier is reliable and does its own congestion control, so nothing here reacts to loss.
//! What is bounded is the queue that this session builds somewhere on the path: without a bound a
//! keystroke would wait behind megabytes of bulk in some middlebox.
//!
//! A long round trip alone does not show a queue: boxes that cork, poll or wait for company delay
//! what they carry, and only while they carry much. So the window is changed, and the rate tells:
//! where it follows the window, nothing queues and the time that a window takes is the path's own
//! delay (`base`); where it does not, the difference is queue.
//!
//! 1. It starts small and grows by what is acknowledged, as TCP does, but only until the first round
//!    trip is late: what is in front of a keystroke then is some milliseconds' worth.
//! 2. Half the window shows whether that was queue. If not, the search goes on by doubling. On a long
//!    way, where boxes that hold and connections that begin make round trips late for other reasons,
//!    the window goes on growing instead, to some round trips' worth at the most, until the rate has
//!    not risen for several of them.
//! 3. From then on the window is the rate times what `allowance` says. It does not feed itself: a
//!    `base` above the shortest round trip is checked by trying less, and it grows only when more was
//!    tried and carried more.

use std::collections::VecDeque;
use std::time::Duration;

use super::received::MAX_ACK_DELAY;
use crate::packet::MAX_PLAINTEXT;
use crate::time::Time;

/// Under way before anything was measured: 13 ms at `INITIAL_RATE`.
const INITIAL_WINDOW: u64 = 32 * 1024;
/// What the rate is taken for until it is known, 20 Mbit/s: a round trip holds so much without a queue.
const INITIAL_RATE: u64 = 2_500_000;
/// Under way at most before the rate was measured, however long the way.
const LARGEST_INITIAL_WINDOW: u64 = 256 * 1024;
/// The window grows with each acknowledgement until a round trip takes so much longer than the
/// shortest, or an eighth of that: how RFC 9406 §4.2 leaves slow start, somewhat above its 4 ms
/// because acknowledgements wait for company.
const LATE: Duration = Duration::from_millis(5);
/// Under way at least, however slow the path: a few of the smallest records and their headers.
const MIN_WINDOW: u64 = 16 * 1024;
/// Under way at most.
const MAX_WINDOW: u64 = 64 << 20;
/// How much delay a full window may build on top of the path's own, one shortest round trip and the
/// wait of acknowledgements for company.
const QUEUE: Duration = Duration::from_millis(7);
/// One sample covers at least this, so that a token bucket's burst is not taken for the rate.
const SAMPLE: Duration = Duration::from_millis(40);
/// The same while the window is still searched for.
const SEARCH_SAMPLE: Duration = Duration::from_millis(20);
/// The rate is the highest of so many samples.
const SAMPLES: usize = 10;
/// On a long way, a rate that has not risen by a quarter for more round trips than this does not
/// follow the window: bodies come in lumps, and one of them may only have been held up.
const STANDS: u8 = 3;
/// While the window grows on a long way it holds at most so many of the shortest round trips: what
/// queues then is no more than a keystroke may wait.
const CLIMB: u32 = 4;
/// From here on a way counts as far: twice as many are allowed there while the rate rises.
const FAR: Duration = Duration::from_millis(40);
/// A path that delivers less than this is slow, however long: its first late round trip was a queue.
const SLOW: u64 = 500_000;
/// So often more is tried in vain before what was found first counts as all that there is.
const DOUBTS: u8 = 3;
/// Less or more is tried this often, or once in ten round trips.
const TRIAL_AFTER: Duration = Duration::from_secs(1);
/// The same, or once in three, where the window comes from a search or was just found too large.
const TRIAL_SOON: Duration = Duration::from_millis(100);
/// A record should take about this long to send, so that nothing waits long behind one.
const RECORD_TIME: Duration = Duration::from_millis(10);
/// Smallest and largest target for a record's payload.
const RECORD_MIN: u64 = 1024;
const RECORD_MAX: u64 = MAX_PLAINTEXT as u64 - KEY_UPDATE_LEN;
/// Room for KEY_UPDATE, which is added to a record that is full.
const KEY_UPDATE_LEN: u64 = 16;
/// A window that is full holds so many at least: what is under way falls short of it by up to one.
const RECORDS: u64 = 8;
/// The target before anything was measured.
const RECORD_INITIAL: u64 = 16 * 1024;

/// What the window is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Grows by whatever is acknowledged until a round trip is late.
    Start,
    /// A round trip was late: is it a queue?
    Late,
    /// On a long way: goes on growing until the rate has not risen for some round trips, so many of
    /// which are over.
    Climb(u8),
    /// Doubles until the rate does not follow.
    Up,
    /// Halves until the rate follows, as it has done so many times.
    Down(u8),
    /// Follows the rate; at this time less is tried, or more.
    Steady(Time),
    /// Half of what `base` takes is tried: it may be queue.
    Trial,
    /// More is tried: the path may have become longer.
    Probe,
}

impl Mode {
    /// How long a sample takes at least.
    fn sample(self) -> Duration {
        match self {
            Mode::Steady(_) | Mode::Trial | Mode::Probe => SAMPLE,
            _ => SEARCH_SAMPLE,
        }
    }
}

/// Round trip, delivery rate and window of one leg.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    smoothed_rtt: Option<Duration>,
    /// How many were measured, and the last one.
    last_rtt: Option<(u64, Duration)>,
    min_rtt: Duration,
    /// Delivered bytes per second, the newest last.
    rates: VecDeque<u64>,
    /// Some of them are short samples of a search.
    searched: bool,
    window: u64,
    /// The path's own delay with traffic on it, as far as it is known.
    base: Duration,
    mode: Mode,
    /// So often more is tried soon: on a long way a late round trip was all that ended the start.
    doubts: u8,
    /// The rate of the last window that it followed, while more is searched for.
    to_beat: u64,
    /// Window and rate of the last sample that the window limited.
    last: (u64, u64),
    sample: Sample,
    /// The window is full, as it was when last asked.
    limited: bool,
    /// There is nothing to send.
    idle_since: Option<Time>,
    /// The last change does not show in full before a packet from this index on was acknowledged.
    settles: Option<u64>,
    /// Another leg leads.
    aside: bool,
}

/// What is being measured at this time.
#[derive(Clone, Debug)]
struct Sample {
    start: Time,
    /// It ends when a packet from this index on was acknowledged: after one round trip.
    until: u64,
    bytes: u64,
    /// The most that was under way in it when the window was full: whole records, so less than that.
    under_way: u64,
}

impl Path {
    pub(crate) fn new(now: Time) -> Self {
        Path {
            smoothed_rtt: None,
            last_rtt: None,
            min_rtt: Duration::ZERO,
            rates: VecDeque::with_capacity(SAMPLES),
            searched: true,
            window: INITIAL_WINDOW,
            base: Duration::ZERO,
            mode: Mode::Start,
            doubts: 0,
            to_beat: 0,
            last: (0, 0),
            sample: Sample {
                start: now,
                until: 0,
                bytes: 0,
                under_way: 0,
            },
            limited: false,
            idle_since: None,
            settles: None,
            aside: false,
        }
    }

    /// Whether another leg leads from now on.
    pub(crate) fn set_aside(&mut self, aside: bool) {
        self.aside = aside;
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
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// Bytes that the path was seen to deliver in such a time.
    pub(crate) fn rate_for(&self, time: Duration) -> u64 {
        product(self.rate(), time)
    }

    /// Whether there is more to send than may be under way: then the rate is what the path carries.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited && self.idle_since.is_none()
    }

    /// How many round trips were measured, and the last one.
    pub(crate) fn last_rtt(&self) -> Option<(u64, Duration)> {
        self.last_rtt
    }

    /// Takes a round trip measured from one record or ping.
    pub(crate) fn on_rtt(&mut self, rtt: Duration) {
        let (min, smoothed) = match self.smoothed_rtt {
            None => (rtt, rtt),
            Some(old) => (self.min_rtt.min(rtt), old * 7 / 8 + rtt / 8),
        };
        // Nothing but the round trip has set it so far.
        if self.mode == Mode::Start && self.window == initial_window(self.min_rtt) {
            self.window = initial_window(min);
        }
        self.min_rtt = min;
        self.smoothed_rtt = Some(smoothed);
        self.last_rtt = Some((self.last_rtt.map_or(0, |(number, _)| number) + 1, rtt));
        let late = rtt > min + LATE.max(min / 8);
        match self.mode {
            Mode::Start if self.limited && late && self.is_long() => self.mode = Mode::Climb(0),
            Mode::Start if self.limited && late => {
                self.mode = Mode::Late;
                // The window stands still from now on: what is measured begins anew.
                self.limited = false;
            }
            _ => {}
        }
    }

    /// The window is full with so many bytes under way. The next packet is number `next`.
    pub(crate) fn on_limited(&mut self, now: Time, next: u64, under_way: u64) {
        self.sample.under_way = self.sample.under_way.max(under_way);
        self.note_idle(now);
        self.idle_since = None;
        if !self.limited {
            self.limited = true;
            self.settles = Some(next);
        }
    }

    /// The sender has nothing to send although it may.
    pub(crate) fn on_idle(&mut self, now: Time) {
        self.idle_since.get_or_insert(now);
    }

    /// An application that fills its buffer a moment later does not make the path idle.
    fn note_idle(&mut self, now: Time) {
        if self
            .idle_since
            .is_some_and(|since| now.since(since) > self.rtt() / 4)
        {
            self.limited = false;
        }
    }

    /// Nothing had been under way before: time without traffic is no sample.
    pub(crate) fn on_busy(&mut self, now: Time, next: u64) {
        if !self.limited {
            self.begin(now, next);
        }
    }

    fn begin(&mut self, now: Time, next: u64) {
        self.sample = Sample {
            start: now,
            until: next,
            bytes: 0,
            under_way: 0,
        };
    }

    /// Takes bytes that the peer newly acknowledged, up to the packet `newest`, when the next one is
    /// number `next`.
    pub(crate) fn on_delivered(&mut self, now: Time, bytes: u64, newest: u64, next: u64) {
        self.grow(bytes);
        if let Some(settles) = self.settles {
            if newest >= settles {
                self.settles = None;
            }
            self.begin(now, next);
            return;
        }
        self.sample.bytes += bytes;
        let least = self.mode.sample();
        let span = now.since(self.sample.start);
        if newest >= self.sample.until && span >= least {
            let sample = self.sample.clone();
            self.begin(now, next);
            self.finish(now, &sample, span);
        }
    }

    fn finish(&mut self, now: Time, sample: &Sample, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = (sample.bytes.saturating_mul(1_000_000) / micros).max(1);
        // A sample in which there was nothing to send says nothing against the old ones, and one
        // with half a window says nothing about the rate.
        self.note_idle(now);
        let limited = self.limited && sample.under_way > 0;
        let counts = limited && self.mode != Mode::Trial;
        if limited && self.searched && self.mode.sample() == SAMPLE {
            // Those of the search are short, and the highest counts: it may be far too high.
            self.searched = false;
            self.rates.clear();
        }
        if counts || rate > self.rate() {
            if self.rates.len() == SAMPLES {
                self.rates.pop_front();
            }
            self.rates.push_back(rate);
        }
        if limited {
            let before = self.window;
            self.adjust(now, sample.under_way, rate, span);
            if before.abs_diff(self.window) > before / 10 {
                self.settles = Some(self.sample.until);
            }
            self.last = (sample.under_way, rate);
        } else if matches!(self.mode, Mode::Trial | Mode::Probe) {
            self.steady(now, self.base, TRIAL_AFTER);
        }
    }

    /// Sets mode and window by what the last change of the window did to the rate.
    fn adjust(&mut self, now: Time, under_way: u64, rate: u64, span: Duration) {
        // How long a byte is under way: the path's own delay and whatever queues.
        let spent = time_for(under_way, rate);
        let short = spent <= self.allowance(self.min_rtt);
        let followed = followed(self.last, (under_way, rate));
        let follows = followed > 0.5;
        match self.mode {
            Mode::Start => {}
            Mode::Climb(_) if self.to_beat == 0 && !short && rate < SLOW => {
                self.halve(Mode::Down(0))
            }
            Mode::Climb(_)
                if rate > self.to_beat + self.to_beat / 4 && self.window < MAX_WINDOW =>
            {
                self.climb(span, rate);
            }
            Mode::Climb(times) if times < STANDS => self.mode = Mode::Climb(times + 1),
            Mode::Climb(_) => {
                self.doubts = DOUBTS;
                let base = self.rtt().min(self.min_rtt * 2);
                self.steady(now, base, TRIAL_SOON);
            }
            Mode::Late if short => self.steady(now, self.min_rtt, TRIAL_AFTER),
            Mode::Late => self.halve(Mode::Down(0)),
            Mode::Up if self.rises(rate) && self.window < MAX_WINDOW => {
                self.search_up(spent, rate);
            }
            Mode::Up => self.steady(now, self.base, TRIAL_SOON),
            // The rate followed at once and in full: it is a slow path and no queue.
            Mode::Down(0) if followed > 0.8 && self.is_long() => self.climb(span, rate),
            Mode::Down(0) if followed > 0.8 => self.search_up(spent, rate),
            Mode::Down(_) if follows => self.steady(now, spent, TRIAL_SOON),
            // What is under way now is enough, and a window that allows for no delay holds that.
            Mode::Down(_) if short || self.window <= MIN_WINDOW => {
                self.steady(now, self.min_rtt, TRIAL_AFTER);
            }
            Mode::Down(times) => self.halve(Mode::Down(times.saturating_add(1))),
            Mode::Steady(trial) => {
                let starved = spent > self.allowance(self.base) && (follows || now >= trial)
                    || self.doubts > 0 && now >= trial;
                self.keep(now, trial, starved);
            }
            Mode::Trial if follows => self.steady(now, spent, TRIAL_AFTER),
            Mode::Trial => self.steady(now, self.base.min(spent), TRIAL_SOON),
            Mode::Probe if follows && self.is_long() => self.climb(span, rate),
            Mode::Probe if follows => self.steady(now, spent, TRIAL_SOON),
            Mode::Probe => self.probed_in_vain(now),
        }
    }

    /// Follows the rate. `starved` says that the window seems to be what limits it.
    fn keep(&mut self, now: Time, trial: Time, starved: bool) {
        self.base = self.base.min(self.rtt()).max(self.min_rtt);
        self.window = self.target();
        let smaller = product(self.rate(), self.base / 2).max(MIN_WINDOW);
        // The shortest round trip seen is no queue: nothing to find out.
        let doubtful = self.base > self.min_rtt * 5 / 4 && smaller < self.window;
        if now >= trial && doubtful {
            self.mode = Mode::Trial;
            self.window = smaller;
        } else if starved {
            // It may be mere noise, and a window that is too large feeds itself: ask before believing.
            self.probe();
        }
    }

    /// Tries half as much again.
    fn probe(&mut self) {
        self.mode = Mode::Probe;
        self.window = (self.window * 3 / 2).min(MAX_WINDOW);
    }

    fn probed_in_vain(&mut self, now: Time) {
        self.doubts = self.doubts.saturating_sub(1);
        let again = if self.doubts > 0 {
            TRIAL_SOON
        } else {
            TRIAL_AFTER
        };
        self.steady(now, self.base, again);
    }

    /// Tries twice as much; the window of now takes `spent` and brings `rate`.
    fn search_up(&mut self, spent: Duration, rate: u64) {
        self.base = spent;
        self.searched = true;
        self.to_beat = rate;
        self.mode = Mode::Up;
        self.window = (self.window * 2).min(MAX_WINDOW);
    }

    /// Tries half as much.
    fn halve(&mut self, mode: Mode) {
        self.mode = mode;
        self.window = (self.window / 2).max(MIN_WINDOW);
    }

    /// Goes on growing on a long way: what was under way a round trip of `spent` ago brings `rate`.
    fn climb(&mut self, spent: Duration, rate: u64) {
        self.base = spent.min(self.rtt());
        self.searched = true;
        self.to_beat = rate;
        let stood = self.mode != Mode::Climb(0);
        self.mode = Mode::Climb(0);
        if stood {
            self.window = self.window.max((self.window * 2).min(self.summit()));
        }
    }

    /// Adds what was acknowledged to the window, where it grows by that.
    fn grow(&mut self, bytes: u64) {
        let most = match self.mode {
            Mode::Start if self.limited => MAX_WINDOW,
            // Where the carrier takes no more there is nothing to be seen of a larger window.
            Mode::Climb(_) if self.limited && self.sample.under_way * 2 >= self.window => {
                self.summit()
            }
            _ => return,
        };
        self.window = self.window.max((self.window + bytes).min(most));
    }

    /// The most that the window grows to on a long way, by what is known of its rate.
    fn summit(&self) -> u64 {
        let far = self.mode == Mode::Climb(0) && self.min_rtt >= FAR;
        let trips = if far { 2 * CLIMB } else { CLIMB };
        product(self.rate().max(INITIAL_RATE), self.min_rtt * trips).min(MAX_WINDOW)
    }

    /// Whether the initial window is too small to carry `INITIAL_RATE`. On a shorter way there is
    /// little to be won by a search, and little under way is what a keystroke needs; nor is there where
    /// another leg leads, whose bytes would have to wait for what queues here.
    fn is_long(&self) -> bool {
        !self.aside && product(INITIAL_RATE, self.min_rtt) > INITIAL_WINDOW
    }

    /// Whether the rate has followed a window twice as large: half of the way counts.
    fn rises(&self, rate: u64) -> bool {
        rate > self.to_beat + self.to_beat / 2
    }

    /// The path's own delay was found: the window is kept, and looked at again after a time.
    fn steady(&mut self, now: Time, base: Duration, again: Duration) {
        self.base = base.max(self.min_rtt);
        self.window = self.target();
        let trips = if again == TRIAL_SOON { 3 } else { 10 };
        self.mode = Mode::Steady(now + again.max(self.rtt() * trips));
    }

    /// How long a window may take where the path's own delay is `base`. What has arrived counts as
    /// under way until its acknowledgement has had company.
    fn allowance(&self, base: Duration) -> Duration {
        base + self.min_rtt + MAX_ACK_DELAY + QUEUE
    }

    fn target(&self) -> u64 {
        product(self.rate(), self.allowance(self.base)).clamp(MIN_WINDOW, MAX_WINDOW)
    }

    /// How many bytes may be under way at once.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// How large the next record's payload should be, in bytes. A window holds several, or the path
    /// would run dry between them.
    pub(crate) fn record_target(&self) -> usize {
        let most = self.window / if self.limited { RECORDS } else { 2 };
        let bytes = match self.rate() {
            0 => RECORD_INITIAL.min(most),
            rate => product(rate, RECORD_TIME)
                .min(most)
                .clamp(RECORD_MIN, RECORD_MAX),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// How much the rate changed for each change of what was under way: about 1 where the window is what
/// limits the rate, about 0 where something else does. Small changes say nothing.
fn followed((before, rate_before): (u64, u64), (now, rate): (u64, u64)) -> f64 {
    let change = |before: u64, now: u64| (now as f64 - before as f64) / (before.max(1) as f64);
    let (window, rate) = (change(before, now), change(rate_before, rate));
    if window.abs() > 0.1 {
        rate / window
    } else {
        0.0
    }
}

/// What may be under way before the rate was measured.
fn initial_window(rtt: Duration) -> u64 {
    product(INITIAL_RATE, rtt).clamp(INITIAL_WINDOW, LARGEST_INITIAL_WINDOW)
}

fn product(rate: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    u64::try_from(u128::from(rate) * u128::from(micros) / 1_000_000).unwrap_or(u64::MAX)
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of `rate` bytes per second and `rtt`, always offered a full window. `extra` is delay
    /// that comes with traffic but is no queue. Returns the longest queueing in the last quarter.
    fn run(rate: u64, rtt: Duration, extra: Duration, time: Duration) -> (Path, Duration) {
        let mut now = Time::ZERO;
        let mut path = Path::new(now);
        path.on_rtt(rtt); // the first ping
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
            path.on_rtt(rtt + queueing);
            // One packet per step: as many are under way as a round trip has steps.
            let next = now.as_micros() / 1000;
            let newest = next.saturating_sub((rtt + queueing).as_micros() as u64 / 1000 + 1);
            path.on_limited(now, next, window);
            let most = window * 1000 / u64::try_from(rtt.as_micros()).unwrap();
            path.on_delivered(now, most.min(rate / 1000), newest, next);
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
        assert!((5_000..27_000).contains(&path.record_target()));
    }

    #[test]
    fn a_long_fat_link_is_filled() {
        let (rate, rtt) = (100_000_000, Duration::from_millis(100));
        let (path, _) = run(rate, rtt, NONE, Duration::from_secs(5));
        assert!(path.rate() > rate * 9 / 10, "{}", path.rate());
        assert!(path.window() > product(rate, rtt) * 9 / 10);
        assert_eq!(path.record_target(), 64 * 1024 - 16);
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
            path.on_idle(now);
            path.on_delivered(now, 100, u64::MAX, u64::MAX);
        }
        assert_eq!(path.rate(), before);
    }
}
