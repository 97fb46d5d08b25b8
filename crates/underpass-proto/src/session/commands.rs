//! What the application asks of a session: channels, bytes, datagrams, ends.

use std::time::Duration;

use bytes::Bytes;

use super::channel::Channel;
use super::{Session, State};
use crate::code;
use crate::frame::{
    self, ChannelId, ChannelKind, Class, Encoding, Frame, Hop, Open, Opened, Redial,
};
use crate::time::Time;

/// The largest datagram that fits a record, whatever the peer says it takes: UDP's over IPv4.
const MAX_DATAGRAM: u64 = 65_507;

/// Why a channel was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer allows no more channels for now; [`super::Event::ChannelsAvailable`] follows.
    #[error("the peer allows no more channels at this time")]
    TooMany,
    /// The session is closing or closed.
    #[error("the session has ended")]
    Closed,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Full: [`super::Event::Writable`] follows.
    #[error("the channel takes no more at this time")]
    Blocked,
    /// The peer wants no more, with its code.
    #[error("the peer stopped reading ({})", code::name(*.0))]
    Stopped(u64),
    /// The channel's sending side, or the session, has ended.
    #[error("the channel has ended")]
    Closed,
}

/// What reading gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Bytes, or one datagram.
    Data(Bytes),
    /// The peer's authenticated end: everything was read.
    Finished,
    /// Nothing yet: [`super::Event::Readable`] follows.
    Blocked,
    /// The peer gave up, with its code; what was not read is gone.
    Reset(u64),
    /// The channel or the session has ended before the peer's end arrived.
    Closed,
}

impl Session {
    /// From now on a leg on which nothing was sent, or nothing answered, for so long is pinged: for
    /// paths that were seen to cut what is silent. See [`super::Config::ping_after`].
    pub fn set_ping_after(&mut self, ping_after: Duration) {
        self.config.ping_after = ping_after;
    }

