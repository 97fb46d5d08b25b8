//! Since when nobody has needed the redirector.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many use it now, and when the last one did.
#[derive(Debug)]
pub(super) struct Usage {
    state: Mutex<State>,
}

/// Pure: time is an argument.
#[derive(Debug)]
struct State {
    now: usize,
    last: Instant,
}

impl State {
    fn end(&mut self, now: Instant) {
        self.now -= 1;
        self.last = now;
    }

    /// When it will be over, if nothing happens: `linger` after the last use, which is now while it is in use.
    fn over_at(&self, linger: Duration, now: Instant) -> Instant {
        let last = if self.now > 0 { now } else { self.last };
        last + linger
    }
}

/// Something for which it is needed, until dropped.
#[derive(Debug)]
pub(super) struct InUse<'a>(&'a Usage);

impl Usage {
    /// From now on.
    pub(super) fn new() -> Self {
        let state = State {
            now: 0,
            last: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Somebody needs it.
    pub(super) fn begin(&self) -> InUse<'_> {
        self.state().now += 1;
        InUse(self)
    }

    /// Somebody may need it who says nothing just now.
    pub(super) fn touch(&self) {
        self.state().last = Instant::now();
    }

    /// When it will be over, if nothing happens.
    pub(super) fn over_at(&self, linger: Duration) -> Instant {
        self.state().over_at(linger, Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.state().end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_some_time_after_the_last_use() {
        let (begin, minute) = (Instant::now(), Duration::from_secs(60));
        let mut state = State {
            now: 0,
            last: begin,
        };
        assert_eq!(state.over_at(minute, begin + minute / 2), begin + minute);
        state.now += 1;
        let later = begin + minute * 5;
        assert_eq!(state.over_at(minute, later), later + minute);
        state.end(later);
        assert_eq!(state.over_at(minute, later + minute), later + minute);
    }
}
