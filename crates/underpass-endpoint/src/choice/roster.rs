//! Which relays an agent is attached to. Who publishes is attached to all of them; who only connects, to
//! those that its sessions use and to one more that takes over when one of these dies. The others rest:
//! they are looked at from time to time, and at once when too few are left.

use std::time::Duration;

use rand::{Rng, RngExt as _};
use underpass_proto::Time;

use super::{Choice, Presence};

/// Without enough relays for so long, all are attached to.
const GRACE: Duration = Duration::from_secs(1);
/// After so many times the time of a look a relay that was not reached rests, where there are enough others.
const VAIN_LOOKS: u32 = 3;

/// To how many relays an agent is attached, and how often it looks at the others.
#[derive(Clone, Debug)]
pub struct RosterSettings {
    /// So many at least: one that is used and the others warm.
    pub warm: usize,
    /// Another one is looked at this often on average, each time up to a half earlier or later.
    pub look_every: Duration,
    /// How long a look takes: until a path is known well enough to be compared.
    pub look_for: Duration,
}

impl Default for RosterSettings {
    fn default() -> Self {
        Self {
            warm: 2,
            look_every: Duration::from_secs(600),
            look_for: Duration::from_secs(10),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Wanted { since: Time },
    Resting { until: Time },
}

/// Decides which relays are attached to. They have the numbers that [`Choice`] gives them.
#[derive(Clone, Debug)]
pub struct Roster {
    settings: RosterSettings,
    places: Vec<Place>,
    /// Since when there have been too few.
    short_since: Option<Time>,
}

impl Roster {
    /// No relays yet.
    #[must_use]
    pub fn new(settings: RosterSettings) -> Self {
        Self {
            settings,
            places: Vec::new(),
            short_since: None,
        }
    }

    /// One more relay. The first ones are attached to at once, the others are looked at soon.
    pub fn add(&mut self, now: Time) {
        let place = match self.places.len() < self.settings.warm {
            true => Place::Wanted { since: now },
            false => Place::Resting {
                until: now + self.settings.look_for / 2,
            },
        };
        self.places.push(place);
    }

    /// Whether it is to be attached to.
    #[must_use]
    pub fn is_wanted(&self, relay: usize) -> bool {
        matches!(self.places[relay], Place::Wanted { .. })
    }

    /// Decides anew, from what is known of the relays: `own` without regard to any peer, `sessions` for each
    /// session. True where that changes which are wanted.
    pub fn review(
        &mut self,
        now: Time,
        own: &Choice,
        sessions: &[&Choice],
        rng: &mut impl Rng,
    ) -> bool {
        let alive = |at: &usize| own.presence(*at) == Presence::Alive;
        let there = (0..self.places.len()).filter(alive).count();
        let short = there < self.settings.warm.min(self.places.len());
        self.short_since = short.then(|| self.short_since.unwrap_or(now));
        let all = self
            .short_since
            .is_some_and(|since| now.since(since) >= GRACE);
        let kept = self.kept(now, own, sessions);
        let mut changed = false;
        for relay in 0..self.places.len() {
            let needed = all || kept.contains(&relay);
            let place = &mut self.places[relay];
            match *place {
                Place::Wanted { since } => {
                    let looked = now.since(since);
                    let enough = match own.is_measured(now, relay) {
                        true => self.settings.look_for,
                        false => self.settings.look_for * VAIN_LOOKS,
                    };
                    if !needed && !short && looked >= enough {
                        let pause = self.settings.look_every.mul_f64(rng.random_range(0.5..1.5));
                        *place = Place::Resting { until: now + pause };
                        changed = true;
                    }
                }
                Place::Resting { until } if needed || until <= now => {
                    *place = Place::Wanted { since: now };
                    changed = true;
                }
                Place::Resting { .. } => {}
            }
        }
        changed
    }

    /// What is used, and what takes over.
    fn kept(&self, now: Time, own: &Choice, sessions: &[&Choice]) -> Vec<usize> {
        let mut kept = Vec::new();
        let only_own = [own];
        let choices = if sessions.is_empty() {
            &only_own[..]
        } else {
            sessions
        };
        for choice in choices {
            kept.extend(choice.first(now, self.settings.warm));
        }
        kept
    }
}
