//! What goes out: which packet a leg gets next.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use underpass_seal::{Space, TAG_LEN};

use super::choice::{Load, MUCH};
use super::received::Acks;
use super::{Event, LegId, Session, State};
use crate::code;
use crate::frame::{self, ChannelId, Data, Frame, KeyUpdate, MaxChannelData, MaxChannels, MaxData};
use crate::packet::{MAX_PLAINTEXT, PacketKind, RecordHeader};
use crate::time::Time;

/// Room that a record needs beside its payload: kind, epoch, number, tag.
const OVERHEAD: usize = 1 + 8 + 8 + TAG_LEN;
/// Records are cut from pieces of memory that hold a few of them.
const RECORDS_PER_SLAB: usize = 8;
/// Records of slow sessions, and acknowledgements, are cut from pieces of this size.
const SMALL_SLAB: usize = 4 * 1024;
/// Beyond a full replay queue only control frames go out, and only so many bytes of them: a peer
/// that acknowledges nothing gets nothing.
const CONTROL_RESERVE: u64 = 1 << 20;
/// Payload that one unreliable record carries at the most, unless one datagram is larger.
const UNRELIABLE_TARGET: usize = 16 * 1024;
/// Less room than this in a record is not worth another DATA frame.
const LEAST_DATA: usize = 64;

impl Session {
    /// The next packet for `leg`: its kind byte and body, without the length before it.
    pub fn poll_transmit(&mut self, now: Time, leg: LegId) -> Option<Bytes> {
        let state = self.legs.get_mut(&leg)?;
        if let Some(packet) = state.next_opening() {
            state.sent(now);
            return Some(packet);
        }
        if !state.is_active() {
            return None;
        }
        if self.send_epochs.is_exhausted() {
            let reason = "the peer acknowledges nothing, so the keys cannot be renewed";
            self.fail(code::PROTOCOL_VIOLATION, reason);
            return None;
        }
        let packet = self
            .unreliable_record(now, leg)
            .or_else(|| self.repeated_record(now, leg))
            .or_else(|| self.reliable_record(now, leg));
        if self.several
            && let Some(state) = self.legs.get_mut(&leg)
        {
            state.hungry = packet.is_none();
        }
        let packet = packet?;
        if let Some(state) = self.legs.get_mut(&leg) {
            state.sent(now);
        }
        if self.peer_closed && !self.received.is_owed() {
            self.end();
        }
        Some(packet)
    }

    /// Acknowledgement, ping, pong and datagrams: whatever of it is due.
    fn unreliable_record(&mut self, now: Time, leg: LegId) -> Option<Bytes> {
        let state = self.legs.get(&leg)?;
        let (pong, ping) = (state.pong_owed, state.owes_ping());
        let speaks = self.speaks(leg);
        // The answer to a PING tells everything that arrived before it.
        let ack_due = speaks && self.received.is_due(now) || pong.is_some();
        let turn =
            speaks && (std::mem::replace(&mut self.datagram_turn, true) || self.idle_otherwise());
        let datagram = turn.then(|| self.next_datagram_len(now)).flatten();
        if !ack_due && !ping && pong.is_none() && datagram.is_none() {
            return None;
        }
        let acks = match ack_due || speaks && self.received.is_owed() {
            true => self.received.acknowledgements(now),
            false => Acks::new(),
        };
        let ranges: usize = acks.iter().map(|ack| ack.ranges.len()).sum();
        let small = 64 + ranges * 16;
        // The largest datagrams go alone.
        let alone = acks.is_empty() && !ping && pong.is_none();
        let datagram = datagram.filter(|first| alone || first + small <= MAX_PLAINTEXT);
        let large = datagram.map_or(0, |first| (first + 32).max(UNRELIABLE_TARGET));
        self.begin(small + large);
        let number = self.unreliable_next;
        let header = self.put_header(PacketKind::Unreliable, number);
        for ack in acks {
            Frame::Ack(ack).encode(&mut self.outgoing);
        }
        if speaks {
            // What a slower leg says besides comes later than what is owed.
            self.received.acknowledged();
        }
        self.put_ping_and_pong(now, leg, number);
        if datagram.is_some() {
            self.put_datagrams(now, header);
            self.datagram_turn = false;
        }
        self.unreliable_next += 1;
        Some(self.seal(Space::Unreliable, number, header))
    }

    fn put_ping_and_pong(&mut self, now: Time, leg: LegId, token: u64) {
        let Some(state) = self.legs.get_mut(&leg) else {
            return;
        };
        if let Some(token) = state.pong_owed.take() {
            state.pong_sent(token, now);
            Frame::Pong(frame::Pong { token }).encode(&mut self.outgoing);
        }
        if state.owes_ping() {
            state.pinged(token, now);
            Frame::Ping(frame::Ping { token }).encode(&mut self.outgoing);
        }
    }

