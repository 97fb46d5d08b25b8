//! Which leg gets what, where several carry the session at once.
//!
//! One of them *leads*: the one with the shortest round trip among those that are fit. What must not
//! wait (control, acknowledgements, interactive channels, datagrams) goes on it alone, and so does
//! everything else while it has room. Only what it has no room for is spread over the others, each
//! as far as its own window goes: so a session that a single leg can carry is as quick as that leg,
//! and one that is limited by it gets the sum. A leg that is much slower takes only from channels
//! with much to send, since their readers wait for its bytes before those that come after them.

use std::time::Duration;

use smallvec::SmallVec;

use super::leg::Fitness;
use super::{LegId, Session, State};
use crate::time::Time;

/// Another leg leads when its round trip is shorter by this, or by a quarter of the old one's.
const FASTER: Duration = Duration::from_millis(2);
/// A leg leads for so long at least while it is fit.
const LEAD: Duration = Duration::from_secs(1);
/// Records under way at once on the legs that do not lead. Each may be a gap in what arrived: so all
/// gaps fit one ACK frame.
const MAX_ASIDE: usize = 240;
/// A leg whose round trip is longer than twice the lead's and this is much slower.
const MUCH_SLOWER: Duration = Duration::from_millis(10);
/// So many bytes wait in a channel with much to send.
pub(super) const MUCH: usize = 64 * 1024;

/// What a session knows of one of its legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegInfo {
    /// The leg.
    pub leg: LegId,
    /// What must not wait goes on it.
    pub leads: bool,
    /// This side sends on it, as far as there is something for it.
    pub sends: bool,
    /// The peer may send on it.
    pub takes: bool,
    /// It does not answer.
    pub suspect: bool,
    /// Its smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// Bytes per second that it was seen to deliver; zero before that was measured.
    pub rate: u64,
    /// There is more to send than it takes: so many are what it carries.
    pub full: bool,
    /// Packets sent on it.
    pub packets: u64,
    /// Those of them that a relay said it dropped.
    pub dropped: u64,
    /// Bytes sent on it and not acknowledged.
    pub under_way: u64,
}

/// What a leg may take at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Everything.
    All,
    /// Data of channels that are not interactive.
    Spread,
    /// The same, of channels where much waits and whose peer takes so many bytes more: what the lead
    /// brings before this leg's bytes are there has to wait for them.
    Much {
        /// In bytes.
        ahead: u64,
    },
    /// Nothing that another leg can take.
    Nothing,
}

impl Session {
    /// This side's policy for a leg: a *spare* one gets nothing to send while another leg that is not
    /// spare is fit; what comes in on it is welcome. By this each side can send on a way of its own.
    pub fn set_spare(&mut self, now: Time, leg: LegId, spare: bool) {
        if let Some(state) = self.legs.get_mut(&leg) {
            state.spare = spare;
            self.review_legs(now);
        }
    }

    /// The leg on which whatever must not wait goes out; none while no leg carries the session.
    #[must_use]
    pub fn lead(&self) -> Option<LegId> {
        self.active_leg().map(|(leg, _)| leg)
    }

