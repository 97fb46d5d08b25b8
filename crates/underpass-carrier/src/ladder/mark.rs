//! What is held against one carrier, and for how long.
//!
//! What says no, or holds what is sent on it, is left alone for minutes, twice as long each time. What
//! worked and was cut is another matter: mostly it was the path that was cut, and the carrier is as
//! good as before. It comes back after seconds, on a probation that is longer than its short lives
//! were; while something else carries the session, that costs nobody anything. Only what dies again
//! and again at the same age is known to be cut by some box's clock, and counts as failed.

use std::collections::VecDeque;
use std::time::Duration;

use underpass_proto::Time;

use super::Held;

/// A carrier that failed is left alone for so long the first time, then twice as long each time.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(60);
/// The longest that it is left alone.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60 * 60);
/// What was cut is left alone for this part of the first wait, twice, three times that the next times...
const CUT_PART: u32 = 6;
/// ... and never longer than this part of it.
const LONGEST_CUT_PART: u32 = 2;
/// A leg that carried for less than this had a short life.
pub(super) const SHORT_LIFE: Duration = Duration::from_secs(10);
/// A leg that carried for so long shows that the path is good for its carrier.
const GOOD_LIFE: Duration = Duration::from_secs(120);
/// So many short lives in a row count as a failure.
const SHORT_LIVES: u32 = 2;
/// So many deaths at one age are no accident.
const REGULAR: usize = 3;
/// What is told of a carrier that failed before this program was started.
const HELD_REASON: &str = "failed on this network a while ago";
/// Ages are the same where the largest is longer than the smallest by this part at most.
const SAME_AGE_PART: u32 = 8;

/// What is known against one carrier.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    failures: u32,
    /// Times that it was set aside because it was cut.
    cuts: u32,
    short_lives: u32,
    /// How old its last carriers were when they were cut.
    ages: VecDeque<Duration>,
    retry_at: Option<Time>,
    reason: Option<String>,
}

impl Mark {
    /// It did not do: it is left alone for a while. `first` is the first wait; `spread` makes each
    /// agent's waits a little longer than the next one's.
    pub(super) fn fail(&mut self, now: Time, reason: String, first: Duration, spread: f64) {
        let wait = first
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.short_lives = 0;
        self.retry_at = Some(now + wait.mul_f64(1.0 + spread));
        self.reason = Some(reason);
    }

    /// A carrier of this kind worked, and was cut: it is left alone for some seconds.
    pub(super) fn cut(&mut self, now: Time, reason: String, first: Duration, spread: f64) {
        self.cuts += 1;
        self.short_lives = 0;
        let wait = (first / CUT_PART)
            .saturating_mul(self.cuts)
            .min(first / LONGEST_CUT_PART);
        self.retry_at = Some(now + wait.mul_f64(1.0 + spread));
        self.reason = Some(reason);
    }

    /// What was known when this network was left, or the program ended.
    pub(super) fn held(now: Time, held: &Held) -> Self {
        Mark {
            failures: held.failures,
            retry_at: Some(now + held.retry_in.min(LONGEST_BACKOFF)),
            reason: Some(HELD_REASON.to_owned()),
            ..Mark::default()
        }
    }

    /// What is to be remembered of it, if it is left alone because it failed.
    pub(super) fn to_held(&self, rung: usize, now: Time) -> Option<Held> {
        let retry_at = self.retry_at.filter(|at| *at > now && self.failures > 0)?;
        Some(Held {
            rung,
            failures: self.failures,
            retry_in: retry_at.since(now),
        })
    }

    /// A carrier of this kind was cut when it was `age` old.
    pub(super) fn remember_age(&mut self, age: Duration) {
        if self.ages.len() == REGULAR {
            self.ages.pop_front();
        }
        self.ages.push_back(age);
    }

    /// Whether it was cut at the same age each of the last times. To be asked when one was cut that had
    /// been begun at a time of its own: a path that is cut every second cuts all at the same age that
    /// were made anew after the cut before.
    pub(super) fn dies_of_age(&self) -> bool {
        let (Some(least), Some(most)) = (self.ages.iter().min(), self.ages.iter().max()) else {
            return false;
        };
        self.ages.len() == REGULAR && *most - *least <= *most / SAME_AGE_PART
    }

