//! Connections that hooked programs announced. Pure: time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use underpass_hook::address::{Address, Target};
use underpass_hook::message::Mark;

/// How long a connection may take to come after it was announced.
pub(super) const LIFE: Duration = Duration::from_secs(10);
/// The most that may be announced at once.
pub(super) const MOST: usize = 4096;

/// What was announced and has not come yet. `T` is what is kept for it until then.
#[derive(Debug)]
pub(super) struct Announced<T> {
    entries: HashMap<Mark, Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    target: Target,
    until: Instant,
    kept: T,
}

impl<T> Default for Announced<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
        }
    }
}

impl<T> Announced<T> {
    /// Announces a connection, in the place of what the same socket announced before; whether there was room.
    pub(super) fn announce(&mut self, mark: Mark, target: Target, kept: T, now: Instant) -> bool {
        self.forget_late(now);
        let room = self.entries.len() < MOST || self.entries.contains_key(&mark);
        if room {
            let until = now + LIFE;
            let entry = Entry {
                target,
                until,
                kept,
            };
            self.entries.insert(mark, entry);
        }
        room
    }

    /// Takes the announcement of a connection that came to `address`. It is good once, in time, and for this address.
    pub(super) fn take(
        &mut self,
        mark: Mark,
        address: Address,
        now: Instant,
    ) -> Option<(Target, T)> {
        let entry = self.entries.get(&mark)?;
        if entry.target.address != address || entry.until <= now {
            return None;
        }
        let entry = self.entries.remove(&mark)?;
        Some((entry.target, entry.kept))
    }

    /// Where a connection that is announced wants to go.
    pub(super) fn target(&self, mark: Mark) -> Option<Target> {
        self.entries.get(&mark).map(|entry| entry.target)
    }

    /// Forgets what did not come in time.
    pub(super) fn forget_late(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.until > now);
    }

    /// Whether nothing is announced.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Address = [127, 64, 0, 2];
    const ELSEWHERE: Address = [127, 64, 0, 3];
    const TARGET: Target = Target {
        address: HERE,
        port: 80,
    };

    #[test]
    fn an_announcement_is_good_once_and_at_its_address() {
        let now = Instant::now();
        let mut announced = Announced::default();
        for mark in [Mark::Cookie(7), Mark::Source(7)] {
            assert!(announced.announce(mark, TARGET, mark, now));
        }
        assert_eq!(announced.take(Mark::Cookie(8), HERE, now), None);
        assert_eq!(announced.take(Mark::Cookie(7), ELSEWHERE, now), None);
        let came = announced.take(Mark::Cookie(7), HERE, now);
        assert_eq!(came, Some((TARGET, Mark::Cookie(7))));
        assert_eq!(announced.take(Mark::Cookie(7), HERE, now), None);
        assert_eq!(announced.target(Mark::Source(7)), Some(TARGET));
        assert!(announced.take(Mark::Source(7), HERE, now).is_some() && announced.is_empty());
    }

    #[test]
    fn what_comes_late_comes_in_vain() {
        let now = Instant::now();
        let mut announced = Announced::default();
        announced.announce(Mark::Cookie(1), TARGET, (), now);
        let end = now + LIFE;
        assert_eq!(announced.take(Mark::Cookie(1), HERE, end), None);
        assert!(
            announced
                .take(Mark::Cookie(1), HERE, end - Duration::from_nanos(1))
                .is_some()
        );
        announced.announce(Mark::Cookie(1), TARGET, (), now);
        announced.announce(Mark::Cookie(2), TARGET, (), end);
        assert_eq!(announced.target(Mark::Cookie(1)), None);
        announced.forget_late(end + LIFE);
        assert!(announced.is_empty());
    }

    #[test]
    fn who_announces_for_ever_is_stopped_until_the_first_are_late() {
        let now = Instant::now();
        let mut announced = Announced::default();
        for cookie in 0..MOST as u64 {
            assert!(announced.announce(Mark::Cookie(cookie), TARGET, (), now));
        }
        let next = Mark::Cookie(MOST as u64);
        assert!(!announced.announce(next, TARGET, (), now));
        assert!(announced.announce(Mark::Cookie(0), TARGET, (), now));
        assert!(announced.announce(next, TARGET, (), now + LIFE));
    }
}
