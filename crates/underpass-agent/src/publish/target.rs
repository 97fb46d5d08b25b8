//! Where a published service leads: what its `HOST:PORT` takes, and what is spoken there. Pure.

use underpass_endpoint::dial::transport;
use underpass_proto::frame::ChannelKind;

/// The protocol of a service, where the agents must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Whatever: bytes are carried as they are.
    Any,
    /// FTP, whose data connections are carried too.
    Ftp,
}

/// What stands before the host of a service of that protocol.
const PREFIXES: [(&str, Speech); 1] = [("ftp:", Speech::Ftp)];

/// A target, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Whether it takes connections or datagrams.
    pub kind: ChannelKind,
    /// What is spoken there.
    pub speech: Speech,
    /// `HOST:PORT`.
    pub at: &'a str,
}

impl<'a> Target<'a> {
    /// Takes a target apart: `HOST:PORT`, with `udp:` or `ftp:` before it. A host may be called so all the same: `ftp:21` is
    /// its port 21.
    #[must_use]
    pub fn read(text: &'a str) -> Self {
        let found = PREFIXES.iter().find_map(|(prefix, speech)| {
            let rest = text.strip_prefix(prefix)?;
            rest.contains(':').then_some((rest, *speech))
        });
        match found {
            Some((at, speech)) => Self {
                kind: ChannelKind::Stream,
                speech,
                at,
            },
            None => {
                let (kind, at) = transport(text);
                Self {
                    kind,
                    speech: Speech::Any,
                    at,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_host_tells_what_is_spoken_there() {
        use ChannelKind::{Datagram, Stream};
        for (text, kind, speech, at) in [
            ("h:1", Stream, Speech::Any, "h:1"),
            ("udp:h:1", Datagram, Speech::Any, "h:1"),
            ("ftp:h:21", Stream, Speech::Ftp, "h:21"),
            ("ftp:[::1]:21", Stream, Speech::Ftp, "[::1]:21"),
            ("ftp:21", Stream, Speech::Any, "ftp:21"),
        ] {
            assert_eq!(Target::read(text), Target { kind, speech, at });
        }
    }
}
