//! What names and describes a channel: its id, kind, class and encoding.

use bytes::{BufMut, Bytes};

use crate::Role;
use crate::wire::{Auto, Codec, DecodeError, Shown, wire_enum};

/// The id of a channel within its session, as QUIC numbers streams (RFC 9000 §2.1): the
/// lowest bit is 0 where the session's initiator opened it and 1 where the responder did.
/// An id is never used again in the same session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

impl ChannelId {
    /// The id of the channel number `index` (from 0) that `role` opens.
    ///
    /// `index` must be below 2^61, so that the id fits a varint.
    pub fn new(role: Role, index: u64) -> Self {
        ChannelId(index << 1 | u64::from(role == Role::Responder))
    }

    /// Which end opened the channel.
    pub fn initiated_by(self) -> Role {
        if self.0 & 1 == 0 {
            Role::Initiator
        } else {
            Role::Responder
        }
    }

    /// How many channels that end had opened before.
    pub fn index(self) -> u64 {
        self.0 >> 1
    }
}

impl Codec<ChannelId> for Auto {
    fn len(value: &ChannelId) -> usize {
        <Auto as Codec<u64>>::len(&value.0)
    }
    fn put(value: &ChannelId, buf: &mut impl BufMut) {
        <Auto as Codec<u64>>::put(&value.0, buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<ChannelId, DecodeError> {
        <Auto as Codec<u64>>::get(buf, what).map(ChannelId)
    }
    fn show(value: &ChannelId) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        <Auto as Codec<u64>>::layout()
    }
    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<ChannelId> {
        use proptest::strategy::Strategy as _;
        <Auto as Codec<u64>>::any().prop_map(ChannelId).boxed()
    }
}

wire_enum! {
    /// What a channel carries.
    pub enum ChannelKind {
        /// A byte stream with half-close.
        Stream = 0,
        /// Datagrams, never sent again.
        Datagram = 1,
    }
}

wire_enum! {
    /// How urgent a channel is.
    #[derive(PartialOrd, Ord)]
    pub enum Class {
        /// Keystrokes and the like: first, after control.
        Interactive = 0,
        /// Whatever nobody said more about.
        Normal = 1,
        /// Big transfers: what is left, with a small minimum share.
        Bulk = 2,
    }
}

wire_enum! {
    /// How the bytes of a stream channel are written in DATA.
    pub enum Encoding {
        /// As they are.
        Raw = 0,
        /// As blocks, each compressed or not; offsets and credit count the encoded bytes.
        Blocks = 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_who_opened_the_channel() {
        for (role, index, id) in [
            (Role::Initiator, 0, 0),
            (Role::Responder, 0, 1),
            (Role::Initiator, 7, 14),
            (Role::Responder, (1 << 61) - 1, crate::varint::VARINT_MAX),
        ] {
            let channel = ChannelId::new(role, index);
            assert_eq!(channel, ChannelId(id));
            assert_eq!((channel.initiated_by(), channel.index()), (role, index));
        }
    }
}
