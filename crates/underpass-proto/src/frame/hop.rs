//! HOP: how the sender's own path to a relay is.

use crate::wire::body;

body! {
    /// What the sender measured of its own path to one relay. The peer adds its own part to it, and so
    /// knows which relay is best for both. A later one about the same relay takes its place.
    pub struct Hop {
        /// Which relay: the fingerprint of its key.
        pub relay: [u8; 32],
        /// Round trip from the sender to the relay and back, in microseconds.
        pub round_trip_us: u64,
        /// Bytes per second that the sender saw this session deliver by way of the relay; 0 where it does
        /// not know.
        pub rate: u64,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Hop {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Hop {
                relay: std::array::from_fn(|n| n as u8),
                round_trip_us: 20_000,
                rate: 0,
            },
            "13 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 80004e20 00",
        )]
    }
}
