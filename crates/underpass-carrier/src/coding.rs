//! How the bodies of numbered requests are written: as they are, or as text. Pure.
//!
//! As text a body is Base64 (RFC 4648 section 4) in lines of 76 characters, each ended by a line feed
//! (RFC 2045 section 6.8 for the length): boxes that refuse or change other bodies let that pass, and
//! none cuts its lines. Line ends and blanks may be changed on the way; nothing else may.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};

use crate::error::CarrierError;
use crate::span::SpanBuf;

/// Bytes in one line.
const LINE: usize = 57;
/// Characters in one line, the line feed included.
const WRITTEN: usize = 77;

/// How bodies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As they are.
    Binary,
    /// As text.
    Text,
}

impl Coding {
    /// The most bytes that a body of `largest` bytes can carry.
    pub(crate) fn room_in(self, largest: usize) -> usize {
        match self {
            Self::Binary => largest,
            Self::Text => largest / WRITTEN * LINE,
        }
    }

    /// The length of the body that carries `len` bytes.
    pub(crate) fn written_len(self, len: usize) -> usize {
        match self {
            Self::Binary => len,
            Self::Text => len.div_ceil(LINE) * WRITTEN,
        }
    }

    /// Writes a body.
    pub(crate) fn write(self, chunks: VecDeque<Bytes>) -> SpanBuf {
        let mut body = SpanBuf::bare(chunks);
        if self == Self::Binary {
            return body;
        }
        let mut text = String::with_capacity(self.written_len(body.remaining()));
        while body.has_remaining() {
            let line = body.copy_to_bytes(LINE.min(body.remaining()));
            STANDARD.encode_string(&line, &mut text);
            text.push('\n');
        }
        SpanBuf::from(Bytes::from(text))
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`CarrierError::Protocol`]: it is no Base64, so somebody else has written it.
    pub(crate) fn read(self, body: Bytes) -> Result<Bytes, CarrierError> {
        if self == Self::Binary {
            return Ok(body);
        }
        let mut text = Vec::from(body);
        text.retain(|byte| !byte.is_ascii_whitespace());
        let bytes = STANDARD.decode(text);
        bytes
            .map(Bytes::from)
            .map_err(|_| CarrierError::protocol("a body that is no Base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(bytes: &[u8]) -> Vec<u8> {
        let chunks = bytes.chunks(5).map(Bytes::copy_from_slice).collect();
        let mut body = Coding::Text.write(chunks);
        body.copy_to_bytes(body.remaining()).to_vec()
    }

    #[test]
    fn text_is_base64_in_lines() {
        // RFC 4648 section 10.
        assert_eq!(written(b"foobar"), b"Zm9vYmFy\n");
        assert_eq!(written(b""), b"");
        let lines = written(&[0; 60]);
        assert_eq!(lines, [&[b'A'; 76][..], b"\nAAAA\n"].concat());
    }

    #[test]
    fn other_line_ends_are_read_and_other_text_is_not() {
        let read = |text: &'static [u8]| Coding::Text.read(Bytes::from_static(text));
        assert_eq!(
            read(b"Zm9v\r\n  YmFy\r\n\r\n").expect("valid"),
            &b"foobar"[..]
        );
        for wrong in [
            &b"<html>"[..],
            b"Zm9",
            b"Zm9v=",
            b"Zm9v\0",
            b"\xff\xff\xff\xff",
        ] {
            assert_eq!(read(wrong).expect_err("refused").code(), "protocol");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_has_the_stated_length(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let text = written(&bytes);
            prop_assert!(text.is_ascii());
            let most = Coding::Text.written_len(bytes.len());
            prop_assert!(text.len() <= most);
            prop_assert!(Coding::Text.room_in(most) >= bytes.len());
            prop_assert_eq!(Coding::Text.read(text.into()).expect("ours"), bytes);
        }
    }
}
