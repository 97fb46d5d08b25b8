//! What SOCKS clients say, and what they are answered: version 5 (RFC 1928), 4 and 4a. Pure.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use thiserror::Error;
use underpass_proto::Code;

use crate::proxy::target::{Asked, Host, MAX_HOST};

/// The most that a client says before it is answered: a request of version 4a with the longest user and name.
pub(super) const MAX_REQUEST: usize = 8 + 2 * (MAX_HOST + 1);

/// The way to tell who asks that everybody may use: none (RFC 1928 section 3).
const NO_AUTHENTICATION: u8 = 0;
/// None of the ways that the client knows.
const NO_WAY: u8 = 0xff;

/// Why a client is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Broken {
    /// Its first byte is of no version.
    #[error("this is not SOCKS")]
    Version,
    /// It only goes on when it may show a password.
    #[error("the client wants to show a password, and there is none")]
    Method,
    /// It asks for something that is not served.
    #[error("the client asks for command {0}")]
    Command(u8),
    /// Its kind of address does not exist.
    #[error("the client names an address of kind {0}")]
    AddressKind(u8),
    /// A host cannot be called so.
    #[error("the client names no host")]
    Host,
    /// Something has no end.
    #[error("the client's request is too long")]
    TooLong,
}

/// Bytes that were understood: what they say, and how many they were. `None` where more have to come.
pub(super) type Read<T> = Result<Option<(T, usize)>, Broken>;

/// How a client begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// With version 5: its request comes when it was answered.
    Five,
    /// With version 4, which has its request in it.
    Four(Asked),
}

/// What a client of version 5 wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A connection.
    Connect(Asked),
    /// To send datagrams from this port, or any (0).
    Associate(u16),
}

/// Takes bytes off the front of what has come.
struct Bytewise<'a>(&'a [u8]);

impl<'a> Bytewise<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn port(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Up to a zero byte, which ends it.
    fn text(&mut self) -> Result<Option<&'a [u8]>, Broken> {
        match self.0.iter().position(|byte| *byte == 0) {
            Some(length) if length <= MAX_HOST => {
                let text = self.take(length);
                self.take(1);
                Ok(text)
            }
            None if self.0.len() <= MAX_HOST => Ok(None),
            _ => Err(Broken::TooLong),
        }
    }

    /// An address of version 5.
    fn asked(&mut self) -> Result<Option<Asked>, Broken> {
        let Some(kind) = self.byte() else {
            return Ok(None);
        };
        let host = match kind {
            1 => self
                .array()
                .map(|it: [u8; 4]| Ok(Host::Address(IpAddr::from(it)))),
            3 => match self.byte() {
                Some(length) => self.take(length.into()).map(name),
                None => None,
            },
            4 => self
                .array()
                .map(|it: [u8; 16]| Ok(Host::Address(IpAddr::from(it)))),
            other => return Err(Broken::AddressKind(other)),
        };
        let (Some(host), Some(port)) = (host, self.port()) else {
            return Ok(None);
        };
        Ok(Some(Asked { host: host?, port }))
    }
}

fn name(bytes: &[u8]) -> Result<Host, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|_| Broken::Host)?;
    Host::parse(text).ok_or(Broken::Host)
}

/// What came so far, once it is all that `read` wants.
fn whole<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Bytewise<'_>) -> Result<Option<T>, Broken>,
) -> Read<T> {
    let mut rest = Bytewise(bytes);
    let found = read(&mut rest)?;
    Ok(found.map(|found| (found, bytes.len() - rest.0.len())))
}

/// Reads how a client begins.
pub(super) fn hello(bytes: &[u8]) -> Read<Hello> {
    whole(bytes, |rest| match rest.byte() {
        None => Ok(None),
        Some(5) => five(rest),
        Some(4) => four(rest),
        Some(_) => Err(Broken::Version),
    })
}

