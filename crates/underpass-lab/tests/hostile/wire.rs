//! Just enough of the wire formats to say wrong things, and to understand why they were refused. Made by hand from
//! `docs/protocol-wire.md`: these tests must not share the code that they test.

/// Kinds of packets.
pub(crate) const HELLO: u8 = 0x01;
pub(crate) const RESUME: u8 = 0x04;
pub(crate) const RELIABLE: u8 = 0x07;
pub(crate) const REFUSED: u8 = 0x09;
pub(crate) const ROUTED: u8 = 0x0a;

/// Kinds of spans (inside the carrier `upgrade`).
const DATA: u8 = 0;
const FILL: u8 = 2;

/// The request that begins the carrier `upgrade`.
pub(crate) fn upgrade() -> Vec<u8> {
    b"GET /upgrade HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: underpass\r\n\r\n"
        .to_vec()
}

/// A varint (RFC 9000, section 16).
pub(crate) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// A packet with its length before it.
pub(crate) fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = varint(1 + body.len() as u64);
    [&length[..], &[kind], body].concat()
}

/// HELLO with the given versions and message, for the relay itself.
pub(crate) fn hello(version: u64, least: u64, session: &[u8; 16], message: &[u8]) -> Vec<u8> {
    let (version, least) = (varint(version), varint(least));
    let body = [b"UPS1", &version[..], &least, session, &[0], message].concat();
    packet(HELLO, &body)
}

/// RESUME with whatever is given.
pub(crate) fn resume(session: &[u8; 16], generation: u64, sealed: &[u8]) -> Vec<u8> {
    let body = [session, &varint(generation)[..], &[0xbb; 16], sealed].concat();
    packet(RESUME, &body)
}

/// A data span of the carrier `upgrade`.
pub(crate) fn span(bytes: &[u8]) -> Vec<u8> {
    let header = u32::from(DATA) << 24 | bytes.len() as u32;
    [&header.to_be_bytes(), bytes].concat()
}

/// The bytes inside the data spans of what one side of the carrier `upgrade` said, as far as they came.
pub(crate) fn stream(said: &[u8]) -> Vec<u8> {
    let mut rest = match said.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) => &said[end + 4..],
        None => return Vec::new(),
    };
    let mut stream = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_be_bytes(*header) & 0x00ff_ffff) as usize;
        let content = &after[..length.min(after.len())];
        match header[0] {
            DATA => stream.extend_from_slice(content),
            FILL => {}
            _ => break,
        }
        rest = &after[content.len()..];
    }
    stream
}

/// Kind and body of the packets in a stream, as far as they came whole.
pub(crate) fn packets(mut stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut packets = Vec::new();
    while let Some((length, after)) = take_varint(stream) {
        let Some(packet) = after
            .get(..length as usize)
            .filter(|packet| !packet.is_empty())
        else {
            break;
        };
        packets.push((packet[0], packet[1..].to_vec()));
        stream = &after[packet.len()..];
    }
    packets
}

/// The code and the words of a REFUSED in what the relay said over the carrier `upgrade`.
pub(crate) fn refusal(said: &[u8]) -> Option<(u64, String)> {
    let packets = packets(&stream(said));
    let (_, body) = packets.iter().find(|(kind, _)| *kind == REFUSED)?;
    let (code, rest) = take_varint(body)?;
    let (length, rest) = take_varint(rest)?;
    let words = String::from_utf8_lossy(rest.get(..length as usize)?);
    Some((code, words.into_owned()))
}

/// The status of an HTTP answer.
pub(crate) fn status(said: &[u8]) -> Option<u16> {
    let line = said.strip_prefix(b"HTTP/1.1 ")?;
    std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let mut value = u64::from(first & 0x3f);
    for byte in bytes.get(1..length)? {
        value = value << 8 | u64::from(*byte);
    }
    Some((value, &bytes[length..]))
}
