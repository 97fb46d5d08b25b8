//! Hosts of a network that is published as one service.
//!
//! Such a service needs to be told which host and port are meant. In OPEN they stand after the service's name, sealed from
//! end to end: `NAME/HOST:PORT`, with an IPv6 address in brackets. In a pseudo name the host stands before the service, as
//! `HOST.SERVICE` or `HOST.SERVICE.OWNER`:
//!
//! | host | written |
//! |---|---|
//! | 10.0.0.7 | `10-0-0-7` or `10.0.0.7` |
//! | fd00::7 | `fd00--7`: hyphens for colons, and a 0 where it would begin or end with one |
//! | a name | as it is; the publisher looks it up |

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::names::{self, NameError};

/// The longest name of a host, in bytes (RFC 1035 §2.3.4, less the bytes that only the wire has).
pub const MAX_HOST: usize = 253;

/// The longest text of OPEN, in bytes.
pub const MAX_OPEN: usize = 255;

/// A host, as somebody named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FarHost {
    /// By its address.
    Address(IpAddr),
    /// By a name in lower case, without a dot at the end.
    Name(String),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FarPort {
    /// The host.
    pub host: FarHost,
    /// The port, which is not 0.
    pub port: u16,
}

/// A text that names no host, or no port of one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not the HOST:PORT of a host")]
pub struct FarHostError(String);

/// What a name can mean: a service, or a host of the network that is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `SERVICE` or `SERVICE.OWNER`.
    pub service: String,
    /// The host in it.
    pub host: Option<FarHost>,
}

