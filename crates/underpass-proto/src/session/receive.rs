//! What comes in: packets, records, frames.

use bytes::{Bytes, BytesMut};
use rand_core::CryptoRng;
use std::time::Duration;
use underpass_seal::{Space, TAG_LEN};

use super::epochs::Unopened;
use super::recv_half::Violation;
use super::{Event, LegId, Resumption, Session, State};
use crate::code;
use crate::frame::{self, Ack, Frame, Place};
use crate::packet::{Confirm, MAX_PLAINTEXT, Packet, PacketKind, RecordHeader, Resume, Resumed};
use crate::role::Role;
use crate::time::Time;
use crate::wire::DecodeError;

/// Room for opened records is allocated in pieces of this many bytes: four of the largest, with their tags.
const SLAB: usize = 4 * (MAX_PLAINTEXT + 64);
/// A session that receives little gets smaller pieces.
const SMALL_SLAB: usize = 4 * 1024;

/// Why a leg must be given up. The session goes on without it, except where it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegError {
    /// Bytes that the peer did not seal: the path changes what passes through it, or somebody
    /// forges. What was lost is sent again on another leg.
    #[error(
        "a record was changed on its way, or forged: the path is not to be trusted with this leg"
    )]
    Corrupt,
    /// A packet that cannot be read.
    #[error("a packet could not be read: {0}")]
    Malformed(#[from] crate::wire::DecodeError),
    /// A packet that has no place here.
    #[error("a {0} packet came where none is expected")]
    Unexpected(String),
    /// The resume request or answer is not good, by the code from [`crate::code`]. The driver tells
    /// the other side by a REFUSED packet.
    #[error("the session cannot be resumed here ({})", code::name(*.0))]
    Refused(u64),
    /// The peer broke the session's rules: the session ended, see [`Event::Closed`].
    #[error("the peer broke the rules of the session, which ended")]
    Ended,
}

/// A rule that the peer broke, with the code that the session ends with.
pub(super) struct Broken(pub(super) u64, pub(super) &'static str);

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Window => Broken(
                code::FLOW_CONTROL_VIOLATION,
                "the peer sent more than it was allowed to",
            ),
            Violation::FinalSize => Broken(
                code::PROTOCOL_VIOLATION,
                "the peer changed the length of a channel",
            ),
        }
    }
}

impl Session {
    /// Takes a packet that came in on `leg`.
    ///
    /// # Errors
    /// The leg is no good any more and the driver must drop it, after it called
    /// [`Session::leg_lost`]; the session goes on unless the error says that it ended.
    pub fn handle_packet(
        &mut self,
        now: Time,
        leg: LegId,
        packet: Packet,
        rng: &mut impl CryptoRng,
    ) -> Result<(), LegError> {
        if self.state == State::Closed {
            return Ok(());
        }
        let body = packet.body;
        match packet.kind {
            PacketKind::Reliable => self.handle_record(now, leg, Space::Reliable, &body),
            PacketKind::Unreliable => self.handle_record(now, leg, Space::Unreliable, &body),
            PacketKind::Resume => {
                let request = Resume::decode(body)?;
                self.handle_resume(now, leg, &request, rng)
            }
            PacketKind::Resumed => {
                let answer = Resumed::decode(body)?;
                self.handle_resumed(now, leg, &answer)
            }
            PacketKind::Confirm => {
                let confirm = Confirm::decode(body)?;
                self.handle_confirm(now, leg, &confirm)
            }
            PacketKind::Padding => Ok(()),
            kind => Err(LegError::Unexpected(format!("{kind:?}"))),
        }
    }

