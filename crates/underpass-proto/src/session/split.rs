//! Each direction of a session on legs of its own, where one of the two ends asks for that.
//!
//! The initiator sends on one leg and stays with it for as long as it carries the session. The responder
//! sends on all but the one on which most came in lately. So only one of the two goes by what the other
//! does, and nothing goes to and fro. While a direction has no leg of its own that is fit, any other will do.

use std::time::Duration;

use smallvec::SmallVec;

use super::leg::{Fitness, Leg};
use super::{LegId, Session};
use crate::params::Params;
use crate::role::Role;
use crate::time::Time;

/// What came in lately: so many records without questions about the leg itself and answers to them.
const LATELY: u32 = 64;
/// On another leg there must have been twice as many, and so many more.
const MARGIN: u32 = 8;

/// Which leg has which direction.
#[derive(Debug)]
pub(super) struct Split {
    role: Role,
    /// The leg on which the initiator sends, as far as this side knows.
    outward: Option<LegId>,
    /// Records that came in lately on each leg.
    came: SmallVec<[(LegId, u32); 4]>,
}

impl Split {
    /// None where neither end asks for it.
    pub(super) fn new(role: Role, own: &Params, peer: &Params) -> Option<Self> {
        (own.split_ways || peer.split_ways).then(|| Self {
            role,
            outward: None,
            came: SmallVec::new(),
        })
    }

    /// A record came in on `leg`. Whether the initiator seems to have gone over to that one.
    fn came_in(&mut self, leg: LegId) -> bool {
        match self.came.iter_mut().find(|(id, _)| *id == leg) {
            Some((_, count)) => *count += 1,
            None => self.came.push((leg, 1)),
        }
        if self.came.iter().map(|(_, count)| count).sum::<u32>() > LATELY {
            self.came.iter_mut().for_each(|(_, count)| *count /= 2);
        }
        let here = self.count(Some(leg));
        let went = self.role == Role::Responder
            && self.outward != Some(leg)
            && here > 2 * self.count(self.outward) + MARGIN;
        if went {
            self.outward = Some(leg);
        }
        went
    }

    fn count(&self, leg: Option<LegId>) -> u32 {
        let found = self.came.iter().find(|(id, _)| Some(*id) == leg);
        found.map_or(0, |(_, count)| *count)
    }

    /// These legs carry the session now.
    fn review<'a>(&mut self, active: impl Iterator<Item = (LegId, &'a Leg)> + Clone) {
        self.came
            .retain(|(leg, _)| active.clone().any(|(id, _)| id == *leg));
        if active.clone().any(|(id, _)| Some(id) == self.outward) {
            return;
        }
        self.outward = match self.role {
            Role::Initiator => active.min_by_key(quickest).map(|(id, _)| id),
            Role::Responder => {
                let most = active.max_by_key(|(id, _)| (self.count(Some(*id)), *id));
                most.map(|(id, _)| id)
            }
        };
    }

    /// Whether this side leaves the leg to the other one.
    fn spares(&self, leg: LegId) -> bool {
        (self.outward == Some(leg)) == (self.role == Role::Responder)
    }
}

/// The fittest legs first, of these the one with the shortest round trip. One that is spare now may not be so
/// any more.
fn quickest((id, leg): &(LegId, &Leg)) -> (Fitness, Duration, LegId) {
    let fitness = match leg.fitness() {
        Fitness::Spare => Fitness::Fit,
        fitness => fitness,
    };
    (fitness, leg.path.rtt(), *id)
}

impl Session {
    /// Whether each direction is to have legs of its own: one of the two ends asked for it.
    #[must_use]
    pub fn splits_ways(&self) -> bool {
        self.split.is_some()
    }

    /// Leaves legs to the peer's direction.
    pub(super) fn split_legs(&mut self) {
        let Some(split) = &mut self.split else {
            return;
        };
        let active = self.legs.iter().filter(|(_, leg)| leg.is_active());
        split.review(active.map(|(id, leg)| (*id, leg)));
        for (id, leg) in &mut self.legs {
            leg.spare = split.spares(*id);
        }
    }

    /// A record came in that neither asks how the leg is nor tells.
    pub(super) fn came_in(&mut self, now: Time, leg: LegId) {
        let split = self.split.as_mut();
        if self.several && split.is_some_and(|split| split.came_in(leg)) {
            self.review_legs(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::leg::LegState;
    use super::*;

    const ONE: LegId = LegId(1);
    const TWO: LegId = LegId(2);
    const THREE: LegId = LegId(3);

    fn split(role: Role) -> Split {
        let asks = Params {
            split_ways: true,
            ..Params::default()
        };
        let (own, peer) = (Params::default(), Params::default());
        assert!(Split::new(role, &own, &peer).is_none());
        assert!(Split::new(role, &asks, &peer).is_some());
        Split::new(role, &own, &asks).expect("one that asks is enough")
    }

    /// Legs that answer, by their round trips in milliseconds.
    fn legs(trips: &[(LegId, u64)]) -> Vec<(LegId, Leg)> {
        let leg = |trip: u64| {
            let mut leg = Leg::new(LegState::Active, 0, Time::ZERO);
            leg.path.on_rtt(Duration::from_millis(trip));
            leg.answered(Time::ZERO);
            leg
        };
        trips.iter().map(|(id, trip)| (*id, leg(*trip))).collect()
    }

    fn review(split: &mut Split, trips: &[(LegId, u64)]) -> Vec<LegId> {
        let legs = legs(trips);
        split.review(legs.iter().map(|(id, leg)| (*id, leg)));
        let ids = trips.iter().map(|(id, _)| *id);
        ids.filter(|id| split.spares(*id)).collect()
    }

    #[test]
    fn the_initiator_sends_on_one_leg_for_as_long_as_it_lasts() {
        let mut split = split(Role::Initiator);
        assert_eq!(review(&mut split, &[(ONE, 50)]), []);
        assert_eq!(review(&mut split, &[(ONE, 50), (TWO, 10)]), [TWO]);
        for _ in 0..1000 {
            assert!(!split.came_in(TWO), "it does not go by what comes in");
        }
        let all = [(ONE, 50), (TWO, 30), (THREE, 10)];
        assert_eq!(review(&mut split, &all), [TWO, THREE]);
        assert_eq!(
            review(&mut split, &all[1..]),
            [TWO],
            "then the quickest leg is"
        );
    }

    #[test]
    fn the_responder_leaves_the_leg_on_which_most_comes_in() {
        let mut split = split(Role::Responder);
        assert_eq!(review(&mut split, &[(ONE, 10)]), [ONE]);
        let both = [(ONE, 10), (TWO, 10)];
        assert_eq!(review(&mut split, &both), [ONE]);
        for _ in 0..100 {
            assert!(!split.came_in(ONE));
            assert!(!split.came_in(TWO), "as much is not more");
        }
        let went = (0..LATELY).position(|_| split.came_in(TWO));
        assert!(went.is_some_and(|records| records > 8), "{went:?}");
        assert_eq!(review(&mut split, &both), [TWO]);
        let all = [(ONE, 10), (TWO, 10), (THREE, 10)];
        assert_eq!(review(&mut split, &all), [TWO]);
        for _ in 0..3 {
            split.came_in(ONE);
        }
        let left = [(ONE, 10), (THREE, 10)];
        assert_eq!(review(&mut split, &left), [ONE], "what came in is known");
    }
}
