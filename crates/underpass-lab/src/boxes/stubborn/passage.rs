//! One message on its way through: its head until that may go, and what of its body is kept back.

use super::body::{Framing, LAST_CHUNK, write_chunk};
use super::head::{Answer, Fields, Request};

/// Bytes of one message that the box keeps back at most; more waits outside.
pub(super) const MOST_HELD: usize = 16 << 20;

/// A head that has not gone out yet.
#[derive(Debug)]
pub(super) enum Head {
    Request(Request),
    Answer(Answer),
}

impl Head {
    fn fields(&mut self) -> &mut Fields {
        match self {
            Self::Request(request) => &mut request.fields,
            Self::Answer(answer) => &mut answer.fields,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Request(request) => request.to_bytes(),
            Self::Answer(answer) => answer.to_bytes(),
        }
    }
}

/// A message that passes, or waits.
#[derive(Debug)]
pub(super) struct Passage {
    head: Option<Head>,
    /// How the body came, then how it goes out.
    framing: Framing,
    held: Vec<u8>,
    ended: bool,
}

impl Passage {
    /// `may_chunk` is whether the receiver understands chunks; otherwise a body without a length lasts until the close.
    pub(super) fn new(head: Head, came: Framing, may_chunk: bool) -> Self {
        let framing = match came {
            Framing::Chunked | Framing::UntilClose if may_chunk => Framing::Chunked,
            Framing::Chunked => Framing::UntilClose,
            other => other,
        };
        Self {
            head: Some(head),
            framing,
            held: Vec::new(),
            ended: false,
        }
    }

    /// Takes in the next bytes of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether more may come in.
    pub(super) fn has_room(&self) -> bool {
        self.held.len() < MOST_HELD
    }

    /// Whether nothing of it has gone out.
    pub(super) fn is_untouched(&self) -> bool {
        self.head.is_some()
    }

    /// Whether its end is told by closing the connection.
    pub(super) fn ends_by_close(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// What may go out now: nothing while it is `holding` and not `complete`. The end goes out once.
    pub(super) fn release(&mut self, holding: bool, complete: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if self.ended || (holding && !complete) {
            return out;
        }
        if let Some(mut head) = self.head.take() {
            if complete && self.framing != Framing::Empty {
                self.framing = Framing::Length(self.held.len() as u64);
            }
            let fields = head.fields();
            match self.framing {
                // What a head without a body says of lengths is none of the box's business.
                Framing::Empty => {}
                Framing::Length(length) => fields.set("Content-Length", length.to_string()),
                Framing::Chunked => {
                    fields.remove("content-length");
                    fields.set("Transfer-Encoding", "chunked");
                }
                Framing::UntilClose => fields.remove("content-length"),
            }
            out = head.to_bytes();
        }
        let held = std::mem::take(&mut self.held);
        match self.framing {
            Framing::Chunked if !held.is_empty() => write_chunk(&held, &mut out),
            Framing::Chunked => {}
            _ => out.extend_from_slice(&held),
        }
        if complete {
            self.ended = true;
            if self.framing == Framing::Chunked {
                out.extend_from_slice(LAST_CHUNK);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(came: Framing, may_chunk: bool) -> Passage {
        let mut answer = Answer::own(200, "OK");
        answer.fields.0.clear();
        Passage::new(Head::Answer(answer), came, may_chunk)
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_held_message_goes_out_whole_and_with_its_length() {
        let mut passage = answer(Framing::Chunked, true);
        passage.push(b"one");
        assert!(passage.release(true, false).is_empty() && passage.is_untouched());
        passage.push(b"two");
        let out = text(passage.release(true, true));
        assert_eq!(out, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nonetwo");
        assert!(passage.release(true, true).is_empty());
    }

    #[test]
    fn a_passing_message_keeps_its_pieces() {
        let mut passage = answer(Framing::UntilClose, true);
        passage.push(b"one");
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            text(passage.release(false, false)),
            format!("{head}3\r\none\r\n")
        );
        // It begins to hold in the middle of the body, and lets go again.
        passage.push(b"two");
        assert!(passage.release(true, false).is_empty());
        passage.push(b"three");
        assert_eq!(text(passage.release(false, false)), "8\r\ntwothree\r\n");
        assert_eq!(text(passage.release(true, true)), "0\r\n\r\n");
    }

    #[test]
    fn without_chunks_the_close_is_the_end() {
        let mut passage = answer(Framing::Chunked, false);
        passage.push(b"one");
        assert_eq!(
            text(passage.release(false, false)),
            "HTTP/1.1 200 OK\r\n\r\none"
        );
        assert!(passage.ends_by_close());
        assert!(passage.release(false, true).is_empty());
    }
}
