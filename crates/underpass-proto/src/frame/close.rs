//! CLOSE: the end of the session (RFC 9000 §19.19).

use crate::wire::{Text, body};

body! {
    /// Ends the session and all its channels; nothing follows.
    pub struct Close {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people, in at most 1024 bytes; a longer text is cut.
        pub reason: String as Text<1024>,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Close {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Close {
                code: 0x10,
                reason: "relay stops".into(),
            },
            "11 10 0b 72656c61792073746f7073",
        )]
    }
}
