//! Moving a session to a new leg: one round trip, generations, single-use tickets.
//!
//! ```text
//! initiator                                              responder
//!    RESUME  session, g, nonce A, seal(TICKET, ACK)   ->    opens with secret g, makes an offer
//!    <- RESUMED  g + 1, nonce B, seal(TICKET, ACK)          keeps secret g and its old legs
//!    CONFIRM g + 1, tag                               ->    now g + 1 holds, the old legs are done
//! ```
//!
//! The responder moves on only when the initiator proves that it holds the next generation, by a
//! CONFIRM or by a RESUME that uses it; until then the old ticket stays good, so a lost answer locks
//! nobody out. The initiator in turn keeps the old generation until the responder has answered a
//! request made with the new one. A repeated RESUME gets the same answer again and changes nothing.
//!
//! A request that says BESIDE and names living legs does all of this too, and the new leg joins those
//! legs instead of ending them. The answer names those that the responder has and will keep, and only
//! these stay at the initiator: so after each resume both ends hold the same legs, whatever was lost
//! before. Generations and tickets belong to the session, not to a leg: legs that go on notice
//! nothing of a new generation, which is only what the next leg begins with.

mod far;
mod near;
mod standing;

pub(crate) use far::Far;
pub(crate) use near::Near;
pub(crate) use standing::{LegNames, Standing};

use bytes::Bytes;
use underpass_seal::{ResumeSecret, constant_time_eq};

use crate::frame::{self, Frame, LegName, Place};
use crate::packet::{Resume, Resumed, SessionId};
use crate::ticket::Ticket;

/// Why a packet that resumes was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another generation, a spent ticket, or not sealed by the peer.
    Stale,
    /// Sealed by the peer, but its content breaks the rules.
    Violation,
}

/// The frames of a request that was sealed with `secret` and holds the ticket with this digest. The
/// ticket is inside the seal, so that whoever passes the request on never sees it.
fn open_request(
    secret: &ResumeSecret,
    ticket_digest: &[u8; 32],
    request: &Resume,
) -> Result<Vec<Frame>, Refusal> {
    let plain = secret
        .request_key(&request.nonce)
        .open(&request_header(request), &request.sealed)
        .map_err(|_| Refusal::Stale)?;
    let frames = frames(plain)?;
    let ticket = ticket_in(&frames).ok_or(Refusal::Violation)?;
    if !constant_time_eq(&ticket.digest(), ticket_digest) {
        return Err(Refusal::Stale);
    }
    Ok(frames)
}

/// The ticket among the frames of a request or an answer.
fn ticket_in(frames: &[Frame]) -> Option<Ticket> {
    frames.iter().find_map(|frame| match frame {
        Frame::Ticket(ticket) => Some(Ticket::new(ticket.ticket)),
        _ => None,
    })
}

/// The legs that a request or an answer names, if it says BESIDE.
fn beside_in(frames: &[Frame]) -> Option<&[LegName]> {
    frames.iter().find_map(|frame| match frame {
        Frame::Beside(beside) => Some(&beside.legs[..]),
        _ => None,
    })
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
        nonce,
        sealed: _,
    } = request;
    [&session.0[..], &generation.to_be_bytes(), nonce].concat()
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

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
