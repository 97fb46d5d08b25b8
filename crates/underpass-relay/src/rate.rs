//! How fast something may pass: a token bucket, as a pure state machine.

use std::time::Duration;

use underpass_proto::Time;

/// So much may pass at once after a pause: what comes in a tenth of a second. Less would slow small exchanges down that
/// are far below the rate on the whole.
pub const BURST: Duration = Duration::from_millis(100);
/// At no rate does a packet wait longer than this for those before it: at one byte per second nothing would ever pass.
const LONGEST: Duration = Duration::from_secs(3600);

/// A bucket that fills at some rate. It is full at first.
///
/// A packet passes whole when there is anything left, and may leave a debt behind: packets are never split for it, and
/// never too large.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When what has passed would have passed at the rate exactly, in nanoseconds.
    spent_until: u128,
}

impl Bucket {
    /// Whether something may pass now.
    ///
    /// # Errors
    /// When it may.
    pub fn ready(&self, now: Time) -> Result<(), Time> {
        let free_at = self.spent_until.saturating_sub(BURST.as_nanos());
        if free_at <= nanos(now) {
            return Ok(());
        }
        // Rounded up: who comes back at that time does not come too early.
        let micros = u64::try_from(free_at.div_ceil(1_000)).unwrap_or(u64::MAX);
        Err(Time::from_micros(micros))
    }

    /// So many bytes pass, at a rate of `rate` bytes per second.
    pub fn spend(&mut self, bytes: usize, rate: u64, now: Time) {
        let cost = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
        let from = self.spent_until.max(nanos(now));
        self.spent_until = (from + cost).min(nanos(now) + LONGEST.as_nanos());
    }
}

fn nanos(time: Time) -> u128 {
    u128::from(time.as_micros()) * 1_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    /// What passes in `seconds` for somebody who always has packets of `size` and comes back as soon as they may.
    fn passed(rate: u64, size: usize, seconds: u64) -> u64 {
        let (mut bucket, mut now, mut passed) = (Bucket::default(), Time::from_micros(77), 0);
        let end = now + Duration::from_secs(seconds);
        while now < end {
            match bucket.ready(now) {
                Ok(()) => {
                    bucket.spend(size, rate, now);
                    passed += size as u64;
                }
                Err(at) => {
                    assert!(at > now, "time goes on");
                    now = at;
                }
            }
        }
        passed
    }

    #[test]
    fn who_always_wants_gets_the_rate() {
        for rate in [10_000, 1_000_000, 125_000_000] {
            for size in [50, 1_400, 65_536] {
                let passed = passed(rate, size, 20);
                let least = rate * 20;
                let most = least + rate / 10 + 2 * size as u64 + rate / 1_000;
                assert!((least..=most).contains(&passed), "{rate} {size}: {passed}");
            }
        }
    }

    #[test]
    fn who_waits_saves_no_more_than_the_burst() {
        let (mut bucket, rate) = (Bucket::default(), 10_000);
        let late = Time::from_micros(3600 * SECOND);
        let mut at_once = 0;
        while bucket.ready(late).is_ok() {
            bucket.spend(100, rate, late);
            at_once += 100;
        }
        // A tenth of a second, and the packet that leaves the debt.
        assert_eq!(at_once, 1_100);
        assert_eq!(
            bucket.ready(late),
            Err(Time::from_micros(3600 * SECOND + SECOND / 100))
        );
    }

    #[test]
    fn a_debt_is_bounded() {
        let mut bucket = Bucket::default();
        bucket.spend(usize::MAX, 1, Time::ZERO);
        let at = bucket.ready(Time::ZERO).unwrap_err();
        assert!(at <= Time::ZERO + LONGEST, "{at:?}");
    }

    proptest! {
        /// However somebody comes and goes.
        #[test]
        fn no_more_passes_than_the_rate_allows(
            rate in 1_000u64..100_000_000,
            packets in prop::collection::vec((1usize..65_536, 0u64..50_000), 1..300),
        ) {
            let (mut bucket, mut now, mut passed) = (Bucket::default(), Time::ZERO, 0u128);
            let mut largest = 0;
            for (size, pause) in packets {
                now = now + Duration::from_micros(pause);
                if bucket.ready(now).is_ok() {
                    bucket.spend(size, rate, now);
                    passed += size as u128;
                    largest = largest.max(size as u128);
                }
            }
            let time = u128::from(now.as_micros()) + 100_000;
            let most = u128::from(rate) * time / 1_000_000 + largest + 1;
            prop_assert!(passed <= most, "{passed} > {most}");
        }
    }
}
