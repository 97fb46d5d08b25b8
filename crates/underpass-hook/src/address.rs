//! Which addresses are pseudo, and what is written in their place.
//!
//! Pseudo addresses are loopback addresses, of 127.64.0.0/10: a call that escapes the hook stays on the machine.

/// An IPv4 address in the order of the wire.
pub type Address = [u8; 4];

/// What names get while there is no redirector: nothing is ever announced for it, so it refuses.
pub const NOWHERE: Address = [127, 64, 0, 1];

/// The first address that a redirector gives out.
pub const FIRST: u32 = 0x7f40_0002;

/// The last one; that of all ones would be the broadcast address of the net.
pub const LAST: u32 = 0x7f7f_fffe;

/// Whether an address is of 127.64.0.0/10.
#[must_use]
pub const fn is_pseudo(address: Address) -> bool {
    address[0] == 127 && address[1] & 0xc0 == 64
}

/// The family of an IPv4 address in a `sockaddr`, on Linux.
pub const INET: u16 = 2;
/// The family of an IPv6 address in a `sockaddr`, on Linux.
pub const INET6: u16 = 10;

/// The longest `sockaddr` that matters here, `sockaddr_in6`, in bytes.
pub const LONGEST: usize = 28;

const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Where a program wants to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A pseudo address.
    pub address: Address,
    /// The port that the program named.
    pub port: u16,
}

impl Target {
    /// The target in a `sockaddr`: `sockaddr_in`, or `sockaddr_in6` with an IPv4 address mapped into it (RFC 4291
    /// §2.5.5.2). `None` where it is none of ours.
    #[must_use]
    pub fn read(sockaddr: &[u8]) -> Option<Self> {
        let family = u16::from_ne_bytes(*sockaddr.first_chunk()?);
        let port = u16::from_be_bytes(*sockaddr.get(2..)?.first_chunk()?);
        let address = match family {
            INET => *sockaddr.get(4..)?.first_chunk()?,
            INET6 => *sockaddr
                .get(8..24)?
                .strip_prefix(&V4_MAPPED)?
                .first_chunk()?,
            _ => return None,
        };
        is_pseudo(address).then_some(Self { address, port })
    }
}

/// Changes the port in a `sockaddr` of either family, and nothing else.
pub fn set_port(sockaddr: &mut [u8], port: u16) {
    if let Some(place) = sockaddr.get_mut(2..4) {
        place.copy_from_slice(&port.to_be_bytes());
    }
}

/// A `sockaddr` of the loopback address 127.0.0.1 and a free port, in the form of `family`; with its length in bytes.
#[must_use]
pub fn loopback(family: u16) -> ([u8; LONGEST], usize) {
    let mut sockaddr = [0; LONGEST];
    sockaddr[..2].copy_from_slice(&family.to_ne_bytes());
    if family == INET6 {
        sockaddr[8..20].copy_from_slice(&V4_MAPPED);
        sockaddr[20..24].copy_from_slice(&[127, 0, 0, 1]);
        return (sockaddr, LONGEST);
    }
    sockaddr[4..8].copy_from_slice(&[127, 0, 0, 1]);
    (sockaddr, 16)
}

/// The longest address in digits, with a zero at the end.
pub const TEXT: usize = 16;

/// An address in digits, for functions that take text; the rest is zeros.
#[must_use]
pub fn text(address: Address) -> [u8; TEXT] {
    let mut text = [0; TEXT];
    let mut length = 0;
    let mut put = |byte| {
        text[length] = byte;
        length += 1;
    };
    for (place, number) in address.into_iter().enumerate() {
        if place > 0 {
            put(b'.');
        }
        if number >= 100 {
            put(b'0' + number / 100);
        }
        if number >= 10 {
            put(b'0' + number / 10 % 10);
        }
        put(b'0' + number % 10);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn v4(address: [u8; 4], port: u16) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&INET.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&address);
        bytes
    }

    fn v6(address: std::net::Ipv6Addr, port: u16) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..2].copy_from_slice(&INET6.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&address.octets());
        bytes
    }

    #[test]
    fn the_net_is_127_64_0_0_with_10_bits() {
        for (address, pseudo) in [
            ("127.63.255.255", false),
            ("127.64.0.0", true),
            ("127.127.255.255", true),
            ("127.128.0.0", false),
            ("127.0.0.1", false),
            ("126.64.0.1", false),
        ] {
            let octets = address.parse::<Ipv4Addr>().unwrap().octets();
            assert_eq!(is_pseudo(octets), pseudo, "{address}");
        }
        assert!(is_pseudo(FIRST.to_be_bytes()) && is_pseudo(LAST.to_be_bytes()));
        assert!(is_pseudo(NOWHERE) && u32::from_be_bytes(NOWHERE) < FIRST);
    }

    #[test]
    fn targets_are_read_in_both_families() {
        let target = Target {
            address: [127, 64, 0, 9],
            port: 5432,
        };
        assert_eq!(Target::read(&v4([127, 64, 0, 9], 5432)), Some(target));
        let mapped = Ipv4Addr::from([127, 64, 0, 9]).to_ipv6_mapped();
        assert_eq!(Target::read(&v6(mapped, 5432)), Some(target));
        for other in [
            &v4([192, 0, 2, 1], 5432)[..],
            &v6("2001:db8::1".parse().unwrap(), 5432),
            &v6("::7f40:9".parse().unwrap(), 5432),
            &v4([127, 64, 0, 9], 5432)[..7],
            &v6(mapped, 5432)[..23],
            &[1, 0, b'/', b't', 127, 64, 0, 9],
            &[],
        ] {
            assert_eq!(Target::read(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_the_port_changes() {
        let mut sockaddr = v4([127, 64, 0, 9], 5432);
        set_port(&mut sockaddr, 40123);
        assert_eq!(sockaddr, v4([127, 64, 0, 9], 40123));
        set_port(&mut [0; 3], 1);
    }

    #[test]
    fn the_loopback_address_in_both_families() {
        let (bytes, length) = loopback(INET);
        assert_eq!(&bytes[..length], v4([127, 0, 0, 1], 0));
        let (bytes, length) = loopback(INET6);
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        assert_eq!(&bytes[..length], v6(mapped, 0));
    }

    #[test]
    fn digits_are_those_that_everybody_writes() {
        for address in [[127, 64, 0, 2], [127, 127, 255, 254], [0, 9, 10, 100]] {
            let bytes = text(address);
            let length = bytes.iter().position(|byte| *byte == 0).unwrap();
            let shown = std::str::from_utf8(&bytes[..length]).unwrap();
            assert_eq!(shown, Ipv4Addr::from(address).to_string());
        }
    }
}
