//! The first packet of a connection, and the answer that refuses it (X Window System Protocol, version 11, section 8). Pure.

use thiserror::Error;

use super::Cookie;

/// Bytes of the packet that are always there.
pub(super) const HEADER: usize = 12;
/// The longest name of a way to show who one is, and the most data for it, in bytes: more than any has.
const MOST_NAME: u16 = 64;
const MOST_DATA: u16 = 4096;
/// The way that compares a cookie.
pub(super) const COOKIE_NAME: &[u8] = b"MIT-MAGIC-COOKIE-1";

/// What was said cannot be the beginning of X11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is not X11")]
pub(super) struct NotX11;

/// The order of bytes that the program has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Big,
    Little,
}

impl Order {
    fn read(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }

    fn write(self, number: u16) -> [u8; 2] {
        match self {
            Self::Big => number.to_be_bytes(),
            Self::Little => number.to_le_bytes(),
        }
    }
}

/// The fixed part of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    order: Order,
    /// Of the protocol, as it stands there.
    version: [u8; 4],
    name: u16,
    data: u16,
}

/// Fields are filled up to a multiple of four bytes.
fn padded(length: u16) -> usize {
    usize::from(length).next_multiple_of(4)
}

impl Header {
    /// Reads it.
    pub(super) fn read(bytes: &[u8; HEADER]) -> Result<Self, NotX11> {
        let [order, _, a, b, c, d, e, f, g, h, _, _] = *bytes;
        let order = match order {
            b'B' => Order::Big,
            b'l' => Order::Little,
            _ => return Err(NotX11),
        };
        let header = Self {
            order,
            version: [a, b, c, d],
            name: order.read([e, f]),
            data: order.read([g, h]),
        };
        let sound =
            order.read([a, b]) == 11 && header.name <= MOST_NAME && header.data <= MOST_DATA;
        sound.then_some(header).ok_or(NotX11)
    }

    /// How many bytes of the packet follow.
    pub(super) fn rest(&self) -> usize {
        padded(self.name) + padded(self.data)
    }

    /// The cookie in those that follow, if there is one.
    pub(super) fn cookie<'a>(&self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let name = rest.get(..usize::from(self.name))?;
        let data = rest.get(padded(self.name)..)?;
        let data = data.get(..usize::from(self.data))?;
        (name == COOKIE_NAME).then_some(data)
    }

    /// The whole packet, with this cookie or with none.
    pub(super) fn with(&self, cookie: Option<&Cookie>) -> Vec<u8> {
        let (name, data) = match cookie {
            Some(cookie) => (COOKIE_NAME, &cookie[..]),
            None => (&b""[..], &b""[..]),
        };
        let mut bytes = vec![
            match self.order {
                Order::Big => b'B',
                Order::Little => b'l',
            },
            0,
        ];
        bytes.extend(self.version);
        for field in [name, data] {
            bytes.extend(self.order.write(short(field)));
        }
        bytes.extend([0, 0]);
        for field in [name, data] {
            bytes.extend(field);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    /// The answer that refuses the connection, with words that the program shows.
    pub(super) fn refusal(&self, reason: &str) -> Vec<u8> {
        // Its length is told in one byte.
        let mut reason = reason.as_bytes();
        reason = &reason[..reason.len().min(usize::from(u8::MAX))];
        let length = u8::try_from(reason.len()).unwrap_or(u8::MAX);
        let mut bytes = vec![0, length];
        bytes.extend(self.version);
        bytes.extend(self.order.write(u16::from(length).div_ceil(4)));
        bytes.extend(reason);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

fn short(field: &[u8]) -> u16 {
    u16::try_from(field.len()).expect("the name and a cookie are short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As libX11 begins on a machine of little end.
    fn begin(cookie: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'l', 0, 11, 0, 0, 0, 18, 0, cookie.len() as u8, 0, 0, 0];
        bytes.extend(COOKIE_NAME);
        bytes.extend([0, 0]);
        bytes.extend(cookie);
        bytes
    }

    fn read(bytes: &[u8]) -> (Header, &[u8]) {
        let header = Header::read(bytes.first_chunk().unwrap()).unwrap();
        (header, &bytes[HEADER..])
    }

    #[test]
    fn a_cookie_is_found_taken_out_and_put_in() {
        let cookie = [7; 16];
        let bytes = begin(&cookie);
        let (header, rest) = read(&bytes);
        assert_eq!(rest.len(), header.rest());
        assert_eq!(header.cookie(rest), Some(&cookie[..]));

        let without = header.with(None);
        assert_eq!(without, [b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (header, rest) = read(&without);
        assert_eq!((header.rest(), header.cookie(rest)), (0, None));
        assert_eq!(header.with(Some(&cookie)), bytes);
    }

    #[test]
    fn a_refusal_is_of_the_programs_own_order() {
        let (header, _) = read(&[b'B', 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0]);
        let refusal = header.refusal("no no");
        assert_eq!(refusal[..8], [0, 5, 0, 11, 0, 0, 0, 2]);
        assert_eq!(&refusal[8..], b"no no\0\0\0");
        let longest = header.refusal(&"x".repeat(1000));
        assert_eq!((longest.len(), longest[1]), (8 + 256, 255));
    }

    #[test]
    fn other_beginnings_are_refused() {
        for bytes in [
            *b"GET / HTTP/1",
            [b'l', 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [b'l', 0, 11, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
            [b'B', 0, 0, 11, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        ] {
            assert_eq!(Header::read(&bytes), Err(NotX11));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded(bytes: [u8; HEADER], rest in prop::collection::vec(any::<u8>(), 0..200)) {
            for order in *b"lB" {
                let mut bytes = bytes;
                bytes[0] = order;
                if let Ok(header) = Header::read(&bytes) {
                    prop_assert!(header.rest() <= 64 + 4096);
                    let _ = header.cookie(&rest);
                }
            }
        }
    }
}
