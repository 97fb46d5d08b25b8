//! The initiator's side of a resume.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand_core::CryptoRng;
use underpass_seal::ResumeSecret;

use super::far::MAX_OFFERS;
use super::{
    LegNames, Refusal, Standing, answer_header, beside_in, frames, request_header, ticket_in,
};
use crate::frame::{self, Frame};
use crate::packet::{Confirm, Resume, Resumed, SessionId};
use crate::session::LegId;
use crate::session::received::Acks;
use crate::ticket::Ticket;

/// One generation as the initiator holds it.
#[derive(Clone)]
struct Held {
    generation: u64,
    secret: ResumeSecret,
    ticket: Ticket,
}

#[cfg(test)]
impl Held {
    fn summary(&self, out: &mut Vec<u8>) {
        out.extend(self.generation.to_be_bytes());
        out.extend(self.secret.confirm_tag());
        out.extend(self.ticket.as_bytes());
    }
}

/// The initiator's side.
///
/// The responder is in the generation of `base` or in one of `accepted`; which one shows when it
/// answers a request. Until then none is forgotten: a CONFIRM may be late, or lost.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Near {
    base: Held,
    /// Answers that were confirmed, the newest last. All follow `base`.
    accepted: VecDeque<Held>,
    /// Something sealed came in on the leg of the newest one: most likely the responder is there.
    likely: bool,
    attempts: usize,
    under_way: BTreeMap<LegId, Asked>,
    standing: Standing,
}

/// A request that is not answered.
#[derive(Clone)]
struct Asked {
    held: Held,
    nonce: [u8; 16],
    /// The legs beside which the new one is to be.
    beside: LegNames,
}

impl Near {
    /// The handshake took place on `leg`.
    pub(crate) fn new(leg: LegId, secret: ResumeSecret, ticket: Ticket) -> Self {
        let mut standing = Standing::default();
        standing.begin(leg, &secret, &[]);
        Near {
            base: Held {
                generation: 0,
                secret,
                ticket,
            },
            accepted: VecDeque::new(),
            likely: false,
            attempts: 0,
            under_way: BTreeMap::new(),
            standing,
        }
    }

    /// Everything that it goes by, to tell states apart.
    #[cfg(test)]
    pub(super) fn summary(&self, out: &mut Vec<u8>) {
        let Near {
            base,
            accepted,
            likely,
            attempts,
            under_way,
            standing,
        } = self;
        standing.summary(out);
        base.summary(out);
        for held in accepted {
            held.summary(out);
        }
        out.extend([u8::from(*likely), *attempts as u8, 0xff]);
        for (leg, asked) in under_way {
            out.extend(leg.0.to_be_bytes());
            asked.held.summary(out);
            out.extend(asked.nonce);
            out.extend(asked.beside.concat());
        }
    }

    fn newest(&self) -> &Held {
        self.accepted.back().unwrap_or(&self.base)
    }

    /// The secret of the generation in use.
    pub(crate) fn secret(&self) -> &ResumeSecret {
        &self.newest().secret
    }

    pub(crate) fn generation(&self) -> u64 {
        self.newest().generation
    }

    /// The generation for the next request: all in turn, the newest first, and more often than the
    /// others where that one is likely.
    fn choose(&mut self) -> Held {
        let attempt = self.attempts;
        self.attempts = attempt.wrapping_add(1);
        let turn = match (self.likely, attempt % 4) {
            (true, 3) => 1 + attempt / 4 % self.accepted.len().max(1),
            (true, _) => 0,
            (false, _) => attempt,
        };
        let turn = turn % (self.accepted.len() + 1);
        let held = self.accepted.iter().rev().chain([&self.base]).nth(turn);
        held.unwrap_or(&self.base).clone()
    }

    /// The legs that carry the session.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// A request to send first on `leg`, which is to take the place of all others, or to be beside
    /// those that are named.
    pub(crate) fn request(
        &mut self,
        session: SessionId,
        leg: LegId,
        beside: LegNames,
        received: Acks,
        rng: &mut impl CryptoRng,
    ) -> Resume {
        let held = self.choose();
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let mut request = Resume {
            session,
            generation: held.generation,
            nonce,
            sealed: Bytes::new(),
        };
        let mut plain = Vec::new();
        Frame::Ticket(frame::Ticket {
            ticket: *held.ticket.as_bytes(),
            lifetime_s: 0,
        })
        .encode(&mut plain);
        if !beside.is_empty() {
            let legs = beside.to_vec();
            Frame::Beside(frame::Beside { legs }).encode(&mut plain);
        }
        for ack in received {
            Frame::Ack(ack).encode(&mut plain);
        }
        request.sealed = held
            .secret
            .request_key(&nonce)
            .seal(&request_header(&request), &plain)
            .into();
        let asked = Asked {
            held,
            nonce,
            beside,
        };
        self.under_way.insert(leg, asked);
        request
    }

    /// Takes the answer: returns the frames in it and what confirms it. Requests that went out
    /// before on other legs are void from then on, since the responder takes up only one. Of the
    /// other legs those stay that were asked for and that the responder has.
    pub(crate) fn accept(
        &mut self,
        session: SessionId,
        leg: LegId,
        answer: &Resumed,
    ) -> Result<(Vec<Frame>, Confirm), Refusal> {
        let Asked {
            held,
            nonce,
            beside,
        } = self.under_way.get(&leg).ok_or(Refusal::Stale)?;
        if held.generation.checked_add(1) != Some(answer.generation) {
            return Err(Refusal::Stale);
        }
        let plain = held
            .secret
            .reply_key(nonce, &answer.nonce)
            .open(&answer_header(session, answer), &answer.sealed)
            .map_err(|_| Refusal::Stale)?;
        let frames = frames(plain)?;
        let ticket = ticket_in(&frames).ok_or(Refusal::Violation)?;
        let secret = held.secret.advance(nonce, &answer.nonce);
        let confirm = Confirm {
            generation: answer.generation,
            tag: secret.confirm_tag(),
        };
        let kept = beside_in(&frames).unwrap_or_default();
        let kept: LegNames = beside
            .iter()
            .filter(|name| kept.contains(name))
            .copied()
            .collect();
        self.standing.begin(leg, &secret, &kept);
        // The answer was sealed with this generation: the responder is in it.
        if held.generation != self.base.generation {
            self.base = held.clone();
            self.accepted.clear();
        }
        // The responder keeps no more offers than this, so an older one cannot be taken up.
        if self.accepted.len() == MAX_OFFERS {
            self.accepted.pop_front();
        }
        self.accepted.push_back(Held {
            generation: answer.generation,
            secret,
            ticket,
        });
        self.under_way.clear();
        self.attempts = 0;
        self.likely = false;
        Ok((frames, confirm))
    }

    /// Something sealed and new arrived on the active leg.
    pub(crate) fn heard(&mut self) {
        self.likely = true;
    }

    pub(crate) fn leg_gone(&mut self, leg: LegId) {
        self.under_way.remove(&leg);
        self.standing.gone(leg);
    }
}
