//! Which of several relays carries what: pure, from what was measured of both sides.
//!
//! Latency counts first, then throughput, then how often something fails. What is only a little better
//! changes nothing: a relay is left for a better one when that is clearly better, has been for a while,
//! and the last change is some time ago. One that is gone is left at once.

use std::cmp::Reverse;
use std::time::Duration;

use underpass_proto::Time;

/// Part of a new measurement in the smoothed one.
const NEW_PART: f64 = 0.1;
/// Part of a new outcome in the share of failures.
const OUTCOME_PART: f64 = 0.2;
/// A relay at which this share fails comes after all that work.
const UNRELIABLE: f64 = 0.5;
/// After this many seconds a failure weighs half as much.
const FORGOTTEN_BY_HALF: f64 = 60.0;
/// What nobody feels, in seconds of a round trip.
const UNFELT: f64 = 0.005;
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
            latency_margin: 0.2,
            rate_factor: 1.5,
            error_margin: 0.15,
        }
    }
}

/// Whose path to the relay was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Near,
    /// The peer's.
    Far,
}

/// One measurement of one side's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Round trip to the relay.
    pub round_trip: Duration,
    /// Bytes per second that the path was seen to deliver; 0 where that is not known.
    pub rate: u64,
}

/// What is known of one side of a relay.
#[derive(Clone, Copy, Debug)]
struct Half {
    /// Seconds.
    round_trip: f64,
    rate: u64,
    at: Time,
}

#[derive(Clone, Debug)]
struct Relay {
    alive: bool,
    near: Option<Half>,
    far: Option<Half>,
    /// Share of attempts that failed lately, and when that was so.
    failing: (f64, Time),
}

impl Relay {
    /// The share of attempts that fail, as far as that is still known.
    fn failing(&self, now: Time) -> f64 {
        let (failing, at) = self.failing;
        failing * 0.5_f64.powf(now.since(at).as_secs_f64() / FORGOTTEN_BY_HALF)
    }
}

/// Both sides of one relay together, as far as they are known.
#[derive(Clone, Copy, Debug)]
struct Together {
    /// Seconds.
    round_trip: f64,
    rate: Option<u64>,
    failing: f64,
    far_known: bool,
}

/// A relay's place, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Which one, in the order in which they were added.
    pub relay: usize,
    /// Whether it is the chosen one.
    pub chosen: bool,
    /// Whether it can be used at all.
    pub alive: bool,
    /// Why it has this place, in words.
    pub words: String,
}