    /// Whether it has been cut again and again of late, so that it has to show that it lasts.
    pub(super) fn must_last(&self) -> bool {
        self.ages.len() >= SHORT_LIVES as usize
    }

    /// A leg of this kind, made `age` ago, ended after it had carried for `lived`. True when it is to
    /// be set aside.
    pub(super) fn ended(&mut self, lived: Duration, age: Duration) -> bool {
        if lived >= GOOD_LIFE {
            self.failures = 0;
            self.cuts = 0;
        }
        if lived >= SHORT_LIFE {
            self.short_lives = 0;
            self.ages.clear();
            return false;
        }
        self.short_lives += 1;
        self.remember_age(age);
        self.short_lives >= SHORT_LIVES
    }

    /// A leg of this kind was replaced by a better one after it had carried for `lived`.
    pub(super) fn replaced(&mut self, lived: Duration) {
        if lived >= SHORT_LIFE {
            self.ended(lived, lived);
        }
    }

    /// It carries the session.
    pub(super) fn carries(&mut self) {
        self.retry_at = None;
        self.reason = None;
    }

    /// Whether it is to be left alone at this time.
    pub(super) fn shunned(&self, now: Time) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }

    /// When it may be tried again, if it is being left alone.
    pub(super) fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Why.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        let mut mark = Mark::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
            waits.push(mark.retry_at().unwrap().since(Time::ZERO).as_secs() / 60);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// How long it is left alone after it was cut.
    fn wait_after_cut(mark: &mut Mark) -> Duration {
        mark.cut(Time::ZERO, "cut".into(), FIRST_BACKOFF, 0.0);
        mark.retry_at().unwrap().since(Time::ZERO)
    }

    #[test]
    fn only_a_good_life_makes_up_for_failures() {
        let mut mark = Mark::default();
        mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
        mark.carries();
        assert!(!mark.shunned(Time::ZERO));
        assert!(!mark.ended(secs(60), secs(66)));
        mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
        assert_eq!(mark.retry_at(), Some(Time::ZERO + 2 * FIRST_BACKOFF));
        assert!(!mark.ended(secs(120), secs(126)));
        mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
        assert_eq!(mark.retry_at(), Some(Time::ZERO + FIRST_BACKOFF));
    }

    #[test]
    fn one_middling_life_forgives_one_short_one() {
        let mut mark = Mark::default();
        for _ in 0..5 {
            assert!(!mark.ended(secs(1), secs(7)));
            assert!(!mark.must_last(), "once is an accident");
            assert!(!mark.ended(secs(11), secs(17)));
        }
        assert!(!mark.ended(secs(9), secs(9)));
        assert!(mark.ended(secs(9), secs(9)), "twice too short");
        assert!(mark.must_last());
        assert!(!mark.ended(secs(11), secs(23)));
        assert!(!mark.must_last());
    }

    #[test]
    fn what_is_cut_now_and_then_comes_back_within_half_a_minute() {
        let mut mark = Mark::default();
        let waits = [(); 5].map(|()| wait_after_cut(&mut mark).as_secs());
        assert_eq!(waits, [10, 20, 30, 30, 30]);
        assert!(!mark.ended(secs(120), secs(132)));
        assert_eq!(wait_after_cut(&mut mark), secs(10));
    }

    #[test]
    fn what_always_dies_at_one_age_is_told_from_what_does_not() {
        let regular = |ages: &[u64]| {
            let mut mark = Mark::default();
            ages.iter()
                .for_each(|age| mark.remember_age(Duration::from_millis(*age)));
            mark.dies_of_age()
        };
        assert!(regular(&[7000, 7300, 7100]));
        assert!(regular(&[1000, 7000, 7300, 7100]), "the last ones count");
        assert!(!regular(&[]) && !regular(&[7000, 7000]));
        assert!(!regular(&[7000, 7100, 3000]) && !regular(&[7000, 8100, 7000]));
    }
}
