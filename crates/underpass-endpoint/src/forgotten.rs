//! Agents whose session a relay has forgotten come one after the other. Pure: time comes as an argument.
//!
//! A relay that was started anew knows none of the sessions that it is asked to go on with. Whoever
//! learns that begins another, which costs both sides some milliseconds of computing; so each learns it
//! when it is its turn.

use std::time::Duration;

use underpass_proto::Time;

/// The distance between them: 500 in a second, which is about what two processors take in.
const APART: Duration = Duration::from_millis(2);
/// So many that come at once after a while are let in at once.
const AT_ONCE: u32 = 32;
/// Nobody waits for longer than this, however many there are: some may be nobody's agents.
const LONGEST: Duration = Duration::from_secs(8);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// When the next one would come if all were apart.
    next: Time,
}

impl Forgotten {
    /// For how long the one that asks now is to wait.
    pub(crate) fn next(&mut self, now: Time) -> Duration {
        let next = self.next.max(now);
        let wait = next.since(now).saturating_sub(APART * AT_ONCE);
        if wait >= LONGEST {
            return LONGEST;
        }
        self.next = next + APART;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_does_not_wait() {
        let mut forgotten = Forgotten::default();
        for second in 0..10 {
            let now = Time::from_micros(second * 1_000_000);
            assert_eq!(forgotten.next(now), Duration::ZERO);
        }
    }

    #[test]
    fn many_at_once_come_at_an_even_rate_and_the_next_alone_at_once() {
        let mut forgotten = Forgotten::default();
        let now = Time::from_micros(7);
        let waits: Vec<Duration> = (0..2000).map(|_| forgotten.next(now)).collect();
        let soon = |wait: &&Duration| **wait <= Duration::from_secs(1);
        assert_eq!(waits.iter().filter(soon).count(), 533);
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&Duration::from_millis(3934)));
        let later = now + Duration::from_secs(4);
        assert_eq!(forgotten.next(later), Duration::ZERO);
    }

    #[test]
    fn a_flood_has_nobody_wait_for_ever() {
        let mut forgotten = Forgotten::default();
        let last = (0..100_000).map(|_| forgotten.next(Time::ZERO)).last();
        assert_eq!(last, Some(LONGEST));
        let after = Time::ZERO + LONGEST + APART * (AT_ONCE + 1);
        assert_eq!(forgotten.next(after), Duration::ZERO);
    }
}
