//! How long an attachment without a path waits between rounds of attempts. Pure: time and the random
//! part come as arguments.
//!
//! A relay that is started anew refuses all its agents until it listens, and then they come. What keeps
//! them apart is that each waits a random time; what keeps one that is alone from waiting for long is
//! that this time stays below a second as long as a start may take.

use std::time::Duration;

use underpass_carrier::ladder::Fault;
use underpass_proto::Time;

/// The first wait is at most this, and each one after it at most twice the one before.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(8);
/// The longest wait, and from the first one, for a host that was there a short while ago. With [`FORGOTTEN_SPREAD`] an agent is back within a
/// second after its relay.
const AWAY: Duration = Duration::from_millis(750);
/// A short while: what is started anew is there again within this.
const SHORT_WHILE: Duration = Duration::from_secs(60);
/// A relay that has forgotten one session has mostly forgotten all: those who begin another are spread over so long,
/// beside what the relay itself does about it.
const FORGOTTEN_SPREAD: Duration = Duration::from_millis(250);

/// The waits of one attachment, longer each time until it is attached.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    /// Since when the host is not reached.
    away: Option<Time>,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Pauses {
            next: FIRST,
            away: None,
        }
    }

    /// It is attached, or has been: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// The wait after a round that ended so. `part` is a random number from 0 to 1.
    pub(crate) fn next(&mut self, now: Time, over: Fault, part: f64) -> Duration {
        let window = self.next;
        self.next = (window * 2).min(LONGEST);
        if over != Fault::Host {
            self.away = None;
        }
        match over {
            Fault::Host => {
                let away = now.since(*self.away.get_or_insert(now));
                // The first one too: a relay that is back at once has all of them in the first one.
                let window = if away < SHORT_WHILE { AWAY } else { window };
                // A shorter least wait would have more of them come in the first moment.
                window.mul_f64(0.25 + part * 0.75)
            }
            Fault::Busy => window.mul_f64(part),
            // Each round of these asks many times.
            _ => window.mul_f64(0.5 + part / 2.0),
        }
    }

    /// The wait before another session, where the relay has forgotten the one there was.
    pub(crate) fn forgotten(part: f64) -> Duration {
        FORGOTTEN_SPREAD.mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn who_waits_for_a_restart_is_back_within_a_second() {
        let mut pauses = Pauses::new();
        let mut now = 0;
        while now < 60_000 {
            let pause = pauses.next(at(now), Fault::Host, 1.0);
            assert!(pause + Pauses::forgotten(1.0) <= Duration::from_secs(1));
            now += 750;
        }
        // After that it is asked less often.
        assert_eq!(pauses.next(at(now), Fault::Host, 1.0), LONGEST);
        pauses.reset();
        assert_eq!(pauses.next(at(now), Fault::Host, 1.0), AWAY);
    }

    /// 2000 agents lose their relay at once; it listens again after a while, in milliseconds.
    #[test]
    fn a_herd_comes_back_spread() {
        for back in [20, 200, 700, 2_000, 30_000].map(at) {
            let mut steps = [0u32; 8];
            let mut random = 1u32;
            for _ in 0..2000 {
                let (mut pauses, mut now) = (Pauses::new(), Time::ZERO);
                while now < back {
                    // The generator of Numerical Recipes.
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let part = f64::from(random) / f64::from(u32::MAX);
                    now = now + pauses.next(now, Fault::Host, part);
                }
                let step = now.since(back).as_millis() / 100;
                steps[usize::try_from(step).unwrap()] += 1;
            }
            // All within three quarters of a second, and no more than a quarter of them in a tenth of one.
            assert!(steps.iter().all(|step| *step <= 500), "{steps:?}");
        }
    }

    #[test]
    fn a_busy_relay_is_asked_less_and_less_often() {
        let mut pauses = Pauses::new();
        let waits: Vec<u128> = (0..7)
            .map(|_| pauses.next(at(0), Fault::Busy, 1.0).as_millis())
            .collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 8000]);
        assert_eq!(pauses.next(at(0), Fault::Busy, 0.0), Duration::ZERO);
        assert_eq!(pauses.next(at(0), Fault::Path, 0.0), LONGEST / 2);
    }
}
