//! Names of displays, `HOST:NUMBER`, as the variable DISPLAY has them. Pure.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Display 0 of a host listens on this port (X Window System Protocol, appendix B).
pub(crate) const FIRST_PORT: u16 = 6000;
/// Displays of a machine itself have their sockets here.
pub(super) const SOCKETS: &str = "/tmp/.X11-unix";

/// A display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Display {
    /// Empty for this machine.
    host: String,
    number: u16,
}

impl FromStr for Display {
    type Err = ();

    /// `:NUMBER` or `HOST:NUMBER`; a screen after it, as in `:0.0`, says nothing here.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, rest) = text.rsplit_once(':').ok_or(())?;
        let (number, screen) = rest.split_once('.').unwrap_or((rest, "0"));
        let number: u16 = number.parse().map_err(|_| ())?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let sound = number <= u16::MAX - FIRST_PORT
            && screen.parse::<u16>().is_ok()
            && !host.contains(['/', ' ', '[', ']']);
        // An address of IPv6 stands in brackets, as everywhere.
        let sound = sound && (!host.contains(':') || text.starts_with('['));
        sound
            .then(|| Self {
                host: host.into(),
                number,
            })
            .ok_or(())
    }
}

impl Display {
    /// Whether it is this machine's own.
    pub(super) fn is_local(&self) -> bool {
        matches!(&self.host[..], "" | "unix" | "localhost")
            || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// The address of its host, where it has one for a name.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The socket where it is reached, if it is one that has no address.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        matches!(&self.host[..], "" | "unix").then(|| socket(self.number))
    }

    /// `HOST:PORT`, where it is reached by TCP.
    pub(super) fn target(&self) -> String {
        let port = FIRST_PORT + self.number;
        match self.host.contains(':') {
            true => format!("[{}]:{port}", self.host),
            false => format!("{}:{port}", self.host),
        }
    }
}

/// The socket of this machine's display of a number.
pub(super) fn socket(number: u16) -> PathBuf {
    PathBuf::from(format!("{SOCKETS}/X{number}"))
}

/// The bytes of an address.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays() {
        let read = |text: &str| text.parse::<Display>();
        let local = read(":10.0").unwrap();
        assert!(local.is_local());
        assert_eq!(local.socket(), Some("/tmp/.X11-unix/X10".into()));
        let far = read("10.0.0.1:2").unwrap();
        assert!(!far.is_local() && far.socket().is_none());
        assert_eq!(far.target(), "10.0.0.1:6002");
        assert_eq!(read("[fd00::1]:0").unwrap().target(), "[fd00::1]:6000");
        assert!(read("localhost:0").unwrap().is_local());
        for wrong in [
            "", "0", ":", ":x", ":0.x", "::1:0", ":60000", "a b:0", "/tmp/x:0",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