    /// How long the next datagram is that is not too late.
    fn next_datagram_len(&mut self, now: Time) -> Option<usize> {
        while let Some(id) = self.datagrams.front() {
            if let Some(channel) = self.channels.get_mut(id)
                && channel.drop_late(now)
            {
                return channel.datagrams_out.front().map(|(data, _)| data.len());
            }
            self.datagrams.pop_front();
        }
        None
    }

    /// Datagrams of all channels in turn, as many as fit; the first one always does.
    fn put_datagrams(&mut self, now: Time, header: usize) {
        let mut first = true;
        while let Some(length) = self.next_datagram_len(now) {
            let fits = self.outgoing.len() + length + 16 <= header + UNRELIABLE_TARGET;
            if !first && !fits {
                return;
            }
            first = false;
            let Some(id) = self.datagrams.pop_front() else {
                return;
            };
            let Some(channel) = self.channels.get_mut(&id) else {
                return;
            };
            if let Some((data, _)) = channel.datagrams_out.pop() {
                Frame::Datagram(frame::Datagram { channel: id, data }).encode(&mut self.outgoing);
            }
            if !channel.datagrams_out.is_empty() {
                self.datagrams.push_back(id);
            }
        }
    }

    fn idle_otherwise(&self) -> bool {
        self.control.is_empty() && self.schedule.is_empty() && self.replay.next_lost().is_none()
    }

    /// A record that was lost, as it was.
    fn repeated_record(&mut self, now: Time, leg: LegId) -> Option<Bytes> {
        let (number, packet) = self.replay.next_lost()?;
        if self.several && !matches!(self.load(leg), Load::All | Load::Spread) {
            return None;
        }
        let state = self.legs.get_mut(&leg)?;
        let under_way = self.replay.under_way(leg);
        if under_way > 0 && under_way + packet.len() as u64 > state.path.window() {
            state.path.on_limited(now, state.packets, under_way);
            self.note_full(leg);
            return None;
        }
        self.replay.resent(number, leg, state.packets, now);
        Some(packet)
    }

    /// The leg that leads is full, and more waits.
    fn note_full(&mut self, leg: LegId) {
        if self.several && self.lead.is_some_and(|(lead, _)| lead == leg) {
            self.events.push_back(Event::LegFull { leg });
        }
    }

    /// A new record, if there is anything for it and room in the window.
    fn reliable_record(&mut self, now: Time, leg: LegId) -> Option<Bytes> {
        let unacknowledged = self.replay.unacknowledged();
        if unacknowledged > self.config.max_replay + CONTROL_RESERVE {
            return None;
        }
        let load = self.load(leg);
        let all = load == Load::All;
        if all {
            self.renew_windows(now);
        }
        let update = all
            && self.state == State::Open
            && self.send_epochs.update_due(self.replay.floor()).is_some();
        let control = all && !self.control.is_empty();
        let under_way = self.replay.under_way(leg);
        let state = self.legs.get_mut(&leg)?;
        let target = state.path.record_target();
        let more = target as u64;
        // An idle path that gets work starts a new measurement.
        if under_way == 0 {
            state.path.on_busy(now, state.packets);
        }
        let nothing = load == Load::Nothing || !control && self.schedule.is_empty() && !update;
        let window_full = under_way > 0 && under_way + more > state.path.window();
        if window_full {
            state.path.on_limited(now, state.packets, under_way);
        } else if nothing {
            state.path.on_idle(now);
        }
        if nothing {
            return None;
        }
        if window_full {
            self.note_full(leg);
        }
        let full = window_full
            || unacknowledged > 0 && unacknowledged + more > self.config.max_replay
            || !self.replay.has_room(more);
        if full && !control && !update {
            return None;
        }
        let data = !full && self.state == State::Open;
        let packet = self.build_reliable(now, leg, target, load, data)?;
        if self.several
            && let Some(state) = self.legs.get_mut(&leg)
        {
            state.measure(now);
        }
        Some(packet)
    }

    fn build_reliable(
        &mut self,
        now: Time,
        leg: LegId,
        target: usize,
        load: Load,
        data: bool,
    ) -> Option<Bytes> {
        let all = load == Load::All;
        let number = self.replay.next_number();
        self.begin(target.max(2048) + 16);
        let header = self.put_header(PacketKind::Reliable, number);
        let end = header + target.max(2048);
        while let Some(frame) = self.control.front().filter(|_| all) {
            if self.outgoing.len() > header && self.outgoing.len() + frame.encoded_len() > end {
                break;
            }
            match frame {
                Frame::Redial(redial) => self.redials_under_way.push((number, redial.channel)),
                Frame::Close(_) => self.close_number = Some(number),
                Frame::Open(open) => {
                    if let Some(channel) = self.channels.get_mut(&open.channel) {
                        channel.open_waits = false;
                        if !channel.datagrams_out.is_empty() {
                            self.datagrams.push_back(open.channel);
                        }
                    }
                }
                _ => {}
            }
            frame.encode(&mut self.outgoing);
            self.control.pop_front();
        }
        if data {
            self.put_channel_data(header + target, load);
        }
        let update = self.send_epochs.update_due(self.replay.floor());
        let update = update.filter(|_| all);
        if self.outgoing.len() == header && update.is_none() {
            // The peer's window is full, not the path's.
            self.outgoing.clear();
            self.legs.get_mut(&leg)?.path.on_idle(now);
            return None;
        }
        if let Some(epoch) = update {
            Frame::KeyUpdate(KeyUpdate { epoch }).encode(&mut self.outgoing);
        }
        let packet = self.seal(Space::Reliable, number, header);
        if update.is_some() {
            self.send_epochs.advance(number + 1);
        }
        let index = self.legs.get(&leg)?.packets;
        self.replay.push(packet.clone(), leg, index, now);
        Some(packet)
    }

