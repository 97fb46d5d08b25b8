//! MAX_CHANNELS: how many channels the peer may open (RFC 9000 §19.11).

use crate::wire::body;

body! {
    /// How many channels the peer may open over the life of the session. Never shrinks.
    pub struct MaxChannels {
        /// The first index that it must not reach.
        pub maximum: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for MaxChannels {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(MaxChannels { maximum: 4096 }, "0a 5000")]
    }
}
