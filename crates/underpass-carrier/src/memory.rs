//! What carriers have learned about the path to a relay, for those that come after them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bounds that the path was seen to have. Shared by all carriers that are made with clones of the same
/// [`crate::ClientSettings`]; to be forgotten when the network changes.
#[derive(Debug, Default)]
pub struct PathMemory(Mutex<PathBounds>);

/// What a [`PathMemory`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathBounds {
    /// The largest request body, in bytes, that may pass: larger ones were answered 413.
    pub largest_body: Option<usize>,
    /// The longest time that a request may be held: something cut those that were held longer.
    pub longest_hold: Option<Duration>,
}

impl PathMemory {
    fn lock(&self) -> MutexGuard<'_, PathBounds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known.
    #[must_use]
    pub fn bounds(&self) -> PathBounds {
        *self.lock()
    }

    /// Takes up what was known at another time on the same network, or forgets everything.
    pub fn replace(&self, bounds: PathBounds) {
        *self.lock() = bounds;
    }

    /// Bodies of more than `len` bytes do not pass.
    pub(crate) fn bodies_up_to(&self, len: usize) {
        let known = &mut self.lock().largest_body;
        *known = Some(known.map_or(len, |known| known.min(len)));
    }

    /// Requests are not held longer than this.
    pub(crate) fn holds_up_to(&self, hold: Duration) {
        let known = &mut self.lock().longest_hold;
        *known = Some(known.map_or(hold, |known| known.min(hold)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_bound_is_kept_until_it_is_forgotten() {
        let memory = PathMemory::default();
        for len in [500_000, 250_000, 300_000] {
            memory.bodies_up_to(len);
        }
        for seconds in [9, 4, 7] {
            memory.holds_up_to(Duration::from_secs(seconds));
        }
        let known = PathBounds {
            largest_body: Some(250_000),
            longest_hold: Some(Duration::from_secs(4)),
        };
        assert_eq!(memory.bounds(), known);
        memory.replace(PathBounds::default());
        assert_eq!(memory.bounds(), PathBounds::default());
    }
}