    /// What is known of each leg that carries the session.
    pub fn active_legs(&self) -> impl Iterator<Item = LegInfo> + '_ {
        let lead = self.lead();
        let active = self.legs.iter().filter(|(_, leg)| leg.is_active());
        let split = self.several && self.splits_ways();
        active.map(move |(id, leg)| LegInfo {
            leg: *id,
            leads: lead == Some(*id),
            sends: !(self.several && leg.spare) || lead == Some(*id),
            takes: !split || leg.spare,
            suspect: leg.is_suspect(),
            rtt: leg.path.measured_rtt(),
            rate: leg.path.rate(),
            full: leg.path.is_limited(),
            packets: leg.packets,
            dropped: leg.dropped,
            under_way: self.replay.under_way(*id),
        })
    }

    /// Looks anew at which leg leads, after anything about them has changed. What is under way on one
    /// that is in doubt goes out again where another is fit: doubles are harmless, waiting is not.
    pub(super) fn review_legs(&mut self, now: Time) {
        self.split_legs();
        let mut best = None;
        let mut active = 0;
        for (id, leg) in self.legs.iter().filter(|(_, leg)| leg.is_active()) {
            active += 1;
            let rank = (leg.fitness(), leg.path.rtt(), *id);
            best = Some(best.map_or(rank, |old: (Fitness, Duration, LegId)| old.min(rank)));
        }
        self.several = active > 1;
        let Some((fitness, rtt, best)) = best.filter(|_| self.several) else {
            self.lead = None;
            self.set_aside();
            return;
        };
        let stays = self.lead.is_some_and(|(lead, since)| {
            self.legs.get(&lead).is_some_and(|leg| {
                let old = leg.path.rtt();
                let faster = rtt + FASTER.max(old / 4) < old;
                leg.is_active() && leg.fitness() == fitness && !(faster && now.since(since) >= LEAD)
            })
        });
        if !stays {
            self.lead = Some((best, now));
        }
        self.set_aside();
        if fitness < Fitness::InDoubt {
            self.leave_doubtful();
        }
    }

    /// Tells the paths of all legs but the one that leads that another does.
    fn set_aside(&mut self) {
        for (id, leg) in &mut self.legs {
            let aside = self.lead.is_some_and(|(lead, _)| lead != *id);
            leg.path.set_aside(aside);
        }
    }

    fn leave_doubtful(&mut self) {
        let doubtful: SmallVec<[LegId; 2]> = self
            .legs
            .iter()
            .filter(|(_, leg)| leg.is_active() && leg.fitness() == Fitness::InDoubt)
            .map(|(id, _)| *id)
            .collect();
        for leg in doubtful {
            self.replay.doubted(leg);
        }
    }

    /// Whether acknowledgements and datagrams go out on this leg.
    pub(super) fn speaks(&self, leg: LegId) -> bool {
        if !self.several || self.state != State::Open {
            return true;
        }
        self.lead.is_none_or(|(lead, _)| {
            // Where no leg is fit, whatever gets through helps.
            lead == leg || !self.is_fit(lead)
        })
    }

    fn is_fit(&self, leg: LegId) -> bool {
        self.legs
            .get(&leg)
            .is_some_and(|leg| leg.fitness() < Fitness::InDoubt)
    }

    /// What this leg may take of what waits.
    pub(super) fn load(&self, leg: LegId) -> Load {
        if self.speaks(leg) {
            return Load::All;
        }
        let (Some(state), Some((lead, _))) = (self.legs.get(&leg), self.lead) else {
            return Load::Nothing;
        };
        let Some(first) = self.legs.get(&lead) else {
            return Load::Nothing;
        };
        let waits = first.hungry
            && self.replay.under_way(lead) + first.path.record_target() as u64
                <= first.path.window();
        if waits || state.fitness() > first.fitness() || self.aside(lead) >= MAX_ASIDE {
            return Load::Nothing;
        }
        if state.path.rtt() > first.path.rtt() * 2 + MUCH_SLOWER {
            let ahead = first.path.rate_for(state.path.rtt());
            Load::Much { ahead }
        } else {
            Load::Spread
        }
    }

    /// Records under way on the legs that do not lead.
    fn aside(&self, lead: LegId) -> usize {
        let others = self.legs.keys().filter(|id| **id != lead);
        others.map(|id| self.replay.records_under_way(*id)).sum()
    }

    /// The longest round trip of all legs: after so long what was lost on one can be there again.
    pub(super) fn longest_rtt(&self) -> Duration {
        let active = self.legs.values().filter(|leg| leg.is_active());
        active
            .filter_map(|leg| leg.path.measured_rtt())
            .max()
            .unwrap_or_default()
    }
}
