//! How much the peer may send before it hears again.

use std::time::Duration;

use crate::time::Time;

/// A receive window that doubles while it is what limits the sender.
#[derive(Debug)]
pub(crate) struct Window {
    size: u64,
    limit: u64,
    renewed: Time,
}

impl Window {
    pub(crate) fn new(size: u64, limit: u64, now: Time) -> Self {
        Window {
            size,
            limit: limit.max(size),
            renewed: now,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The limit to announce once a quarter of the window was consumed: the sender, who learns of
    /// it half a round trip later, always has the other three quarters. A window that is consumed
    /// within two round trips is too small for the path.
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
        if now.since(self.renewed) < rtt / 2 {
            self.grow();
        }
        self.renewed = now;
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

    #[test]
    fn a_window_of_one_byte_is_renewed() {
        let mut window = Window::new(1, 1, Time::ZERO);
        assert_eq!(window.renew(0, 1, Time::ZERO, Duration::ZERO), None);
        assert_eq!(window.renew(1, 1, Time::ZERO, Duration::ZERO), Some(2));
    }
}
