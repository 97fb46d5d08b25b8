//! How much the peer may send before it hears again.

use std::time::Duration;

use crate::time::Time;

/// A receive window that doubles while it is what limits the sender.
#[derive(Debug)]
pub(crate) struct Window {
    size: u64,
    limit: u64,
    /// When the limit was announced last, and what had been consumed by then.
    renewed: (Time, u64),
}

impl Window {
    pub(crate) fn new(size: u64, limit: u64, now: Time) -> Self {
        Window {
            size,
            limit: limit.max(size),
            renewed: (now, 0),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The limit to announce once a quarter of the window was consumed: the sender, who learns of
    /// it half a round trip later, always has the other three quarters. A window that is consumed
    /// within two round trips is too small for the path, also where it is consumed in one go.
    pub(crate) fn renew(
        &mut self,
        consumed: u64,
        granted: u64,
        now: Time,
        rtt: Duration,
    ) -> Option<u64> {
        if granted.saturating_sub(consumed) > self.size - self.size / 4 {
            return None;
        }
        let (before, had) = self.renewed;
        let share = consumed.saturating_sub(had) as f64 / self.size.max(1) as f64;
        if now.since(before).as_secs_f64() < 2.0 * rtt.as_secs_f64() * share {
            self.grow();
        }
        self.renewed = (now, consumed);
        let limit = consumed + self.size;
        (limit > granted).then_some(limit)
    }

    /// Doubles the window for another reason than speed.
    pub(crate) fn grow(&mut self) {
        self.size = (self.size * 2).min(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_grows_only_for_a_fast_reader() {
        let rtt = Duration::from_millis(10);
        let mut window = Window::new(1000, 4000, Time::ZERO);
        assert_eq!(window.renew(249, 1000, Time::from_micros(1), rtt), None);
        assert_eq!(
            window.renew(250, 1000, Time::from_micros(2), rtt),
            Some(2250)
        );
        let late = Time::ZERO + Duration::from_secs(5);
        assert_eq!(window.renew(1600, 2250, late, rtt), Some(3600));
        assert_eq!(window.size(), 2000);
    }

    /// As behind a box that delivers a round trip's bytes all at once.
    #[test]
    fn a_window_that_is_consumed_in_one_go_grows() {
        let rtt = Duration::from_millis(100);
        let mut window = Window::new(1000, 4000, Time::ZERO);
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        assert_eq!(window.renew(1000, 1000, at(150), rtt), Some(3000));
        assert_eq!(window.renew(3000, 3000, at(600), rtt), Some(5000));
    }

    #[test]
    fn a_window_of_one_byte_is_renewed() {
        let mut window = Window::new(1, 1, Time::ZERO);
        assert_eq!(window.renew(0, 1, Time::ZERO, Duration::ZERO), None);
        assert_eq!(window.renew(1, 1, Time::ZERO, Duration::ZERO), Some(2));
    }
}
