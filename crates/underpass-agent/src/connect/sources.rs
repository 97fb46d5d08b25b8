//! Which machines may use a local address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// Addresses from which connections and datagrams are taken: this machine's loopback addresses always, and the
/// networks that are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<Block>);

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    first: IpAddr,
    bits: u32,
}

/// A text that is no list of networks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an address or a network, such as 192.168.1.7 or 192.168.1.0/24")]
pub struct SourcesError(String);

impl Sources {
    /// Whether no other machine may.
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what comes from `source` is taken.
    #[must_use]
    pub fn admit(&self, source: IpAddr) -> bool {
        // A socket for both versions shows the older one inside the newer.
        let source = source.to_canonical();
        source.is_loopback() || self.0.iter().any(|block| block.has(source))
    }
}

impl Block {
    /// Those that begin with the first `bits` of `first`, of which there must be as many.
    pub(crate) const fn new(first: IpAddr, bits: u32) -> Self {
        Self { first, bits }
    }

    /// Whether all of `other` are among them.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.has(other.first)
    }

    /// Whether an address is among them. One of the older version inside the newer is of the newer.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let (ours, other, all) = match (self.first, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                (u128::from(ours.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => (ours.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        // A shift by all bits of a number is none in Rust, so 0 bits are told apart.
        self.bits == 0 || (ours ^ other) >> (all - self.bits) == 0
    }
}

impl FromStr for Block {
    type Err = SourcesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || SourcesError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().map_err(|_| wrong())?,
        };
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { first, bits })
    }
}

impl FromStr for Sources {
    type Err = SourcesError;

    /// Addresses and networks with commas between; nothing is loopback alone.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text.split(',').map(str::trim);
        let given = named.filter(|_| !text.trim().is_empty());
        given.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this machine")?;
        self.0.iter().try_for_each(|block| write!(f, ", {block}"))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: &str, source: &str) -> bool {
        let sources: Sources = list.parse().unwrap();
        sources.admit(source.parse().unwrap())
    }

    #[test]
    fn loopback_always_and_others_when_listed() {
        for (list, source, expected) in [
            ("", "127.0.0.1", true),
            ("", "127.9.9.9", true),
            ("", "::1", true),
            ("", "::ffff:127.0.0.1", true),
            ("", "10.0.0.1", false),
            ("10.0.0.1", "127.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("192.168.0.0/23", "192.168.1.255", true),
            ("192.168.0.0/23", "192.168.2.0", false),
            ("192.168.1.9/24", "192.168.1.1", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/33, 10.0.0.0/8", "2001:db8:7fff::1", true),
            ("2001:db8::/33, 10.0.0.0/8", "2001:db8:8000::1", false),
            ("2001:db8::/33, 10.0.0.0/8", "10.255.0.1", true),
        ] {
            assert_eq!(admits(list, source), expected, "{list} {source}");
        }
    }

    #[test]
    fn what_is_no_list() {
        for wrong in [
            "lan",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.1,",
            "10.0.0.0/8/8",
        ] {
            assert!(wrong.parse::<Sources>().is_err(), "{wrong}");
        }
        let list: Sources = "10.0.0.0/8,::1".parse().unwrap();
        assert_eq!(list.to_string(), "this machine, 10.0.0.0/8, ::1/128");
    }
}