impl FarHost {
    /// The host that stands in a pseudo name.
    ///
    /// # Errors
    /// No host can be called so.
    pub fn in_name(text: &str) -> Result<Self, FarHostError> {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        // A name may have a hyphen wherever an address needs one; then it means the address.
        if let Ok(address) = text.replace('-', ".").parse::<Ipv4Addr>()
            && !text.contains('.')
        {
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.replace('-', ":").parse::<Ipv6Addr>()
            && !text.contains('.')
        {
            return Ok(Self::Address(address.into()));
        }
        Self::name(text)
    }

    /// A host by its name.
    fn name(text: &str) -> Result<Self, FarHostError> {
        let wrong = || FarHostError(text.to_owned());
        let last = text.rsplit('.').next().unwrap_or_default();
        // Programs take such names for addresses, of which there are more forms than anybody knows.
        let number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
        let sound = text.len() <= MAX_HOST && text.split('.').all(|it| names::check(it).is_ok());
        match sound && !number {
            true => Ok(Self::Name(text.to_owned())),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for FarHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for FarPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            FarHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            host => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for FarPort {
    type Err = FarHostError;

    fn from_str(text: &str) -> Result<Self, FarHostError> {
        let wrong = || FarHostError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let host = match (bare, host.parse::<Ipv4Addr>()) {
            (Some(bare), _) => {
                let address = bare.parse::<Ipv6Addr>().map_err(|_| wrong())?;
                FarHost::Address(address.into())
            }
            (None, Ok(address)) => FarHost::Address(address.into()),
            (None, Err(_)) => FarHost::name(host).map_err(|_| wrong())?,
        };
        Ok(Self {
            host,
            port: port_number(port).ok_or_else(wrong)?,
        })
    }
}

/// A port in digits, which is not 0.
fn port_number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// A name and the port that somebody wrote after it, if they did.
#[must_use]
pub fn split_port(text: &str) -> (&str, Option<u16>) {
    let split = text.rsplit_once(':');
    let read = split.and_then(|(name, port)| Some((name, port_number(port)?)));
    read.map_or((text, None), |(name, port)| (name, Some(port)))
}

/// What OPEN says for a host and port of the network that is `service`; `None` where that is longer than it can be.
#[must_use]
pub fn open_text(service: &str, to: &FarPort) -> Option<String> {
    let text = format!("{service}/{to}");
    (text.len() <= MAX_OPEN).then_some(text)
}

/// What OPEN said: the service, and the text of host and port where there was one.
#[must_use]
pub fn read_open(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((service, to)) => (service, Some(to)),
        None => (text, None),
    }
}

/// What a name in lower case, without the suffix of pseudo names, can mean; what comes first holds where there is such a
/// service. That is the service itself; so nobody who publishes a network can take other people's names away.
///
/// # Errors
/// [`NameError`]: nothing at all, whoever publishes what.
pub fn readings(name: &str) -> Result<Vec<Reading>, NameError> {
    let labels: Vec<&str> = name.split('.').collect();
    labels.iter().try_for_each(|label| names::check(label))?;
    let service = |from: usize| labels[from..].join(".");
    let mut all = Vec::new();
    if labels.len() <= 2 {
        all.push(Reading {
            service: service(0),
            host: None,
        });
    }
    // With the owner first, which says more.
    for named_by in [2, 1] {
        let Some(before @ 1..) = labels.len().checked_sub(named_by) else {
            continue;
        };
        if let Ok(host) = FarHost::in_name(&labels[..before].join(".")) {
            all.push(Reading {
                service: service(before),
                host: Some(host),
            });
        }
    }
    match all.is_empty() {
        true => Err(NameError::Labels),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_in_names() {
        for (text, host) in [
            ("10-0-0-7", "10.0.0.7"),
            ("10.0.0.7", "10.0.0.7"),
            ("fd00--7", "fd00::7"),
            ("0--1", "::1"),
            ("fe80--0", "fe80::"),
            ("0--ffff-a00-7", "::ffff:10.0.0.7"),
            ("fd00-1-2-3-4-5-6-7", "fd00:1:2:3:4:5:6:7"),
            ("db", "db"),
            ("db.corp", "db.corp"),
            ("10-0-0-7.corp", "10-0-0-7.corp"),
            ("a-b", "a-b"),
            ("10-0-0-256", "10-0-0-256"),
            ("0x7f.corp", "0x7f.corp"),
        ] {
            assert_eq!(FarHost::in_name(text).unwrap().to_string(), host, "{text}");
        }
        for wrong in [
            "",
            ".",
            "a..b",
            "a.",
            "7",
            "10.0.0",
            "10.0.0.256",
            "010.0.0.1",
            "127.1",
            "0x7f000001",
            "corp.0x7f",
            "2130706433",
            "a_b",
            "DB",
            "a b",
            "fd00:1",
            "[fd00--7]",
            "a/b",
        ] {
            assert!(FarHost::in_name(wrong).is_err(), "{wrong}");
        }
        assert!(FarHost::in_name(&["a"; 127].join(".")).is_ok());
        assert!(FarHost::in_name(&["a"; 128].join(".")).is_err());
    }

    #[test]
    fn hosts_and_ports() {
        for text in ["10.0.0.7:22", "[fd00::7]:22", "db.corp:65535", "db:1"] {
            assert_eq!(text.parse::<FarPort>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            ":22",
            "db",
            "db:",
            "db:0",
            "db:65536",
            "db:+1",
            "db:22:22",
            "fd00::7:22",
            "[db]:22",
            "[10.0.0.7]:22",
            "10.0.1:22",
            "2130706433:22",
            "DB:22",
            "db/x:22",
            "db :22",
            "*:22",
        ] {
            assert!(wrong.parse::<FarPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_open_says() {
        let to: FarPort = "[fd00::7]:22".parse().unwrap();
        let text = open_text("net", &to).unwrap();
        assert_eq!(text, "net/[fd00::7]:22");
        assert_eq!(read_open(&text), ("net", Some("[fd00::7]:22")));
        assert_eq!(read_open("net.al.corp"), ("net.al.corp", None));
        assert_eq!(read_open("net/a/b"), ("net", Some("a/b")));
        let host = FarHost::name(&["abcdefg"; 31].join(".")).unwrap();
        let to = FarPort { host, port: 1 };
        assert_eq!(open_text("n", &to).unwrap().len(), 251);
        assert_eq!(open_text("netto", &to).unwrap().len(), MAX_OPEN);
        assert_eq!(open_text("network", &to), None);
    }

    #[test]
    fn ports_after_names() {
        assert_eq!(split_port("db"), ("db", None));
        assert_eq!(split_port("db.net:22"), ("db.net", Some(22)));
        for text in ["db:", "db:0", "db:x", "db:99999"] {
            assert_eq!(split_port(text), (text, None));
        }
    }

    fn read(name: &str) -> Vec<String> {
        let tell = |it: &Reading| match &it.host {
            None => it.service.clone(),
            Some(host) => format!("{host} in {}", it.service),
        };
        readings(name).unwrap().iter().map(tell).collect()
    }

    #[test]
    fn a_service_first_and_the_owner_before_the_rest() {
        assert_eq!(read("db"), ["db"]);
        assert_eq!(read("db.net"), ["db.net", "db in net"]);
        assert_eq!(read("10-0-0-7.net"), ["10-0-0-7.net", "10.0.0.7 in net"]);
        assert_eq!(read("db.net.al"), ["db in net.al", "db.net in al"]);
        assert_eq!(
            read("db.corp.net.al"),
            ["db.corp in net.al", "db.corp.net in al"]
        );
        // Three numbers are no host, and four with a name after them are a name.
        assert_eq!(read("10.0.0.7.net"), ["10.0.0.7 in net"]);
        assert_eq!(
            read("10.0.0.7.net.al"),
            ["10.0.0.7 in net.al", "10.0.0.7.net in al"]
        );
        assert_eq!(readings("1.2.3"), Err(NameError::Labels));
        for wrong in ["", "a..b", ".a", "a.", "a_b", "A.b", "a.-"] {
            assert!(readings(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_address_can_be_written_as_one_label(bits: u128, small: u32) {
            let six = Ipv6Addr::from_bits(bits);
            let text = six.to_string();
            // The mapped form is the one that has dots.
            prop_assume!(!text.contains('.'));
            let mut label = text.replace(':', "-");
            if label.starts_with('-') {
                label.insert(0, '0');
            }
            if label.ends_with('-') {
                label.push('0');
            }
            prop_assert!(names::check(&label).is_ok());
            prop_assert_eq!(FarHost::in_name(&label), Ok(FarHost::Address(six.into())));
            let four = Ipv4Addr::from_bits(small);
            let label = four.to_string().replace('.', "-");
            prop_assert_eq!(FarHost::in_name(&label), Ok(FarHost::Address(four.into())));
        }

        #[test]
        fn what_is_read_is_written_the_same(text in "[a-z0-9.:\\[\\]-]{0,40}") {
            if let Ok(read) = text.parse::<FarPort>() {
                let again: FarPort = read.to_string().parse().unwrap();
                prop_assert_eq!(again, read);
            }
            if let Ok(readings) = readings(&text) {
                for Reading { service, host } in readings {
                    prop_assert!(names::ServiceName::parse(&service).is_ok());
                    prop_assert!(host.is_none_or(|host| host.to_string().len() <= MAX_HOST));
                }
            }
        }
    }
}