    fn handle_record(
        &mut self,
        now: Time,
        leg: LegId,
        space: Space,
        body: &Bytes,
    ) -> Result<(), LegError> {
        if !self.legs.get(&leg).is_some_and(super::Leg::is_active) {
            // A straggler on a leg that was replaced, or one that was not confirmed yet.
            return Ok(());
        }
        let kind = match space {
            Space::Reliable => PacketKind::Reliable,
            Space::Unreliable => PacketKind::Unreliable,
        };
        let (header, length) = RecordHeader::parse_body(kind, body)?;
        let Some(mut plain) = self.open_record(&header, space, body, length)? else {
            return Ok(());
        };
        let (new, place) = match space {
            Space::Reliable => (
                self.received
                    .insert(header.number, body.len(), self.several, now),
                Place::Reliable,
            ),
            Space::Unreliable => (
                self.unreliable_seen.insert(header.number),
                Place::Unreliable,
            ),
        };
        if new {
            self.note_peer();
            self.handle_frames(now, leg, place, &mut plain);
        }
        Ok(())
    }

    /// Opens a record into room of our own: deciphering is the only copy. `None` for a record whose
    /// keys are gone, which had arrived before.
    fn open_record(
        &mut self,
        header: &RecordHeader,
        space: Space,
        body: &Bytes,
        header_length: usize,
    ) -> Result<Option<Bytes>, LegError> {
        let sealed = &body[header_length..];
        let Some(length) = sealed.len().checked_sub(TAG_LEN) else {
            return Err(LegError::Corrupt);
        };
        if length > MAX_PLAINTEXT {
            return Err(LegError::Malformed(DecodeError::TooLong {
                what: "record",
                limit: MAX_PLAINTEXT,
            }));
        }
        if self.incoming.capacity() < length {
            let slab = if length > SMALL_SLAB / 4 {
                SLAB
            } else {
                SMALL_SLAB
            };
            self.incoming = BytesMut::with_capacity(slab.max(length));
        }
        self.incoming.resize(length, 0);
        let (aad, aad_length) = header.aad();
        let opened = self.receive_epochs.open(
            header.epoch,
            space,
            header.number,
            &aad[..aad_length],
            sealed,
            &mut self.incoming,
        );
        match opened {
            Ok(()) => Ok(Some(self.incoming.split().freeze())),
            Err(Unopened::Old) => Ok(None),
            Err(Unopened::Forged) => Err(LegError::Corrupt),
        }
    }

    /// The peer sealed something new: it holds the session.
    fn note_peer(&mut self) {
        if let Resumption::Near(near) = &mut self.resumption {
            near.heard();
        }
        if !self.established {
            self.established = true;
            self.events.push_back(Event::Established);
        }
    }

    /// Acts on the frames of a record. A peer that breaks the rules is told so by CLOSE: that the
    /// session ended is an event, and no fault of the leg.
    fn handle_frames(&mut self, now: Time, leg: LegId, place: Place, plain: &mut Bytes) {
        let mut of_leg = false;
        for frame in frame::decode_all(place, plain) {
            of_leg |= matches!(frame, Ok(Frame::Ping(_) | Frame::Pong(_)));
            let outcome = match frame {
                Ok(frame) => self.handle_frame(now, leg, frame),
                Err(_) => Err(Broken(
                    code::PROTOCOL_VIOLATION,
                    "the peer sent a frame that cannot be read",
                )),
            };
            if let Err(Broken(code, reason)) = outcome {
                self.close(now, code, reason);
                return;
            }
            if self.state == State::Closed {
                return;
            }
        }
        if !of_leg {
            self.came_in(now, leg);
        }
    }

