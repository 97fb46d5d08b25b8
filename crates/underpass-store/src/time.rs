//! Moments, as the store writes them down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// The store never reads a clock; whoever calls it says what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The moment `after` later, or the last representable one.
    #[must_use]
    pub fn saturating_add(self, after: Duration) -> Self {
        let millis = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The moment `before` earlier, or the first representable one.
    #[must_use]
    pub fn saturating_sub(self, before: Duration) -> Self {
        let millis = i64::try_from(before.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl From<SystemTime> for UnixMillis {
    /// A clock set before 1970 gives the matching negative number.
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(0).saturating_add(since),
            Err(early) => Self(0).saturating_sub(early.duration()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_times_on_both_sides_of_the_epoch_convert() {
        let late = UNIX_EPOCH + Duration::from_millis(1_234);
        let early = UNIX_EPOCH - Duration::from_millis(1_234);
        assert_eq!(UnixMillis::from(late), UnixMillis(1_234));
        assert_eq!(UnixMillis::from(early), UnixMillis(-1_234));
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let forever = Duration::MAX;
        assert_eq!(UnixMillis(5).saturating_add(forever), UnixMillis(i64::MAX));
        assert_eq!(UnixMillis(-5).saturating_sub(forever), UnixMillis(i64::MIN));
    }
}
