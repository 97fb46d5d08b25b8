//! How many probes a source may make: a bucket of tokens for each, in a table of bounded size. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use underpass_proto::Time;

use crate::sources::source_of;

/// Probes that a source may make at once; one measurement in full takes about a dozen.
const BURST: u32 = 40;
/// One more after each of these.
const REFILL: Duration = Duration::from_secs(2);
/// Sources that are remembered. When there are more, all others share one bucket.
const MOST_SOURCES: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    since: Time,
}

/// Counts probes by their source.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    sources: HashMap<Option<IpAddr>, Bucket>,
}

impl Allowance {
    /// Whether `source` may make one more.
    pub(crate) fn take(&mut self, now: Time, source: Option<IpAddr>) -> bool {
        let mut source = source.map(source_of);
        if !self.sources.contains_key(&source) && self.sources.len() >= MOST_SOURCES {
            // Who has a full bucket again need not be remembered.
            self.sources
                .retain(|_, bucket| now.since(bucket.since) < REFILL * BURST);
            if self.sources.len() >= MOST_SOURCES {
                source = None;
            }
        }
        let full = Bucket {
            left: BURST,
            since: now,
        };
        let bucket = self.sources.entry(source).or_insert(full);
        let grown = now.since(bucket.since).as_nanos() / REFILL.as_nanos();
        if let Ok(grown @ 1..) = u32::try_from(grown) {
            bucket.left = bucket.left.saturating_add(grown).min(BURST);
            bucket.since = now;
        }
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(number.into()))
    }

    #[test]
    fn a_source_has_a_burst_and_then_a_rate() {
        let mut allowance = Allowance::default();
        let now = Time::from_micros(1);
        let granted = |allowance: &mut Allowance, now, source| {
            (0..1000).filter(|_| allowance.take(now, source)).count()
        };
        assert_eq!(granted(&mut allowance, now, source(1)), BURST as usize);
        assert_eq!(granted(&mut allowance, now, source(2)), BURST as usize);
        let later = now + REFILL * 3;
        assert_eq!(granted(&mut allowance, later, source(1)), 3);
        let much_later = now + REFILL * 3000;
        let full = granted(&mut allowance, much_later, source(1));
        assert_eq!(full, BURST as usize);
    }

    #[test]
    fn many_sources_cost_bounded_memory() {
        let mut allowance = Allowance::default();
        let now = Time::from_micros(1);
        for number in 0..3 * MOST_SOURCES as u32 {
            allowance.take(now, source(number));
        }
        assert!(allowance.sources.len() <= MOST_SOURCES + 1);
        assert!(allowance.take(now, source(0)), "known, and not used up");
        assert!(!allowance.take(now, source(u32::MAX)), "the shared one is");
        assert!(allowance.take(now + REFILL * BURST, source(u32::MAX)));
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let mut allowance = Allowance::default();
        let now = Time::from_micros(1);
        let many = (0..1000u128).filter(|low| {
            let address = IpAddr::V6((0x2001_0db8_u128 << 96 | low).into());
            allowance.take(now, Some(address))
        });
        assert_eq!(many.count(), BURST as usize);
    }
}
