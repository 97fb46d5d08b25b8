//! REDIAL: moves a channel to another host service.

use super::ChannelId;
use crate::wire::{Label, body};

body! {
    /// Moves a channel to another host service while the program near the sender stays
    /// connected: the peer ends the connection that it has, dials the new service, and answers
    /// with [`Opened`](super::Opened), or with RESET and a code that says why not.
    pub struct Redial {
        /// The channel, a stream.
        pub channel: ChannelId,
        /// The bytes before this offset belong to the old service, those from it on to the new
        /// one.
        pub offset: u64,
        /// The new service; at most 255 bytes.
        pub service: String as Label<255>,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Redial {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Redial {
                channel: ChannelId(2),
                offset: 70_005,
                service: "db2".into(),
            },
            "0e 02 80011175 03 646232",
        )]
    }
}
