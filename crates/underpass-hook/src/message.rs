//! What a hooked program and the redirector say to each other: one question and one answer, each a packet of a
//! `SOCK_SEQPACKET` socket (unix(7)), so that neither is ever half there.
//!
//! Both are `version kind rest`, the first two one byte each. Numbers are in the order of the wire.

use crate::address::{Address, Target};
use crate::name;

/// The version of these messages. A redirector refuses any other: a program that runs since an update may still have the
/// library of before.
pub const VERSION: u8 = 1;

/// The longest message, in bytes.
pub const MAX: usize = 2 + 4 + name::MAX;

/// By what the redirector knows a connection again when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The socket's cookie (`SO_COOKIE`, socket(7)), which the kernel gives to no other socket.
    Cookie(u64),
    /// The port that it comes from: what arrives of a multipath socket (RFC 8684) is another socket.
    Source(u16),
}

/// What a hooked program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// The address of a pseudo name.
    Address(&'a [u8]),
    /// The name of a pseudo address.
    Name(Address),
    /// To be let in. The answer comes at once, or when the service has answered and with its very error.
    Connect {
        /// By what the connection will be known.
        mark: Mark,
        /// Where the program wants to go.
        target: Target,
        /// Whether the program can wait.
        wait: bool,
    },
    /// The port that the program named when it connected this socket.
    Port(Mark),
    /// Nothing: to be there until the asking process ends.
    Stay,
    /// To give a name this address and no other.
    Fix(Address, &'a [u8]),
    /// To give all names addresses that mean a service now.
    List,
    /// The name that comes after this one among those that have addresses, and its address; of none, the first.
    After(&'a [u8]),
}

/// What the redirector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The address of the name.
    Address(Address),
    /// The name of the address.
    Name(&'a [u8]),
    /// A port: where to connect to, or what was asked for.
    Port(u16),
    /// As asked.
    Done,
    /// There is no such name, address or socket.
    Unknown,
    /// What connect(2) must fail with, as `errno` has it on this machine.
    Errno(i32),
    /// A name and its address.
    Entry(Address, &'a [u8]),
}

/// Writes one message; what does not fit any more is left out, which no message of this module comes near.
struct Writer<'a> {
    bytes: &'a mut [u8; MAX],
    length: usize,
}

impl<'a> Writer<'a> {
    fn new(bytes: &'a mut [u8; MAX], kind: u8) -> Self {
        Self { bytes, length: 0 }.put(&[VERSION, kind])
    }

    fn put(mut self, part: &[u8]) -> Self {
        let end = self.length + part.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(part);
            self.length = end;
        }
        self
    }

    fn put_mark(self, mark: Mark) -> Self {
        let (kind, number) = match mark {
            Mark::Cookie(cookie) => (0, cookie),
            Mark::Source(port) => (1, port.into()),
        };
        self.put(&[kind]).put(&number.to_be_bytes())
    }

    fn done(self) -> &'a [u8] {
        &self.bytes[..self.length]
    }
}

/// Reads one message from its front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*part)
    }

    /// The kind of a message of our version.
    fn kind(&mut self) -> Option<u8> {
        let [version, kind] = self.take()?;
        (version == VERSION).then_some(kind)
    }

    fn port(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn mark(&mut self) -> Option<Mark> {
        let [kind] = self.take()?;
        let number = u64::from_be_bytes(self.take()?);
        match kind {
            0 => Some(Mark::Cookie(number)),
            1 => Some(Mark::Source(number.try_into().ok()?)),
            _ => None,
        }
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    fn end<T>(self, whole: T) -> Option<T> {
        self.0.is_empty().then_some(whole)
    }
}

impl<'a> Question<'a> {
    /// As bytes, in `buffer`.
    pub fn write<'b>(&self, buffer: &'b mut [u8; MAX]) -> &'b [u8] {
        match *self {
            Self::Address(name) => Writer::new(buffer, 1).put(name),
            Self::Name(address) => Writer::new(buffer, 2).put(&address),
            Self::Connect { mark, target, wait } => Writer::new(buffer, 3)
                .put_mark(mark)
                .put(&target.address)
                .put(&target.port.to_be_bytes())
                .put(&[wait.into()]),
            Self::Port(mark) => Writer::new(buffer, 4).put_mark(mark),
            Self::Stay => Writer::new(buffer, 5),
            Self::Fix(address, name) => Writer::new(buffer, 6).put(&address).put(name),
            Self::List => Writer::new(buffer, 7),
            Self::After(name) => Writer::new(buffer, 8).put(name),
        }
        .done()
    }

    /// From bytes; `None` where they are no question of our version.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let question = match reader.kind()? {
            1 => Self::Address(reader.rest()),
            2 => Self::Name(reader.take()?),
            3 => Self::Connect {
                mark: reader.mark()?,
                target: Target {
                    address: reader.take()?,
                    port: reader.port()?,
                },
                wait: reader.flag()?,
            },
            4 => Self::Port(reader.mark()?),
            5 => Self::Stay,
            6 => Self::Fix(reader.take()?, reader.rest()),
            7 => Self::List,
            8 => Self::After(reader.rest()),
            _ => return None,
        };
        reader.end(question)
    }
}

