//! Which records arrived, and when to say so.

use std::time::Duration;

use smallvec::SmallVec;

use crate::frame::{Ack, AckRanges};
use crate::session::ranges::NumberSet;
use crate::time::Time;
use crate::varint::VARINT_MAX;

/// An acknowledgement waits at most this long for company.
pub(crate) const MAX_ACK_DELAY: Duration = Duration::from_millis(5);
/// So many bytes or records are acknowledged at once.
const ACK_BYTES: usize = 128 * 1024;
const ACK_RECORDS: usize = 16;

/// ACK frames: one, nearly always.
pub(crate) type Acks = SmallVec<[Ack; 1]>;

/// So many separate gaps are kept track of. A record that would make another is treated as if it
/// had been lost: a peer cannot make this side remember more.
const MAX_GAPS: usize = 4096;

/// Reliable records that arrived, and the acknowledgement that is owed for them.
#[derive(Debug, Default)]
pub(crate) struct Received {
    numbers: NumberSet,
    largest: Option<(u64, Time)>,
    bytes: usize,
    records: usize,
    due: Option<Time>,
    /// The time of what is due has come.
    ready: bool,
}

impl Received {
    /// Takes a record's number; false when it had arrived before or there is no room for it. Where
    /// `several` legs are at work, a gap may only be what is still under way on another.
    pub(crate) fn insert(&mut self, number: u64, bytes: usize, several: bool, now: Time) -> bool {
        if self.numbers.gaps() >= MAX_GAPS && self.numbers.is_apart(number) {
            return false;
        }
        let new = self.numbers.insert(number);
        // Whatever was lost is found by what comes after it: that is told at once, the rest waits.
        let gap = match self.largest {
            None => number > 0,
            Some((largest, _)) => number > largest + 1,
        };
        if self.largest.is_none_or(|(largest, _)| number > largest) {
            self.largest = Some((number, now));
        }
        self.bytes += bytes;
        self.records += 1;
        let at_once = gap && !several || self.bytes >= ACK_BYTES || self.records >= ACK_RECORDS;
        self.owe(if at_once { now } else { now + MAX_ACK_DELAY });
        new
    }

    /// Owes an acknowledgement at the latest by `time`.
    fn owe(&mut self, time: Time) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// Says everything again: an acknowledgement may have been lost.
    pub(crate) fn repeat(&mut self, now: Time) {
        if self.largest.is_some() {
            self.owe(now);
        }
    }

    /// Whether an acknowledgement is owed, due or not.
    pub(crate) fn is_owed(&self) -> bool {
        self.due.is_some()
    }

    /// Whether it must go out now.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.ready || self.due.is_some_and(|due| due <= now)
    }

    /// When the time of the acknowledgement comes; none when it has come.
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.due.filter(|_| !self.ready)
    }

    pub(crate) fn handle_timeout(&mut self, now: Time) {
        self.ready = self.is_due(now);
    }

    /// Whether every number below this arrived.
    pub(crate) fn floor(&self) -> u64 {
        self.numbers.floor()
    }

    /// How many separate ranges stand above the floor.
    pub(crate) fn gaps(&self) -> usize {
        self.numbers.gaps()
    }

    /// The acknowledgement of all that arrived; none before anything did. Where it takes several
    /// frames, the lowest numbers come first, so that none of them looks lost when a higher one is
    /// acknowledged.
    pub(crate) fn acknowledgements(&self, now: Time) -> Acks {
        let Some((_, at)) = self.largest else {
            return Acks::new();
        };
        let delay = u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX);
        let mut ranges = self.numbers.descending().rev().peekable();
        let mut acks = Acks::new();
        while ranges.peek().is_some() {
            let mut part: AckRanges = ranges.by_ref().take(Ack::MAX_RANGES).collect();
            part.reverse();
            acks.push(Ack {
                delay_us: delay.min(VARINT_MAX),
                ranges: part,
            });
        }
        acks
    }

    /// The acknowledgement went out.
    pub(crate) fn acknowledged(&mut self) {
        self.bytes = 0;
        self.records = 0;
        self.due = None;
        self.ready = false;
    }
}

