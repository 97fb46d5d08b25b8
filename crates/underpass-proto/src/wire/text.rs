//! How texts are written: a length, then UTF-8 without control characters.
//!
//! Control characters are kept out on both sides: what a peer says may end on somebody's
//! terminal, where an escape sequence could do harm.

use std::borrow::Cow;

use bytes::{BufMut, Bytes};
#[cfg(test)]
use proptest::prelude::*;

use super::codec::get_counted;
use super::{Codec, DecodeError, Shown};
use crate::varint;

fn put_str(text: &str, buf: &mut impl BufMut) {
    varint::put(buf, text.len() as u64);
    buf.put_slice(text.as_bytes());
}

fn get_str(buf: &mut Bytes, limit: usize, what: &'static str) -> Result<String, DecodeError> {
    let bytes = get_counted(buf, limit, what)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(DecodeError::InvalidValue { what }),
    }
}

/// A sentence for people, at most `N` bytes: a longer one is cut when written, a control
/// character becomes a space.
pub(crate) struct Text<const N: usize>;

impl<const N: usize> Text<N> {
    fn fit(text: &str) -> Cow<'_, str> {
        let clean = if text.chars().any(char::is_control) {
            Cow::Owned(text.replace(char::is_control, " "))
        } else {
            Cow::Borrowed(text)
        };
        if clean.len() <= N {
            return clean;
        }
        let end = clean.floor_char_boundary(N);
        match clean {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        }
    }
}

impl<const N: usize> Codec<String> for Text<N> {
    fn len(value: &String) -> usize {
        let len = Self::fit(value).len();
        varint::size(len as u64) + len
    }
    fn put(value: &String, buf: &mut impl BufMut) {
        put_str(&Self::fit(value), buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<String, DecodeError> {
        get_str(buf, N, what)
    }
    fn show(value: &String) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        format!("text up to {N}")
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<String> {
        "\\PC{0,40}"
            .prop_map(|text| Self::fit(&text).into_owned())
            .boxed()
    }
}

/// A name, at most `N` bytes. It is written whole, since part of a name would be another
/// name: who takes names from people checks them first, and the peer refuses what is longer.
pub(crate) struct Label<const N: usize>;

impl<const N: usize> Codec<String> for Label<N> {
    fn len(value: &String) -> usize {
        varint::size(value.len() as u64) + value.len()
    }
    fn put(value: &String, buf: &mut impl BufMut) {
        put_str(value, buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<String, DecodeError> {
        get_str(buf, N, what)
    }
    fn show(value: &String) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        format!("text up to {N}")
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<String> {
        <Text<N> as Codec<String>>::any()
    }
}

/// A [`Label`] that is never shown: one-time codes.
pub(crate) struct SecretLabel<const N: usize>;

impl<const N: usize> Codec<String> for SecretLabel<N> {
    fn len(value: &String) -> usize {
        <Label<N> as Codec<String>>::len(value)
    }
    fn put(value: &String, buf: &mut impl BufMut) {
        <Label<N> as Codec<String>>::put(value, buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<String, DecodeError> {
        <Label<N> as Codec<String>>::get(buf, what)
    }
    fn show(_: &String) -> Shown<'_> {
        Shown::Secret
    }
    #[cfg(test)]
    fn layout() -> String {
        <Label<N> as Codec<String>>::layout()
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<String> {
        <Label<N> as Codec<String>>::any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<C: Codec<String>>(text: &str) -> Bytes {
        let mut buf = Vec::new();
        C::put(&text.to_owned(), &mut buf);
        assert_eq!(C::len(&text.to_owned()), buf.len());
        Bytes::from(buf)
    }

    fn read<C: Codec<String>>(bytes: Bytes) -> Result<String, DecodeError> {
        C::get(&mut { bytes }, "field")
    }

    #[test]
    fn long_sentences_are_cut_between_characters() {
        assert_eq!(
            read::<Text<5>>(written::<Text<5>>("abcdé")).unwrap(),
            "abcd"
        );
        assert_eq!(
            read::<Text<5>>(written::<Text<5>>("a\nc\u{9b}défg")).unwrap(),
            "a c d"
        );
    }

    #[test]
    fn long_names_are_refused() {
        assert_eq!(
            read::<Label<5>>(written::<Label<5>>("abcdef")),
            Err(DecodeError::TooLong {
                what: "field",
                limit: 5
            })
        );
    }

    #[test]
    fn control_characters_and_broken_utf8_are_refused() {
        for bytes in [
            &b"\x03a\x1bb"[..],
            b"\x02\xc2\x9b",
            b"\x02\xc3\x28",
            b"\x01\xff",
        ] {
            assert_eq!(
                read::<Text<9>>(Bytes::from_static(bytes)),
                Err(DecodeError::InvalidValue { what: "field" })
            );
        }
    }
}
