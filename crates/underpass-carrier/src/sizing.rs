//! How large the bodies of numbered requests should be. Pure: time comes as an argument.

use std::time::Duration;

/// Below this size a path that still answers 413 is given up.
pub(crate) const SMALLEST_BODY: usize = 1024;
/// Where the size of bodies starts.
pub(crate) const FIRST_BODY: usize = 64 * 1024;
/// What it never falls below by measuring.
pub(crate) const SLOW_BODY: usize = 16 * 1024;
/// A body that takes this much longer than the fastest one was not waiting for the network.
const SHORT: Duration = Duration::from_millis(50);
/// A body that takes this much longer than the fastest one makes a keystroke wait too long, unless
/// the path's own delay is of that size.
const LONG: Duration = Duration::from_millis(200);
/// What was cut is tried again at its size after so many smaller ones.
const TRY_AGAIN_AFTER: u32 = 32;
/// So many of the smallest bodies in a row that all took long: the path's own delay has grown.
const GROWN_AFTER: u32 = 8;

/// How large a body should be: large enough for throughput, which is in flight × size / round trip,
/// small enough that what comes behind it need not wait long.
///
/// A body that takes up to twice as long as the fastest one mostly waited for the path's delay, so
/// larger ones bring more; one that takes four times as long stood in a queue of its own making.
/// In between, on a long way, a body that took hardly longer than those of half its size tells that
/// still larger ones bring more: so it is on connections that begin anew with each body, where each
/// doubling costs one more round trip.
///
/// A box that cuts what is too large for it, and says nothing, looks like a path that was cut. So a
/// size that was cut is left alone at first and nothing is concluded; later it is tried again, and only
/// where it is cut once more, while smaller bodies pass before and after, does it count as refused.
#[derive(Debug)]
pub(crate) struct BodySize {
    now: usize,
    largest: usize,
    fastest: Option<Duration>,
    /// The shortest time of a body of half the size of now; none before there was one, zero where
    /// bodies of the size of now were too slow before.
    half: Option<Duration>,
    /// The same of one of the size of now.
    full: Option<Duration>,
    /// How many of the smallest bodies took long in a row, and the shortest time of them.
    slow: (u32, Duration),
    suspicion: Suspicion,
}

/// Whether the path cuts bodies for their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspicion {
    None,
    /// Bodies of this many bytes were cut, and so many smaller ones have passed since.
    Cut(usize, u32),
    /// They are tried again.
    Trying(usize),
}

impl BodySize {
    /// Bodies of at most `largest` bytes.
    #[must_use]
    pub(crate) fn new(largest: usize) -> Self {
        Self {
            now: FIRST_BODY.min(largest),
            largest,
            fastest: None,
            half: None,
            full: None,
            slow: (0, Duration::MAX),
            suspicion: Suspicion::None,
        }
    }

    /// Bytes in a full body, for now.
    #[must_use]
    pub(crate) fn now(&self) -> usize {
        self.now
    }

    /// The most bytes that a body may have: as given at first, less if the path refused that.
    #[must_use]
    pub(crate) fn largest(&self) -> usize {
        self.largest
    }

    /// A body of `len` bytes was delivered after `took`.
    pub(crate) fn delivered(&mut self, len: usize, took: Duration) {
        self.passed(len);
        let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
        self.fastest = Some(fastest);
        if len != self.now {
            // A small one tells nothing of large ones, nor does one that was cut before a change.
            return;
        }
        let extra = took - fastest;
        if extra <= LONG.max(fastest * 3) {
            self.slow = (0, Duration::MAX);
            let full = self.full.map_or(took, |full| full.min(took));
            self.full = Some(full);
            let pays = fastest >= SHORT && self.half.is_none_or(|half| full < half * 3 / 2);
            if extra < SHORT.max(fastest) || pays {
                self.resize((self.now * 2).min(self.most()), Some(full));
            }
            return;
        }
        let floor = SLOW_BODY.min(self.largest);
        if self.now > floor {
            self.resize((self.now / 2).max(floor), Some(Duration::ZERO));
            return;
        }
        let (count, shortest) = self.slow;
        self.slow = (count + 1, shortest.min(took));
        if self.slow.0 >= GROWN_AFTER {
            self.fastest = Some(self.slow.1);
            self.slow = (0, Duration::MAX);
        }
    }

    /// `half` is the time by which bodies of twice the size are judged.
    fn resize(&mut self, now: usize, half: Option<Duration>) {
        if now != self.now {
            self.now = now;
            self.half = half;
            self.full = None;
        }
    }

    /// The most that a body may have for now.
    fn most(&self) -> usize {
        match self.suspicion {
            Suspicion::Cut(len, _) => self.largest.min(len / 2),
            _ => self.largest,
        }
    }

    /// What a body of `len` bytes that has passed tells of those that were cut.
    fn passed(&mut self, len: usize) {
        self.suspicion = match self.suspicion {
            Suspicion::Cut(cut, _) | Suspicion::Trying(cut) if len >= cut => Suspicion::None,
            // Bodies that are smaller still, because the path is slow, are not what the suspicion is about.
            Suspicion::Cut(cut, passed) if passed >= TRY_AGAIN_AFTER && self.now >= cut / 2 => {
                self.resize(cut, None);
                Suspicion::Trying(cut)
            }
            Suspicion::Cut(cut, passed) => Suspicion::Cut(cut, passed.saturating_add(1)),
            other => other,
        };
    }

    /// Whether it is worth while to find out if bodies of `len` bytes are cut for their size.
    pub(crate) fn may_be_too_large(&self, len: usize) -> bool {
        len / 2 >= SLOW_BODY
    }

