//! Which of several relays carries what: pure, from what was measured of both sides.
//!
//! Latency counts first, then throughput, then how much fails or is dropped. What is only a little better
//! changes nothing: a relay is left for a better one when that is clearly better, has been for a while,
//! and the last change is some time ago. One that is gone is left at once.

mod half;
mod roster;
mod seen;
mod telling;
mod vary;
mod words;

use std::cmp::Reverse;
use std::time::Duration;

use underpass_proto::Time;

use half::Half;
pub use half::Measured;
pub use roster::{Roster, RosterSettings};
use seen::Share;
pub(crate) use telling::Telling;
pub use vary::Vary;

/// A relay at which this share fails comes after all that work.
const UNRELIABLE: f64 = 0.5;
/// What nobody feels, in seconds of a round trip.
const UNFELT: f64 = 0.005;
/// A round trip this many times as long, and longer by this many seconds, is far worse:
const FAR_FACTOR: f64 = 2.0;
const FAR_AT_LEAST: f64 = 0.02;
/// then the chosen relay is kept only for this part of the usual time.
const FAR_SOONER: u32 = 3;
/// Ranks are steps of this factor.
const STEP: f64 = 1.25;

/// When a relay is left for a better one.
#[derive(Clone, Debug)]
pub struct ChoiceSettings {
    /// How long the chosen relay is kept at least, unless it fails.
    pub dwell: Duration,
    /// How long another one must have been better.
    pub persist: Duration,
    /// What was measured longer ago counts no more.
    pub stale_after: Duration,
    /// The same for our path to a relay that is only looked at from time to time.
    pub resting_stale_after: Duration,
    /// By what part the round trip must be shorter to be clearly so.
    pub latency_margin: f64,
    /// How many times as fast another one must be to be clearly so.
    pub rate_factor: f64,
    /// By how much the share of failures must be lower to be clearly so.
    pub error_margin: f64,
}

impl Default for ChoiceSettings {
    fn default() -> Self {
        Self {
            dwell: Duration::from_secs(30),
            persist: Duration::from_secs(5),
            stale_after: Duration::from_secs(60),
            resting_stale_after: Duration::from_secs(1800),
            latency_margin: 0.2,
            rate_factor: 1.5,
            error_margin: 0.15,
        }
    }
}

/// Whether a relay can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// At once.
    Alive,
    /// It is not attached to, because others are.
    Resting,
    /// It is not reached.
    Away,
}

/// Whose path to the relay was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Near,
    /// The peer's.
    Far,
}

#[derive(Clone, Debug)]
struct Relay {
    presence: Presence,
    near: Option<Half>,
    far: Option<Half>,
    /// What failed lately, of all that was tried.
    failing: Share,
    /// What it dropped lately, of all that was sent.
    dropping: Share,
}

impl Relay {
    fn is_alive(&self) -> bool {
        self.presence == Presence::Alive
    }

    /// The share of what goes wrong, one way or the other.
    fn failing(&self, now: Time) -> f64 {
        1.0 - (1.0 - self.failing.at(now)) * (1.0 - self.dropping.at(now))
    }
}

/// Both sides of one relay together, as far as they are known.
#[derive(Clone, Copy, Debug)]
struct Together {
    /// Seconds.
    round_trip: f64,
    /// What we can send, and what the peer can.
    rates: [Option<u64>; 2],
    failing: f64,
    far_known: bool,
}

impl Together {
    /// What is known of the slower direction.
    fn rate(&self) -> Option<u64> {
        self.rates.into_iter().flatten().min()
    }

    /// Whether it is so many times as fast as another one in a direction, as far as both are known.
    fn is_faster(&self, other: &Self, factor: f64) -> bool {
        let mut directions = self.rates.into_iter().zip(other.rates);
        directions.any(|rates| match rates {
            (Some(one), Some(other)) => one as f64 > other as f64 * factor,
            _ => false,
        })
    }
}

/// A relay's place, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Which one, in the order in which they were added.
    pub relay: usize,
    /// Whether it is the chosen one.
    pub chosen: bool,
    /// Whether it can be used at all.
    pub presence: Presence,
    /// Why it has this place, in words.
    pub words: String,
}

/// Chooses among relays. Relays are named by the order in which they were added.
#[derive(Clone, Debug)]
pub struct Choice {
    settings: ChoiceSettings,
    relays: Vec<Relay>,
    chosen: Option<usize>,
    /// Since when it has been chosen; none where it may be left at any time.
    since: Option<Time>,
    /// One that is clearly better, and since when.
    better: Option<(usize, Time)>,
}

impl Choice {
    /// No relays yet.
    #[must_use]
    pub fn new(settings: ChoiceSettings) -> Self {
        Self {
            settings,
            relays: Vec::new(),
            chosen: None,
            since: None,
            better: None,
        }
    }

