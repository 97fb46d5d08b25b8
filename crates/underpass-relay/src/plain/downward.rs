//! What a client reads: bytes that are kept until the client asks for those behind them. Pure.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use underpass_proto::Code;

/// How the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The service has said all that it had to say.
    InOrder,
    /// The connection broke, for this reason.
    Broken(Code),
}

/// What a client gets that asks for the bytes from some offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// These bytes, at least one; `last` when the stream ends in order behind them.
    Bytes {
        /// The bytes.
        bytes: Bytes,
        /// Whether they are the last.
        last: bool,
    },
    /// Nothing yet.
    Nothing,
    /// The stream ended in order, right there.
    End,
    /// The connection broke, for this reason.
    Broken(Code),
    /// No such bytes: acknowledged and forgotten, or not there yet.
    Misplaced,
}

/// One direction of a session, from the service to the client.
#[derive(Debug)]
pub(crate) struct Downward {
    /// The offset of the first byte that is kept.
    base: u64,
    kept: VecDeque<Bytes>,
    /// Bytes that are kept.
    len: usize,
    room: usize,
    end: Option<End>,
}

impl Downward {
    /// A stream at its beginning; no more is to be pushed while `room` bytes are kept.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            base: 0,
            kept: VecDeque::new(),
            len: 0,
            room,
            end: None,
        }
    }

    /// The offset of the first byte that is kept.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Whether the service has said all that it had to say.
    pub(crate) fn is_ended(&self) -> bool {
        self.end == Some(End::InOrder)
    }

    /// Whether more may be pushed.
    pub(crate) fn has_room(&self) -> bool {
        self.len < self.room
    }

    /// The next bytes from the service.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && self.end.is_none() {
            self.len += bytes.len();
            self.kept.push_back(bytes);
        }
    }

    /// The service has said all that it had to say.
    pub(crate) fn finish(&mut self) {
        self.end.get_or_insert(End::InOrder);
    }

    /// The connection broke. A stream that has ended in order before stays ended so.
    pub(crate) fn fail(&mut self, code: Code) {
        self.end.get_or_insert(End::Broken(code));
    }

    /// The bytes from `offset` on, `most` at the most. The client has what is before: that is
    /// forgotten. Asked again with the same offset, the same bytes are given, perhaps with more behind.
    pub(crate) fn ask(&mut self, offset: u64, most: usize) -> Given {
        let ahead = offset.checked_sub(self.base);
        let ahead = ahead.and_then(|ahead| usize::try_from(ahead).ok());
        let Some(ahead) = ahead.filter(|ahead| *ahead <= self.len) else {
            return Given::Misplaced;
        };
        self.forget(ahead);
        if self.len > 0 {
            let bytes = self.first(most);
            let last = bytes.len() == self.len && self.end == Some(End::InOrder);
            return Given::Bytes { bytes, last };
        }
        match self.end {
            None => Given::Nothing,
            Some(End::InOrder) => Given::End,
            Some(End::Broken(code)) => Given::Broken(code),
        }
    }

    fn forget(&mut self, mut count: usize) {
        self.base += count as u64;
        self.len -= count;
        while let Some(first) = self.kept.front_mut() {
            if first.len() > count {
                return first.advance(count);
            }
            count -= first.len();
            self.kept.pop_front();
        }
    }

    fn first(&self, most: usize) -> Bytes {
        match self.kept.front() {
            Some(only) if self.kept.len() == 1 => only.slice(..only.len().min(most)),
            _ => {
                let mut all = BytesMut::with_capacity(self.len.min(most));
                for piece in &self.kept {
                    let left = most - all.len();
                    all.extend_from_slice(&piece[..piece.len().min(left)]);
                }
                all.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str, last: bool) -> Given {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Given::Bytes { bytes, last }
    }

    fn with(pieces: &[&'static str]) -> Downward {
        let mut down = Downward::new(8);
        for piece in pieces {
            down.push(Bytes::from_static(piece.as_bytes()));
        }
        down
    }

    #[test]
    fn bytes_are_given_again_until_those_behind_them_are_asked_for() {
        let mut down = with(&["abc", "de"]);
        assert_eq!(down.ask(0, 4), bytes("abcd", false));
        assert_eq!(down.ask(0, 100), bytes("abcde", false));
        assert_eq!(down.ask(2, 100), bytes("cde", false));
        assert_eq!(down.ask(2, 1), bytes("c", false));
        assert_eq!(down.ask(1, 100), Given::Misplaced, "that was acknowledged");
        assert_eq!(down.ask(6, 100), Given::Misplaced, "that is not there yet");
        assert_eq!(down.ask(u64::MAX, 1), Given::Misplaced);
        assert_eq!((down.base(), down.ask(5, 100)), (2, Given::Nothing));
        assert_eq!(down.base(), 5);
    }

    #[test]
    fn room_comes_back_with_the_acknowledgement() {
        let mut down = with(&["abcd", "efgh"]);
        assert!(!down.has_room());
        down.ask(0, 100);
        assert!(!down.has_room());
        down.ask(1, 100);
        assert!(down.has_room());
    }

    #[test]
    fn an_end_is_no_abort() {
        let mut down = with(&["ab"]);
        down.finish();
        down.fail(Code::Aborted);
        assert!(down.is_ended());
        assert_eq!(down.ask(0, 1), bytes("a", false));
        assert_eq!(down.ask(0, 2), bytes("ab", true));
        assert_eq!((down.ask(2, 1), down.ask(2, 1)), (Given::End, Given::End));

        let mut down = with(&["ab"]);
        down.fail(Code::Aborted);
        down.finish();
        assert_eq!(
            down.ask(0, 2),
            bytes("ab", false),
            "what had come is not lost"
        );
        assert_eq!(down.ask(2, 1), Given::Broken(Code::Aborted));
    }

    proptest! {
        #[test]
        fn any_questions_give_the_stream(
            steps in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..6), 1usize..9, 0usize..9), 0..50)
        ) {
            let mut down = Downward::new(usize::MAX);
            let (mut stream, mut offset) = (Vec::new(), 0);
            for (piece, most, read) in steps {
                stream.extend_from_slice(&piece);
                down.push(piece.into());
                match down.ask(offset as u64, most) {
                    Given::Bytes { bytes, last } => {
                        prop_assert!(!last && (1..=most).contains(&bytes.len()));
                        prop_assert_eq!(&bytes[..], &stream[offset..offset + bytes.len()]);
                        offset += read.min(bytes.len());
                    }
                    given => {
                        prop_assert_eq!(given, Given::Nothing);
                        prop_assert_eq!(offset, stream.len());
                    }
                }
                prop_assert!(down.len <= stream.len());
            }
        }
    }
}
