//! What sessions saw of the relays that they pass through: what was carried, dropped, and what failed.

use underpass_proto::Time;

use super::Choice;

/// Part of a new outcome in a share.
const OUTCOME_PART: f64 = 0.2;
/// The same of a leg that dies: one alone is no reason for a move, two within a minute are.
const DEATH_PART: f64 = 0.1;
/// After this many seconds an outcome weighs half as much.
const FORGOTTEN_BY_HALF: f64 = 60.0;
/// Fewer packets tell nothing of the share that is dropped.
const ENOUGH_PACKETS: u64 = 20;

/// How much of something went wrong lately, between 0 and 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    share: f64,
    seen: Time,
}

impl Share {
    pub(super) const NONE: Self = Self {
        share: 0.0,
        seen: Time::ZERO,
    };

    fn take_in(&mut self, now: Time, outcome: f64, part: f64) {
        let share = self.at(now);
        self.share = share + part * (outcome - share);
        self.seen = now;
    }

    /// As far as it is still known.
    pub(super) fn at(&self, now: Time) -> f64 {
        let age = now.since(self.seen).as_secs_f64();
        self.share * 0.5_f64.powf(age / FORGOTTEN_BY_HALF)
    }
}

impl Choice {
    /// A session that had more to send was seen to send so many bytes per second through a relay.
    pub fn delivered(&mut self, now: Time, relay: usize, rate: u64) {
        if let Some(near) = &mut self.relays[relay].near {
            near.delivers(now, rate);
        }
        self.decide(now);
    }

    /// A session sent so many packets through a relay, which dropped so many of them.
    pub fn dropped(&mut self, now: Time, relay: usize, packets: u64, dropped: u64) {
        if packets >= ENOUGH_PACKETS {
            let share = dropped.min(packets) as f64 / packets as f64;
            let dropping = &mut self.relays[relay].dropping;
            dropping.take_in(now, share, OUTCOME_PART);
            self.decide(now);
        }
    }

    /// Whether something that was tried through a relay worked.
    pub fn outcome(&mut self, now: Time, relay: usize, worked: bool) {
        let outcome = if worked { 0.0 } else { 1.0 };
        let failing = &mut self.relays[relay].failing;
        failing.take_in(now, outcome, OUTCOME_PART);
        self.decide(now);
    }

    /// A leg that passed through a relay died, or does not answer any more.
    pub fn leg_failed(&mut self, now: Time, relay: usize) {
        self.relays[relay].failing.take_in(now, 1.0, DEATH_PART);
        self.decide(now);
    }
}
