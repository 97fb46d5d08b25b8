//! PURE: one direction of the box, a queue that a frame leaves when its time has come. Time and losses are arguments.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What one direction of a box does to the packets that pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// How much later than it came a packet leaves.
    pub delay: Duration,
    /// Up to this much more, chosen anew for each packet, so that packets overtake each other.
    pub jitter: Duration,
    /// Share of the packets that vanish, 0 to 1.
    pub loss: f64,
    /// Bits in a second, without limit when `None`.
    pub rate: Option<u64>,
    /// Bytes that may wait for [`Impairment::rate`]; what comes on top is lost.
    pub queue: usize,
    /// Nothing leaves while this is set; what came meanwhile leaves afterwards, in order.
    pub hold: bool,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            rate: None,
            queue: 256 * 1024,
            hold: false,
        }
    }
}

/// What happened to the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that left.
    pub passed: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets lost because too much waited already.
    pub overflowed: u64,
}

/// Bytes that one direction holds at most, whatever the settings: a held box must not eat the machine.
const HARD_BOUND: usize = 64 << 20;

/// Ordered by when it is due, then by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Duration,
    number: u64,
    frame: Vec<u8>,
}

/// One direction. Times are counted from any fixed moment.
pub(crate) struct Line {
    pub(crate) settings: Impairment,
    pub(crate) counters: Counters,
    queue: BinaryHeap<Reverse<Waiting>>,
    queued: usize,
    /// When the last packet that was let in will have been sent at the set rate.
    free_at: Duration,
    /// When the last packet in order is due: the next one in order is not due before.
    last_due: Duration,
    number: u64,
    chance: ChaCha8Rng,
}

impl Line {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            settings: Impairment::default(),
            counters: Counters::default(),
            queue: BinaryHeap::new(),
            queued: 0,
            free_at: Duration::ZERO,
            last_due: Duration::ZERO,
            number: 0,
            chance: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Takes in a frame that comes at `now`.
    pub(crate) fn push(&mut self, now: Duration, frame: Vec<u8>) {
        if self.settings.loss > 0.0 && self.fraction() < self.settings.loss {
            self.counters.lost += 1;
            return;
        }
        let Some(sent) = self.sent_at(now, frame.len()) else {
            self.counters.overflowed += 1;
            return;
        };
        let jitter = self.settings.jitter;
        let due = if jitter.is_zero() {
            // A delay that was made shorter does not let what comes later overtake.
            self.last_due = self.last_due.max(sent + self.settings.delay);
            self.last_due
        } else {
            sent + self.settings.delay + jitter.mul_f64(self.fraction())
        };
        self.queued += frame.len();
        self.number += 1;
        self.queue.push(Reverse(Waiting {
            due,
            number: self.number,
            frame,
        }));
    }

    /// The next frame to leave at `now`.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.settings.hold || self.queue.peek()?.0.due > now {
            return None;
        }
        let Reverse(waiting) = self.queue.pop()?;
        self.queued -= waiting.frame.len();
        self.counters.passed += 1;
        Some(waiting.frame)
    }

    /// When [`Line::pop`] will next have something.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        if self.settings.hold {
            return None;
        }
        self.queue.peek().map(|Reverse(waiting)| waiting.due)
    }

    /// When a frame that comes now will have been sent at the set rate; `None` when too much waits already.
    fn sent_at(&mut self, now: Duration, length: usize) -> Option<Duration> {
        if self.queued + length > HARD_BOUND {
            return None;
        }
        let Some(rate) = self.settings.rate else {
            self.free_at = now;
            return Some(now);
        };
        let seconds_per_byte = 8.0 / rate as f64;
        let start = self.free_at.max(now);
        let backlog = (start - now).as_secs_f64() / seconds_per_byte;
        if backlog + length as f64 > self.settings.queue as f64 {
            return None;
        }
        self.free_at = start + Duration::from_secs_f64(length as f64 * seconds_per_byte);
        Some(self.free_at)
    }

    fn fraction(&mut self) -> f64 {
        // 53 bits are what an f64 can tell apart between 0 and 1.
        (self.chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn drain(line: &mut Line, now: Duration) -> Vec<u8> {
        std::iter::from_fn(|| line.pop(now))
            .map(|frame| frame[0])
            .collect()
    }

    #[test]
    fn a_frame_leaves_after_the_delay_and_in_order() {
        let mut line = Line::new(1);
        line.settings.delay = 10 * MS;
        line.push(MS, vec![1]);
        line.settings.delay = 2 * MS;
        line.push(2 * MS, vec![2]);
        assert_eq!(line.next_due(), Some(11 * MS));
        assert!(line.pop(10 * MS).is_none());
        assert_eq!(drain(&mut line, 11 * MS), [1, 2]);
        assert_eq!(line.counters.passed, 2);
    }

    #[test]
    fn jitter_reorders_and_loses_nothing() {
        let mut line = Line::new(7);
        line.settings.jitter = 50 * MS;
        (0..100).for_each(|n| line.push(u32::from(n) * MS, vec![n]));
        let mut left = drain(&mut line, 1000 * MS);
        assert!(!left.is_sorted());
        left.sort_unstable();
        assert_eq!(left, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn losses_follow_the_seed_and_the_share() {
        let run = |seed| {
            let mut line = Line::new(seed);
            line.settings.loss = 0.25;
            (0..4000).for_each(|_| line.push(MS, vec![0]));
            (line.counters.lost, drain(&mut line, MS).len() as u64)
        };
        let (lost, passed) = run(3);
        assert_eq!((lost, passed), run(3));
        assert_eq!(lost + passed, 4000);
        // Four standard deviations of a binomial distribution: sqrt(4000 * 0.25 * 0.75) is 27.
        assert!((1000 - 110..=1000 + 110).contains(&lost), "{lost}");
    }

    #[test]
    fn what_was_held_leaves_in_order_afterwards() {
        let mut line = Line::new(1);
        line.push(MS, vec![1]);
        line.settings.hold = true;
        line.push(2 * MS, vec![2]);
        assert!(line.pop(100 * MS).is_none());
        assert_eq!(line.next_due(), None);
        line.settings.hold = false;
        assert_eq!(drain(&mut line, 100 * MS), [1, 2]);
    }

    #[test]
    fn the_rate_spaces_frames_and_bounds_the_queue() {
        let mut line = Line::new(1);
        line.settings.rate = Some(8_000_000); // 1000 bytes in a millisecond
        line.settings.queue = 3000;
        (0..5).for_each(|n| line.push(Duration::ZERO, vec![n; 1000]));
        assert_eq!(line.counters.overflowed, 2);
        assert_eq!(drain(&mut line, MS), [0]);
        assert_eq!(drain(&mut line, 2 * MS), [1]);
        assert_eq!(drain(&mut line, 3 * MS), [2]);
        // Idle time is not saved up.
        line.push(10 * MS, vec![9; 1000]);
        assert_eq!(line.next_due(), Some(11 * MS));
    }

    #[test]
    fn a_held_line_stays_within_the_hard_bound() {
        let mut line = Line::new(1);
        line.settings.hold = true;
        (0..70).for_each(|_| line.push(MS, vec![0; 1 << 20]));
        assert_eq!(line.counters.overflowed, 6);
    }
}
