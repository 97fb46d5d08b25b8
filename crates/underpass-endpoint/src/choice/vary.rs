//! Varying the path at irregular intervals, for those who do not want to be found on the same one for long.

use std::time::Duration;

use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};
use underpass_proto::Time;

use super::Choice;

/// When a session goes over to another relay although the one that it uses is as good as any.
#[derive(Clone, Debug)]
pub struct Vary {
    mean: Duration,
    next: Option<Time>,
}

impl Vary {
    /// After this time on average, each time up to a half earlier or later.
    #[must_use]
    pub fn every(mean: Duration) -> Self {
        Self { mean, next: None }
    }

    /// The relay to go over to, when it is time: any of those that are as good as the chosen one. Never one
    /// that is worse.
    pub fn pick(&mut self, now: Time, choice: &Choice, rng: &mut impl Rng) -> Option<usize> {
        let due = self.next.is_some_and(|next| next <= now);
        if due || self.next.is_none() {
            self.next = Some(now + self.mean.mul_f64(rng.random_range(0.5..1.5)));
        }
        choice.equals(now).choose(rng).copied().filter(|_| due)
    }
}
