//! RESET: the sender ends its direction of a channel at once (RFC 9000 §19.4).

use super::ChannelId;
use crate::wire::body;

body! {
    /// Ends the sender's direction of a channel without delivering the rest: an error to the
    /// application at the other end, never a clean end.
    pub struct Reset {
        /// The channel.
        pub channel: ChannelId,
        /// Why, from the table of codes.
        pub code: u64,
        /// How far the sender had sent, so that both ends count the same credit as used.
        pub final_offset: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Reset {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Reset {
                channel: ChannelId(2),
                code: 0x01,
                final_offset: 70_005,
            },
            "0b 02 01 80011175",
        )]
    }
}
