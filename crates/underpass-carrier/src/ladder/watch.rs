//! Whether the carrier in use has begun to hold data, seen from its round trips.

use std::time::Duration;

use underpass_proto::Time;

/// A round trip so many times the shortest of the same leg is no accident of the path.
const JUMP: u32 = 10;
/// Below this nothing is done about it: queues on the path come this far.
const LEAST: Duration = Duration::from_secs(1);
/// It has to stay so for this long.
const LASTING: Duration = Duration::from_secs(2);
/// Round trips shorter than this count as this, so that a local network's do not make everything
/// look like a jump.
const FLOOR: Duration = Duration::from_millis(20);

/// The round trips of one leg.
#[derive(Debug, Default)]
pub(super) struct Watch {
    shortest: Option<Duration>,
    last: Option<Duration>,
    late_since: Option<Time>,
}

impl Watch {
    /// Takes a smoothed round trip. True while the leg seems to hold what it carries.
    pub(super) fn measured(&mut self, now: Time, rtt: Duration) -> bool {
        self.last = Some(rtt);
        let shortest = self.shortest.map_or(rtt, |shortest| shortest.min(rtt));
        self.shortest = Some(shortest);
        if rtt < LEAST.max(shortest.max(FLOOR) * JUMP) {
            self.late_since = None;
            return false;
        }
        let since = *self.late_since.get_or_insert(now);
        now.since(since) >= LASTING
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<Duration> {
        self.last
    }

    /// The shortest one and the last one, for people.
    pub(super) fn story(&self) -> String {
        format!(
            "answers came after {:.0?} instead of {:.0?}",
            self.last.unwrap_or_default(),
            self.shortest.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late_at(samples: &[(u64, u64)]) -> Option<u64> {
        let mut watch = Watch::default();
        let late = |&&(at, rtt): &&(u64, u64)| {
            let now = Time::ZERO + Duration::from_millis(at);
            watch.measured(now, Duration::from_millis(rtt))
        };
        samples.iter().find(late).map(|(at, _)| *at)
    }

    #[test]
    fn a_lasting_jump_is_seen_and_nothing_else() {
        let jump = [(0, 30), (500, 1500), (1500, 1500), (2500, 1600)];
        assert_eq!(late_at(&jump), Some(2500));
        let passing = [(0, 30), (500, 1500), (1500, 30), (2500, 1600), (3500, 30)];
        assert_eq!(late_at(&passing), None);
        let always_slow = [(0, 1500), (1000, 1700), (5000, 2000), (9000, 9000)];
        assert_eq!(late_at(&always_slow), None);
        let queue = [(0, 5), (1000, 400), (3000, 900), (9000, 900)];
        assert_eq!(late_at(&queue), None);
    }
}