/// Chooses among relays. Relays are named by the order in which they were added.
#[derive(Clone, Debug)]
pub struct Choice {
    settings: ChoiceSettings,
    relays: Vec<Relay>,
    chosen: Option<usize>,
    /// Since when it has been chosen.
    since: Time,
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
            since: Time::ZERO,
            better: None,
        }
    }

    /// One more relay, which is not alive yet. Where nothing else tells them apart the one that was added
    /// first comes first.
    pub fn add(&mut self) -> usize {
        self.relays.push(Relay {
            alive: false,
            near: None,
            far: None,
            failing: (0.0, Time::ZERO),
        });
        self.relays.len() - 1
    }

    /// Whether a relay can be used just now.
    pub fn set_alive(&mut self, now: Time, relay: usize, alive: bool) {
        let relay = &mut self.relays[relay];
        if relay.alive && !alive {
            // The path that comes after it may be another one.
            relay.near = None;
        }
        relay.alive = alive;
        self.decide(now);
    }

    /// One side's path to a relay was measured.
    pub fn measured(&mut self, now: Time, relay: usize, side: Side, measured: Measured) {
        let relay = &mut self.relays[relay];
        let half = match side {
            Side::Near => &mut relay.near,
            Side::Far => &mut relay.far,
        };
        let new = measured.round_trip.as_secs_f64();
        let old = half.filter(|half| now.since(half.at) <= self.settings.stale_after);
        let (round_trip, rate) = match old {
            None => (new, measured.rate),
            Some(old) => {
                let smoothed = old.round_trip + NEW_PART * (new - old.round_trip);
                // A path that was idle tells nothing of its rate.
                let rate = if measured.rate == 0 {
                    old.rate
                } else {
                    measured.rate
                };
                (smoothed, rate)
            }
        };
        *half = Some(Half {
            round_trip,
            rate,
            at: now,
        });
        self.decide(now);
    }

    /// Whether something that was tried through a relay worked.
    pub fn outcome(&mut self, now: Time, relay: usize, worked: bool) {
        let relay = &mut self.relays[relay];
        let outcome = if worked { 0.0 } else { 1.0 };
        let failing = relay.failing(now);
        relay.failing = (failing + OUTCOME_PART * (outcome - failing), now);
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

    /// All relays, the chosen one first, then the next best, those that cannot be used last.
    #[must_use]
    pub fn ranking(&self, now: Time) -> Vec<Ranked> {
        let mut order: Vec<usize> = (0..self.relays.len()).collect();
        order.sort_by_key(|at| (self.chosen != Some(*at), self.rank(now, *at)));
        let ranked = order.into_iter().map(|relay| Ranked {
            relay,
            chosen: self.chosen == Some(relay),
            alive: self.relays[relay].alive,
            words: self.words(now, relay),
        });
        ranked.collect()
    }

    fn decide(&mut self, now: Time) {
        let best = (0..self.relays.len())
            .filter(|at| self.relays[*at].alive)
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
        let ChoiceSettings { dwell, persist, .. } = self.settings;
        if now.since(since) >= persist && now.since(self.since) >= dwell {
            self.take(now, Some(better));
        }
    }

    fn take(&mut self, now: Time, relay: Option<usize>) {
        self.chosen = relay;
        self.since = now;
        self.better = None;
    }

    /// Whether a relay may be kept: there, and not failing while another one is not.
    fn is_usable(&self, now: Time, at: usize) -> bool {
        let fails = |relay: &Relay| relay.failing(now) >= UNRELIABLE;
        let relay = &self.relays[at];
        relay.alive && (!fails(relay) || self.relays.iter().all(|it| !it.alive || fails(it)))
    }

    /// The lower the better; equal for what nobody feels.
    fn rank(&self, now: Time, at: usize) -> (bool, bool, bool, u64, Reverse<u64>, u64, usize) {
        let relay = &self.relays[at];
        let unreliable = relay.failing(now) >= UNRELIABLE;
        let Some(together) = self.together(now, at) else {
            return (!relay.alive, unreliable, true, 0, Reverse(0), 0, at);
        };
        let latency = steps(together.round_trip / UNFELT + 1.0);
        let rate = Reverse(together.rate.map_or(0, |rate| steps(rate as f64 + 1.0)));
        let failing = (together.failing / self.settings.error_margin) as u64;
        (!relay.alive, unreliable, false, latency, rate, failing, at)
    }

    fn clearly_better(&self, now: Time, one: usize, other: usize) -> bool {
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
        if let (Some(a), Some(b)) = (one.rate, other.rate) {
            let (a, b) = (a as f64, b as f64);
            if a > b * rate_factor || b > a * rate_factor {
                return a > b;
            }
        }
        one.failing + error_margin < other.failing
    }

    /// A half that is not too old.
    fn fresh(&self, now: Time, half: Option<Half>) -> Option<Half> {
        half.filter(|half| now.since(half.at) <= self.settings.stale_after)
    }

    /// Both sides of a relay, where ours is known. A far side that is not known counts as the worst that
    /// is, so that not knowing is no advantage.
    fn together(&self, now: Time, at: usize) -> Option<Together> {
        let relay = &self.relays[at];
        let near = self.fresh(now, relay.near)?;
        let far = self.fresh(now, relay.far);
        let others = self.relays.iter().filter_map(|it| self.fresh(now, it.far));
        let worst = others.map(|far| far.round_trip).fold(0.0, f64::max);
        let rates = [near.rate, far.map_or(0, |far| far.rate)];
        Some(Together {
            round_trip: near.round_trip + far.map_or(worst, |far| far.round_trip),
            rate: rates.into_iter().filter(|rate| *rate > 0).min(),
            failing: relay.failing(now),
            far_known: far.is_some(),
        })
    }

    fn words(&self, now: Time, at: usize) -> String {
        let relay = &self.relays[at];
        if !relay.alive {
            return "not reached".into();
        }
        let Some(together) = self.together(now, at) else {
            let in_use = if self.chosen == Some(at) {
                "; in use"
            } else {
                ""
            };
            return format!("not measured yet{in_use}");
        };
        let to = if together.far_known {
            "to the far end and back"
        } else {
            "to the relay and back"
        };
        let mut words = format!("{:.1} ms {to}", together.round_trip * 1e3);
        if let Some(rate) = together.rate {
            words += &format!(", {rate} B/s");
        }
        if together.failing >= self.settings.error_margin {
            words += &format!(", {:.0} % of attempts fail", together.failing * 1e2);
        }
        match self.chosen {
            Some(chosen) if chosen == at => words += "; in use",
            Some(chosen) => words += &self.compared(now, at, chosen),
            None => {}
        }
        words
    }

    /// Why another one than the chosen one is not chosen.
    fn compared(&self, now: Time, at: usize, chosen: usize) -> String {
        if self.clearly_better(now, at, chosen) {
            let since = self.better.map_or(now, |(_, since)| since);
            let ChoiceSettings { dwell, persist, .. } = self.settings;
            let wait = persist.saturating_sub(now.since(since));
            let wait = wait.max(dwell.saturating_sub(now.since(self.since)));
            return format!("; better, taken in {} s if it stays so", wait.as_secs() + 1);
        }
        if self.clearly_better(now, chosen, at) || self.relays[at].failing(now) >= UNRELIABLE {
            return "; worse than the one in use".into();
        }
        "; as good as the one in use".into()
    }
}

/// How many steps a quantity of at least 1 is above 1.
fn steps(quantity: f64) -> u64 {
    (quantity.ln() / STEP.ln()) as u64
}

#[cfg(test)]
mod tests;