    /// One more relay, which is not alive yet. Where nothing else tells them apart the one that was added
    /// first comes first.
    pub fn add(&mut self) -> usize {
        self.relays.push(Relay {
            presence: Presence::Away,
            near: None,
            far: None,
            failing: Share::NONE,
            dropping: Share::NONE,
        });
        self.relays.len() - 1
    }

    /// The same relays for a session with a peer of whose paths nothing is known yet. What is learnt of
    /// them may change the choice at once.
    #[must_use]
    pub fn for_session(&self) -> Self {
        let mut new = self.clone();
        new.since = None;
        for relay in &mut new.relays {
            relay.far = None;
        }
        new
    }

    /// Whether a relay can be used just now.
    pub fn set_presence(&mut self, now: Time, relay: usize, presence: Presence) {
        let relay = &mut self.relays[relay];
        if relay.is_alive() && presence == Presence::Away {
            // The path that comes after it may be another one.
            relay.near = None;
        }
        relay.presence = presence;
        self.decide(now);
    }

    /// One side's path to a relay was measured.
    pub fn measured(&mut self, now: Time, relay: usize, side: Side, measured: Measured) {
        let relay = &mut self.relays[relay];
        let half = match side {
            Side::Near => &mut relay.near,
            Side::Far => &mut relay.far,
        };
        match half {
            Some(half) if now.since(half.at()) <= self.settings.stale_after => {
                half.take_in(now, measured);
            }
            _ => *half = Some(Half::first(now, measured)),
        }
        self.decide(now);
    }

    /// The relay to use, if any can be.
    #[must_use]
    pub fn chosen(&self) -> Option<usize> {
        self.chosen
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.decide(now);
    }

    /// Whether a relay can be used.
    #[must_use]
    pub fn presence(&self, relay: usize) -> Presence {
        self.relays[relay].presence
    }

    /// Whether enough is known of a relay to compare it with others.
    #[must_use]
    pub fn is_measured(&self, now: Time, relay: usize) -> bool {
        self.together(now, relay).is_some()
    }

    /// The round trip of our own path to a relay.
    #[must_use]
    pub fn round_trip(&self, now: Time, relay: usize) -> Option<Duration> {
        let near = self.fresh(now, self.relays[relay].near)?;
        Some(Duration::from_secs_f64(near.round_trip()))
    }

    /// So many relays to use: the chosen one, then the next best. One that rests is among them where there is
    /// none else, or where it is clearly better than the last.
    #[must_use]
    pub fn first(&self, now: Time, count: usize) -> Vec<usize> {
        let mut order = self.order(now);
        order.retain(|at| self.relays[*at].presence != Presence::Away);
        let others = order.split_off(count.min(order.len()));
        if let Some(last) = order.last_mut().filter(|last| self.chosen != Some(**last)) {
            let better = others
                .into_iter()
                .find(|at| self.clearly_better(now, *at, *last));
            *last = better.unwrap_or(*last);
        }
        order
    }

    /// Goes over to a relay that is as good, if it is. For those who want to vary the path.
    pub fn go_over(&mut self, now: Time, relay: usize) {
        if self.equals(now).contains(&relay) {
            self.take(now, Some(relay));
        }
    }

    /// The relays that are as good as the chosen one, without it.
    #[must_use]
    pub fn equals(&self, now: Time) -> Vec<usize> {
        let Some(chosen) = self.chosen else {
            return Vec::new();
        };
        let others = (0..self.relays.len()).filter(|at| *at != chosen);
        let is_equal = |at: &usize| {
            self.is_usable(now, *at)
                && self.together(now, *at).is_some()
                && !self.clearly_better(now, chosen, *at)
        };
        others.filter(is_equal).collect()
    }

    /// All relays, the chosen one first, then the next best, those that cannot be used last.
    #[must_use]
    pub fn ranking(&self, now: Time) -> Vec<Ranked> {
        let ranked = self.order(now).into_iter().map(|relay| Ranked {
            relay,
            chosen: self.chosen == Some(relay),
            presence: self.relays[relay].presence,
            words: self.words(now, relay),
        });
        ranked.collect()
    }