    /// Opens a channel to a service of the peer. Data may be written at once.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        &mut self,
        now: Time,
        kind: ChannelKind,
        class: Class,
        encoding: Encoding,
        service: &str,
    ) -> Result<ChannelId, OpenError> {
        if self.state != State::Open {
            return Err(OpenError::Closed);
        }
        if self.credit.opened >= self.credit.open_limit {
            return Err(OpenError::TooMany);
        }
        let id = ChannelId::new(self.role, self.credit.opened);
        self.credit.opened += 1;
        let mut channel = self.new_channel(now, kind, class, encoding);
        channel.announced = true;
        channel.open_waits = true;
        self.channels.insert(id, channel);
        self.control.push_back(Frame::Open(Open {
            channel: id,
            kind,
            class,
            encoding,
            service: service.to_owned(),
        }));
        Ok(id)
    }

    /// Tells the peer that the channel it opened leads where it should.
    pub fn accept(&mut self, id: ChannelId) {
        if self.channels.contains_key(&id) {
            self.control
                .push_back(Frame::Opened(Opened { channel: id }));
        }
    }

    /// How many bytes [`Session::write`] would take.
    ///
    /// # Errors
    /// See [`WriteError`]; `Blocked` is answered by an event later.
    pub fn write_room(&mut self, id: ChannelId) -> Result<usize, WriteError> {
        let channel = self.channels.get_mut(&id).ok_or(WriteError::Closed)?;
        if let Some(code) = channel.stopped {
            channel.send.set_told();
            self.retire(id);
            return Err(WriteError::Stopped(code));
        }
        if channel.kind != ChannelKind::Stream || !channel.send.is_open() {
            return Err(WriteError::Closed);
        }
        match channel.send.room() {
            0 => {
                channel.write_blocked = true;
                Err(WriteError::Blocked)
            }
            room => Ok(room),
        }
    }

    /// Adds bytes to a channel and takes them off the front of `data`, as many as there is room for.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was taken.
    pub fn write(&mut self, id: ChannelId, data: &mut Bytes) -> Result<usize, WriteError> {
        let taken = self.write_room(id)?.min(data.len());
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.send.push(data.split_to(taken));
        }
        self.reschedule(id);
        Ok(taken)
    }

    /// Ends this side's direction of a channel after what was written. A channel is remembered until
    /// its application finished or reset it, or was told that the peer stopped reading.
    pub fn finish(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.send.finish();
        if channel.send.is_done() {
            self.retire(id);
            return;
        }
        if !channel.send.ends_after(0) {
            self.reschedule(id);
            return;
        }
        // An end without bytes needs no credit, so it does not wait behind those that do.
        channel.send.set_fin_sent();
        self.control.push_back(Frame::Data(frame::Data {
            channel: id,
            offset: channel.send.offset(),
            fin: true,
            data: Bytes::new(),
        }));
        self.retire(id);
    }

    /// Gives up this side's direction: what was not sent is forgotten, and the peer learns the code.
    pub fn reset(&mut self, id: ChannelId, code: u64) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.send.set_told();
        if channel.send.is_done() {
            self.retire(id);
            return;
        }
        let final_offset = channel.send.reset();
        self.control.push_back(Frame::Reset(frame::Reset {
            channel: id,
            code,
            final_offset,
        }));
        self.retire(id);
    }

    /// Wants no more from the peer on this channel, and tells it why.
    pub fn stop(&mut self, id: ChannelId, code: u64) {
        let Some(channel) = self.channels.get_mut(&id) else {
            self.left.remove(&id);
            return;
        };
        if channel.recv.is_discarding() {
            return;
        }
        let complete = channel.recv.is_complete();
        self.fragments -= channel.recv.fragments();
        self.credit.consumed += channel.recv.discard();
        while let Some((data, ())) = channel.datagrams_in.pop() {
            self.datagram_bytes -= data.len();
        }
        if !complete {
            self.control
                .push_back(Frame::Stop(frame::Stop { channel: id, code }));
        }
        self.retire(id);
    }

    /// The next bytes of a channel, at most `most`; or the next datagram, whole.
    pub fn read(&mut self, id: ChannelId, most: usize) -> ReadOutcome {
        let Some(channel) = self.channels.get_mut(&id) else {
            return self.read_left(id, most);
        };
        if channel.kind == ChannelKind::Datagram
            && let Some((data, ())) = channel.datagrams_in.pop()
        {
            self.datagram_bytes -= data.len();
            return ReadOutcome::Data(data);
        }
        if let Some(data) = channel.recv.read(most) {
            self.credit.consumed += data.len() as u64;
            if !std::mem::replace(&mut channel.renewable, true) {
                self.renewable.push(id);
            }
            return ReadOutcome::Data(data);
        }
        let outcome = match channel.recv.reset_code() {
            Some(code) => ReadOutcome::Reset(code),
            None if channel.recv.is_at_end() => ReadOutcome::Finished,
            None => return ReadOutcome::Blocked,
        };
        channel.recv.set_ended();
        self.retire(id);
        outcome
    }

    fn read_left(&mut self, id: ChannelId, most: usize) -> ReadOutcome {
        let Some(half) = self.left.get_mut(&id) else {
            return ReadOutcome::Closed;
        };
        half.read(most).map_or_else(
            || {
                self.left.remove(&id);
                ReadOutcome::Finished
            },
            ReadOutcome::Data,
        )
    }

    /// The largest datagram that can be sent, in bytes.
    #[must_use]
    pub fn max_datagram(&self) -> u64 {
        self.peer.max_datagram.min(MAX_DATAGRAM)
    }

    /// Sends a datagram on a datagram channel; it is dropped if it is still here at `deadline`.
    ///
    /// # Errors
    /// The channel has ended, or carries no datagrams, or the datagram is larger than the peer takes.
    pub fn send_datagram(
        &mut self,
        id: ChannelId,
        data: Bytes,
        deadline: Time,
    ) -> Result<(), WriteError> {
        let most = self.max_datagram();
        let channel = self.channels.get_mut(&id).ok_or(WriteError::Closed)?;
        if let Some(code) = channel.stopped {
            channel.send.set_told();
            self.retire(id);
            return Err(WriteError::Stopped(code));
        }
        let fits = data.len() as u64 <= most;
        if channel.kind != ChannelKind::Datagram || !channel.send.is_open() || !fits {
            return Err(WriteError::Closed);
        }
        if channel.datagrams_out.is_empty() && !channel.open_waits {
            self.datagrams.push_back(id);
        }
        channel.datagrams_out.push(data, deadline);
        Ok(())
    }

    /// Asks the peer to go on with another host service: what is written from now on is for that
    /// one. The near program notices nothing.
    pub fn redial(&mut self, id: ChannelId, service: &str) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if channel.kind != ChannelKind::Stream || !channel.send.is_open() {
            return;
        }
        let offset = channel.send.end();
        channel.redials_out.push_back((offset, service.to_owned()));
        if channel.redials_out.len() == 1 {
            self.send_redial(id);
        }
    }

    /// Sends the first REDIAL of a channel. What lies behind its offset waits until the peer has it:
    /// no byte may reach the wrong service.
    pub(super) fn send_redial(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let Some((offset, service)) = channel.redials_out.front().cloned() else {
            channel.send.set_barrier(None);
            self.reschedule(id);
            return;
        };
        channel.send.set_barrier(Some(offset));
        self.control.push_back(Frame::Redial(Redial {
            channel: id,
            offset,
            service,
        }));
        self.reschedule(id);
    }

    /// Offset in the peer's stream up to which this side has read: what [`super::Event::Redial`]'s
    /// offset is compared with.
    #[must_use]
    pub fn read_offset(&self, id: ChannelId) -> Option<u64> {
        self.channels
            .get(&id)
            .map(|channel| channel.recv.read_offset())
    }

    /// The code with which the peer gave up a channel, if it did.
    #[must_use]
    pub fn reset_code(&self, id: ChannelId) -> Option<u64> {
        self.channels.get(&id)?.recv.reset_code()
    }

    /// The code with which the peer stopped reading a channel, if it did.
    #[must_use]
    pub fn stopped_code(&self, id: ChannelId) -> Option<u64> {
        self.channels.get(&id)?.stopped
    }

    /// Tells the peer how this side's own path to a relay is, in place of what was not sent yet about the
    /// same one.
    pub fn tell_of_hop(&mut self, hop: Hop) {
        if self.state != State::Open {
            return;
        }
        let older = |frame: &Frame| matches!(frame, Frame::Hop(old) if old.relay == hop.relay);
        self.control.retain(|frame| !older(frame));
        self.control.push_back(Frame::Hop(hop));
    }

    /// Seals what follows with newer keys, and asks the peer to do the same.
    pub fn update_keys(&mut self) {
        self.send_epochs.request_update();
    }

    /// Puts a channel in the schedule if it can send.
    pub(super) fn reschedule(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if !channel.scheduled && channel.send.wants_to_send() {
            channel.scheduled = true;
            self.schedule.add(id, channel.class);
        }
    }

    /// Tells the application once that there is room again.
    pub(super) fn note_room(channel: &mut Channel) -> bool {
        let room = channel.send.room() >= super::send_half::SEND_BUFFER / 2;
        std::mem::take(&mut channel.write_blocked) && {
            channel.write_blocked = !room;
            room
        }
    }
}
