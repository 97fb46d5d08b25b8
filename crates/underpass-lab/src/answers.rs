//! HTTP answers on one connection, as a box sees them that holds each until it is complete. Pure.

/// The longest head that is looked for, in bytes; longer ones are passed on as they are.
const LONGEST_HEAD: usize = 64 * 1024;

/// How the head of every answer begins.
const VERSION: &[u8] = b"HTTP/1.";

/// Where in its answers a connection is.
#[derive(Debug)]
enum Place {
    /// In a head, or before one.
    Head,
    /// In a body that ends after so many more bytes.
    Body(usize),
    /// In something that has no length: a stream, or another protocol after an upgrade.
    Endless,
}

/// The answers of one connection, and what is held of them.
#[derive(Debug)]
pub(crate) struct Answers {
    place: Place,
    /// Whole messages, or parts that may go.
    ready: Vec<u8>,
    /// The beginning of a message whose end is not here.
    held: Vec<u8>,
    /// Bytes of `held` that were looked at.
    read: usize,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            place: Place::Head,
            ready: Vec::new(),
            held: Vec::new(),
            read: 0,
        }
    }

    /// Takes bytes from the server. What may go to the client: everything, or with `hold` only whole answers.
    pub(crate) fn take(&mut self, bytes: &[u8], hold: bool) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        while self.advance() {}
        if !hold {
            // The head of the next answer is looked for in what comes, so only what was read may go.
            let read = match self.place {
                Place::Head => 0,
                Place::Body(_) | Place::Endless => self.read,
            };
            self.ready.extend(self.held.drain(..read));
            self.read -= read;
        }
        std::mem::take(&mut self.ready)
    }

    /// Reads on in `held`; false when more bytes are needed.
    fn advance(&mut self) -> bool {
        let unread = &self.held[self.read..];
        match self.place {
            Place::Endless => {
                self.read = self.held.len();
                false
            }
            Place::Body(left) if unread.len() < left => {
                self.read = self.held.len();
                self.place = Place::Body(left - unread.len());
                false
            }
            Place::Body(left) => {
                let end = self.read + left;
                self.ready.extend(self.held.drain(..end));
                self.read = 0;
                self.place = Place::Head;
                true
            }
            // Another protocol: HTTP/2, or none of ours.
            Place::Head
                if unread
                    .iter()
                    .zip(VERSION)
                    .any(|(byte, wanted)| byte != wanted) =>
            {
                self.place = Place::Endless;
                true
            }
            Place::Head => match unread.windows(4).position(|four| four == b"\r\n\r\n") {
                None if unread.len() > LONGEST_HEAD => {
                    self.place = Place::Endless;
                    true
                }
                None => false,
                Some(at) => {
                    self.place = body_of(&unread[..at]);
                    self.read += at + 4;
                    true
                }
            },
        }
    }
}

/// What follows an answer's head (RFC 9112 section 6.3).
fn body_of(head: &[u8]) -> Place {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "101" {
        return Place::Endless;
    }
    if status.starts_with('1') || status == "204" || status == "304" {
        return Place::Body(0);
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    match length.and_then(|length| length.trim().parse().ok()) {
        Some(length) => Place::Body(length),
        None => Place::Endless,
    }
}

/// Whether the beginning of a connection asks for an upgrade.
pub(crate) fn asks_for_upgrade(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request).to_ascii_lowercase();
    let head = request.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().any(|line| line.starts_with("upgrade:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const EMPTY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    const UPGRADE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello";

    /// Feeds byte by byte; what came out, and what of it came before the last byte went in.
    fn feed(bytes: &[u8], hold: bool) -> (Vec<u8>, usize) {
        let mut answers = Answers::new();
        let (mut out, mut early) = (Vec::new(), 0);
        for byte in bytes {
            early = out.len();
            out.extend(answers.take(&[*byte], hold));
        }
        (out, early)
    }

    #[test]
    fn whole_answers_pass_when_they_are_complete() {
        let both = [WHOLE, EMPTY, WHOLE].concat();
        let (out, early) = feed(&both, true);
        assert_eq!(out, both);
        assert_eq!(early, WHOLE.len() + EMPTY.len());
        let (out, early) = feed(&both, false);
        assert_eq!((out.len(), early), (both.len(), both.len() - 1));
    }

    #[test]
    fn what_has_no_end_is_held_until_the_box_is_friendly() {
        for endless in [STREAM, UPGRADE] {
            assert_eq!(feed(endless, true).0, b"");
            assert_eq!(feed(endless, false).0, endless);
            let mut answers = Answers::new();
            assert_eq!(answers.take(endless, false), endless);
            assert_eq!(answers.take(b"more", true), b"");
            assert_eq!(answers.take(b"!", false), b"more!");
        }
    }

    #[test]
    fn what_is_no_answer_passes_as_it_comes() {
        // A frame of HTTP/2, and something else.
        for other in [&b"\0\0\x12\x04\0\0\0\0\0"[..], b"plain", b"HTTP/2"] {
            assert_eq!(feed(other, false).0, other);
            assert_eq!(feed(other, true).0, b"");
        }
    }

    #[test]
    fn upgrades_are_seen_in_heads_only() {
        assert!(asks_for_upgrade(
            b"GET / HTTP/1.1\r\nUPGRADE: websocket\r\n\r\n"
        ));
        assert!(!asks_for_upgrade(b"POST / HTTP/1.1\r\n\r\nupgrade: no\r\n"));
    }
}
