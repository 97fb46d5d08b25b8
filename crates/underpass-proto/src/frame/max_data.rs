//! MAX_DATA: credit for the whole session (RFC 9000 §19.9).

use crate::wire::body;

body! {
    /// How many bytes the peer may send on all its stream channels together, over the life of
    /// the session. Never shrinks; a smaller value than before means nothing.
    pub struct MaxData {
        /// The sum of the highest offsets allowed, in bytes.
        pub maximum: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for MaxData {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(MaxData { maximum: 1 << 20 }, "08 80100000")]
    }
}