    /// A body of `len` bytes was cut again and again: half of that from now on. True if that is known
    /// to be for its size.
    pub(crate) fn cut(&mut self, len: usize) -> bool {
        if len > self.largest {
            return false;
        }
        let known = matches!(self.suspicion, Suspicion::Trying(cut) if len >= cut);
        self.suspicion = match self.suspicion {
            _ if known => Suspicion::None,
            Suspicion::Cut(cut, _) => Suspicion::Cut(cut.min(len), 0),
            _ => Suspicion::Cut(len, 0),
        };
        if known {
            self.largest = self.largest.min(len / 2);
        }
        self.resize(self.now.min(len / 2).min(self.largest), None);
        known
    }

    /// The path does not take bodies of `len` bytes: half of that from now on. False if that would
    /// be too small to be of use.
    pub(crate) fn refused(&mut self, len: usize) -> bool {
        self.largest = self.largest.min(len / 2);
        self.now = self.now.min(self.largest);
        self.largest >= SMALLEST_BODY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(10);

    #[test]
    fn size_follows_the_measured_time() {
        let mut size = BodySize::new(1_000_000);
        for expected in [131_072, 262_144, 524_288, 1_000_000, 1_000_000] {
            size.delivered(size.now(), FAST);
            assert_eq!(size.now(), expected);
        }
        size.delivered(100, FAST + LONG * 2);
        assert_eq!(size.now(), 1_000_000, "small bodies tell nothing");
        for _ in 0..6 {
            size.delivered(size.now(), FAST + LONG * 2);
        }
        assert_eq!(size.now(), SLOW_BODY, "halved as far as it goes");
    }

    /// Every body on a connection of its own, which begins with ten segments and doubles them (RFC 6928).
    #[test]
    fn bodies_grow_where_each_of_them_begins_a_connection() {
        let mut size = BodySize::new(1_000_000);
        let trip = Duration::from_millis(50);
        size.delivered(10, trip * 2);
        for _ in 0..5 {
            let len = size.now();
            let flights = (0..).find(|n| (14_600 << n) * 2 - 14_600 >= len);
            size.delivered(len, trip * (2 + flights.expect("enough at last")));
        }
        assert_eq!(size.now(), 1_000_000);
    }

    /// Where twice the size takes nearly twice as long, the link is full: nothing more is won.
    #[test]
    fn bodies_do_not_grow_on_a_link_that_is_full() {
        let mut size = BodySize::new(1_000_000);
        let delay = Duration::from_millis(100);
        size.delivered(10, delay);
        for _ in 0..9 {
            let on_the_link = Duration::from_micros(size.now() as u64);
            size.delivered(size.now(), delay + on_the_link);
        }
        assert_eq!(size.now(), 4 * FIRST_BODY);
    }

    #[test]
    fn a_long_way_alone_keeps_no_body_small() {
        let mut size = BodySize::new(1_000_000);
        let delay = Duration::from_millis(600);
        size.delivered(10, delay);
        for _ in 0..4 {
            size.delivered(size.now(), delay + delay / 2);
        }
        assert_eq!(size.now(), 1_000_000);
    }

    #[test]
    fn bodies_that_flew_together_count_once() {
        let mut size = BodySize::new(1_000_000);
        size.delivered(10, FAST);
        for _ in 0..8 {
            size.delivered(FIRST_BODY, FAST);
        }
        assert_eq!(size.now(), 2 * FIRST_BODY);
        for _ in 0..8 {
            size.delivered(2 * FIRST_BODY, FAST + LONG * 2);
        }
        assert_eq!(size.now(), FIRST_BODY);
    }

    /// Delivers bodies through a path that cuts those of more than `limit` bytes; what it is known to take.
    fn through(limit: usize, bodies: usize) -> BodySize {
        let mut size = BodySize::new(256 * 1024);
        for _ in 0..bodies {
            let len = size.now();
            if len > limit {
                size.cut(len);
            } else {
                size.delivered(len, FAST);
            }
        }
        size
    }

    #[test]
    fn a_size_that_is_cut_whenever_it_is_tried_is_known_to_be_too_large() {
        assert_eq!(through(100_000, 30).largest(), 256 * 1024, "not yet");
        let learnt = through(100_000, 200);
        assert_eq!((learnt.largest(), learnt.now()), (64 * 1024, 64 * 1024));
        assert_eq!(through(20_000, 300).largest(), 16 * 1024);
    }

    #[test]
    fn an_accident_is_forgotten() {
        let mut size = through(1_000_000, 10);
        assert_eq!(size.now(), 256 * 1024);
        for len in [256, 128, 64] {
            assert!(!size.cut(len * 1024), "it may have been the path");
        }
        assert_eq!(size.now(), 32 * 1024);
        for _ in 0..200 {
            size.delivered(size.now(), FAST);
        }
        assert_eq!((size.largest(), size.now()), (256 * 1024, 256 * 1024));
        // The next one begins anew.
        assert!(!size.cut(256 * 1024));
    }

    #[test]
    fn a_way_that_has_become_longer_is_learned() {
        let mut size = BodySize::new(1_000_000);
        size.delivered(10, FAST);
        let longer = Duration::from_millis(400);
        for _ in 0..2 + GROWN_AFTER {
            size.delivered(size.now(), longer);
        }
        assert_eq!(size.now(), SLOW_BODY);
        for _ in 0..6 {
            size.delivered(size.now(), longer);
        }
        assert_eq!(size.now(), 1_000_000);
    }
}
