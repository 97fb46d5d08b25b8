//! BESIDE: a new leg joins others instead of taking their place.

use crate::wire::{Auto, List, body};

/// How many legs may carry a session at once.
pub const MAX_LEGS: usize = 8;

/// A leg as both ends know it: the first eight bytes of the confirmation tag of the generation that
/// it began with.
pub type LegName = [u8; 8];

body! {
    /// In a request: these legs are to go on beside the new one. In the answer: those of them that
    /// will. Without this frame the new leg takes the place of all others.
    pub struct Beside {
        /// The names of the legs, in any order.
        pub legs: Vec<LegName> as List<Auto, MAX_LEGS>,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Beside {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![
            (
                Beside {
                    legs: vec![*b"leg no 1", *b"leg no 2"],
                },
                "12 02 6c6567206e6f2031 6c6567206e6f2032",
            ),
            (Beside { legs: Vec::new() }, "12 00"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::DecodeError;
    use crate::wire::samples::bytes_of;

    #[test]
    fn more_legs_than_a_session_has_are_refused() {
        let outcome = Beside::decode(&mut bytes_of("12 09 6c65").into());
        let (what, limit) = ("Beside.legs", MAX_LEGS);
        assert_eq!(outcome, Err(DecodeError::TooLong { what, limit }));
    }
}
