//! STOP: the receiver wants no more of a channel (RFC 9000 §19.5).

use super::ChannelId;
use crate::wire::body;

body! {
    /// Asks the peer to end its direction of a channel; it answers with RESET unless it has
    /// already ended it.
    pub struct Stop {
        /// The channel.
        pub channel: ChannelId,
        /// Why, from the table of codes.
        pub code: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Stop {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Stop {
                channel: ChannelId(2),
                code: 0x08,
            },
            "0c 02 08",
        )]
    }
}
