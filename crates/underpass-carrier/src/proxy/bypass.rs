//! Hosts that are reached without a proxy: the rules of `NO_PROXY`. Pure.
//!
//! No standard says what the variable means; this is what curl and most others agree on. A name
//! stands for itself and everything below it.

use std::net::IpAddr;
use std::str::FromStr;

use crate::authority::Authority;

/// The rules, as `NO_PROXY` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bypass {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    host: Host,
    /// Only for this port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// All.
    Any,
    /// A name and all below it, in lower case, without dots at its ends.
    Name(String),
    /// Addresses whose first bits are the same.
    Net { address: IpAddr, bits: u32 },
}

impl Bypass {
    /// Reads a list whose entries stand apart by commas or spaces. An entry that means nothing is
    /// skipped, as everywhere else.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let entries = text.split([',', ' ', '\t']).map(str::trim);
        let rules = entries.filter(|entry| !entry.is_empty());
        Self {
            rules: rules.filter_map(Rule::parse).collect(),
        }
    }

    /// Whether `host` (an IPv6 address without brackets) is to be reached without a proxy.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = IpAddr::from_str(&host).ok().map(plain);
        self.rules.iter().any(|rule| {
            let of_port = rule.port.is_none_or(|wanted| wanted == port);
            of_port && rule.host.matches(&host, address)
        })
    }
}

/// An IPv4 address that is written as IPv6, as the IPv4 address that it is.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        let rule = |host, port| Some(Self { host, port });
        if entry == "*" {
            return rule(Host::Any, None);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            return rule(Host::net(address, Some(bits))?, None);
        }
        if let Some(host) = Host::net(entry, None) {
            return rule(host, None);
        }
        let named = entry.strip_prefix('*').unwrap_or(entry);
        let Authority { host, port } = Authority::parse(named).ok()?;
        if let Some(net) = Host::net(host, None) {
            return rule(net, port);
        }
        let name = host.trim_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self {
            host: Host::Name(name),
            port,
        })
    }
}

impl Host {
    fn net(address: &str, bits: Option<&str>) -> Option<Self> {
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = IpAddr::from_str(bare.unwrap_or(address)).ok()?;
        let most = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let bits = match bits {
            None => most,
            Some(text) => text.parse().ok().filter(|bits| *bits <= most)?,
        };
        Some(Self::Net {
            address: if bits == most {
                plain(address)
            } else {
                address
            },
            bits: if bits == most { 128 } else { bits },
        })
    }

    fn matches(&self, host: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => {
                let above = host.strip_suffix(name.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Self::Net { address: net, bits } => {
                address.is_some_and(|address| same_start(*net, address, *bits))
            }
        }
    }
}

/// Whether two addresses of one family have the first `bits` in common.
fn same_start(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differ = a.to_bits() ^ b.to_bits();
            differ.leading_zeros() >= bits.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_and_what_they_match() {
        for (rules, host, port, wanted) in [
            ("", "relay.example", 80, false),
            ("*", "relay.example", 80, true),
            ("*", "::1", 80, true),
            ("relay.example", "relay.example", 80, true),
            ("relay.example", "Relay.Example.", 80, true),
            ("example", "relay.example", 80, true),
            (".example", "relay.example", 80, true),
            (".example", "example", 80, true),
            ("*.example", "relay.example", 80, true),
            ("*.example", "a.relay.example", 80, true),
            ("ample", "relay.example", 80, false),
            ("relay.example", "example", 80, false),
            ("a,  relay.example\tb", "relay.example", 80, true),
            ("relay.example:443", "relay.example", 443, true),
            ("relay.example:443", "relay.example", 80, false),
            ("relay.example:x", "relay.example", 80, false),
            ("10.1.2.3", "10.1.2.3", 80, true),
            ("10.1.2.3:81", "10.1.2.3", 80, false),
            ("10.1.2.3:81", "10.1.2.3", 81, true),
            ("10.1.2.3", "110.1.2.3", 80, false),
            ("10.0.0.0/8", "10.200.3.4", 80, true),
            ("10.0.0.0/8", "11.0.0.1", 80, false),
            ("10.0.0.0/8", "10.example", 80, false),
            ("192.168.1.0/25", "192.168.1.127", 80, true),
            ("192.168.1.0/25", "192.168.1.128", 80, false),
            ("0.0.0.0/0", "8.8.8.8", 80, true),
            ("0.0.0.0/0", "::1", 80, false),
            ("10.0.0.0/33", "10.0.0.1", 80, false),
            ("::1", "::1", 80, true),
            ("[::1]", "::1", 80, true),
            ("[::1]:8080", "::1", 8080, true),
            ("[::1]:8080", "::1", 80, false),
            ("2001:db8::/32", "2001:db8:7::1", 80, true),
            ("2001:db8::/32", "2001:db9::1", 80, false),
            ("fe80::/10", "febf::1", 80, true),
            ("10.1.2.3", "::ffff:10.1.2.3", 80, true),
            ("localhost", "localhost", 80, true),
            ("localhost", "127.0.0.1", 80, false),
            ("example, *", "other", 80, true),
        ] {
            let bypass = Bypass::parse(rules);
            assert_eq!(
                bypass.matches(host, port),
                wanted,
                "{rules:?} for {host}:{port}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(rules in ".{0,60}", host in ".{0,30}", port in any::<u16>()) {
            let _ = Bypass::parse(&rules).matches(&host, port);
        }

        #[test]
        fn a_name_matches_itself(host in "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", port in any::<u16>()) {
            prop_assert!(Bypass::parse(&host).matches(&host, port));
        }
    }
}
