//! How messages are told apart in a stream: each is preceded by its length, four bytes, the first one the most significant.
//! Programs behind other agents, which know nothing of this crate, can speak it too.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Bytes before each message.
pub(super) const HEADER: usize = 4;

/// A message is larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// What precedes a message.
pub(super) fn header(message: &[u8]) -> Result<[u8; HEADER], TooLarge> {
    let length = u32::try_from(message.len()).map_err(|_| TooLarge)?;
    Ok(length.to_be_bytes())
}

/// Header and message in one piece.
pub(super) fn whole(header: [u8; HEADER], message: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(HEADER + message.len());
    whole.put_slice(&header);
    whole.put_slice(message);
    whole.freeze()
}

/// Makes messages of the bytes as they come. Holds no more than has come, whatever a header announces.
#[derive(Debug)]
pub(super) struct Assembly {
    max: u32,
    bytes: BytesMut,
}

impl Assembly {
    pub(super) fn new(max: u32) -> Self {
        let bytes = BytesMut::new();
        Self { max, bytes }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is there in full.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLarge> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header);
        if length > self.max {
            return Err(TooLarge);
        }
        let Ok(length) = usize::try_from(length) else {
            return Err(TooLarge);
        };
        if self.bytes.len() - HEADER < length {
            return Ok(None);
        }
        self.bytes.advance(HEADER);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// Whether the stream may end here.
    pub(super) fn is_between_messages(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let one = |message: &Vec<u8>| whole(header(message).unwrap(), message).to_vec();
        messages.iter().flat_map(one).collect()
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..12),
            cuts in proptest::collection::vec(1_usize..64, 1..40),
        ) {
            let bytes = framed(&messages);
            let (mut assembly, mut out, mut rest) = (Assembly::new(300), Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, others) = rest.split_at((*cut).min(rest.len()));
                assembly.push(piece);
                rest = others;
                while let Some(message) = assembly.next().unwrap() {
                    out.push(message.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(out, messages);
            prop_assert!(assembly.is_between_messages());
        }
    }

    #[test]
    fn what_is_too_large_is_known_by_its_header() {
        let mut assembly = Assembly::new(8);
        assembly.push(&framed(&[vec![1; 8]]));
        assert_eq!(assembly.next().unwrap().unwrap(), vec![1; 8]);
        assembly.push(&9_u32.to_be_bytes());
        assert_eq!(assembly.next(), Err(TooLarge));
        assert_eq!(assembly.next(), Err(TooLarge));
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut assembly = Assembly::new(u32::MAX);
        assembly.push(&u32::MAX.to_be_bytes());
        assembly.push(&[0; 100]);
        assert_eq!(assembly.next(), Ok(None));
        assert!(!assembly.is_between_messages());
        assert!(assembly.bytes.capacity() < 4096);
    }
}
