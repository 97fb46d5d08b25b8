//! Round trips, and how they are spread.

use std::fmt;
use std::time::Duration;

/// The durations of many round trips.
#[derive(Clone, Debug)]
pub struct Latencies {
    sorted: Vec<Duration>,
}

impl Latencies {
    /// From durations in any order.
    ///
    /// # Panics
    /// When there are none.
    pub fn new(mut durations: Vec<Duration>) -> Self {
        assert!(!durations.is_empty(), "no round trip was made");
        durations.sort_unstable();
        Self { sorted: durations }
    }

    /// The duration that `percent` of the round trips did not exceed (nearest rank), `percent` from 0 to 100.
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (self.sorted.len() as f64 * percent / 100.0).ceil() as usize;
        self.sorted[rank.clamp(1, self.sorted.len()) - 1]
    }

    /// Half took at most this.
    pub fn median(&self) -> Duration {
        self.percentile(50.0)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.percentile(100.0)
    }

    /// How many round trips there were.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

impl FromIterator<Duration> for Latencies {
    /// As [`Latencies::new`].
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        Self::new(durations.into_iter().collect())
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (median, p99) = (ms(self.median()), ms(self.percentile(99.0)));
        write!(
            f,
            "median {median:.2} ms, p99 {p99:.2} ms, max {:.2} ms",
            ms(self.max())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latencies = Latencies::new((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(latencies.median(), Duration::from_millis(100));
        assert_eq!(latencies.percentile(99.0), Duration::from_millis(198));
        assert_eq!(latencies.max(), Duration::from_millis(200));
        assert_eq!(latencies.percentile(0.0), Duration::from_millis(1));
    }
}
