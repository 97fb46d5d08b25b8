//! Packets: what a carrier moves.
//!
//! A carrier is a byte stream. On it stand packets, one after the other:
//! `length: varint | kind: byte | body`, where the length counts kind and body and is at most
//! [`MAX_PACKET`]. The length hides nothing and is protected by nothing: whoever changes it
//! makes the records behind it fail to open, and the leg dies.

mod body;
mod decoder;
mod record;

pub use body::{Answer, Confirm, Finish, Hello, HelloTarget, Refused, Resume, Resumed, SessionId};
pub use decoder::{PacketDecoder, PacketError};
pub use record::RecordHeader;

#[cfg(test)]
pub(crate) use body::samples;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::varint;
use crate::wire::{DecodeError, wire_enum};

/// The version of the protocol that this code speaks.
pub const VERSION: u16 = 1;

/// The most that the length of a packet may say, in bytes: 64 KiB of record and 2 KiB for what
/// stands around it.
pub const MAX_PACKET: usize = 65_536 + 2_048;

/// The most frames that one record may hold, in bytes.
pub const MAX_PLAINTEXT: usize = 65_536;

/// The most that a sealed routing header may take, in bytes.
pub const MAX_ROUTE_HEADER: usize = 1_024;

/// The largest packet (kind and body) that a relay can still forward: a ROUTED packet holds
/// its own kind, a routing header with its length, and the forwarded packet.
pub const MAX_FORWARDED: usize = MAX_PACKET - 1 - 2 - MAX_ROUTE_HEADER;

/// The most bytes that the length before a packet takes when written by [`put_prefix`].
pub const MAX_PREFIX: usize = 4 + 1;

wire_enum! {
    /// What a packet is.
    pub enum PacketKind {
        /// Nothing: keeps the path alive and pushes buffers along; ignored.
        Padding = 0x00,
        /// Starts a session: first message of the handshake.
        Hello = 0x01,
        /// Second message of the handshake.
        Answer = 0x02,
        /// Third message of the handshake.
        Finish = 0x03,
        /// Asks to go on with a kept session on this carrier.
        Resume = 0x04,
        /// Grants that.
        Resumed = 0x05,
        /// Proves that the answer came to the owner of the session.
        Confirm = 0x06,
        /// A sealed record that is sent again until it has arrived.
        Reliable = 0x07,
        /// A sealed record that is sent once.
        Unreliable = 0x08,
        /// Says why a session was not started or not resumed.
        Refused = 0x09,
        /// A packet of another session, with the sealed header that tells the relay where to.
        Routed = 0x0a,
    }
}

/// One packet.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub kind: PacketKind,
    /// What follows the kind; not parsed.
    pub body: Bytes,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, body } = self;
        write!(f, "{kind:?}({} bytes)", body.len())
    }
}

impl Packet {
    /// A packet without its length before it: kind and body, as it stands in a ROUTED packet.
    ///
    /// # Errors
    /// [`PacketError`] where it is empty, too long or of unknown kind.
    pub fn parse_unframed(mut bytes: Bytes) -> Result<Packet, PacketError> {
        if bytes.is_empty() || bytes.len() > MAX_PACKET {
            return Err(PacketError::Length(bytes.len() as u64));
        }
        let code = bytes[0];
        let kind = PacketKind::from_code(code).ok_or(PacketError::UnknownKind(code))?;
        let body = bytes.split_off(1);
        Ok(Packet { kind, body })
    }

    /// Exactly how many bytes [`encode`](Self::encode) writes.
    pub fn encoded_len(&self) -> usize {
        prefix_len(self.body.len()) + self.body.len()
    }

    /// Appends the packet with its length.
    pub fn encode(&self, buf: &mut impl BufMut) {
        put_prefix(buf, self.kind, self.body.len());
        buf.put_slice(&self.body);
    }
}

/// How many bytes [`put_prefix`] writes.
pub fn prefix_len(body_len: usize) -> usize {
    varint::size(body_len as u64 + 1) + 1
}

/// Appends length and kind of a packet whose body of `body_len` bytes the caller writes next.
/// `body_len` must be below [`MAX_PACKET`].
pub fn put_prefix(buf: &mut impl BufMut, kind: PacketKind, body_len: usize) {
    debug_assert!(
        body_len < MAX_PACKET,
        "a packet of {body_len} bytes is too long"
    );
    varint::put(buf, body_len as u64 + 1);
    buf.put_u8(kind.code());
}

/// A whole padding packet with a body of `len` zero bytes (at most [`MAX_PACKET`] - 1).
pub fn padding(len: usize) -> Bytes {
    let len = len.min(MAX_PACKET - 1);
    let mut buf = BytesMut::with_capacity(prefix_len(len) + len);
    put_prefix(&mut buf, PacketKind::Padding, len);
    buf.put_bytes(0, len);
    buf.freeze()
}

/// Reads a whole body: nothing may be left over.
pub(crate) fn whole<T>(
    mut body: Bytes,
    what: &'static str,
    read: impl FnOnce(&mut Bytes) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let value = read(&mut body)?;
    if body.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::TrailingBytes {
            what,
            count: body.len(),
        })
    }
}
