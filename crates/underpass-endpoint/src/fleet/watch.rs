//! Looking at the paths to all relays, and telling peers of them.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use underpass_proto::frame::Hop;
use underpass_proto::packet::SessionId;
use underpass_proto::session::LegId;
use underpass_proto::varint::VARINT_MAX;

use super::follow::Followed;
use super::{Fleet, Inner, Member};
use crate::attachment::Attachment;
use crate::choice::{Choice, Measured, Presence, Side, Telling};
use crate::clock;
use crate::session::{LegSeen, Session};

/// How often the path to each relay is looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// A path is measured once in so many looks.
const ASK_AT: u32 = 3;
/// So many bytes between two looks may stand in a queue that makes the round trip longer.
const FULL: u64 = 256 << 10;

fn looks() -> Interval {
    let mut looks = interval(LOOK_AFTER);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Whether a relay that is attached to can be used.
pub(super) fn presence(attachment: &Attachment) -> Presence {
    match attachment.present_link() {
        Some(_) if !attachment.session().is_in_doubt() => Presence::Alive,
        _ => Presence::Away,
    }
}

/// What was seen of a path at the last look.
#[derive(Default)]
struct Seen {
    round_trips: u64,
    passed: u64,
    looks: u32,
}

impl Seen {
    /// What was measured since then, if anything was.
    fn look(&mut self, attachment: &Attachment) -> Option<Measured> {
        let link = attachment.present_link()?;
        self.looks += 1;
        if self.looks.is_multiple_of(ASK_AT) {
            link.ask();
        }
        let passed = link.passed();
        let full = passed.saturating_sub(self.passed) >= FULL;
        self.passed = passed;
        let (number, round_trip) = attachment.session().last_round_trip()?;
        (std::mem::replace(&mut self.round_trips, number) != number).then_some(Measured {
            round_trip,
            // The session with the relay carries next to nothing, and so tells nothing of the rate.
            rate: 0,
            full,
        })
    }
}

/// Tells the fleet how one of its attachments is, until that ends.
pub(super) async fn member(fleet: Fleet, relay: usize, attachment: Attachment) {
    let mut links = attachment.links();
    let mut looks = looks();
    let mut seen = Seen::default();
    let mut was = None;
    loop {
        let is = presence(&attachment);
        if was.replace(is) != Some(is) {
            fleet.is_present(relay, &attachment, is);
        }
        tokio::select! {
            biased;
            ended = attachment.ended() => return fleet.has_ended(relay, &attachment, ended),
            // Also where one link took the place of another: sessions go over to it.
            _ = links.changed() => fleet.changed(),
            _ = looks.tick() => fleet.looked(relay, seen.look(&attachment)),
        }
    }
}

impl Fleet {
    /// How an attachment is, which may have been let rest, or have been replaced, meanwhile: then what it was like is
    /// nobody's concern.
    fn is_present(&self, relay: usize, attachment: &Attachment, presence: Presence) {
        self.decide(|state, now| {
            if state.members[relay].is_by(attachment) {
                state.members[relay].presence = presence;
                state.show_presence(now);
            }
        });
        self.changed();
    }

    fn has_ended(&self, relay: usize, attachment: &Attachment, why: crate::AttachError) {
        let mut state = self.lock();
        let member = &mut state.members[relay];
        if !member.is_by(attachment) {
            return;
        }
        member.ended = Some(why);
        drop(state);
        self.set_presence(relay, Presence::Away);
    }

    fn looked(&self, relay: usize, measured: Option<Measured>) {
        self.decide(|state, now| {
            state.for_each_choice(|choice| match measured {
                Some(measured) => choice.measured(now, relay, Side::Near, measured),
                None => choice.handle_timeout(now),
            });
        });
    }

    /// Takes in what the legs of sessions were seen to carry: how much, where there was more, and what of it was
    /// dropped.
    fn take_in_legs(&self, before: &mut HashMap<(SessionId, LegId), Sent>) {
        let sessions: Vec<Session> = {
            let state = self.lock();
            let followed = state.followed.values();
            followed.map(|followed| followed.session.clone()).collect()
        };
        let mut sent = HashMap::with_capacity(before.len());
        for session in sessions {
            for seen in session.seen_of_legs() {
                let of_leg = (session.id(), seen.leg);
                let news = Sent::of(&seen).since(before.get(&of_leg));
                sent.insert(of_leg, Sent::of(&seen));
                self.take_in_leg(&session, &seen, news);
            }
        }
        *before = sent;
    }

    fn take_in_leg(&self, session: &Session, seen: &LegSeen, news: Sent) {
        self.decide(|state, now| {
            let named = |member: &Member| member.name == seen.relay;
            let Some(relay) = state.members.iter().position(named) else {
                return;
            };
            if let Some(Followed { choice, .. }) = state.followed.get_mut(&session.id()) {
                if let Some(rate) = seen.full_rate {
                    choice.delivered(now, relay, rate);
                }
                choice.dropped(now, relay, news.packets, news.dropped);
            }
        });
    }

    /// Looks at the whole: who is attached to, and which session varies its path.
    fn review(&self) {
        let mut rng = rand::rng();
        let changed = self.decide(|state, now| {
            for followed in state.followed.values_mut() {
                let choice = &followed.choice;
                let vary = followed.vary.as_mut();
                if let Some(relay) = vary.and_then(|vary| vary.pick(now, choice, &mut rng)) {
                    followed.choice.go_over(now, relay);
                }
            }
            let Some(roster) = &mut state.roster else {
                return false;
            };
            let sessions: Vec<&Choice> = state.followed.values().map(|it| &it.choice).collect();
            roster.review(now, &state.choice, &sessions, &mut rng)
        });
        if changed {
            self.changed();
        }
    }

    /// Tells the peers who opened sessions to this agent how its paths are.
    fn tell(&self, told: &mut HashMap<SessionId, Telling>) {
        let sessions = self.inner.sessions.opened_by_others();
        told.retain(|id, _| sessions.iter().any(|session| session.id() == *id));
        let paths = self.paths();
        // Where there is but one there is nothing to choose.
        if paths.len() < 2 {
            return;
        }
        for session in sessions {
            let told = told.entry(session.id()).or_default();
            let legs = session.seen_of_legs();
            for path in &paths {
                if !told.tell(clock::now(), path.relay, path.round_trip) {
                    continue;
                }
                let round_trip_us = u64::try_from(path.round_trip.as_micros());
                let mut through = legs.iter().filter(|leg| leg.relay == path.name);
                session.tell_of_hop(Hop {
                    relay: path.relay,
                    round_trip_us: round_trip_us.map_or(VARINT_MAX, |us| us.min(VARINT_MAX)),
                    rate: through.find_map(|leg| leg.full_rate).unwrap_or(0),
                });
            }
        }
    }

    /// The paths that there are and that were measured.
    fn paths(&self) -> Vec<OwnPath> {
        let now = clock::now();
        let state = self.lock();
        let members = state.members.iter().enumerate();
        let alive = members.filter(|(at, _)| state.choice.presence(*at) == Presence::Alive);
        let paths = alive.filter_map(|(at, member)| {
            Some(OwnPath {
                relay: member.key?,
                name: member.name.clone(),
                round_trip: state.choice.round_trip(now, at)?,
            })
        });
        paths.collect()
    }
}

/// How our path to one relay is.
struct OwnPath {
    /// The fingerprint of the relay's key.
    relay: [u8; 32],
    name: String,
    round_trip: Duration,
}

/// What was sent on a leg.
#[derive(Clone, Copy)]
struct Sent {
    packets: u64,
    dropped: u64,
}

impl Sent {
    fn of(seen: &LegSeen) -> Self {
        Self {
            packets: seen.packets,
            dropped: seen.dropped,
        }
    }

    fn since(self, before: Option<&Self>) -> Self {
        Self {
            packets: self.packets - before.map_or(0, |it| it.packets),
            dropped: self.dropped - before.map_or(0, |it| it.dropped),
        }
    }
}

/// Reviews a fleet for as long as somebody uses it.
pub(super) async fn review(fleet: Weak<Inner>) {
    let mut looks = looks();
    let mut told = HashMap::new();
    let mut sent = HashMap::new();
    loop {
        looks.tick().await;
        let Some(inner) = fleet.upgrade() else {
            return;
        };
        let fleet = Fleet { inner };
        fleet.take_in_legs(&mut sent);
        fleet.review();
        fleet.tell(&mut told);
    }
}
