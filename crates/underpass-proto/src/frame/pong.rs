//! PONG: the answer to PING.

use crate::wire::body;

body! {
    /// Answers a [`Ping`](super::Ping), at once.
    pub struct Pong {
        /// The ping's token.
        pub token: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Pong {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(Pong { token: 494_878_333 }, "02 9d7f3e7d")]
    }
}
