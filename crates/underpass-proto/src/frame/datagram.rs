//! DATAGRAM: one datagram of a datagram channel (RFC 9221 §4).

use bytes::Bytes;

use super::ChannelId;
use crate::wire::{Counted, body};

body! {
    /// One datagram: whole or not at all, never sent again, dropped when late.
    pub struct Datagram {
        /// The channel.
        pub channel: ChannelId,
        /// The bytes; may be empty.
        pub data: Bytes as Counted,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Datagram {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Datagram {
                channel: ChannelId(5),
                data: Bytes::from_static(b"ping"),
            },
            "0d 05 04 70696e67",
        )]
    }
}
