//! Local addresses where services are offered.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;
use underpass_proto::frame::ChannelKind;

use crate::x11::FIRST_PORT;

/// An address of this machine, and what is taken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Local {
    /// Connections, or datagrams.
    pub kind: ChannelKind,
    /// Where; port 0 lets the system choose.
    pub address: SocketAddr,
    /// The number of the display that it is, for programs of X11.
    pub display: Option<u16>,
}

/// A text that is not a local address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a local address: IP:PORT, localhost:PORT or PORT, for UDP with udp: before it, or x11:DISPLAY"
)]
pub struct LocalError(String);

impl Local {
    /// Whether only programs of this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

impl FromStr for Local {
    type Err = LocalError;

    /// `IP:PORT`, `localhost:PORT`, or a port of the loopback address; with `udp:` before it for datagrams; or `x11:` and the
    /// number of a display.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || LocalError(text.to_owned());
        if let Some(number) = text.strip_prefix("x11:") {
            let number: u16 = number.parse().map_err(|_| wrong())?;
            let port = number.checked_add(FIRST_PORT).ok_or_else(wrong)?;
            return Ok(Self {
                kind: ChannelKind::Stream,
                address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
                display: Some(number),
            });
        }
        let (kind, place) = match text.strip_prefix("udp:") {
            Some(place) => (ChannelKind::Datagram, place),
            None => (ChannelKind::Stream, text),
        };
        let port = place.strip_prefix("localhost:").unwrap_or(place);
        let address = match port.parse::<u16>() {
            Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            Err(_) => place.parse().map_err(|_| wrong())?,
        };
        Ok(Self {
            kind,
            address,
            display: None,
        })
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.display, self.kind) {
            (Some(number), _) => write!(f, "x11:{number}"),
            (None, ChannelKind::Stream) => self.address.fmt(f),
            (None, ChannelKind::Datagram) => write!(f, "udp:{}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports() {
        for (text, read) in [
            ("0", "127.0.0.1:0"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:9", "[::1]:9"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("udp:53", "udp:127.0.0.1:53"),
            ("udp:localhost:53", "udp:127.0.0.1:53"),
            ("udp:[::]:53", "udp:[::]:53"),
            ("x11:10", "x11:10"),
        ] {
            assert_eq!(text.parse::<Local>().unwrap().to_string(), read);
        }
        for wrong in [
            "",
            "somewhere",
            "70000",
            "1.2.3.4",
            "udp:",
            "udp:udp:1",
            "tcp:1",
            "localhost:",
            "x11:",
            "x11:60000",
            "x11::0",
        ] {
            assert!(wrong.parse::<Local>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_others_can_reach() {
        let loopback = |text: &str| text.parse::<Local>().unwrap().is_loopback();
        assert!(loopback("1") && loopback("[::1]:1") && loopback("[::ffff:127.0.0.1]:1"));
        assert!(!loopback("0.0.0.0:1") && !loopback("[::]:1") && !loopback("10.0.0.1:1"));
    }
}
