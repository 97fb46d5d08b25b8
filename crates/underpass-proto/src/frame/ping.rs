//! PING: is the leg alive, and how long is the round trip?

use crate::wire::body;

body! {
    /// Asks for a [`Pong`](super::Pong) with the same token, on the leg that brought it.
    pub struct Ping {
        /// Chosen by the sender to tell its pings apart.
        pub token: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Ping {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(Ping { token: 494_878_333 }, "01 9d7f3e7d")]
    }
}
