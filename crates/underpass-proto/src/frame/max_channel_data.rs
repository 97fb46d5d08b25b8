//! MAX_CHANNEL_DATA: credit for one channel (RFC 9000 §19.10).

use super::ChannelId;
use crate::wire::body;

body! {
    /// How far the peer may send on one stream channel. Never shrinks.
    pub struct MaxChannelData {
        /// The channel.
        pub channel: ChannelId,
        /// The first offset that it must not reach, in bytes.
        pub maximum: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for MaxChannelData {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            MaxChannelData {
                channel: ChannelId(2),
                maximum: 256 * 1024,
            },
            "09 02 80040000",
        )]
    }
}
