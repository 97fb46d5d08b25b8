//! Legs of a session: how they come, take over and go.

use bytes::Bytes;
use rand_core::CryptoRng;
use smallvec::SmallVec;

use super::leg::{Leg, LegState};
use super::receive::Broken;
use super::resume::LegNames;
use super::resume::Refusal;
use super::{Event, LegError, LegId, Resumption, Session, State};
use crate::code;
use crate::frame::Frame;
use crate::packet::{Confirm, Packet, Resume, Resumed};
use crate::time::Time;

/// Legs that wait for CONFIRM.
const MAX_RESUMING: usize = 8;

impl Session {
    /// Begins to resume on a new leg, which is to take the place of all others: the request comes out
    /// of [`Session::poll_transmit`]. Only the initiator resumes; false where nothing can be resumed.
    pub fn start_resume(&mut self, now: Time, leg: LegId, rng: &mut impl CryptoRng) -> bool {
        self.resume(now, leg, LegNames::new(), rng)
    }

    /// The same for a leg that is to carry the session beside the others, except for `instead`, whose
    /// place it takes. False, too, where the two ends do not let so many legs carry a session, or no
    /// leg is there to be beside.
    pub fn start_beside(
        &mut self,
        now: Time,
        leg: LegId,
        instead: Option<LegId>,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let others = self.resumption.standing().names(instead);
        if others.is_empty() || others.len() >= self.max_legs() {
            return false;
        }
        self.resume(now, leg, others, rng)
    }

    fn resume(
        &mut self,
        now: Time,
        leg: LegId,
        beside: LegNames,
        rng: &mut impl CryptoRng,
    ) -> bool {
        if self.state == State::Closed {
            return false;
        }
        let received = self.received.acknowledgements(now);
        let Resumption::Near(near) = &mut self.resumption else {
            return false;
        };
        let request = near.request(self.id, leg, beside, received, rng);
        let mut state = Leg::new(LegState::Resuming, 0, now);
        state.first.push_back(whole(&request.to_packet()));
        self.legs.insert(leg, state);
        true
    }

    /// A leg broke, or the driver gave it up.
    pub fn leg_lost(&mut self, now: Time, leg: LegId) {
        if self.legs.contains_key(&leg) {
            self.forget_leg(leg);
            self.review_legs(now);
            self.note_detached(now);
        }
    }

    /// A relay dropped packets that this side sent on a leg: `count` of them from the index `first`
    /// on, counted over all packets that [`Session::poll_transmit`] (and the handshake) gave for it.
    pub fn handle_dropped(&mut self, now: Time, leg: LegId, first: u64, count: u64) {
        if let Some(state) = self.legs.get_mut(&leg) {
            state.dropped(first, count, now);
            self.replay.dropped(leg, first, count);
            // An acknowledgement may have been among them.
            self.received.repeat(now);
        }
    }

    /// Asks whether a leg still answers: its driver saw a silence that it did not expect.
    pub fn ping(&mut self, now: Time, leg: LegId) {
        if let Some(state) = self.legs.get_mut(&leg).filter(|leg| leg.is_active()) {
            state.owe_ping(now);
        }
    }

    /// Whether a leg carries the session at this time.
    #[must_use]
    pub fn is_active(&self, leg: LegId) -> bool {
        self.legs.get(&leg).is_some_and(Leg::is_active)
    }

    /// The leg that leads, or the only one.
    pub(super) fn active_leg(&self) -> Option<(LegId, &Leg)> {
        if let Some((lead, _)) = self.lead {
            return self.legs.get(&lead).map(|leg| (lead, leg));
        }
        self.legs
            .iter()
            .rev()
            .find(|(_, leg)| leg.is_active())
            .map(|(id, leg)| (*id, leg))
    }

    pub(super) fn add_active_leg(&mut self, leg: LegId, packets: u64, now: Time) {
        let mut state = Leg::new(LegState::Active, packets, now);
        // The responder's first sealed packet shows the initiator that the session stands.
        state.owe_ping(now);
        self.legs.insert(leg, state);
        self.events.push_back(Event::LegActive { leg });
    }

    /// Responder: the initiator asks to resume on `leg`.
    pub(super) fn handle_resume(
        &mut self,
        now: Time,
        leg: LegId,
        request: &Resume,
        rng: &mut impl CryptoRng,
    ) -> Result<(), LegError> {
        if request.session != self.id {
            return Err(LegError::Refused(code::UNKNOWN_SESSION));
        }
        if self.is_active(leg) {
            // It went through once already: a double, or somebody's play with the path.
            return Ok(());
        }
        let received = self.received.acknowledgements(now);
        let lifetime_s = self.config.params.keep_s.min(crate::varint::VARINT_MAX);
        let Resumption::Far(far) = &mut self.resumption else {
            return Err(LegError::Unexpected("RESUME".into()));
        };
        let outcome = far.answer(leg, request, received, lifetime_s, rng);
        let (frames, answer) = self.checked(outcome)?;
        let packet = whole(&answer.to_packet());
        self.make_room_for(leg);
        let state = self
            .legs
            .entry(leg)
            .or_insert_with(|| Leg::new(LegState::Resuming, 0, now));
        state.first.push_back(packet);
        self.handle_resume_frames(now, leg, frames);
        Ok(())
    }

