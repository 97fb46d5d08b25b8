//! PURE: which TCP flows pass the box, and the segments that reset them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Length of an Ethernet header without tags.
const ETHERNET: usize = 14;
/// EtherType of IPv4 (RFC 9542, appendix B.1).
const IPV4: [u8; 2] = [0x08, 0x00];
/// Protocol number of TCP (RFC 9293, section 3.1).
const TCP: u8 = 6;
/// Flows that are remembered at most; a port scan must not eat the machine.
const BOUND: usize = 65_536;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The two ends of a flow, the near one first.
type Ends = (SocketAddrV4, SocketAddrV4);

/// What is known about what one end sends.
#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    /// Ethernet addresses of its last frame: destination, then source.
    ethernet: [u8; 12],
    /// The number after its last byte.
    next: u32,
    /// What it acknowledged last: what it expects next.
    expects: u32,
    seen: bool,
}

/// The flows that pass.
#[derive(Default)]
pub(crate) struct Flows {
    /// For each flow, what the near end and what the far end sends.
    flows: HashMap<Ends, [Sender; 2]>,
}

/// Which end of the box a frame came in at: the index of its sender.
pub(crate) const NEAR: usize = 0;
/// See [`NEAR`].
pub(crate) const FAR: usize = 1;

struct Segment {
    from: SocketAddrV4,
    to: SocketAddrV4,
    sequence: u32,
    acknowledges: u32,
    flags: u8,
    payload: u32,
}

impl Flows {
    /// Takes note of a frame that came in at `side`.
    pub(crate) fn note(&mut self, side: usize, frame: &[u8]) {
        let Some(segment) = parse(frame) else { return };
        let ends = if side == NEAR {
            (segment.from, segment.to)
        } else {
            (segment.to, segment.from)
        };
        if segment.flags & RST != 0 {
            self.flows.remove(&ends);
            return;
        }
        if self.flows.len() >= BOUND && !self.flows.contains_key(&ends) {
            return;
        }
        let sender = &mut self.flows.entry(ends).or_default()[side];
        let counted = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
        let next = segment
            .sequence
            .wrapping_add(segment.payload)
            .wrapping_add(counted);
        // Later in the sense of serial numbers (RFC 9293, section 3.4): what is sent again does not count back.
        if !sender.seen || segment.flags & SYN != 0 || next.wrapping_sub(sender.next) < 1 << 31 {
            sender.next = next;
        }
        if segment.flags & ACK != 0 {
            sender.expects = segment.acknowledges;
        }
        sender.ethernet.copy_from_slice(&frame[..12]);
        sender.seen = true;
    }

    /// Forgets all flows and gives the frames that reset them, each with the side it seems to come from.
    pub(crate) fn reset_all(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut frames = Vec::new();
        for ((near, far), senders) in self.flows.drain() {
            for (side, from, to) in [(NEAR, near, far), (FAR, far, near)] {
                let (own, peer) = (senders[side], senders[1 - side]);
                if !own.seen {
                    continue;
                }
                // A reset counts only at exactly the expected number (RFC 5961, section 3.2). That is behind the last
                // byte seen, or, where that byte was lost, what the peer acknowledged last.
                frames.push((side, reset(&own.ethernet, from, to, own.next)));
                if peer.seen && peer.expects != own.next {
                    frames.push((side, reset(&own.ethernet, from, to, peer.expects)));
                }
            }
        }
        frames
    }
}

fn parse(frame: &[u8]) -> Option<Segment> {
    let packet = frame
        .strip_prefix(&frame[..frame.len().min(12)])?
        .strip_prefix(&IPV4)?;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    if *packet.get(9)? != TCP || fragment != 0 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let segment = packet.get(header..length)?;
    let fixed: &[u8; 20] = segment.first_chunk()?;
    let word =
        |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let address = |at: usize| {
        packet
            .get(at..at + 4)
            .and_then(<[u8]>::first_chunk::<4>)
            .copied()
    };
    let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let offset = usize::from(fixed[12] >> 4) * 4;
    Some(Segment {
        from: SocketAddrV4::new(address(12)?.into(), port(0)),
        to: SocketAddrV4::new(address(16)?.into(), port(2)),
        sequence: word(4),
        acknowledges: word(8),
        flags: fixed[13],
        payload: u32::try_from(segment.len().checked_sub(offset)?).ok()?,
    })
}

