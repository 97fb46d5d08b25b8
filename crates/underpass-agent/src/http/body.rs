//! Where bodies end (RFC 9112 sections 6 and 7). They pass untouched; only their length is of interest. Pure.

use super::Garbled;

/// The most bytes of a chunk's line, and of the trailer after the last one.
const MAX_LINE: usize = 16 << 10;
/// The most digits of a chunk's size: 2^60 bytes.
const MAX_DIGITS: usize = 15;

/// What is left of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything until the end of the connection.
    UntilEnd,
}

/// What is left of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunks {
    /// The line with the size: of digits that were read, their value, and how long the line is so far.
    Size {
        digits: usize,
        value: u64,
        /// Whether an extension is being read.
        extension: bool,
        length: usize,
    },
    /// So many bytes of the chunk.
    Data(u64),
    /// The end of its last line.
    DataEnd,
    /// The trailer: how long it is so far, and whether a line has something in it.
    Trailer { length: usize, begun: bool },
}

const SIZE: Chunks = Chunks::Size {
    digits: 0,
    value: 0,
    extension: false,
    length: 0,
};

impl Body {
    /// Chunks from the first on.
    pub(super) fn chunked() -> Self {
        Self::Chunked(SIZE)
    }

    /// How many of these bytes are of the body, and whether it has ended with them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Garbled> {
        match self {
            Self::UntilEnd => Ok((bytes.len(), false)),
            Self::Length(left) => {
                let taken = some_of(bytes.len(), *left);
                *left -= taken as u64;
                Ok((taken, *left == 0))
            }
            Self::Chunked(chunks) => {
                let mut taken = 0;
                while taken < bytes.len() {
                    if let Chunks::Data(left) = chunks {
                        let some = some_of(bytes.len() - taken, *left);
                        taken += some;
                        *left -= some as u64;
                        if *left == 0 {
                            *chunks = Chunks::DataEnd;
                        }
                        continue;
                    }
                    let ended = chunks.next(bytes[taken])?;
                    taken += 1;
                    if ended {
                        return Ok((taken, true));
                    }
                }
                Ok((taken, false))
            }
        }
    }
}

fn some_of(there: usize, left: u64) -> usize {
    usize::try_from(left).map_or(there, |left| there.min(left))
}

impl Chunks {
    /// Takes one byte that is no data; whether all chunks have ended with it.
    fn next(&mut self, byte: u8) -> Result<bool, Garbled> {
        *self = match *self {
            Self::Size {
                digits,
                value,
                extension,
                length,
            } => size(byte, digits, value, extension, length)?,
            Self::Data(_) => *self,
            Self::DataEnd => match byte {
                b'\r' => *self,
                b'\n' => SIZE,
                _ => return Err(Garbled("a chunk that is longer than it says")),
            },
            Self::Trailer { length, begun } => match byte {
                _ if length == MAX_LINE => return Err(Garbled("a long trailer")),
                b'\n' if !begun => return Ok(true),
                b'\n' | b'\r' => Self::Trailer {
                    length: length + 1,
                    begun: begun && byte != b'\n',
                },
                _ => Self::Trailer {
                    length: length + 1,
                    begun: true,
                },
            },
        };
        Ok(false)
    }
}

fn size(
    byte: u8,
    digits: usize,
    value: u64,
    extension: bool,
    length: usize,
) -> Result<Chunks, Garbled> {
    let digit = char::from(byte).to_digit(16).filter(|_| !extension);
    match (byte, digit) {
        _ if length == MAX_LINE => Err(Garbled("a long line of a chunk")),
        (b'\n', _) if digits == 0 => Err(Garbled("a chunk without a size")),
        (b'\n', _) if value == 0 => Ok(Chunks::Trailer {
            length: 0,
            begun: false,
        }),
        (b'\n', _) => Ok(Chunks::Data(value)),
        (_, Some(_)) if digits == MAX_DIGITS => Err(Garbled("the size of a chunk")),
        (_, Some(digit)) => Ok(Chunks::Size {
            digits: digits + 1,
            value: value * 16 + u64::from(digit),
            extension,
            length: length + 1,
        }),
        (_, None) if extension || b";\r \t".contains(&byte) => Ok(Chunks::Size {
            digits,
            value,
            extension: true,
            length: length + 1,
        }),
        (_, None) => Err(Garbled("the size of a chunk")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKS: &[u8] =
        b"5\r\nhello\r\n1a;name=\"v\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx: y\r\n\r\n";

    #[test]
    fn a_body_ends_where_it_says() {
        let mut body = Body::Length(3);
        assert_eq!(body.take(b"ab"), Ok((2, false)));
        assert_eq!(body.take(b"cd"), Ok((1, true)));
        let all = [CHUNKS, b"HTTP"].concat();
        assert_eq!(Body::chunked().take(&all), Ok((CHUNKS.len(), true)));
        assert_eq!(Body::chunked().take(b"0\r\n\r\n"), Ok((5, true)));
        assert_eq!(Body::UntilEnd.take(b"abc"), Ok((3, false)));
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"1\r\nab",
            b"1234567890123456\r\n",
        ] {
            assert!(Body::chunked().take(bytes).is_err(), "{bytes:?}");
        }
        let long = [&b"1;"[..], &[b'x'; MAX_LINE]].concat();
        assert!(Body::chunked().take(&long).is_err());
        let trailer = [&b"0\r\n"[..], &[b'x'; MAX_LINE + 1]].concat();
        assert!(Body::chunked().take(&trailer).is_err());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cut in 0..CHUNKS.len()) {
            let mut body = Body::chunked();
            let (first, second) = CHUNKS.split_at(cut);
            prop_assert_eq!(body.take(first), Ok((cut, false)));
            prop_assert_eq!(body.take(second), Ok((second.len(), true)));
        }

        #[test]
        fn garbage_is_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Body::chunked().take(&bytes);
        }
    }
}
