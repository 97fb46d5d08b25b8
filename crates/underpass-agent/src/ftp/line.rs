//! Lines of a control connection, as they come in pieces. Pure.

use bytes::{Bytes, BytesMut};

use super::Garbled;

/// The longest line, in bytes: vsftpd takes 4096, and a path has at most as many (`PATH_MAX`).
pub(super) const MAX_LINE: usize = 8192;

/// Puts pieces together to lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// So many bytes of the buffer hold no end of a line.
    searched: usize,
}

impl Lines {
    /// What came next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line with its end, or nothing until more has come.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Garbled> {
        let end = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let length = end.map(|end| self.searched + end + 1);
        if length.unwrap_or(self.buffer.len()) > MAX_LINE {
            return Err(Garbled::Line);
        }
        match length {
            Some(length) => {
                self.searched = 0;
                Ok(Some(self.buffer.split_to(length).freeze()))
            }
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }

    /// What is left where no more comes: a line without an end.
    pub(super) fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lines: &mut Lines) -> Vec<Bytes> {
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn a_line_that_does_not_end_is_given_up() {
        let mut lines = Lines::default();
        lines.push(&[b'x'; MAX_LINE]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"x");
        assert_eq!(lines.next(), Err(Garbled::Line));

        // One of the longest with its end is one; one more is not, wherever the end is.
        let mut lines = Lines::default();
        lines.push(&[&[b'x'; MAX_LINE - 1][..], b"\n"].concat());
        assert_eq!(lines.next().unwrap().unwrap().len(), MAX_LINE);
        lines.push(&[&[b'x'; MAX_LINE][..], b"\n"].concat());
        assert_eq!(lines.next(), Err(Garbled::Line));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300),
            cuts in prop::collection::vec(0usize..300, 0..20),
        ) {
            let mut whole = Lines::default();
            whole.push(&bytes);
            let wanted = all(&mut whole);
            let rest = whole.rest();

            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut pieces = Lines::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                pieces.push(&bytes[pair[0]..pair[1]]);
                found.extend(all(&mut pieces));
            }
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(pieces.rest(), rest.clone());
            prop_assert_eq!([found.concat(), rest.to_vec()].concat(), bytes);
        }
    }
}