    fn handle_frame(&mut self, now: Time, leg: LegId, frame: Frame) -> Result<(), Broken> {
        if self.state != State::Open
            && !matches!(frame, Frame::Ack(_) | Frame::KeyUpdate(_) | Frame::Close(_))
        {
            return Ok(());
        }
        match frame {
            Frame::Ping(ping) => {
                let (maker, several) = (self.role == Role::Initiator, self.several);
                if let Some(state) = self.legs.get_mut(&leg) {
                    state.handle_ping(ping.token, now, maker, several);
                }
            }
            Frame::Pong(pong) => self.handle_pong(now, leg, pong.token),
            Frame::Ack(ack) => self.handle_ack(now, leg, &ack, true)?,
            Frame::Open(open) => self.handle_open(now, open)?,
            Frame::Opened(opened) => self.handle_opened(opened.channel),
            Frame::Data(data) => self.handle_data(now, data)?,
            Frame::MaxData(max) => {
                self.credit.send_limit = self.credit.send_limit.max(max.maximum);
            }
            Frame::MaxChannelData(max) => self.handle_max_channel_data(now, max)?,
            Frame::MaxChannels(max) => {
                if max.maximum > self.credit.open_limit {
                    self.credit.open_limit = max.maximum;
                    self.events.push_back(Event::ChannelsAvailable);
                }
            }
            Frame::Reset(reset) => self.handle_reset(now, &reset)?,
            Frame::Stop(stop) => self.handle_stop(now, &stop)?,
            Frame::Datagram(datagram) => self.handle_datagram(datagram),
            Frame::Redial(redial) => self.handle_redial(now, redial)?,
            Frame::KeyUpdate(update) => {
                self.receive_epochs.announced(update.epoch);
                self.send_epochs.follow(update.epoch);
            }
            Frame::Close(close) => self.handle_close(now, &close),
            Frame::Hop(hop) => self.events.push_back(Event::Hop(hop)),
            // Only in the sealed parts of RESUME and RESUMED, where the resumption takes them.
            Frame::Ticket(_) | Frame::Beside(_) => {}
        }
        Ok(())
    }

    /// The peer answered a PING: it has told what arrived before, so the rest did not.
    fn handle_pong(&mut self, now: Time, leg: LegId, token: u64) {
        let state = self.legs.get_mut(&leg);
        if let Some(index) = state.and_then(|leg| leg.ponged(token, now)) {
            self.replay.answered(leg, index);
            self.review_legs(now);
        }
    }

    /// `measure` is false for what a resume message acknowledges: that was another leg's doing.
    pub(super) fn handle_ack(
        &mut self,
        now: Time,
        leg: LegId,
        ack: &Ack,
        measure: bool,
    ) -> Result<(), Broken> {
        let Ok(outcome) = self.replay.acknowledge(&ack.ranges, now) else {
            return Err(Broken(
                code::PROTOCOL_VIOLATION,
                "the peer acknowledged records that were never sent",
            ));
        };
        if measure {
            // With several legs the delay is that of whatever came last, on any of them.
            let exact =
                !self.several || outcome.newest == ack.ranges.first().map_or(0, |r| *r.end());
            // Where the peer has a leg of its own acknowledgements come by that one, but for those beside a PONG.
            let detour = self.several && self.splits_ways();
            let tells = |on: LegId| exact && (on != leg) == detour;
            if let Some((on, elapsed)) = outcome.rtt.filter(|(on, _)| tells(*on)) {
                let delay = Duration::from_micros(ack.delay_us);
                if let Some(state) = self.legs.get_mut(&on) {
                    state.acknowledged_after(elapsed.saturating_sub(delay), detour, now);
                }
            }
            for (on, bytes) in outcome.bytes {
                if let Some(state) = self.legs.get_mut(&on) {
                    let newest = self.replay.newest_acknowledged(on);
                    state.path.on_delivered(now, bytes, newest, state.packets);
                    // Step by step: one record that got through does not make a slow path fast. And an answer
                    // of a leg in doubt shows that the wait was too short, not that it is long enough.
                    if !state.answered(now) {
                        self.patience = self.patience.saturating_sub(1);
                    }
                }
            }
        }
        if measure && self.several {
            self.review_legs(now);
        }
        self.lift_barriers();
        let told = matches!(self.state, State::Closing { .. })
            && self
                .close_number
                .is_some_and(|n| self.replay.is_acknowledged(n));
        if told {
            self.end();
        }
        Ok(())
    }

    /// Lets go on what waited for the peer to have a REDIAL.
    fn lift_barriers(&mut self) {
        while let Some(&(number, id)) = self.redials_under_way.first() {
            if !self.replay.is_acknowledged(number) {
                return;
            }
            self.redials_under_way.remove(0);
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.redials_out.pop_front();
            }
            self.send_redial(id);
        }
    }
}
