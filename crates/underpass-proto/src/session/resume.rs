//! Moving a session to a new leg: one round trip, generations, single-use tickets.
//!
//! ```text
//! initiator                                              responder
//!    RESUME  session, g, ticket, nonce A, seal(ACK)   ->    opens with secret g, makes an offer
//!    <- RESUMED  g + 1, nonce B, seal(TICKET, ACK)          keeps secret g and its old legs
//!    CONFIRM g + 1, tag                               ->    now g + 1 holds, the old legs are done
//! ```
//!
//! The responder moves on only when the initiator proves that it holds the next generation, by a
//! CONFIRM or by a RESUME that uses it; until then the old ticket stays good, so a lost answer locks
//! nobody out. The initiator in turn keeps the old generation until something sealed arrives on the
//! new leg. A repeated RESUME gets the same answer again and changes nothing.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand_core::CryptoRng;
use underpass_seal::{ResumeSecret, constant_time_eq};

use super::LegId;
use crate::frame::{self, Ack, Frame, Place};
use crate::packet::{Confirm, Resume, Resumed, SessionId};
use crate::ticket::Ticket;

/// Offers that the responder keeps until one is taken up. Each stems from a request that the
/// initiator really made: a replayed one finds its old offer.
const MAX_OFFERS: usize = 8;

/// Why a packet that resumes was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another generation, a spent ticket, or not sealed by the peer.
    Stale,
    /// Sealed by the peer, but its content breaks the rules.
    Violation,
}

/// One generation as the initiator holds it.
#[derive(Clone)]
struct Held {
    generation: u64,
    secret: ResumeSecret,
    ticket: Ticket,
}

/// The initiator's side.
pub(crate) struct Near {
    current: Held,
    /// Kept until the responder was seen to be in the current generation.
    previous: Option<Held>,
    attempts: u32,
    under_way: BTreeMap<LegId, (Held, [u8; 16])>,
}

impl Near {
    pub(crate) fn new(secret: ResumeSecret, ticket: Ticket) -> Self {
        Near {
            current: Held {
                generation: 0,
                secret,
                ticket,
            },
            previous: None,
            attempts: 0,
            under_way: BTreeMap::new(),
        }
    }

    /// The secret of the generation in use.
    pub(crate) fn secret(&self) -> &ResumeSecret {
        &self.current.secret
    }

    pub(crate) fn generation(&self) -> u64 {
        self.current.generation
    }

    /// A request to send first on `leg`.
    pub(crate) fn request(
        &mut self,
        session: SessionId,
        leg: LegId,
        received: Option<Ack>,
        rng: &mut impl CryptoRng,
    ) -> Resume {
        // The responder may or may not have seen the last CONFIRM: try both in turn.
        let held = match &self.previous {
            Some(previous) if self.attempts % 2 == 1 => previous.clone(),
            _ => self.current.clone(),
        };
        self.attempts = self.attempts.wrapping_add(1);
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let mut request = Resume {
            session,
            generation: held.generation,
            ticket: *held.ticket.as_bytes(),
            nonce,
            sealed: Bytes::new(),
        };
        let mut plain = Vec::new();
        if let Some(ack) = received {
            Frame::Ack(ack).encode(&mut plain);
        }
        request.sealed = held
            .secret
            .request_key(&nonce)
            .seal(&request_header(&request), &plain)
            .into();
        self.under_way.insert(leg, (held, nonce));
        request
    }

    /// Takes the answer: returns the frames in it and what confirms it.
    pub(crate) fn accept(
        &mut self,
        session: SessionId,
        leg: LegId,
        answer: &Resumed,
    ) -> Result<(Vec<Frame>, Confirm), Refusal> {
        let (held, nonce) = self.under_way.get(&leg).ok_or(Refusal::Stale)?;
        if held.generation.checked_add(1) != Some(answer.generation) {
            return Err(Refusal::Stale);
        }
        let plain = held
            .secret
            .reply_key(nonce, &answer.nonce)
            .open(&answer_header(session, answer), &answer.sealed)
            .map_err(|_| Refusal::Stale)?;
        let frames = frames(plain)?;
        let ticket = frames
            .iter()
            .find_map(|frame| match frame {
                Frame::Ticket(ticket) => Some(Ticket::new(ticket.ticket)),
                _ => None,
            })
            .ok_or(Refusal::Violation)?;
        let secret = held.secret.advance(nonce, &answer.nonce);
        let confirm = Confirm {
            generation: answer.generation,
            tag: secret.confirm_tag(),
        };
        self.previous = Some(held.clone());
        self.current = Held {
            generation: answer.generation,
            secret,
            ticket,
        };
        self.under_way.remove(&leg);
        self.attempts = 0;
        Ok((frames, confirm))
    }

