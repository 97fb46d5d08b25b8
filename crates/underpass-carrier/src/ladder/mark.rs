//! What is held against one carrier, and for how long.

use std::time::Duration;

use underpass_proto::Time;

/// A carrier that failed is left alone for so long the first time, then twice as long each time.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(60);
/// The longest that it is left alone.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60 * 60);
/// A leg that carried for less than this had a short life.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// A leg that carried for so long shows that the path is good for its carrier.
const GOOD_LIFE: Duration = Duration::from_secs(120);
/// So many short lives in a row count as a failure.
const SHORT_LIVES: u32 = 2;

/// What is known against one carrier.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    failures: u32,
    short_lives: u32,
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
        self.failures += 1;
        self.short_lives = 0;
        self.retry_at = Some(now + wait.mul_f64(1.0 + spread));
        self.reason = Some(reason);
    }

    /// A leg of this kind ended after it had carried for `lived`. True when it is to be taken for a
    /// failure of its kind.
    pub(super) fn ended(&mut self, lived: Duration) -> bool {
        if lived >= GOOD_LIFE {
            self.failures = 0;
        }
        if lived >= SHORT_LIFE {
            self.short_lives = 0;
            return false;
        }
        self.short_lives += 1;
        self.short_lives >= SHORT_LIVES
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

    #[test]
    fn only_a_good_life_makes_up_for_failures() {
        let mut mark = Mark::default();
        mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
        mark.carries();
        assert!(!mark.shunned(Time::ZERO));
        assert!(!mark.ended(Duration::from_secs(9)));
        assert!(mark.ended(Duration::from_secs(9)), "twice too short");
        mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
        assert_eq!(mark.retry_at(), Some(Time::ZERO + 2 * FIRST_BACKOFF));
        assert!(!mark.ended(Duration::from_secs(120)));
        mark.fail(Time::ZERO, "no".into(), FIRST_BACKOFF, 0.0);
        assert_eq!(mark.retry_at(), Some(Time::ZERO + FIRST_BACKOFF));
    }

    #[test]
    fn one_middling_life_forgives_one_short_one() {
        let mut mark = Mark::default();
        for _ in 0..5 {
            assert!(!mark.ended(Duration::from_secs(1)));
            assert!(!mark.ended(Duration::from_secs(11)));
        }
    }
}
