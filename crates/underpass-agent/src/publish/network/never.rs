//! Addresses that no published network leads to, whatever it contains. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connect::Block;

/// Why not to an address of the publisher's own: a service may listen there for this machine alone.
pub(super) const OWN: &str = "it is the publisher's own";

const LOOPBACK: &str = "it is the publisher's own, as loopback or no address at all";
const LINK: &str = "it is link-local, as metadata services of clouds are";
const METADATA: &str = "a metadata service of a cloud has it";
const MANY: &str = "it is no host's, but multicast or reserved";
const INSIDE: &str = "it has an address of IPv4 inside, which may be any";

const fn four(a: u8, b: u8, c: u8, d: u8, bits: u32) -> Block {
    Block::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits)
}

const fn six(start: [u16; 3], end: u16, bits: u32) -> Block {
    let [a, b, c] = start;
    Block::new(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, end)), bits)
}

/// The table; the RFCs are those of the IANA registries of special addresses.
const NEVER: [(Block, &str); 17] = [
    // RFC 1122 section 3.2.1.3. Linux connects to itself by 0.0.0.0.
    (four(0, 0, 0, 0, 8), LOOPBACK),
    (four(127, 0, 0, 0, 8), LOOPBACK),
    // RFC 3927; 169.254.169.254 and its neighbours.
    (four(169, 254, 0, 0, 16), LINK),
    // RFC 6890: assigned to protocols, and to a metadata service.
    (four(192, 0, 0, 0, 24), METADATA),
    (four(100, 100, 100, 200, 32), METADATA),
    (four(168, 63, 129, 16, 32), METADATA),
    // RFC 5771, RFC 1112 section 4, RFC 919 section 7.
    (four(224, 0, 0, 0, 4), MANY),
    (four(240, 0, 0, 0, 4), MANY),
    // RFC 4291 sections 2.5.2, 2.5.3 and 2.5.5.1: no address, loopback, and IPv4 as it was written once.
    (six([0, 0, 0], 0, 96), LOOPBACK),
    // RFC 6052, RFC 8215, RFC 4380, RFC 3056: what translates or carries IPv4.
    (six([0x64, 0xff9b, 0], 0, 96), INSIDE),
    (six([0x64, 0xff9b, 1], 0, 48), INSIDE),
    (six([0x2001, 0, 0], 0, 32), INSIDE),
    (six([0x2002, 0, 0], 0, 16), INSIDE),
    // RFC 4291 sections 2.5.6 and 2.7.
    (six([0xfe80, 0, 0], 0, 10), LINK),
    (six([0xff00, 0, 0], 0, 8), MANY),
    (six([0xfd00, 0xec2, 0], 0x254, 128), METADATA),
    (six([0xfd20, 0xce, 0], 0x254, 128), METADATA),
];

/// IPv4 inside IPv6 (RFC 4291 section 2.5.5.2), which systems take for the address inside.
const MAPPED: Block = Block::new(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96);

/// Why an address is never reached, if it is not.
pub(super) fn why(address: IpAddr) -> Option<&'static str> {
    if MAPPED.has(address) {
        return Some(INSIDE);
    }
    let found = NEVER.iter().find(|(block, _)| block.has(address));
    found.map(|(_, why)| *why)
}

/// Why nothing in a network is ever reached, if nothing is.
pub(super) fn wholly(network: &Block) -> Option<&'static str> {
    if MAPPED.contains(network) {
        return Some(INSIDE);
    }
    let found = NEVER.iter().find(|(block, _)| block.contains(network));
    found.map(|(_, why)| *why)
}