fn five(rest: &mut Bytewise<'_>) -> Result<Option<Hello>, Broken> {
    let methods = rest.byte().and_then(|length| rest.take(length.into()));
    match methods {
        None => Ok(None),
        Some(methods) if methods.contains(&NO_AUTHENTICATION) => Ok(Some(Hello::Five)),
        Some(_) => Err(Broken::Method),
    }
}

/// `command, port, address, user, 0`; and in version 4a, whose address is 0.0.0.x, `name, 0`.
fn four(rest: &mut Bytewise<'_>) -> Result<Option<Hello>, Broken> {
    let Some(command) = rest.byte() else {
        return Ok(None);
    };
    if command != 1 {
        return Err(Broken::Command(command));
    }
    let (Some(port), Some(address)) = (rest.port(), rest.array::<4>()) else {
        return Ok(None);
    };
    if rest.text()?.is_none() {
        return Ok(None);
    }
    let host = match address {
        [0, 0, 0, 1..=255] => match rest.text()? {
            Some(bytes) => name(bytes)?,
            None => return Ok(None),
        },
        address => Host::Address(Ipv4Addr::from(address).into()),
    };
    Ok(Some(Hello::Four(Asked { host, port })))
}

/// Reads what a client of version 5 wants once it was answered.
pub(super) fn request(bytes: &[u8]) -> Read<Request> {
    whole(bytes, |rest| {
        let Some([version, command, _reserved]) = rest.array() else {
            return Ok(None);
        };
        match (version, command) {
            (5, 1) => Ok(rest.asked()?.map(Request::Connect)),
            // The address from which it will send is as it sees itself; only the port is of use.
            (5, 3) => Ok(rest.asked()?.map(|from| Request::Associate(from.port))),
            (5, command) => Err(Broken::Command(command)),
            _ => Err(Broken::Version),
        }
    })
}

/// The answer to a client that begins with version 5.
pub(super) const WELCOME: [u8; 2] = [5, NO_AUTHENTICATION];

/// What a client that is not understood is told, where there are words for that.
pub(super) fn refusal(broken: Broken, five: bool) -> Vec<u8> {
    match (broken, five) {
        (Broken::Method, _) => vec![5, NO_WAY],
        (Broken::Command(_), true) => answer_five(7, None),
        (Broken::AddressKind(_), true) => answer_five(8, None),
        (Broken::Host | Broken::TooLong, true) => answer_five(1, None),
        (Broken::Command(_) | Broken::Host | Broken::TooLong, false) => answer_four(false),
        _ => Vec::new(),
    }
}

/// The answer to a request of version 5: it was granted, and the address of this side where one is needed; or why
/// it was not.
pub(super) fn answer(outcome: Result<Option<SocketAddr>, Code>) -> Vec<u8> {
    match outcome {
        Ok(at) => answer_five(0, at),
        Err(code) => answer_five(reply(code), None),
    }
}

fn answer_five(reply: u8, at: Option<SocketAddr>) -> Vec<u8> {
    let mut bytes = vec![5, reply, 0];
    put(&mut bytes, at.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()));
    bytes
}

