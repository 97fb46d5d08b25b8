//! Where a body ends, and its bytes without their framing (RFC 9112 section 6).

use super::head::{Answer, Fields, Malformed, Request};

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    Empty,
    /// By its length in bytes.
    Length(u64),
    /// By a chunk of length zero.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Framing {
    pub(super) fn of_request(request: &Request) -> Result<Self, Malformed> {
        Ok(told(&request.fields)?.unwrap_or(Self::Empty))
    }

    pub(super) fn of_answer(answer: &Answer, method: &str) -> Result<Self, Malformed> {
        if method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304) {
            return Ok(Self::Empty);
        }
        Ok(told(&answer.fields)?.unwrap_or(Self::UntilClose))
    }
}

fn told(fields: &Fields) -> Result<Option<Framing>, Malformed> {
    if fields.says("transfer-encoding", "chunked") {
        return Ok(Some(Framing::Chunked));
    }
    let Some(length) = fields.get("content-length") else {
        return Ok(None);
    };
    let length = length.parse().map_err(|_| Malformed("a length"))?;
    Ok(Some(Framing::Length(length)))
}

/// Takes a body out of its framing, in whatever pieces it comes.
#[derive(Debug)]
pub(super) struct BodyReader {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    ChunkSize,
    /// Bytes that are left of a chunk, its line end included.
    Chunk(u64),
    Trailer,
    Done,
}

impl BodyReader {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the body is over.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what belongs to the body from the beginning of `input` and appends its bytes to `out`.
    pub(super) fn take(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut at = 0;
        while self.state != State::Done {
            let rest = &input[at..];
            let Some((used, next)) = self.next(rest, out)? else {
                break;
            };
            at += used;
            self.state = next;
        }
        input.drain(..at);
        Ok(())
    }

    /// The connection has ended.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::Done | State::UntilClose => self.state = State::Done,
            _ => return Err(Malformed("a body cut short")),
        }
        Ok(())
    }

    /// How many bytes of `rest` are used and what comes then; `None` when more must come first.
    fn next(&self, rest: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, State)>, Malformed> {
        if rest.is_empty() {
            return Ok(None);
        }
        let step = match self.state {
            State::Length(left) => {
                let here = within(rest, left);
                out.extend_from_slice(&rest[..here]);
                let left = left - here as u64;
                (
                    here,
                    if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    },
                )
            }
            State::UntilClose => {
                out.extend_from_slice(rest);
                (rest.len(), State::UntilClose)
            }
            State::Chunk(left) => {
                let here = within(rest, left);
                let data = within(rest, left.saturating_sub(2));
                out.extend_from_slice(&rest[..data]);
                let left = left - here as u64;
                (
                    here,
                    if left == 0 {
                        State::ChunkSize
                    } else {
                        State::Chunk(left)
                    },
                )
            }
            State::ChunkSize => {
                let Some((line, used)) = line(rest)? else {
                    return Ok(None);
                };
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(digits, 16).ok();
                match size
                    .filter(|size| *size < 1 << 60)
                    .ok_or(Malformed("a chunk's size"))?
                {
                    0 => (used, State::Trailer),
                    size => (used, State::Chunk(size + 2)),
                }
            }
            State::Trailer => match line(rest)? {
                None => return Ok(None),
                Some(("", used)) => (used, State::Done),
                Some((_, used)) => (used, State::Trailer),
            },
            State::Done => return Ok(None),
        };
        Ok(Some(step))
    }
}

fn within(rest: &[u8], limit: u64) -> usize {
    usize::try_from(limit).map_or(rest.len(), |limit| limit.min(rest.len()))
}

/// The line at the beginning of `rest` without its end, and its length with it.
fn line(rest: &[u8]) -> Result<Option<(&str, usize)>, Malformed> {
    match rest.windows(2).position(|two| two == b"\r\n") {
        Some(end) => {
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| Malformed("a line"))?;
            Ok(Some((line, end + 2)))
        }
        None if rest.len() > 4096 => Err(Malformed("a line without an end")),
        None => Ok(None),
    }
}

/// Appends `bytes` to `out` as one chunk.
pub(super) fn write_chunk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The end of a body in chunks.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `piece` bytes; the body and what follows it.
    fn read(framing: Framing, text: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let (mut reader, mut input, mut out) = (BodyReader::new(framing), Vec::new(), Vec::new());
        for part in text.chunks(piece) {
            input.extend_from_slice(part);
            reader.take(&mut input, &mut out)?;
        }
        assert!(reader.is_complete() || reader.end().is_ok());
        Ok((out, input))
    }

    #[test]
    fn bodies_come_out_of_their_framing_in_any_pieces() {
        let mut chunked = Vec::new();
        for part in [&b"hello "[..], b"big", b" world"] {
            write_chunk(part, &mut chunked);
        }
        chunked.extend_from_slice(b"0;ext=1\r\nTrailer: 1\r\n\r\nnext");
        for piece in 1..chunked.len() {
            let (body, rest) = read(Framing::Chunked, &chunked, piece).unwrap();
            assert_eq!(
                (&body[..], &rest[..]),
                (&b"hello big world"[..], &b"next"[..])
            );
            let (body, rest) = read(Framing::Length(5), b"hellonext", piece).unwrap();
            assert_eq!((&body[..], &rest[..]), (&b"hello"[..], &b"next"[..]));
        }
        assert_eq!(read(Framing::UntilClose, b"all", 2).unwrap().0, b"all");
        assert_eq!(read(Framing::Empty, b"next", 4).unwrap().1, b"next");
    }

    #[test]
    fn what_has_no_end_is_refused() {
        assert!(read(Framing::Chunked, b"xyz\r\n", 5).is_err());
        assert!(BodyReader::new(Framing::Length(1)).end().is_err());
        assert!(BodyReader::new(Framing::Chunked).end().is_err());
    }

    #[test]
    fn the_head_tells_the_framing() {
        let answer = |status: u16, name: &str, value: &str| {
            let mut answer = Answer::own(status, "");
            answer.fields.set(name, value);
            answer
        };
        let of = |answer: &Answer, method| Framing::of_answer(answer, method).unwrap();
        assert_eq!(
            of(&answer(200, "Content-Length", "7"), "GET"),
            Framing::Length(7)
        );
        assert_eq!(
            of(&answer(200, "Content-Length", "7"), "HEAD"),
            Framing::Empty
        );
        assert_eq!(
            of(&answer(304, "Content-Length", "7"), "GET"),
            Framing::Empty
        );
        assert_eq!(
            of(&answer(200, "Transfer-Encoding", "chunked"), "GET"),
            Framing::Chunked
        );
        assert_eq!(of(&answer(200, "X", "y"), "GET"), Framing::UntilClose);
        assert!(Framing::of_answer(&answer(200, "Content-Length", "-1"), "GET").is_err());
    }
}
