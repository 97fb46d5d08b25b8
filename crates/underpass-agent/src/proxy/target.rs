//! What a program asks for, and whether it gets there. Pure.

use std::fmt;
use std::net::IpAddr;

use underpass_proto::far_host::readings;
use underpass_proto::names::{NameError, Suffix};

/// The longest host that is taken, in bytes: what fits into the length that SOCKS 5 has for it (RFC 1928 section 5).
pub(super) const MAX_HOST: usize = 255;

/// A host and a port, as a program named them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// A host, as a program named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

/// Where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To this service, or host of one, with the port.
    Service(String),
    /// To the network outside, which is none of ours.
    Outside,
    /// Nowhere: it ends with our suffix and names no service. It must not be asked for anywhere else.
    Nowhere(NameError),
}

impl Host {
    /// The host that a text names; `None` where none can be called so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Some(address) = bare {
            return address.parse().ok().map(|v6| Self::Address(IpAddr::V6(v6)));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        // What could end one thing and begin another, wherever it is written, is in no name.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let sound = (1..=MAX_HOST).contains(&text.len()) && text.chars().all(allowed);
        sound.then(|| Self::Name(text.to_owned()))
    }
}

impl Asked {
    /// Reads `HOST:PORT`, or a host alone where there is a usual port.
    pub(super) fn parse(text: &str, usual: Option<u16>) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of an address in brackets is in it.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
            Some(_) => return None,
            None => usual?,
        };
        // Without brackets nobody can tell which colon the port comes after (RFC 3986 section 3.2.2).
        if host.contains(':') && !host.starts_with('[') {
            return None;
        }
        let host = Host::parse(host)?;
        Some(Self { host, port })
    }

    /// Where it leads. Any port of a service does.
    pub(super) fn leads(&self, suffix: &Suffix) -> Leads {
        let Host::Name(name) = &self.host else {
            return Leads::Outside;
        };
        let below = suffix.below(name);
        match below.and_then(|below| readings(&below).map(|_| below)) {
            Ok(below) => Leads::Service(format!("{below}:{}", self.port)),
            Err(NameError::Suffix) => Leads::Outside,
            Err(error) => Leads::Nowhere(error),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            Host::Address(address) => write!(f, "{address}:{port}"),
            Host::Name(name) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, read) in [
            ("db.underpass.internal:5432", "db.underpass.internal:5432"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("[::1]:1", "[::1]:1"),
            ("example", "example:80"),
            ("[::1]", "[::1]:80"),
        ] {
            assert_eq!(Asked::parse(text, Some(80)).unwrap().to_string(), read);
        }
        for wrong in [
            "", ":1", "a:", "a:+1", "a:65536", "a b:1", "a\r\n:1", "[a]:1", "::1:1", "a:1:2",
            "a/b:1", "u@a:1",
        ] {
            assert_eq!(Asked::parse(wrong, Some(80)), None, "{wrong:?}");
        }
        assert_eq!(Asked::parse("a", None), None);
        assert_eq!(Host::parse(&"a".repeat(MAX_HOST + 1)), None);
    }

    #[test]
    fn only_pseudo_names_lead_to_services_and_they_lead_nowhere_else() {
        let leads = |host: &str| {
            let port = 1;
            let host = Host::parse(host).unwrap();
            Asked { host, port }.leads(&Suffix::default())
        };
        let service = |name: &str| Leads::Service(format!("{name}:1"));
        for (name, of) in [
            ("db.underpass.internal", "db"),
            ("DB.Al.Underpass.Internal.", "db.al"),
            ("10-0-0-7.net.underpass.internal", "10-0-0-7.net"),
            ("10.0.0.7.net.al.underpass.internal", "10.0.0.7.net.al"),
            ("a.b.c.underpass.internal", "a.b.c"),
        ] {
            assert_eq!(leads(name), service(of));
        }
        let corp = "corp".parse().unwrap();
        let (host, port) = (Host::Name("db.corp".into()), 1);
        assert_eq!(Asked { host, port }.leads(&corp), service("db"));
        for outside in [
            "example.com",
            "127.0.0.1",
            "[::1]",
            "underpass.internal.example",
            "notunderpass.internal",
        ] {
            assert_eq!(leads(outside), Leads::Outside, "{outside}");
        }
        for nowhere in [
            "underpass.internal",
            ".underpass.internal",
            "1.2.3.underpass.internal",
            "a_b.underpass.internal",
        ] {
            assert!(matches!(leads(nowhere), Leads::Nowhere(_)), "{nowhere}");
        }
    }
}