    /// Something sealed arrived on a leg of the current generation.
    pub(crate) fn proven(&mut self) {
        self.previous = None;
    }

    pub(crate) fn leg_gone(&mut self, leg: LegId) {
        self.under_way.remove(&leg);
    }
}

/// An answer that was given and not yet taken up.
struct Offer {
    request_nonce: [u8; 16],
    secret: ResumeSecret,
    ticket_digest: [u8; 32],
    answer: Resumed,
}

/// The responder's side.
pub(crate) struct Far {
    generation: u64,
    secret: ResumeSecret,
    /// The ticket itself is not kept.
    ticket_digest: [u8; 32],
    offers: VecDeque<Offer>,
    /// Which request came on which leg.
    under_way: BTreeMap<LegId, [u8; 16]>,
}

impl Far {
    pub(crate) fn new(secret: ResumeSecret, ticket: &Ticket) -> Self {
        Far {
            generation: 0,
            secret,
            ticket_digest: ticket.digest(),
            offers: VecDeque::new(),
            under_way: BTreeMap::new(),
        }
    }

    /// The secret of the generation in use.
    pub(crate) fn secret(&self) -> &ResumeSecret {
        &self.secret
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Checks a request; returns what the initiator says it received, and the answer.
    pub(crate) fn answer(
        &mut self,
        leg: LegId,
        request: &Resume,
        received: Option<Ack>,
        lifetime_s: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<Frame>, Resumed), Refusal> {
        let digest = Ticket::new(request.ticket).digest();
        if Some(request.generation) == self.generation.checked_add(1) {
            self.move_on_by_use(request, &digest)?;
        }
        if request.generation != self.generation || !constant_time_eq(&digest, &self.ticket_digest)
        {
            return Err(Refusal::Stale);
        }
        let frames = open_request(&self.secret, request)?;
        self.under_way.insert(leg, request.nonce);
        if let Some(offer) = self
            .offers
            .iter()
            .find(|o| o.request_nonce == request.nonce)
        {
            return Ok((frames, offer.answer.clone()));
        }
        let answer = self.offer(request, received, lifetime_s, rng);
        Ok((frames, answer))
    }

    fn offer(
        &mut self,
        request: &Resume,
        received: Option<Ack>,
        lifetime_s: u64,
        rng: &mut impl CryptoRng,
    ) -> Resumed {
        let (mut nonce, mut ticket) = ([0; 16], [0; 32]);
        rng.fill_bytes(&mut nonce);
        rng.fill_bytes(&mut ticket);
        let mut plain = Vec::new();
        Frame::Ticket(frame::Ticket { ticket, lifetime_s }).encode(&mut plain);
        if let Some(ack) = received {
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
        });
        answer
    }

    /// A request of the next generation proves that its offer was taken up.
    fn move_on_by_use(&mut self, request: &Resume, digest: &[u8; 32]) -> Result<(), Refusal> {
        let position = self
            .offers
            .iter()
            .position(|offer| constant_time_eq(&offer.ticket_digest, digest))
            .ok_or(Refusal::Stale)?;
        open_request(&self.offers[position].secret, request)?;
        self.take_up(position);
        Ok(())
    }

    fn take_up(&mut self, position: usize) {
        if let Some(offer) = self.offers.remove(position) {
            self.generation += 1;
            self.secret = offer.secret;
            self.ticket_digest = offer.ticket_digest;
            self.offers.clear();
            self.under_way.clear();
        }
    }

    /// The initiator holds the next generation: from now on it is the current one.
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
        self.take_up(position);
        Ok(())
    }

    pub(crate) fn leg_gone(&mut self, leg: LegId) {
        self.under_way.remove(&leg);
    }
}

fn open_request(secret: &ResumeSecret, request: &Resume) -> Result<Vec<Frame>, Refusal> {
    let plain = secret
        .request_key(&request.nonce)
        .open(&request_header(request), &request.sealed)
        .map_err(|_| Refusal::Stale)?;
    frames(plain)
}

fn frames(plain: Vec<u8>) -> Result<Vec<Frame>, Refusal> {
    let mut plain = Bytes::from(plain);
    frame::decode_all(Place::ResumePayload, &mut plain)
        .collect::<Result<_, _>>()
        .map_err(|_| Refusal::Violation)
}

/// What the seal of a request covers beside its frames.
fn request_header(request: &Resume) -> Vec<u8> {
    let Resume {
        session,
        generation,
        ticket,
        nonce,
        sealed: _,
    } = request;
    [&session.0[..], &generation.to_be_bytes(), ticket, nonce].concat()
}

/// What the seal of an answer covers beside its frames.
fn answer_header(session: SessionId, answer: &Resumed) -> Vec<u8> {
    let Resumed {
        generation,
        nonce,
        sealed: _,
    } = answer;
    [&session.0[..], &generation.to_be_bytes(), nonce].concat()
}
