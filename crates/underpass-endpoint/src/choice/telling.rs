//! When the peer of a session is told how our path to a relay is: so rarely that it costs nothing, and so
//! often that it never takes the news for old.

use std::collections::HashMap;
use std::time::Duration;

use underpass_proto::Time;

/// Told again after this, whatever it is. Less than [`super::ChoiceSettings::stale_after`].
const AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Nothing is told more often than this.
const NOT_BEFORE: Duration = Duration::from_secs(2);
/// News is what differs by this part, and by this much.
const NEWS: f64 = 0.15;
const NEWS_AT_LEAST: Duration = Duration::from_millis(2);

/// What one peer was told of our paths, by the keys of the relays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Telling(HashMap<[u8; 32], (Time, Duration)>);

impl Telling {
    /// Whether to tell it now. It is taken for told then.
    pub(crate) fn tell(&mut self, now: Time, relay: [u8; 32], round_trip: Duration) -> bool {
        let due = match self.0.get(&relay) {
            None => true,
            Some((at, told)) => match now.since(*at) {
                passed if passed >= AGAIN_AFTER => true,
                passed if passed < NOT_BEFORE => false,
                _ => is_news(*told, round_trip),
            },
        };
        if due {
            self.0.insert(relay, (now, round_trip));
        }
        due
    }
}

fn is_news(told: Duration, now: Duration) -> bool {
    let differs = told.abs_diff(now);
    differs >= NEWS_AT_LEAST && differs >= told.mul_f64(NEWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_and_what_is_not_only_now_and_then() {
        let mut telling = Telling::default();
        let ms = Duration::from_millis;
        let at = |tenths: u64| Time::from_micros(tenths * 100_000);
        assert!(telling.tell(at(0), [1; 32], ms(20)));
        assert!(telling.tell(at(0), [2; 32], ms(20)));
        // An hour of noise: once in 20 s.
        let noisy =
            (1..36_000).filter(|tenth| telling.tell(at(*tenth), [1; 32], ms(20 + tenth % 2)));
        assert_eq!(noisy.count(), 179);
        let mut later = (36_000..36_030).filter(|tenth| telling.tell(at(*tenth), [2; 32], ms(50)));
        assert_eq!(later.next(), Some(36_000));
        assert_eq!(later.next(), None);
        let jumps =
            (36_030..36_060).filter(|tenth| telling.tell(at(*tenth), [2; 32], ms(tenth % 2 * 90)));
        assert_eq!(jumps.count(), 2);
    }
}
