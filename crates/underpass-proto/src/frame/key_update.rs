//! KEY_UPDATE: the sender's next records are sealed with newer keys.

use crate::wire::body;

body! {
    /// Announces that the sender seals with the keys of a newer epoch from its next record on.
    pub struct KeyUpdate {
        /// The epoch: one more than before.
        pub epoch: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for KeyUpdate {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(KeyUpdate { epoch: 1 }, "10 01")]
    }
}