impl<'a> Answer<'a> {
    /// As bytes, in `buffer`.
    pub fn write<'b>(&self, buffer: &'b mut [u8; MAX]) -> &'b [u8] {
        match *self {
            Self::Address(address) => Writer::new(buffer, 1).put(&address),
            Self::Name(name) => Writer::new(buffer, 2).put(name),
            Self::Port(port) => Writer::new(buffer, 3).put(&port.to_be_bytes()),
            Self::Done => Writer::new(buffer, 4),
            Self::Unknown => Writer::new(buffer, 5),
            Self::Errno(errno) => Writer::new(buffer, 6).put(&errno.to_be_bytes()),
            Self::Entry(address, name) => Writer::new(buffer, 7).put(&address).put(name),
        }
        .done()
    }

    /// From bytes; `None` where they are no answer of our version.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let answer = match reader.kind()? {
            1 => Self::Address(reader.take()?),
            2 => Self::Name(reader.rest()),
            3 => Self::Port(reader.port()?),
            4 => Self::Done,
            5 => Self::Unknown,
            6 => Self::Errno(i32::from_be_bytes(reader.take()?)),
            7 => Self::Entry(reader.take()?, reader.rest()),
            _ => return None,
        };
        reader.end(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target {
        address: [127, 64, 0, 2],
        port: 5432,
    };

    /// Each message and its bytes, which programs of another version may hold us to.
    fn questions() -> Vec<(Question<'static>, Vec<u8>)> {
        let connect = |mark, wait| Question::Connect {
            mark,
            target: TARGET,
            wait,
        };
        vec![
            (Question::Address(b"db"), vec![1, 1, b'd', b'b']),
            (Question::Name([127, 64, 0, 2]), vec![1, 2, 127, 64, 0, 2]),
            (
                connect(Mark::Cookie(0x0102), true),
                vec![
                    1, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 127, 64, 0, 2, 0x15, 0x38, 1,
                ],
            ),
            (
                connect(Mark::Source(0x0102), false),
                vec![
                    1, 3, 1, 0, 0, 0, 0, 0, 0, 1, 2, 127, 64, 0, 2, 0x15, 0x38, 0,
                ],
            ),
            (
                Question::Port(Mark::Cookie(7)),
                vec![1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            ),
            (Question::Stay, vec![1, 5]),
            (
                Question::Fix([127, 64, 0, 2], b"db"),
                vec![1, 6, 127, 64, 0, 2, b'd', b'b'],
            ),
            (Question::List, vec![1, 7]),
            (Question::After(b"db"), vec![1, 8, b'd', b'b']),
        ]
    }

    fn answers() -> Vec<(Answer<'static>, Vec<u8>)> {
        vec![
            (Answer::Address([127, 64, 0, 2]), vec![1, 1, 127, 64, 0, 2]),
            (Answer::Name(b"db"), vec![1, 2, b'd', b'b']),
            (Answer::Port(80), vec![1, 3, 0, 80]),
            (Answer::Done, vec![1, 4]),
            (Answer::Unknown, vec![1, 5]),
            (Answer::Errno(111), vec![1, 6, 0, 0, 0, 111]),
            (
                Answer::Entry([127, 64, 0, 2], b"db"),
                vec![1, 7, 127, 64, 0, 2, b'd', b'b'],
            ),
        ]
    }

    #[test]
    fn every_message_has_its_bytes() {
        for (question, bytes) in questions() {
            assert_eq!(question.write(&mut [0; MAX]), bytes, "{question:?}");
            assert_eq!(Question::read(&bytes), Some(question));
        }
        for (answer, bytes) in answers() {
            assert_eq!(answer.write(&mut [0; MAX]), bytes, "{answer:?}");
            assert_eq!(Answer::read(&bytes), Some(answer));
        }
        let longest = [b'x'; name::MAX];
        let question = Question::Address(&longest);
        assert_eq!(
            Question::read(question.write(&mut [0; MAX])),
            Some(question)
        );
    }

    #[test]
    fn nothing_else_is_a_message() {
        // Text may have any length; everything else is as long as it is.
        let fixed = |bytes: &[u8], text: &[u8]| !text.contains(&bytes[1]);
        for (_, bytes) in questions()
            .iter()
            .filter(|(_, bytes)| fixed(bytes, &[1, 6, 8]))
        {
            assert_eq!(Question::read(&bytes[..bytes.len() - 1]), None, "{bytes:?}");
            assert_eq!(
                Question::read(&[bytes, &[0][..]].concat()),
                None,
                "{bytes:?}"
            );
        }
        for (_, bytes) in answers().iter().filter(|(_, bytes)| fixed(bytes, &[2, 7])) {
            assert_eq!(Answer::read(&bytes[..bytes.len() - 1]), None, "{bytes:?}");
            assert_eq!(Answer::read(&[bytes, &[0][..]].concat()), None, "{bytes:?}");
        }
        for bytes in [&[][..], &[1], &[2, 5], &[1, 0], &[1, 99]] {
            assert_eq!((Question::read(bytes), Answer::read(bytes)), (None, None));
        }
        let source_of_no_port = [1, 4, 1, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(Question::read(&source_of_no_port), None);
    }
}