/// Numbers of unreliable records, so that none is taken twice (RFC 6479's sliding window).
#[derive(Debug)]
pub(crate) struct OnceWindow {
    /// One past the highest number taken.
    next: u64,
    /// With n words, bit `m % 64n` stands for number `m` among the last `64n`.
    seen: SmallVec<[u64; 4]>,
}

impl OnceWindow {
    /// A window of 256 numbers, or of 4096 where `several` legs may bring them: the slowest of these
    /// counts with what the others bring meanwhile.
    pub(crate) fn new(several: bool) -> Self {
        let words = if several { 64 } else { 4 };
        OnceWindow {
            next: 0,
            seen: SmallVec::from_elem(0, words),
        }
    }

    fn size(&self) -> u64 {
        self.seen.len() as u64 * 64
    }

    /// Takes a number; false when it came before or is too old to tell.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if number >= self.next {
            let steps = (number - self.next + 1).min(self.size());
            for back in 0..steps {
                self.set(number - back, false);
            }
            self.next = number + 1;
        } else if self.next - number > self.size() || self.get(number) {
            return false;
        }
        self.set(number, true);
        true
    }

    fn slot(&self, number: u64) -> (usize, u64) {
        let bit = number % self.size();
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn get(&self, number: u64) -> bool {
        let (word, bit) = self.slot(number);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, number: u64, on: bool) {
        let (word, bit) = self.slot(number);
        if on {
            self.seen[word] |= bit;
        } else {
            self.seen[word] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_number_counts_once(
            several: bool,
            numbers in prop::collection::vec(0u64..10_000, 0..300),
        ) {
            let mut window = OnceWindow::new(several);
            let size = if several { 4096 } else { 256 };
            let mut model = BTreeSet::new();
            let mut highest = 0;
            for n in numbers {
                let fresh = !model.contains(&n) && n + size >= highest;
                prop_assert_eq!(window.insert(n), fresh, "{}", n);
                model.insert(n);
                highest = highest.max(n + 1);
            }
        }
    }

    #[test]
    fn a_gap_is_told_at_once_and_order_waits() {
        let mut received = Received::default();
        assert!(received.insert(0, 100, false, Time::ZERO));
        assert_eq!(received.timeout(), Some(Time::ZERO + MAX_ACK_DELAY));
        assert!(received.insert(2, 100, false, Time::from_micros(5)));
        assert!(received.is_due(Time::from_micros(5)));
        let ack = &received.acknowledgements(Time::from_micros(9))[0];
        assert_eq!(ack.delay_us, 4);
        assert_eq!(ack.ranges.as_slice(), [2..=2, 0..=0]);
        received.acknowledged();
        assert!(!received.is_owed());
        assert!(
            !received.insert(2, 100, false, Time::from_micros(10)),
            "a double is no news"
        );
        let late = received.timeout().unwrap();
        assert_eq!(late, Time::from_micros(10) + MAX_ACK_DELAY);
        received.handle_timeout(late);
        assert_eq!(received.timeout(), None, "the time does not come twice");
        assert!(received.is_due(late));
    }

    #[test]
    fn a_gap_waits_where_another_leg_may_fill_it() {
        let mut received = Received::default();
        received.insert(1, 100, true, Time::ZERO);
        assert_eq!(received.timeout(), Some(Time::ZERO + MAX_ACK_DELAY));
        received.insert(0, 100, true, Time::ZERO);
        assert_eq!(received.timeout(), Some(Time::ZERO + MAX_ACK_DELAY));
        for number in 2..16 {
            received.insert(number, 100, true, Time::ZERO);
        }
        assert!(received.is_due(Time::ZERO), "many are told at once");
    }

    #[test]
    fn a_peer_that_leaves_gaps_everywhere_is_not_remembered() {
        let mut received = Received::default();
        for number in 0..100_000 {
            received.insert(number * 2 + 1, 30, false, Time::ZERO);
        }
        assert_eq!(received.numbers.gaps(), MAX_GAPS);
        assert!(
            received.insert(0, 30, false, Time::ZERO),
            "gaps can be filled"
        );
        assert_eq!(received.floor(), 2);
        let acks = received.acknowledgements(Time::ZERO);
        assert_eq!(acks.len(), MAX_GAPS.div_ceil(Ack::MAX_RANGES));
        assert_eq!(
            acks[0].ranges.last(),
            Some(&(0..=1)),
            "the lowest come first"
        );
    }
}
