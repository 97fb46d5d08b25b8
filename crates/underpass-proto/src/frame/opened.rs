//! OPENED: the channel leads where it should.

use super::ChannelId;
use crate::wire::body;

body! {
    /// Answers [`Open`](super::Open) once the service has been reached (dialled, say).
    pub struct Opened {
        /// The channel.
        pub channel: ChannelId,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Opened {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![(
            Opened {
                channel: ChannelId(2),
            },
            "05 02",
        )]
    }
}