fn put(bytes: &mut Vec<u8>, at: SocketAddr) {
    match at.ip() {
        IpAddr::V4(ip) => {
            bytes.push(1);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(at.port().to_be_bytes());
}

/// What version 5 has for a code (RFC 1928 section 6).
fn reply(code: Code) -> u8 {
    match code.io_kind() {
        ErrorKind::PermissionDenied => 2,
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => 3,
        ErrorKind::HostUnreachable | ErrorKind::NotFound => 4,
        ErrorKind::ConnectionRefused => 5,
        // There is no word for a time that ran out but this one, which programs take for it.
        ErrorKind::TimedOut => 6,
        _ => 1,
    }
}

/// The answer to version 4.
pub(super) fn answer_four(granted: bool) -> Vec<u8> {
    vec![0, if granted { 90 } else { 91 }, 0, 0, 0, 0, 0, 0]
}

/// Reads a datagram of a client: where it is to go, and what is in it (RFC 1928 section 7). `None` for what is no
/// whole one; pieces of datagrams are not put together.
pub(super) fn datagram(bytes: &Bytes) -> Option<(Asked, Bytes)> {
    let read = whole(bytes, |rest| match rest.array() {
        Some([0, 0, 0]) => rest.asked(),
        _ => Ok(None),
    });
    let (to, length) = read.ok().flatten()?;
    Some((to, bytes.slice(length..)))
}

/// A datagram for a client, that came from where it asked for.
pub(super) fn datagram_from(from: &Asked, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0];
    match &from.host {
        Host::Address(IpAddr::V4(ip)) => put(&mut bytes, (*ip, from.port).into()),
        Host::Address(IpAddr::V6(ip)) => put(&mut bytes, (*ip, from.port).into()),
        Host::Name(name) => {
            let length = u8::try_from(name.len()).expect("hosts are at most 255 bytes long");
            bytes.extend([3, length]);
            bytes.extend(name.as_bytes());
            bytes.extend(from.port.to_be_bytes());
        }
    }
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const NAME: &str = "db.underpass.internal";

    fn asked(text: &str) -> Asked {
        Asked::parse(text, None).unwrap()
    }

    fn named(head: &[u8], name: &str, tail: &[u8]) -> Vec<u8> {
        [head, name.as_bytes(), tail].concat()
    }

    /// Beginnings, and what they say.
    fn hellos() -> Vec<(Vec<u8>, Hello)> {
        vec![
            (vec![5, 1, 0], Hello::Five),
            (vec![5, 3, 2, 1, 0], Hello::Five),
            (
                vec![4, 1, 0x15, 0x38, 10, 0, 0, 1, b'm', b'e', 0],
                Hello::Four(asked("10.0.0.1:5432")),
            ),
            (
                vec![4, 1, 0, 80, 0, 0, 0, 0, 0],
                Hello::Four(asked("0.0.0.0:80")),
            ),
            (
                named(&[4, 1, 0, 80, 0, 0, 0, 1, 0], NAME, &[0]),
                Hello::Four(asked("db.underpass.internal:80")),
            ),
        ]
    }

    fn requests() -> Vec<(Vec<u8>, Request)> {
        let v6 = Ipv6Addr::LOCALHOST.octets();
        vec![
            (
                vec![5, 1, 0, 1, 10, 0, 0, 1, 0, 22],
                Request::Connect(asked("10.0.0.1:22")),
            ),
            (
                named(&[5, 1, 0, 3, 21], NAME, &[0, 22]),
                Request::Connect(asked("db.underpass.internal:22")),
            ),
            (
                [&[5, 1, 0, 4], &v6[..], &[0, 22]].concat(),
                Request::Connect(asked("[::1]:22")),
            ),
            (
                vec![5, 3, 0, 1, 0, 0, 0, 0, 0x13, 0x88],
                Request::Associate(5000),
            ),
        ]
    }

    /// Whatever is understood is understood of exactly those bytes, whatever follows, and of none of their
    /// beginnings.
    fn exact<T: PartialEq + std::fmt::Debug>(read: fn(&[u8]) -> Read<T>, bytes: &[u8], said: &T) {
        let (found, length) = read(bytes).unwrap().unwrap();
        assert_eq!((&found, length), (said, bytes.len()));
        let more = [bytes, b"more"].concat();
        assert_eq!(read(&more).unwrap().unwrap().1, bytes.len());
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{end} bytes of {bytes:?}");
        }
    }

    #[test]
    fn what_clients_say_is_understood_whole_and_not_before() {
        for (bytes, said) in hellos() {
            exact(hello, &bytes, &said);
        }
        for (bytes, said) in requests() {
            exact(request, &bytes, &said);
        }
    }

    #[test]
    fn what_is_not_served_is_said_so() {
        for (bytes, broken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Broken::Version),
            (&[5, 1, 2], Broken::Method),
            (&[5, 0], Broken::Method),
            (&[4, 2], Broken::Command(2)),
            (&[4, 1, 0, 1, 0, 0, 0, 1, 0, b' ', 0], Broken::Host),
            (&[4, 1, 0, 1, 0, 0, 0, 1, 0, 0], Broken::Host),
        ] {
            assert_eq!(hello(bytes), Err(broken), "{bytes:?}");
        }
        let endless = [&[4, 1, 0, 1, 1, 1, 1, 1][..], &[b'u'; MAX_HOST + 1]].concat();
        assert_eq!(hello(&endless), Err(Broken::TooLong));
        for (bytes, broken, told) in [
            (&[5, 2, 0][..], Broken::Command(2), 7),
            (&[5, 1, 0, 2], Broken::AddressKind(2), 8),
            (&[5, 1, 0, 3, 1, 0xff, 0, 1], Broken::Host, 1),
            (&[5, 1, 0, 3, 0, 0, 1], Broken::Host, 1),
        ] {
            assert_eq!(request(bytes), Err(broken), "{bytes:?}");
            assert_eq!(refusal(broken, true)[..2], [5, told]);
        }
        assert_eq!(request(&[4, 1, 0]), Err(Broken::Version));
        assert_eq!(refusal(Broken::Method, false), [5, 0xff]);
        assert!(refusal(Broken::Version, false).is_empty());
    }

    #[test]
    fn answers_are_those_of_the_standard() {
        let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        assert_eq!(answer(Ok(Some(at))), [5, 0, 0, 1, 127, 0, 0, 1, 0x13, 0x88]);
        assert_eq!(answer(Ok(None)), [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for (code, told) in [
            (Code::Denied, 2),
            (Code::NoService, 4),
            (Code::ServiceAway, 4),
            (Code::Refused, 5),
            (Code::TimedOut, 6),
            (Code::Internal, 1),
        ] {
            assert_eq!(answer(Err(code))[1], told, "{code:?}");
        }
        assert_eq!(answer_four(true)[..2], [0, 90]);
        assert_eq!(answer_four(false)[..2], [0, 91]);
    }

    #[test]
    fn datagrams_come_back_from_where_they_were_sent() {
        for to in ["10.0.0.1:53", "[::1]:53", "db.underpass.internal:53"] {
            let bytes = Bytes::from(datagram_from(&asked(to), b"data"));
            let (found, data) = datagram(&bytes).unwrap();
            assert_eq!((found, &data[..]), (asked(to), &b"data"[..]));
        }
        for wrong in [
            &[][..],
            &[0, 0, 1, 1, 1, 1, 1, 1, 0, 1],
            &[0, 0, 0, 1, 1, 1],
        ] {
            assert_eq!(datagram(&Bytes::copy_from_slice(wrong)), None);
        }
    }

    /// A local program may say anything: it is understood, refused, or waited for, and never for more than the
    /// longest request.
    #[test]
    fn whatever_is_said_something_comes_of_it() {
        let good: Vec<Vec<u8>> = hellos()
            .into_iter()
            .map(|(bytes, _)| bytes)
            .chain(requests().into_iter().map(|(bytes, _)| bytes))
            .collect();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut dice = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for _ in 0..200_000 {
            let mut bytes = good[dice(good.len())].clone();
            for _ in 0..dice(4) {
                let at = dice(bytes.len());
                match dice(4) {
                    0 => bytes[at] = u8::try_from(dice(256)).unwrap(),
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, u8::try_from(dice(256)).unwrap()),
                    _ => bytes.extend(vec![u8::try_from(dice(256)).unwrap(); dice(600)]),
                }
            }
            for waits in [
                hello(&bytes).map(|read| read.map(|(_, length)| length)),
                request(&bytes).map(|read| read.map(|(_, length)| length)),
            ] {
                match waits {
                    Ok(Some(length)) => assert!(length <= bytes.len()),
                    Ok(None) => assert!(bytes.len() < MAX_REQUEST, "{bytes:?}"),
                    Err(_) => {}
                }
            }
            let _ = datagram(&Bytes::from(bytes));
        }
    }
}
