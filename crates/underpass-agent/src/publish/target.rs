//! Where a published service leads: what its `HOST:PORT` takes, and what is spoken there. Pure.

use underpass_endpoint::dial::transport;
use underpass_proto::frame::ChannelKind;

use crate::x11::Display;

/// The protocol of a service, where the agents must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Whatever: bytes are carried as they are.
    Any,
    /// FTP, whose data connections are carried too.
    Ftp,
    /// HTTP/1.1, whose heads name the server.
    Http,
    /// X11, whose programs show a cookie.
    X11,
}

/// What stands before the host of a service of that protocol.
const PREFIXES: [(&str, Speech); 3] = [
    ("ftp:", Speech::Ftp),
    ("http:", Speech::Http),
    ("x11:", Speech::X11),
];

/// A target, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Whether it takes connections or datagrams.
    pub kind: ChannelKind,
    /// What is spoken there.
    pub speech: Speech,
    /// `HOST:PORT`; for X11 `HOST:DISPLAY`, of this machine without a host.
    pub at: &'a str,
}

impl<'a> Target<'a> {
    /// Takes a target apart: `HOST:PORT`, with `udp:`, `ftp:` or `http:` before it, or `x11:HOST:DISPLAY`. A host may be called
    /// so all the same: `ftp:21` is its port 21.
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

    /// Whether it can be dialled: a host, a colon and a port, or the name of a display.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        if self.speech == Speech::X11 {
            return self.at.parse::<Display>().is_ok();
        }
        self.at.rsplit_once(':').is_some_and(|(host, port)| {
            let bare = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'));
            let address = match bare {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && !host.contains([':', '/', ' ']),
            };
            address && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
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
            ("http:h:80", Stream, Speech::Http, "h:80"),
            ("x11::0", Stream, Speech::X11, ":0"),
            ("x11:0", Stream, Speech::Any, "x11:0"),
        ] {
            assert_eq!(Target::read(text), Target { kind, speech, at });
        }
    }
}