    /// Legs that never get beyond RESUME, as those of somebody who replays one, are bounded.
    fn make_room_for(&mut self, leg: LegId) {
        let resuming = |(id, state): &(&LegId, &Leg)| !state.is_active() && **id != leg;
        let oldest = self.legs.iter().find(resuming).map(|(id, _)| *id);
        if self.legs.iter().filter(resuming).count() >= MAX_RESUMING
            && let Some(oldest) = oldest
        {
            self.drop_leg(oldest, None);
        }
    }

    /// Initiator: the responder agrees.
    pub(super) fn handle_resumed(
        &mut self,
        now: Time,
        leg: LegId,
        answer: &Resumed,
    ) -> Result<(), LegError> {
        if self.legs.get(&leg).is_some_and(Leg::is_active) {
            return Ok(());
        }
        let id = self.id;
        let Resumption::Near(near) = &mut self.resumption else {
            return Err(LegError::Unexpected("RESUMED".into()));
        };
        let outcome = near.accept(id, leg, answer);
        let (frames, confirm) = self.checked(outcome)?;
        if let Some(state) = self.legs.get_mut(&leg) {
            state.first.push_back(whole(&confirm.to_packet()));
        }
        self.activate(now, leg);
        self.handle_resume_frames(now, leg, frames);
        Ok(())
    }

    /// Responder: the initiator holds the next generation.
    pub(super) fn handle_confirm(
        &mut self,
        now: Time,
        leg: LegId,
        confirm: &Confirm,
    ) -> Result<(), LegError> {
        if self.legs.get(&leg).is_some_and(Leg::is_active) {
            return Ok(());
        }
        let Resumption::Far(far) = &mut self.resumption else {
            return Err(LegError::Unexpected("CONFIRM".into()));
        };
        let outcome = far.confirm(leg, confirm);
        self.checked(outcome)?;
        self.activate(now, leg);
        Ok(())
    }

    fn checked<T>(&mut self, outcome: Result<T, Refusal>) -> Result<T, LegError> {
        outcome.map_err(|refusal| match refusal {
            Refusal::Stale => LegError::Refused(code::STALE_RESUME),
            Refusal::Violation => {
                self.fail(
                    code::PROTOCOL_VIOLATION,
                    "the peer's resume message broke the rules",
                );
                LegError::Ended
            }
        })
    }

    fn handle_resume_frames(&mut self, now: Time, leg: LegId, frames: Vec<Frame>) {
        for frame in frames {
            if let Frame::Ack(ack) = frame
                && let Err(Broken(code, reason)) = self.handle_ack(now, leg, &ack, false)
            {
                self.close(now, code, reason);
            }
        }
    }

    /// `leg` carries the session from now on. Those beside it stay; the others are done, also those
    /// that were to take over, and what was under way on them goes out again.
    fn activate(&mut self, now: Time, leg: LegId) {
        let Some(state) = self.legs.get_mut(&leg) else {
            return;
        };
        state.activate(now);
        self.detached_since = None;
        self.resumes += 1;
        self.received.repeat(now);
        self.events.push_back(Event::LegActive { leg });
        let standing = self.resumption.standing();
        let others: SmallVec<[LegId; 4]> = self
            .legs
            .keys()
            .copied()
            .filter(|id| !standing.holds(*id))
            .collect();
        // The peer answered on another leg in less time than an answer had been missing here: the
        // doubt was right, and nothing speaks for waiting longer the next time. Where a record was
        // under way, its acknowledgement tells: it may be large, and the path slow.
        let right = |id: &LegId| {
            let leg = self.legs.get(id);
            leg.is_some_and(|leg| leg.rightly_suspected(now))
                && self.replay.oldest_under_way(*id).is_none()
        };
        if others.iter().any(right) {
            self.patience = self.patience.saturating_sub(1);
        }
        for other in others {
            self.drop_leg(other, None);
        }
        self.review_legs(now);
    }

    /// The driver is to drop this leg.
    pub(super) fn drop_leg(&mut self, leg: LegId, farewell: Option<Bytes>) {
        self.forget_leg(leg);
        self.events.push_back(Event::LegDone { leg, farewell });
    }

    fn forget_leg(&mut self, leg: LegId) {
        self.legs.remove(&leg);
        if self.lead.is_some_and(|(lead, _)| lead == leg) {
            self.lead = None;
        }
        self.replay.leg_gone(leg);
        match &mut self.resumption {
            Resumption::Near(near) => near.leg_gone(leg),
            Resumption::Far(far) => far.leg_gone(leg),
        }
    }

    pub(super) fn note_detached(&mut self, now: Time) {
        if self.state != State::Closed
            && self.active_leg().is_none()
            && self.detached_since.is_none()
        {
            self.detached_since = Some(now);
            self.events.push_back(Event::Detached);
        }
    }
}

/// Kind and body in one piece, as [`Session::poll_transmit`] hands packets out.
fn whole(packet: &Packet) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + packet.body.len());
    bytes.push(packet.kind.code());
    bytes.extend_from_slice(&packet.body);
    bytes.into()
}