    /// DATA frames of the channels whose turn it is, until the record is full.
    fn put_channel_data(&mut self, end: usize, load: Load) {
        while self.outgoing.len() + LEAST_DATA <= end {
            let Some((id, turn)) = self.schedule.next(load == Load::All) else {
                return;
            };
            let Some(channel) = self.channels.get_mut(&id) else {
                self.schedule.sent(0, false);
                continue;
            };
            if let Load::Much { ahead } = load {
                let session = self.credit.send_limit - self.credit.sent;
                // The channels that wait share what the lead brings.
                let share = ahead / self.schedule.waiting().max(1) as u64;
                let much = channel.send.sendable() >= MUCH;
                if !much || channel.send.credit() < share || session < ahead {
                    return;
                }
            }
            let header = Data::header_len(id, channel.send.offset(), end);
            let room = end.saturating_sub(self.outgoing.len() + header);
            let credit = self.credit.send_limit - self.credit.sent;
            let credit = usize::try_from(credit).unwrap_or(usize::MAX);
            let bytes = channel.send.sendable().min(turn).min(room).min(credit);
            let fin = channel.send.ends_after(bytes);
            if bytes == 0 && !fin {
                if channel.send.wants_to_send() {
                    // The session's window or the record is full: the channel keeps its turn.
                    return;
                }
                channel.scheduled = false;
                self.schedule.sent(0, false);
                continue;
            }
            Data::put_header(&mut self.outgoing, id, channel.send.offset(), fin, bytes);
            channel.send.copy_into(&mut self.outgoing, bytes);
            self.credit.sent += bytes as u64;
            if fin {
                channel.send.set_fin_sent();
            }
            let more = channel.send.wants_to_send();
            channel.scheduled = more;
            if Self::note_room(channel) {
                self.events.push_back(Event::Writable { channel: id });
            }
            self.schedule.sent(bytes, more);
            self.retire(id);
        }
    }

    /// Tells the peer of windows of which half was used up.
    fn renew_windows(&mut self, now: Time) {
        if self.state != State::Open {
            return;
        }
        let rtt = self.longest_rtt();
        while let Some(id) = self.renewable.pop() {
            self.renew_channel(now, id, rtt);
        }
        let credit = &mut self.credit;
        // Readers that are slow hold part of the window: more of it for the others.
        if credit.received - credit.consumed > credit.window.size() / 2 {
            credit.window.grow();
        }
        if let Some(maximum) = credit
            .window
            .renew(credit.consumed, credit.granted, now, rtt)
        {
            credit.granted = maximum;
            self.control.push_back(Frame::MaxData(MaxData { maximum }));
        }
        let room = credit.peer_done + self.config.params.max_channels;
        if room >= credit.peer_open_limit + (self.config.params.max_channels / 2).max(1) {
            credit.peer_open_limit = room;
            self.control
                .push_back(Frame::MaxChannels(MaxChannels { maximum: room }));
        }
    }

    fn renew_channel(&mut self, now: Time, id: ChannelId, rtt: Duration) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.renewable = false;
        if let Some(maximum) = channel.recv.new_limit(now, rtt) {
            self.control
                .push_back(Frame::MaxChannelData(MaxChannelData {
                    channel: id,
                    maximum,
                }));
        }
    }

    /// Makes room for one record with so much payload.
    fn begin(&mut self, payload: usize) {
        let need = payload + OVERHEAD;
        debug_assert!(self.outgoing.is_empty());
        if self.outgoing.capacity() < need {
            // Slow sessions build small records: they pin little memory while they are replayed.
            let slab = if payload > 8 * 1024 {
                need * RECORDS_PER_SLAB
            } else {
                need.max(SMALL_SLAB)
            };
            self.outgoing = BytesMut::with_capacity(slab);
        }
    }

    fn put_header(&mut self, kind: PacketKind, number: u64) -> usize {
        RecordHeader {
            kind,
            epoch: self.send_epochs.epoch(),
            number,
        }
        .put(&mut self.outgoing);
        self.outgoing.len()
    }

    /// Seals what stands behind the header, in place.
    fn seal(&mut self, space: Space, number: u64, header: usize) -> Bytes {
        let (aad, payload) = self.outgoing.split_at_mut(header);
        let tag = self.send_epochs.seal(space, number, aad, payload);
        self.outgoing.put_slice(&tag);
        self.outgoing.split().freeze()
    }
}
