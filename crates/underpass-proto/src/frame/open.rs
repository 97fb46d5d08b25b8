//! OPEN: opens a channel.

use super::{ChannelId, ChannelKind, Class, Encoding};
use crate::wire::{Label, body};

body! {
    /// Opens a channel to a service of the peer. The opener may send DATA at once, under the
    /// credit it was given; the peer answers with [`Opened`](super::Opened), or with RESET and
    /// a code that says why not.
    pub struct Open {
        /// The new channel; its lowest bit must be that of the sender's role.
        pub channel: ChannelId,
        /// Stream or datagrams.
        pub kind: ChannelKind,
        /// Its priority, both ways.
        pub class: Class,
        /// How its bytes are written, both ways.
        pub encoding: Encoding,
        /// What it leads to; at most 255 bytes.
        pub service: String as Label<255>,
    }
}

#[cfg(test)]
impl crate::wire::samples::Sampled for Open {
    fn samples() -> Vec<(Self, &'static str)> {
        vec![
            (
                Open {
                    channel: ChannelId(2),
                    kind: ChannelKind::Stream,
                    class: Class::Normal,
                    encoding: Encoding::Blocks,
                    service: "db".into(),
                },
                "04 02 00 01 01 02 6462",
            ),
            (
                Open {
                    channel: ChannelId(65),
                    kind: ChannelKind::Datagram,
                    class: Class::Interactive,
                    encoding: Encoding::Raw,
                    service: "@control".into(),
                },
                "04 4041 01 00 00 08 40636f6e74726f6c",
            ),
        ]
    }
}
