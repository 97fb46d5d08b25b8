//! The responder's side of a resume.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand_core::CryptoRng;
use underpass_seal::{ResumeSecret, constant_time_eq};

use super::{LegNames, Refusal, Standing, answer_header, beside_in, open_request};
use crate::frame::{self, Frame};
use crate::packet::{Confirm, Resume, Resumed};
use crate::session::LegId;
use crate::session::received::Acks;
use crate::ticket::Ticket;

/// Offers that the responder keeps until one is taken up. Each stems from a request that the
/// initiator really made: a replayed one finds its old offer. Few in unit tests, so that the model
/// checker gets to the bound.
pub(super) const MAX_OFFERS: usize = if cfg!(test) { 2 } else { 8 };

/// An answer that was given and not yet taken up.
#[cfg_attr(test, derive(Clone))]
struct Offer {
    request_nonce: [u8; 16],
    secret: ResumeSecret,
    ticket_digest: [u8; 32],
    answer: Resumed,
    /// The legs that go on beside the new one.
    kept: LegNames,
}

/// The responder's side.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Far {
    generation: u64,
    secret: ResumeSecret,
    /// The ticket itself is not kept.
    ticket_digest: [u8; 32],
    offers: VecDeque<Offer>,
    /// Which request came on which leg.
    under_way: BTreeMap<LegId, [u8; 16]>,
    standing: Standing,
    /// How many legs there may be at once.
    max_legs: usize,
}

impl Far {
    /// The handshake took place on `leg`.
    pub(crate) fn new(leg: LegId, secret: ResumeSecret, ticket: &Ticket, max_legs: usize) -> Self {
        let mut standing = Standing::default();
        standing.begin(leg, &secret, &[]);
        Far {
            generation: 0,
            secret,
            ticket_digest: ticket.digest(),
            offers: VecDeque::new(),
            under_way: BTreeMap::new(),
            standing,
            max_legs,
        }
    }

    /// Everything that it goes by, to tell states apart.
    #[cfg(test)]
    pub(super) fn summary(&self, out: &mut Vec<u8>) {
        let Far {
            generation,
            secret,
            ticket_digest,
            offers,
            under_way,
            standing,
            max_legs: _,
        } = self;
        standing.summary(out);
        out.extend(generation.to_be_bytes());
        out.extend(secret.confirm_tag());
        out.extend(ticket_digest);
        for offer in offers {
            out.extend(offer.request_nonce);
            out.extend(offer.secret.confirm_tag());
            out.extend(offer.ticket_digest);
            out.extend(offer.kept.concat());
        }
        out.push(0xff);
        for (leg, nonce) in under_way {
            out.extend(leg.0.to_be_bytes());
            out.extend(nonce);
        }
    }

    /// The secret of the generation in use.
    pub(crate) fn secret(&self) -> &ResumeSecret {
        &self.secret
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The legs that carry the session.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Checks a request; returns what the initiator says it received, and the answer.
    pub(crate) fn answer(
        &mut self,
        leg: LegId,
        request: &Resume,
        received: Acks,
        lifetime_s: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<Frame>, Resumed), Refusal> {
        if Some(request.generation) == self.generation.checked_add(1) {
            self.move_on_by_use(request)?;
        }
        if request.generation != self.generation {
            return Err(Refusal::Stale);
        }
        let frames = open_request(&self.secret, &self.ticket_digest, request)?;
        self.under_way.insert(leg, request.nonce);
        if let Some(offer) = self
            .offers
            .iter()
            .find(|o| o.request_nonce == request.nonce)
        {
            return Ok((frames, offer.answer.clone()));
        }
        let beside = beside_in(&frames).map(|asked| {
            let most = self.max_legs.saturating_sub(1);
            self.standing.known(asked, most)
        });
        let answer = self.offer(request, beside, received, lifetime_s, rng);
        Ok((frames, answer))
    }

    fn offer(
        &mut self,
        request: &Resume,
        beside: Option<LegNames>,
        received: Acks,
        lifetime_s: u64,
        rng: &mut impl CryptoRng,
    ) -> Resumed {
        let (mut nonce, mut ticket) = ([0; 16], [0; 32]);
        rng.fill_bytes(&mut nonce);
        rng.fill_bytes(&mut ticket);
        let mut plain = Vec::new();
        Frame::Ticket(frame::Ticket { ticket, lifetime_s }).encode(&mut plain);
        if let Some(kept) = &beside {
            let legs = kept.to_vec();
            Frame::Beside(frame::Beside { legs }).encode(&mut plain);
        }
        for ack in received {
            Frame::Ack(ack).encode(&mut plain);
        }
        let mut answer = Resumed {
            generation: self.generation + 1,
            nonce,
            sealed: Bytes::new(),
        };
        answer.sealed = self
            .secret
            .reply_key(&request.nonce, &nonce)
            .seal(&answer_header(request.session, &answer), &plain)
            .into();
        if self.offers.len() == MAX_OFFERS {
            self.offers.pop_front();
        }
        self.offers.push_back(Offer {
            request_nonce: request.nonce,
            secret: self.secret.advance(&request.nonce, &nonce),
            ticket_digest: Ticket::new(ticket).digest(),
            answer: answer.clone(),
            kept: beside.unwrap_or_default(),
        });
        answer
    }

    /// A request of the next generation proves that its offer was taken up.
    fn move_on_by_use(&mut self, request: &Resume) -> Result<(), Refusal> {
        let position = self
            .offers
            .iter()
            .position(|offer| open_request(&offer.secret, &offer.ticket_digest, request).is_ok())
            .ok_or(Refusal::Stale)?;
        self.take_up(position);
        Ok(())
    }

    /// Moves on to an offer's generation. Returns the legs that go on with it.
    fn take_up(&mut self, position: usize) -> LegNames {
        let Some(offer) = self.offers.remove(position) else {
            return LegNames::new();
        };
        self.generation += 1;
        self.secret = offer.secret;
        self.ticket_digest = offer.ticket_digest;
        self.offers.clear();
        self.under_way.clear();
        offer.kept
    }

    /// The initiator holds the next generation: from now on it is the current one. The leg carries
    /// the session, with those that its request named.
    pub(crate) fn confirm(&mut self, leg: LegId, confirm: &Confirm) -> Result<(), Refusal> {
        let nonce = self.under_way.get(&leg).ok_or(Refusal::Stale)?;
        let position = self
            .offers
            .iter()
            .position(|offer| offer.request_nonce == *nonce)
            .ok_or(Refusal::Stale)?;
        let offer = &self.offers[position];
        if offer.answer.generation != confirm.generation
            || !constant_time_eq(&offer.secret.confirm_tag(), &confirm.tag)
        {
            return Err(Refusal::Stale);
        }
        let kept = self.take_up(position);
        self.standing.begin(leg, &self.secret, &kept);
        Ok(())
    }

    /// For broken rules: takes up legs again that are done.
    #[cfg(test)]
    pub(super) fn put_back(&mut self, before: &Standing) {
        self.standing.put_back(before);
    }

    pub(crate) fn leg_gone(&mut self, leg: LegId) {
        self.under_way.remove(&leg);
        self.standing.gone(leg);
    }
}