/// A frame with a reset segment that seems to come from `from`.
fn reset(ethernet: &[u8; 12], from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + 40);
    frame.extend_from_slice(ethernet);
    frame.extend_from_slice(&IPV4);
    // RFC 791, section 3.1: no options, do not fragment, 64 hops.
    let mut ip = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ip);
    let mut tcp = [0; 20];
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = RST;
    let sum = checksum(&tcp, pseudo_header(*from.ip(), *to.ip(), 20));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&tcp);
    frame
}

/// The part of TCP's checksum that covers the addresses (RFC 9293, section 3.1).
fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: u32) -> u32 {
    let words = |address: Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]))
    };
    words(from) + words(to) + u32::from(TCP) + length
}

/// The Internet checksum (RFC 1071) of an even number of bytes, on top of `start`.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Truncation is exact: the loop above left 16 bits.
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR_END: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 2), 40_000);
    const FAR_END: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 8080);

    fn frame(
        from: SocketAddrV4,
        to: SocketAddrV4,
        numbers: (u32, u32),
        flags: u8,
        payload: usize,
    ) -> Vec<u8> {
        let mut frame = reset(&[7; 12], from, to, numbers.0);
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        frame[ETHERNET + 28..ETHERNET + 32].copy_from_slice(&numbers.1.to_be_bytes());
        frame[ETHERNET + 33] = flags;
        frame.resize(ETHERNET + 40 + payload, 0);
        frame
    }

    #[test]
    fn a_reset_has_the_number_that_its_receiver_expects() {
        let mut flows = Flows::default();
        flows.note(NEAR, &frame(NEAR_END, FAR_END, (1000, 0), SYN, 0));
        flows.note(FAR, &frame(FAR_END, NEAR_END, (5000, 1001), SYN | ACK, 0));
        flows.note(NEAR, &frame(NEAR_END, FAR_END, (1001, 5001), ACK, 300));
        // Sent again: does not count back.
        flows.note(NEAR, &frame(NEAR_END, FAR_END, (1001, 5001), ACK, 100));
        let mut sent: Vec<(usize, u32)> = flows
            .reset_all()
            .iter()
            .map(|(side, frame)| (*side, parse(frame).map(|s| s.sequence).unwrap()))
            .collect();
        sent.sort_unstable();
        // The far end has acknowledged 1001 and may or may not have got the 300 bytes.
        assert_eq!(sent, [(NEAR, 1001), (NEAR, 1301), (FAR, 5001)]);
        assert!(flows.reset_all().is_empty());
    }

    #[test]
    fn numbers_wrap_around() {
        let mut flows = Flows::default();
        flows.note(NEAR, &frame(NEAR_END, FAR_END, (u32::MAX - 9, 0), ACK, 20));
        flows.note(NEAR, &frame(NEAR_END, FAR_END, (10, 0), ACK, 5));
        let frames = flows.reset_all();
        assert_eq!(parse(&frames[0].1).unwrap().sequence, 15);
    }

    #[test]
    fn a_reset_is_a_valid_segment() {
        let frame = reset(&[7; 12], NEAR_END, FAR_END, 77);
        assert_eq!(checksum(&frame[ETHERNET..ETHERNET + 20], 0), 0);
        let pseudo = pseudo_header(*NEAR_END.ip(), *FAR_END.ip(), 20);
        assert_eq!(checksum(&frame[ETHERNET + 20..], pseudo), 0);
        let segment = parse(&frame).unwrap();
        assert_eq!(
            (segment.from, segment.to, segment.flags),
            (NEAR_END, FAR_END, RST)
        );
    }

    #[test]
    fn what_is_no_tcp_is_left_alone() {
        let mut flows = Flows::default();
        let good = frame(NEAR_END, FAR_END, (1, 1), ACK, 10);
        for cut in 0..good.len() - 10 {
            flows.note(NEAR, &good[..cut]);
        }
        let mut udp = good.clone();
        udp[ETHERNET + 9] = 17;
        flows.note(NEAR, &udp);
        let mut arp = good.clone();
        arp[13] = 0x06;
        flows.note(NEAR, &arp);
        assert!(flows.reset_all().is_empty());
        flows.note(NEAR, &good);
        flows.note(FAR, &frame(FAR_END, NEAR_END, (1, 1), RST, 0));
        assert!(flows.reset_all().is_empty());
    }
}
