//! What a client sends: bytes that arrive in numbered bodies, perhaps twice, and leave in order. Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use underpass_proto::Code;

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untaken {
    /// It does not belong where it says: bytes before it are missing, or the stream ends elsewhere.
    Misplaced,
    /// There is no room for it now.
    Full,
    /// The connection broke, for this reason.
    Broken(Code),
}

/// What is to be passed on next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// These bytes.
    Bytes(Bytes),
    /// The end of the stream; asked again, the same.
    End,
    /// Nothing yet.
    Nothing,
}

/// One direction of a session, from the client to the service.
#[derive(Debug)]
pub(crate) struct Upward {
    /// The offset up to which everything was taken.
    next: u64,
    queue: VecDeque<Bytes>,
    /// Bytes in the queue.
    queued: usize,
    /// Bytes that may be in the queue; one body beyond that where it is empty.
    room: usize,
    ended: bool,
    broken: Option<Code>,
}

impl Upward {
    /// A stream at its beginning, with `room` bytes.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            next: 0,
            queue: VecDeque::new(),
            queued: 0,
            room,
            ended: false,
            broken: None,
        }
    }

    /// Whether the client has said all that it had to say.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended && self.broken.is_none()
    }

    /// The offset from which the client has to go on.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes a body whose first byte belongs at `offset`, and after which the stream ends if `end`.
    /// What was taken before is left out, so a body may come again, and also with more behind it.
    ///
    /// # Errors
    /// [`Untaken`]; nothing has changed then.
    pub(crate) fn take(&mut self, offset: u64, body: &Bytes, end: bool) -> Result<(), Untaken> {
        if let Some(code) = self.broken {
            return Err(Untaken::Broken(code));
        }
        let until = u64::try_from(body.len())
            .ok()
            .and_then(|len| offset.checked_add(len))
            .ok_or(Untaken::Misplaced)?;
        // The end stands behind the last byte, wherever it is said, and nothing stands behind it.
        let ends_early = end && until < self.next;
        let goes_on = self.ended && until > self.next;
        if offset > self.next || ends_early || goes_on {
            return Err(Untaken::Misplaced);
        }
        if until > self.next {
            let known = usize::try_from(self.next - offset).map_err(|_| Untaken::Misplaced)?;
            let fresh = body.slice(known..);
            if self.queued > 0 && self.queued + fresh.len() > self.room {
                return Err(Untaken::Full);
            }
            self.queued += fresh.len();
            self.queue.push_back(fresh);
            self.next = until;
        }
        self.ended |= end;
        Ok(())
    }

    /// What is to be passed on next.
    pub(crate) fn onward(&mut self) -> Onward {
        match self.queue.pop_front() {
            Some(bytes) => {
                self.queued -= bytes.len();
                Onward::Bytes(bytes)
            }
            None if self.ended => Onward::End,
            None => Onward::Nothing,
        }
    }

    /// The connection broke: nothing more is taken. The first reason stays.
    pub(crate) fn fail(&mut self, code: Code) {
        self.broken.get_or_insert(code);
        self.queue = VecDeque::new();
        self.queued = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(up: &mut Upward, offset: u64, body: &str, end: bool) -> Result<(), Untaken> {
        up.take(offset, &Bytes::copy_from_slice(body.as_bytes()), end)
    }

    fn passed_on(up: &mut Upward) -> (String, bool) {
        let mut text = String::new();
        loop {
            match up.onward() {
                Onward::Bytes(bytes) => text += std::str::from_utf8(&bytes).unwrap(),
                Onward::End => return (text, true),
                Onward::Nothing => return (text, false),
            }
        }
    }

    #[test]
    fn what_comes_again_is_passed_on_once() {
        let mut up = Upward::new(100);
        for (offset, body) in [
            (0, "abc"),
            (0, "abc"),
            (3, ""),
            (0, "abcde"),
            (1, "bc"),
            (4, "ef"),
        ] {
            assert_eq!(
                take(&mut up, offset, body, false),
                Ok(()),
                "{offset} {body}"
            );
        }
        assert_eq!(up.next(), 6);
        assert_eq!(passed_on(&mut up), ("abcdef".to_owned(), false));
    }

    #[test]
    fn a_gap_is_refused_and_changes_nothing() {
        let mut up = Upward::new(100);
        take(&mut up, 0, "abc", false).unwrap();
        assert_eq!(take(&mut up, 4, "e", false), Err(Untaken::Misplaced));
        assert_eq!(take(&mut up, u64::MAX, "e", true), Err(Untaken::Misplaced));
        assert_eq!(
            (up.next(), passed_on(&mut up)),
            (3, ("abc".to_owned(), false))
        );
    }

    #[test]
    fn the_end_stands_in_one_place() {
        let mut up = Upward::new(100);
        take(&mut up, 0, "abc", false).unwrap();
        assert_eq!(take(&mut up, 0, "ab", true), Err(Untaken::Misplaced));
        assert_eq!(take(&mut up, 3, "de", true), Ok(()));
        // The proxy sends it again; and a client says the end by itself.
        assert_eq!(take(&mut up, 3, "de", true), Ok(()));
        assert_eq!(take(&mut up, 5, "", true), Ok(()));
        assert_eq!(take(&mut up, 0, "abc", false), Ok(()));
        assert_eq!(take(&mut up, 5, "f", false), Err(Untaken::Misplaced));
        assert!(up.is_ended());
        assert_eq!(passed_on(&mut up), ("abcde".to_owned(), true));
        assert_eq!(up.onward(), Onward::End);
    }

    #[test]
    fn room_is_bounded_and_a_large_body_passes_alone() {
        let mut up = Upward::new(4);
        take(&mut up, 0, "abcdef", false).unwrap();
        assert_eq!(take(&mut up, 6, "g", false), Err(Untaken::Full));
        assert_eq!(
            take(&mut up, 0, "abcdef", false),
            Ok(()),
            "known bytes need no room"
        );
        assert_eq!(passed_on(&mut up).0, "abcdef");
        take(&mut up, 6, "gh", false).unwrap();
        take(&mut up, 8, "ij", true).unwrap();
        assert_eq!(up.onward(), Onward::Bytes(Bytes::from_static(b"gh")));
    }

    #[test]
    fn what_broke_stays_broken() {
        let mut up = Upward::new(4);
        take(&mut up, 0, "abc", true).unwrap();
        up.fail(Code::Aborted);
        up.fail(Code::Cancelled);
        assert_eq!(
            take(&mut up, 0, "abc", true),
            Err(Untaken::Broken(Code::Aborted))
        );
    }

    proptest! {
        /// Whatever pieces come in whatever order, what is passed on is a prefix of the stream, and all
        /// of it once every piece has come in order.
        #[test]
        fn any_pieces_give_the_stream(pieces in proptest::collection::vec((0usize..40, 0usize..20), 0..60)) {
            let stream: Bytes = (0u8..40).collect();
            let mut up = Upward::new(8);
            let mut passed = Vec::new();
            let drain = |up: &mut Upward, passed: &mut Vec<u8>| loop {
                match up.onward() {
                    Onward::Bytes(bytes) => passed.extend_from_slice(&bytes),
                    other => return other,
                }
            };
            for (from, len) in pieces {
                let to = (from + len).min(stream.len());
                let before = up.next();
                let taken = up.take(from as u64, &stream.slice(from..to), false);
                prop_assert!(up.queued <= 20);
                if taken.is_err() {
                    prop_assert_eq!(up.next(), before);
                    drain(&mut up, &mut passed);
                }
                prop_assert_eq!(taken == Err(Untaken::Misplaced), from as u64 > before);
            }
            drain(&mut up, &mut passed);
            prop_assert_eq!(&passed[..], &stream[..passed.len()]);
            prop_assert_eq!(passed.len() as u64, up.next());
            up.take(0, &stream, true).unwrap();
            prop_assert_eq!(drain(&mut up, &mut passed), Onward::End);
            prop_assert_eq!(passed, stream.to_vec());
        }
    }
}