    fn order(&self, now: Time) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.relays.len()).collect();
        order.sort_by_key(|at| (self.chosen != Some(*at), self.rank(now, *at)));
        order
    }

    fn decide(&mut self, now: Time) {
        let best = (0..self.relays.len())
            .filter(|at| self.relays[*at].is_alive())
            .min_by_key(|at| self.rank(now, *at));
        let Some(chosen) = self.chosen.filter(|at| self.is_usable(now, *at)) else {
            if best != self.chosen {
                self.take(now, best);
            }
            return;
        };
        let better = best.filter(|best| self.clearly_better(now, *best, chosen));
        self.better = match (better, self.better) {
            (None, _) => None,
            // Whichever it is: what matters is for how long the chosen one has been worse than another.
            (Some(better), Some((_, since))) => Some((better, since)),
            (Some(better), None) => Some((better, now)),
        };
        let Some((better, since)) = self.better else {
            return;
        };
        let dwell = self.dwell(now, better, chosen);
        let dwelt = self.since.is_none_or(|since| now.since(since) >= dwell);
        if now.since(since) >= self.settings.persist && dwelt {
            self.take(now, Some(better));
        }
    }

    fn take(&mut self, now: Time, relay: Option<usize>) {
        self.chosen = relay;
        self.since = Some(now);
        self.better = None;
    }

    /// Whether a relay may be kept: there, and not failing while another one is not.
    fn is_usable(&self, now: Time, at: usize) -> bool {
        let fails = |relay: &Relay| relay.failing(now) >= UNRELIABLE;
        let relay = &self.relays[at];
        relay.is_alive()
            && (!fails(relay) || self.relays.iter().all(|it| !it.is_alive() || fails(it)))
    }

    /// The lower the better; equal for what nobody feels.
    fn rank(&self, now: Time, at: usize) -> (Presence, bool, bool, u64, Reverse<u64>, u64, usize) {
        let relay = &self.relays[at];
        let unreliable = relay.failing(now) >= UNRELIABLE;
        let Some(together) = self.together(now, at) else {
            return (relay.presence, unreliable, true, 0, Reverse(0), 0, at);
        };
        let latency = steps(together.round_trip / UNFELT + 1.0);
        let rate = Reverse(together.rate().map_or(0, |rate| steps(rate as f64 + 1.0)));
        let failing = (together.failing / self.settings.error_margin) as u64;
        (
            relay.presence,
            unreliable,
            false,
            latency,
            rate,
            failing,
            at,
        )
    }

    /// Whether `one` is so much better than `other` that it is worth a move.
    pub(super) fn clearly_better(&self, now: Time, one: usize, other: usize) -> bool {
        if one == other {
            return false;
        }
        let (Some(one), Some(other)) = (self.together(now, one), self.together(now, other)) else {
            // What is not known is no reason.
            return false;
        };
        let ChoiceSettings {
            latency_margin,
            rate_factor,
            error_margin,
            ..
        } = self.settings;
        let faster =
            |one: f64, other: f64| one + UNFELT < other && one < other * (1.0 - latency_margin);
        if faster(one.round_trip, other.round_trip) || faster(other.round_trip, one.round_trip) {
            return one.round_trip < other.round_trip;
        }
        match (
            one.is_faster(&other, rate_factor),
            other.is_faster(&one, rate_factor),
        ) {
            (true, false) => true,
            (false, true) => false,
            // Neither, or each in another direction.
            _ => one.failing + error_margin < other.failing,
        }
    }

    /// How long the chosen one is kept at least, although another one is better.
    fn dwell(&self, now: Time, better: usize, chosen: usize) -> Duration {
        let dwell = self.settings.dwell;
        match self.far_nearer(now, better, chosen) {
            true => dwell / FAR_SOONER,
            false => dwell,
        }
    }

    /// Whether the way by `one` is shorter than that by `other` by far.
    fn far_nearer(&self, now: Time, one: usize, other: usize) -> bool {
        let (Some(one), Some(other)) = (self.together(now, one), self.together(now, other)) else {
            return false;
        };
        let (one, other) = (one.round_trip, other.round_trip);
        one * FAR_FACTOR < other && one + FAR_AT_LEAST < other
    }

    /// A half that is not too old.
    fn fresh(&self, now: Time, half: Option<Half>) -> Option<Half> {
        half.filter(|half| now.since(half.at()) <= self.settings.stale_after)
    }

    /// Both sides of a relay, where ours is known. A far side that is not known counts as the worst that
    /// is, so that not knowing is no advantage.
    fn together(&self, now: Time, at: usize) -> Option<Together> {
        let relay = &self.relays[at];
        let near = relay.near.filter(|near| match relay.presence {
            Presence::Resting => now.since(near.at()) <= self.settings.resting_stale_after,
            _ => now.since(near.at()) <= self.settings.stale_after,
        })?;
        let far = self.fresh(now, relay.far);
        let others = self.relays.iter().filter_map(|it| self.fresh(now, it.far));
        let worst = others.map(|far| far.round_trip()).fold(0.0, f64::max);
        Some(Together {
            round_trip: near.round_trip() + far.map_or(worst, |far| far.round_trip()),
            rates: [near.rate(now), far.and_then(|far| far.rate(now))],
            failing: relay.failing(now),
            far_known: far.is_some(),
        })
    }
}

/// How many steps a quantity of at least 1 is above 1.
fn steps(quantity: f64) -> u64 {
    (quantity.ln() / STEP.ln()) as u64
}

#[cfg(test)]
mod tests;
