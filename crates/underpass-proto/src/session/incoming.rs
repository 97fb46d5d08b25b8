//! What comes in for channels.

use bytes::Bytes;

use super::channel::{Channel, MAX_EARLY_REDIALS};
use super::receive::Broken;
use super::recv_half::{RecvHalf, SMALL, Violation};
use super::{ClosedBy, Event, LINGER, Session, State};
use crate::code;
use crate::frame::{
    self, ChannelId, ChannelKind, Class, Data, Encoding, Frame, MaxChannelData, Open, Redial,
};
use crate::time::Time;

const STREAM_BYTES: Broken = Broken(
    code::PROTOCOL_VIOLATION,
    "the peer sent stream bytes on a channel of datagrams",
);

/// Datagrams of all channels that wait to be read may take so many bytes; what comes then is
/// dropped.
const MAX_DATAGRAM_BYTES: usize = 8 << 20;
/// Pieces out of order that a session keeps, beyond one for so many bytes that wait: each costs
/// memory of its own.
const MAX_FRAGMENTS: u64 = 16 * 1024;
const BYTES_PER_FRAGMENT: u64 = 256;

impl Session {
    /// The channel, made if the peer may open it and it was not there; `None` when it is done.
    pub(super) fn channel_mut(
        &mut self,
        now: Time,
        id: ChannelId,
    ) -> Result<Option<&mut Channel>, Broken> {
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

    pub(super) fn handle_open(&mut self, now: Time, open: Open) -> Result<(), Broken> {
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
        if kind == ChannelKind::Datagram && channel.recv.highest() > 0 {
            return Err(STREAM_BYTES);
        }
        channel.announced = true;
        channel.kind = kind;
        channel.class = class;
        channel.encoding = encoding;
        self.events.push_back(Event::Opened {
            channel: id,
            kind,
            class,
            encoding,
            service,
        });
        self.tell_what_came_before(id);
        Ok(())
    }

    /// OPEN came after other frames of its channel: the application hears of those now.
    fn tell_what_came_before(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        for (offset, service) in std::mem::take(&mut channel.redials_in) {
            self.events.push_back(Event::Redial {
                channel: id,
                offset,
                service,
            });
        }
        if channel.recv.is_readable() {
            self.events.push_back(Event::Readable { channel: id });
        }
        if channel.stopped.is_some() {
            self.events.push_back(Event::Writable { channel: id });
        }
    }

    pub(super) fn handle_opened(&mut self, id: ChannelId) {
        if id.initiated_by() == self.role && self.channels.contains_key(&id) {
            self.events.push_back(Event::Accepted { channel: id });
        }
    }

    pub(super) fn handle_max_channel_data(
        &mut self,
        now: Time,
        max: MaxChannelData,
    ) -> Result<(), Broken> {
        if let Some(channel) = self.channel_mut(now, max.channel)? {
            channel.send.raise_limit(max.maximum);
            self.reschedule(max.channel);
        }
        Ok(())
    }

    pub(super) fn handle_data(&mut self, now: Time, data: Data) -> Result<(), Broken> {
        let id = data.channel;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        if channel.kind == ChannelKind::Datagram && !data.data.is_empty() {
            return Err(STREAM_BYTES);
        }
        let before = (channel.recv.is_readable(), channel.recv.fragments());
        let grown = channel.recv.receive(data.offset, data.data, data.fin)?;
        let told = channel.announced && !before.0 && channel.recv.is_readable();
        let (fragments, discarding) = (channel.recv.fragments(), channel.recv.is_discarding());
        self.fragments = self.fragments + fragments - before.1;
        if discarding {
            self.credit.consumed += grown;
        } else if told {
            self.events.push_back(Event::Readable { channel: id });
        }
        self.count_received(grown)?;
        if self.fragments as u64 > MAX_FRAGMENTS + self.unread() / BYTES_PER_FRAGMENT {
            return Err(Broken(
                code::PROTOCOL_VIOLATION,
                "the peer cut channels into too many pieces",
            ));
        }
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

    pub(super) fn handle_reset(&mut self, now: Time, reset: &frame::Reset) -> Result<(), Broken> {
        let id = reset.channel;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        let before = channel.recv.fragments();
        let (grown, unread) = channel.recv.reset(reset.code, reset.final_offset)?;
        let told = channel.announced && !channel.recv.is_discarding();
        let fragments = channel.recv.fragments();
        self.fragments = self.fragments + fragments - before;
        self.credit.consumed += unread;
        self.count_received(grown)?;
        if told {
            self.events.push_back(Event::Readable { channel: id });
        }
        self.retire(id);
        Ok(())
    }

    pub(super) fn handle_stop(&mut self, now: Time, stop: &frame::Stop) -> Result<(), Broken> {
        let id = stop.channel;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        if channel.stopped.is_some() {
            return Ok(());
        }
        channel.stopped = Some(stop.code);
        channel.write_blocked = false;
        let told = channel.announced;
        if !channel.send.is_done() {
            let final_offset = channel.send.reset();
            self.control.push_back(Frame::Reset(frame::Reset {
                channel: id,
                code: stop.code,
                final_offset,
            }));
        }
        if told {
            self.events.push_back(Event::Writable { channel: id });
        }
        self.retire(id);
        Ok(())
    }

    pub(super) fn handle_datagram(&mut self, datagram: frame::Datagram) {
        let id = datagram.channel;
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let wanted = channel.kind == ChannelKind::Datagram
            && channel.announced
            && !channel.recv.is_discarding();
        if !wanted || self.datagram_bytes + datagram.data.len() > MAX_DATAGRAM_BYTES {
            return;
        }
        let data = match datagram.data.len() {
            0..SMALL => Bytes::copy_from_slice(&datagram.data),
            _ => datagram.data,
        };
        let before = channel.datagrams_in.bytes();
        channel.datagrams_in.push(data, ());
        self.datagram_bytes = self.datagram_bytes + channel.datagrams_in.bytes() - before;
        self.events.push_back(Event::Readable { channel: id });
    }

    /// The peer moves a channel to another service. Its bytes for the new one cannot have come
    /// before, since the peer waits for the acknowledgement.
    pub(super) fn handle_redial(&mut self, now: Time, redial: Redial) -> Result<(), Broken> {
        let Redial {
            channel: id,
            offset,
            service,
        } = redial;
        let Some(channel) = self.channel_mut(now, id)? else {
            return Ok(());
        };
        if channel.kind != ChannelKind::Stream || offset < channel.recv.highest() {
            return Err(Broken(
                code::PROTOCOL_VIOLATION,
                "the peer moved a channel after the fact",
            ));
        }
        if channel.announced {
            self.events.push_back(Event::Redial {
                channel: id,
                offset,
                service,
            });
        } else if channel.redials_in.len() < MAX_EARLY_REDIALS {
            channel.redials_in.push((offset, service));
        } else {
            return Err(Broken(
                code::PROTOCOL_VIOLATION,
                "the peer moved a channel many times before it opened it",
            ));
        }
        Ok(())
    }

    pub(super) fn handle_close(&mut self, now: Time, close: &frame::Close) {
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
        if let Some(channel) = self.channels.remove(&id) {
            self.datagram_bytes -= channel.datagrams_in.bytes();
        }
        if id.initiated_by() != self.role {
            self.credit.peer_done += 1;
        }
    }
}
