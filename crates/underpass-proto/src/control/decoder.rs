//! Control messages on a stream: `length: varint | type: varint | fields`, where the length
//! counts type and fields.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::Control;
use crate::packet::whole;
use crate::wire::{DecodeError, cut_message};
use crate::{Speaker, varint};

/// The most that the length of a control message may say, in bytes.
pub const MAX_CONTROL: usize = 65_536;

/// A message that is too long to be sent. A list can be sent in parts; a name of that length
/// is none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a control message of {len} bytes is longer than {MAX_CONTROL}")]
pub struct ControlTooLong {
    /// How long it would be, in bytes.
    pub len: usize,
}

impl Control {
    /// Appends the message with its length.
    ///
    /// # Errors
    /// [`ControlTooLong`]; nothing is written then.
    pub fn put_framed(&self, buf: &mut impl BufMut) -> Result<(), ControlTooLong> {
        let len = self.encoded_len();
        if len > MAX_CONTROL {
            return Err(ControlTooLong { len });
        }
        varint::put(buf, len as u64);
        self.encode(buf);
        Ok(())
    }
}

/// Cuts a stream into control messages.
///
/// [`push`](Self::push) what the channel delivered, then call [`next`](Self::next) until it
/// returns `None`. It then holds less than one message. After an error it returns that error
/// for ever.
#[derive(Debug)]
pub struct ControlDecoder {
    speaker: Speaker,
    buf: BytesMut,
    failed: Option<DecodeError>,
}

impl ControlDecoder {
    /// A decoder for what `speaker` says, at the start of a stream.
    pub fn new(speaker: Speaker) -> Self {
        ControlDecoder {
            speaker,
            buf: BytesMut::new(),
            failed: None,
        }
    }

    /// Adds received bytes; they are copied.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buf.extend_from_slice(bytes);
        }
    }

    /// Whether the bytes received so far end between two messages.
    pub fn is_between_messages(&self) -> bool {
        self.buf.is_empty()
    }

    /// The next message, or `None` until more is pushed.
    ///
    /// # Errors
    /// What is wrong and where; a message that is too long fails as soon as its length is
    /// known, one that is not `speaker`'s to send as soon as it is complete.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not go on after None"
    )]
    pub fn next(&mut self) -> Result<Option<Control>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.cut();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.buf = BytesMut::new();
        }
        result
    }

    fn cut(&mut self) -> Result<Option<Control>, DecodeError> {
        let Some(message) = cut_message(&mut self.buf, MAX_CONTROL, "Control")? else {
            return Ok(None);
        };
        let speaker = self.speaker;
        whole(message, "Control", |bytes| {
            Control::decode_in(speaker, bytes)
        })
        .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::{Allow, Done, Notice, Resolve};

    fn decode(bytes: &[u8], cut: usize) -> Result<Vec<Control>, DecodeError> {
        let mut decoder = ControlDecoder::new(Speaker::Agent);
        let mut messages = Vec::new();
        for part in bytes.chunks(cut) {
            decoder.push(part);
            while let Some(message) = decoder.next()? {
                messages.push(message);
            }
            assert!(decoder.buf.len() <= MAX_CONTROL + 8);
        }
        Ok(messages)
    }

    #[test]
    fn lengths_have_a_limit() {
        let what = "Control";
        let too_long = Err(DecodeError::TooLong {
            what,
            limit: MAX_CONTROL,
        });
        for cut in [1, 9] {
            assert_eq!(decode(b"\x80\x01\x00\x01\x03\x03", cut), too_long);
            assert_eq!(decode(b"\xff\xff\xff\xff\xff\xff\xff\xff", cut), too_long);
        }
        let long = Control::from(Resolve {
            request: 1,
            service: "x".repeat(MAX_CONTROL),
        });
        let mut buf = Vec::new();
        let len = MAX_CONTROL + 6;
        assert_eq!(long.put_framed(&mut buf), Err(ControlTooLong { len }));
        assert!(buf.is_empty());
    }

    #[test]
    fn errors_stay() {
        for (bytes, error) in [
            (&b"\x02\x7f\x00"[..], DecodeError::UnknownControl(0x3f00)),
            (b"\x00", DecodeError::Truncated { what: "an integer" }),
            (
                b"\x03\x03\x03\x00",
                DecodeError::TrailingBytes {
                    what: "Control",
                    count: 1,
                },
            ),
            (
                b"\x02\x20\x01",
                DecodeError::NotAllowed {
                    what: "Done",
                    place: "a message from an agent",
                },
            ),
        ] {
            let mut decoder = ControlDecoder::new(Speaker::Agent);
            decoder.push(bytes);
            assert_eq!(decoder.next(), Err(error.clone()));
            decoder.push(b"\x02\x03\x03");
            assert_eq!(decoder.next(), Err(error));
        }
    }

    #[test]
    fn each_side_says_only_what_is_its_to_say() {
        let mut buf = Vec::new();
        for message in [
            Control::from(Done { request: 1 }),
            Notice {
                text: "hi\x1b[2J".into(),
            }
            .into(),
        ] {
            message.put_framed(&mut buf).unwrap();
        }
        let mut decoder = ControlDecoder::new(Speaker::Relay);
        decoder.push(&buf);
        assert_eq!(decoder.next(), Ok(Some(Done { request: 1 }.into())));
        // What could harm a terminal has become a space.
        let text = "hi [2J".into();
        assert_eq!(decoder.next(), Ok(Some(Notice { text }.into())));
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.is_between_messages());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(
            requests in proptest::collection::vec(0u64..100_000, 1..20),
            cut in 1usize..50,
        ) {
            let mut buf = Vec::new();
            let messages: Vec<Control> = requests
                .iter()
                .map(|&request| {
                    let (who, service) = ("alice".into(), "db".into());
                    Allow { request, who, service }.into()
                })
                .collect();
            for message in &messages {
                message.put_framed(&mut buf).unwrap();
            }
            prop_assert_eq!(decode(&buf, cut), Ok(messages));
        }

        #[test]
        fn arbitrary_bytes(bytes: Vec<u8>, cut in 1usize..9) {
            prop_assert_eq!(decode(&bytes, cut), decode(&bytes, usize::MAX));
        }
    }
}
