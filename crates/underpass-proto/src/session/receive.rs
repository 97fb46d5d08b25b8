//! What comes in: packets, records, frames.

use bytes::{Bytes, BytesMut};
use rand_core::CryptoRng;
use std::time::Duration;
use underpass_seal::{Space, TAG_LEN};

use super::channel::Channel;
use super::epochs::Unopened;
use super::recv_half::{RecvHalf, Violation};
use super::{ClosedBy, Event, LINGER, LegId, Resumption, Session, State};
use crate::code;
use crate::frame::{self, Ack, ChannelId, ChannelKind, Class, Data, Encoding, Frame, Open, Place};
use crate::packet::{Confirm, Packet, PacketKind, RecordHeader, Resume, Resumed};
use crate::time::Time;

/// Room for opened records is allocated in pieces of this many bytes, larger than one record.
const SLAB: usize = 256 * 1024;
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
struct Broken(u64, &'static str);

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
            Violation::Fragments => Broken(
                code::PROTOCOL_VIOLATION,
                "the peer cut a channel into too many pieces",
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
        self.heard_on(now, leg);
        match space {
            Space::Reliable => {
                if !self.received.insert(header.number, body.len(), now) {
                    return Ok(());
                }
                self.handle_frames(now, leg, Place::Reliable, &mut plain)
            }
            Space::Unreliable => {
                if !self.unreliable_seen.insert(header.number) {
                    return Ok(());
                }
                self.handle_frames(now, leg, Place::Unreliable, &mut plain)
            }
        }
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

    fn heard_on(&mut self, now: Time, leg: LegId) {
        if let Some(state) = self.legs.get_mut(&leg) {
            state.heard(now);
        }
        if let Resumption::Near(near) = &mut self.resumption {
            near.proven();
        }
        if !self.established {
            self.established = true;
            self.events.push_back(Event::Established);
        }
    }

    fn handle_frames(
        &mut self,
        now: Time,
        leg: LegId,
        place: Place,
        plain: &mut Bytes,
    ) -> Result<(), LegError> {
        for frame in frame::decode_all(place, plain) {
            let outcome = match frame {
                Ok(frame) => self.handle_frame(now, leg, frame),
                Err(_) => Err(Broken(
                    code::PROTOCOL_VIOLATION,
                    "the peer sent a frame that cannot be read",
                )),
            };
            if let Err(Broken(code, reason)) = outcome {
                self.close(now, code, reason);
                return Err(LegError::Ended);
            }
            if self.state == State::Closed {
                break;
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, now: Time, leg: LegId, frame: Frame) -> Result<(), Broken> {
        if self.state != State::Open && !matches!(frame, Frame::Ack(_) | Frame::Close(_)) {
            return Ok(());
        }
        match frame {
            Frame::Ping(ping) => {
                if let Some(state) = self.legs.get_mut(&leg) {
                    state.pong_owed = Some(ping.token);
                }
            }
            Frame::Pong(pong) => {
                if let Some(state) = self.legs.get_mut(&leg) {
                    state.ponged(pong.token, now);
                }
            }
            Frame::Ack(ack) => self.handle_ack(now, leg, &ack, true),
            Frame::Open(open) => self.handle_open(now, open)?,
            Frame::Opened(opened) => self.handle_opened(opened.channel),
            Frame::Data(data) => self.handle_data(now, data)?,
            Frame::MaxData(max) => {
                self.credit.send_limit = self.credit.send_limit.max(max.maximum);
            }
            Frame::MaxChannelData(max) => {
                if let Some(channel) = self.channel_mut(now, max.channel)? {
                    channel.send.raise_limit(max.maximum);
                    self.reschedule(max.channel);
                }
            }
            Frame::MaxChannels(max) => {
                if max.maximum > self.credit.open_limit {
                    self.credit.open_limit = max.maximum;
                    self.events.push_back(Event::ChannelsAvailable);
                }
            }
            Frame::Reset(reset) => self.handle_reset(now, &reset)?,
            Frame::Stop(stop) => self.handle_stop(now, &stop)?,
            Frame::Datagram(datagram) => self.handle_datagram(datagram),
            Frame::Redial(redial) => {
                if self.channels.contains_key(&redial.channel) {
                    self.events.push_back(Event::Redial {
                        channel: redial.channel,
                        offset: redial.offset,
                        service: redial.service,
                    });
                }
            }
            Frame::KeyUpdate(update) => self.send_epochs.follow(update.epoch),
            Frame::Close(close) => self.handle_close(now, &close),
            // Only in the sealed part of RESUMED, where the resumption takes it.
            Frame::Ticket(_) => {}
        }
        Ok(())
    }

    /// `measure` is false for what a resume message acknowledges: that was another leg's doing.
    pub(super) fn handle_ack(&mut self, now: Time, leg: LegId, ack: &Ack, measure: bool) {
        let Ok(outcome) = self.replay.acknowledge(&ack.ranges, now) else {
            let reason = "the peer acknowledged records that were never sent";
            if self.state == State::Open {
                self.close(now, code::PROTOCOL_VIOLATION, reason);
            }
            return;
        };
        if measure {
            if let Some((on, elapsed)) = outcome.rtt.filter(|(on, _)| *on == leg) {
                let delay = Duration::from_micros(ack.delay_us);
                if let Some(state) = self.legs.get_mut(&on) {
                    state.path.on_rtt(now, elapsed.saturating_sub(delay));
                }
            }
            for (on, bytes) in outcome.bytes {
                if let Some(state) = self.legs.get_mut(&on) {
                    state.path.on_delivered(now, bytes);
                }
            }
        }
        let told = matches!(self.state, State::Closing { .. })
            && self.control.is_empty()
            && self.replay.unacknowledged() == 0;
        if told {
            self.end();
        }
    }

    /// The channel, made if the peer may open it and it was not there; `None` when it is done.
    fn channel_mut(&mut self, now: Time, id: ChannelId) -> Result<Option<&mut Channel>, Broken> {
        if id.initiated_by() == self.role {
            if id.index() >= self.credit.opened {
                return Err(Broken(
                    code::PROTOCOL_VIOLATION,
                    "the peer used a channel that nobody opened",
                ));
            }
        } else if id.index() >= self.credit.peer_opened {
            if id.index() >= self.credit.peer_open_limit {
                return Err(Broken(
                    code::FLOW_CONTROL_VIOLATION,
                    "the peer opened more channels than it may",
                ));
            }
            for index in self.credit.peer_opened..=id.index() {
                let skipped = ChannelId::new(self.role.peer(), index);
                let channel =
                    self.new_channel(now, ChannelKind::Stream, Class::Normal, Encoding::Raw);
                self.channels.insert(skipped, channel);
            }
            self.credit.peer_opened = id.index() + 1;
        }
        Ok(self.channels.get_mut(&id))
    }

    pub(super) fn new_channel(
        &self,
        now: Time,
        kind: ChannelKind,
        class: Class,
        encoding: Encoding,
    ) -> Channel {
        let recv = RecvHalf::new(
            self.config.params.max_channel_data,
            self.config.max_channel_window,
            now,
        );
        Channel::new(kind, class, encoding, self.peer.max_channel_data, recv)
    }

    fn handle_open(&mut self, now: Time, open: Open) -> Result<(), Broken> {
        let Open {
            channel: id,
            kind,
            class,
            encoding,
            service,
        } = open;
        if id.initiated_by() == self.role {
            return Err(Broken(
                code::PROTOCOL_VIOLATION,
                "the peer opened a channel of this side",
            ));
        }
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        if channel.announced {
            return Err(Broken(
                code::PROTOCOL_VIOLATION,
                "the peer opened a channel twice",
            ));
        }
        channel.announced = true;
        channel.kind = kind;
        channel.class = class;
        channel.encoding = encoding;
        let readable = channel.recv.is_readable();
        self.events.push_back(Event::Opened {
            channel: id,
            kind,
            class,
            encoding,
            service,
        });
        if readable {
            self.events.push_back(Event::Readable { channel: id });
        }
        Ok(())
    }

    /// The first OPENED answers this side's OPEN, each further one a REDIAL.
    fn handle_opened(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut channel.accepted, true) {
            channel.send.release();
            self.reschedule(id);
        }
        self.events.push_back(Event::Accepted { channel: id });
    }

    fn handle_data(&mut self, now: Time, data: Data) -> Result<(), Broken> {
        let id = data.channel;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        let before = channel.recv.is_readable();
        let grown = channel.recv.receive(data.offset, data.data, data.fin)?;
        let told = channel.announced && !before && channel.recv.is_readable();
        if channel.discarding {
            channel.recv.discard_new(grown);
            self.credit.consumed += grown;
        } else if told {
            self.events.push_back(Event::Readable { channel: id });
        }
        self.count_received(grown)?;
        self.renewable.insert(id);
        self.retire(id);
        Ok(())
    }

    fn count_received(&mut self, grown: u64) -> Result<(), Broken> {
        self.credit.received += grown;
        if self.credit.received > self.credit.granted {
            return Err(Violation::Window.into());
        }
        Ok(())
    }

    fn handle_reset(&mut self, now: Time, reset: &frame::Reset) -> Result<(), Broken> {
        let id = reset.channel;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        let (grown, unread) = channel.recv.reset(reset.code, reset.final_offset)?;
        let told = channel.announced && !channel.discarding;
        self.credit.consumed += unread;
        self.count_received(grown)?;
        if told {
            self.events.push_back(Event::Readable { channel: id });
        }
        self.retire(id);
        Ok(())
    }

    fn handle_stop(&mut self, now: Time, stop: &frame::Stop) -> Result<(), Broken> {
        let id = stop.channel;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        if channel.stopped.is_some() {
            return Ok(());
        }
        channel.stopped = Some(stop.code);
        channel.write_blocked = false;
        if !channel.send.is_done() {
            let final_offset = channel.send.reset();
            self.control.push_back(Frame::Reset(frame::Reset {
                channel: id,
                code: stop.code,
                final_offset,
            }));
        }
        self.events.push_back(Event::Writable { channel: id });
        self.retire(id);
        Ok(())
    }

    fn handle_datagram(&mut self, datagram: frame::Datagram) {
        let Some(channel) = self.channels.get_mut(&datagram.channel) else {
            return;
        };
        if channel.kind == ChannelKind::Datagram && channel.announced && !channel.discarding {
            channel.receive_datagram(datagram.data);
            self.events.push_back(Event::Readable {
                channel: datagram.channel,
            });
        }
    }

    fn handle_close(&mut self, now: Time, close: &frame::Close) {
        if self.state == State::Open {
            self.closed(ClosedBy::Peer, close.code, &close.reason);
        }
        self.control.clear();
        self.received.repeat(now);
        // Stays until the acknowledgement is out.
        self.peer_closed = true;
        self.state = State::Closing {
            until: now + LINGER,
        };
    }

    /// Forgets a channel on which nothing can happen any more.
    pub(super) fn retire(&mut self, id: ChannelId) {
        if !self.channels.get(&id).is_some_and(Channel::is_finished) {
            return;
        }
        self.channels.remove(&id);
        self.renewable.remove(&id);
        if id.initiated_by() != self.role {
            self.credit.peer_done += 1;
        }
    }
}
