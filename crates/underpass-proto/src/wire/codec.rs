//! How single fields are written.
//!
//! A codec is a marker type: the same Rust type may be written in different ways (bytes with
//! a length before them, or up to the end of the message). [`Auto`] is the way that needs no
//! choice.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
#[cfg(test)]
use proptest::prelude::*;

use crate::varint;
use crate::wire::{DecodeError, Fields};

/// One way to write a `T`.
pub(crate) trait Codec<T> {
    /// Exactly how many bytes `put` writes.
    fn len(value: &T) -> usize;
    /// Appends the value.
    fn put(value: &T, buf: &mut impl BufMut);
    /// Takes a value off the front; `what` names the field in errors.
    fn get(buf: &mut Bytes, what: &'static str) -> Result<T, DecodeError>;
    /// How the value appears in debug output: no secrets, no customer data.
    fn show(value: &T) -> Shown<'_>;
    /// The way of writing as the specification words it.
    #[cfg(test)]
    fn layout() -> String;
    /// Any value that this codec can write and read back.
    #[cfg(test)]
    fn any() -> BoxedStrategy<T>;
}

/// A field in debug output.
pub(crate) enum Shown<'a> {
    Plain(&'a dyn fmt::Debug),
    Hex(&'a [u8]),
    Length(usize),
    Secret,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Plain(value) => value.fmt(f),
            Shown::Hex(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Shown::Length(len) => write!(f, "({len} bytes)"),
            Shown::Secret => f.write_str("(secret)"),
        }
    }
}

/// Checks that `len` more bytes are there.
pub(crate) fn need(buf: &Bytes, len: usize, what: &'static str) -> Result<(), DecodeError> {
    if buf.len() < len {
        return Err(DecodeError::Truncated { what });
    }
    Ok(())
}

/// Reads a length and that many bytes, at most `limit`, without copying.
pub(crate) fn get_counted(
    buf: &mut Bytes,
    limit: usize,
    what: &'static str,
) -> Result<Bytes, DecodeError> {
    let len = <Auto as Codec<u64>>::get(buf, what)?;
    match usize::try_from(len) {
        Ok(len) if len <= limit => {
            need(buf, len, what)?;
            Ok(buf.split_to(len))
        }
        _ => Err(DecodeError::TooLong { what, limit }),
    }
}

/// Integers as varints, bytes and flags as one byte, arrays as they are.
pub(crate) struct Auto;

macro_rules! integer {
    ($($int:ty, $bits:literal;)*) => {$(
        impl Codec<$int> for Auto {
            fn len(value: &$int) -> usize {
                varint::size(u64::from(*value))
            }
            fn put(value: &$int, buf: &mut impl BufMut) {
                varint::put(buf, u64::from(*value));
            }
            fn get(buf: &mut Bytes, what: &'static str) -> Result<$int, DecodeError> {
                let value = varint::get(buf).map_err(|_| DecodeError::Truncated { what })?;
                <$int>::try_from(value).map_err(|_| DecodeError::InvalidValue { what })
            }
            fn show(value: &$int) -> Shown<'_> {
                Shown::Plain(value)
            }
            #[cfg(test)]
            fn layout() -> String {
                match $bits {
                    64 => "varint".into(),
                    bits => format!("varint below 2^{bits}"),
                }
            }
            #[cfg(test)]
            fn any() -> BoxedStrategy<$int> {
                // Every length of encoding is as likely as the others.
                (0..$bits as u32, any::<$int>())
                    .prop_map(|(shift, raw)| {
                        <$int>::try_from(u64::from(raw >> shift).min(varint::VARINT_MAX))
                            .expect("not larger than a value of this type")
                    })
                    .boxed()
            }
        }
    )*};
}

integer! { u16, 16; u32, 32; u64, 64; }

impl Codec<u8> for Auto {
    fn len(_: &u8) -> usize {
        1
    }
    fn put(value: &u8, buf: &mut impl BufMut) {
        buf.put_u8(*value);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<u8, DecodeError> {
        need(buf, 1, what)?;
        Ok(buf.get_u8())
    }
    fn show(value: &u8) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        "byte".into()
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<u8> {
        any::<u8>().boxed()
    }
}

impl Codec<bool> for Auto {
    fn len(_: &bool) -> usize {
        1
    }
    fn put(value: &bool, buf: &mut impl BufMut) {
        buf.put_u8(u8::from(*value));
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<bool, DecodeError> {
        match <Auto as Codec<u8>>::get(buf, what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::InvalidValue { what }),
        }
    }
    fn show(value: &bool) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        "flag".into()
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<bool> {
        any::<bool>().boxed()
    }
}

impl<const N: usize> Codec<[u8; N]> for Auto {
    fn len(_: &[u8; N]) -> usize {
        N
    }
    fn put(value: &[u8; N], buf: &mut impl BufMut) {
        buf.put_slice(value);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<[u8; N], DecodeError> {
        need(buf, N, what)?;
        let mut value = [0; N];
        buf.copy_to_slice(&mut value);
        Ok(value)
    }
    fn show(value: &[u8; N]) -> Shown<'_> {
        Shown::Hex(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        format!("{N} bytes")
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<[u8; N]> {
        any::<[u8; N]>().boxed()
    }
}

/// Like [`Auto`], and never shown.
pub(crate) struct Secret;

impl<const N: usize> Codec<[u8; N]> for Secret {
    fn len(_: &[u8; N]) -> usize {
        N
    }
    fn put(value: &[u8; N], buf: &mut impl BufMut) {
        <Auto as Codec<[u8; N]>>::put(value, buf);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<[u8; N], DecodeError> {
        <Auto as Codec<[u8; N]>>::get(buf, what)
    }
    fn show(_: &[u8; N]) -> Shown<'_> {
        Shown::Secret
    }
    #[cfg(test)]
    fn layout() -> String {
        <Auto as Codec<[u8; N]>>::layout()
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<[u8; N]> {
        <Auto as Codec<[u8; N]>>::any()
    }
}

/// A length, then that many bytes; the message around it bounds the length.
pub(crate) struct Counted;

impl Codec<Bytes> for Counted {
    fn len(value: &Bytes) -> usize {
        varint::size(value.len() as u64) + value.len()
    }
    fn put(value: &Bytes, buf: &mut impl BufMut) {
        varint::put(buf, value.len() as u64);
        buf.put_slice(value);
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = <Auto as Codec<u64>>::get(buf, what)?;
        match usize::try_from(len) {
            Ok(len) if len <= buf.len() => Ok(buf.split_to(len)),
            _ => Err(DecodeError::Truncated { what }),
        }
    }
    fn show(value: &Bytes) -> Shown<'_> {
        Shown::Length(value.len())
    }
    #[cfg(test)]
    fn layout() -> String {
        "length varint, then that many bytes".into()
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<Bytes> {
        any::<Vec<u8>>().prop_map(Bytes::from).boxed()
    }
}

/// All bytes up to the end of the message.
pub(crate) struct Rest;

impl Codec<Bytes> for Rest {
    fn len(value: &Bytes) -> usize {
        value.len()
    }
    fn put(value: &Bytes, buf: &mut impl BufMut) {
        buf.put_slice(value);
    }
    fn get(buf: &mut Bytes, _: &'static str) -> Result<Bytes, DecodeError> {
        Ok(std::mem::take(buf))
    }
    fn show(value: &Bytes) -> Shown<'_> {
        Shown::Length(value.len())
    }
    #[cfg(test)]
    fn layout() -> String {
        "bytes to the end".into()
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<Bytes> {
        <Counted as Codec<Bytes>>::any()
    }
}

/// A message within a message: its fields, one after the other.
pub(crate) struct Nested;

impl<T: Fields + fmt::Debug> Codec<T> for Nested {
    fn len(value: &T) -> usize {
        value.fields_len()
    }
    fn put(value: &T, buf: &mut impl BufMut) {
        value.put_fields(buf);
    }
    fn get(buf: &mut Bytes, _: &'static str) -> Result<T, DecodeError> {
        T::get_fields(0, buf)
    }
    fn show(value: &T) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        T::layout().join(", ")
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<T> {
        T::any()
    }
}

/// A count, at most `N`, then that many items, each written by `C`. Only what a relay answers
/// has lists; of all control messages of 64 KiB none takes more than 4 MiB when read.
pub(crate) struct List<C, const N: usize>(std::marker::PhantomData<C>);

impl<T: fmt::Debug + 'static, C: Codec<T>, const N: usize> Codec<Vec<T>> for List<C, N> {
    fn len(value: &Vec<T>) -> usize {
        varint::size(value.len() as u64) + value.iter().map(C::len).sum::<usize>()
    }
    fn put(value: &Vec<T>, buf: &mut impl BufMut) {
        varint::put(buf, value.len() as u64);
        value.iter().for_each(|item| C::put(item, buf));
    }
    fn get(buf: &mut Bytes, what: &'static str) -> Result<Vec<T>, DecodeError> {
        let count = <Auto as Codec<u64>>::get(buf, what)?;
        if count > N as u64 {
            return Err(DecodeError::TooLong { what, limit: N });
        }
        // Grows as items are really there: a count alone never makes it allocate.
        let mut items = Vec::new();
        for _ in 0..count {
            need(buf, 1, what)?;
            items.push(C::get(buf, what)?);
        }
        Ok(items)
    }
    fn show(value: &Vec<T>) -> Shown<'_> {
        Shown::Plain(value)
    }
    #[cfg(test)]
    fn layout() -> String {
        format!(
            "count varint up to {N}, then that many of ({})",
            C::layout()
        )
    }
    #[cfg(test)]
    fn any() -> BoxedStrategy<Vec<T>> {
        proptest::collection::vec(C::any(), 0..=N.min(3)).boxed()
    }
}

/// Makes an enum that is written as one byte.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $code:literal ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $( $(#[$vmeta])* $variant = $code ),* }

        impl $name {
            /// The byte on the wire.
            pub fn code(self) -> u8 {
                self as u8
            }

            /// The value of a byte on the wire, `None` where it has none.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$variant), )*
                    _ => None,
                }
            }
        }

        impl $crate::wire::Codec<$name> for $crate::wire::Auto {
            fn len(_: &$name) -> usize {
                1
            }
            fn put(value: &$name, buf: &mut impl bytes::BufMut) {
                buf.put_u8(value.code());
            }
            fn get(
                buf: &mut bytes::Bytes,
                what: &'static str,
            ) -> Result<$name, $crate::wire::DecodeError> {
                let code = <$crate::wire::Auto as $crate::wire::Codec<u8>>::get(buf, what)?;
                $name::from_code(code).ok_or($crate::wire::DecodeError::InvalidValue { what })
            }
            fn show(value: &$name) -> $crate::wire::Shown<'_> {
                $crate::wire::Shown::Plain(value)
            }
            #[cfg(test)]
            fn layout() -> String {
                let values = [$( concat!(stringify!($code), " ", stringify!($variant)) ),*];
                format!("byte: {}", values.join(", "))
            }
            #[cfg(test)]
            fn any() -> proptest::strategy::BoxedStrategy<$name> {
                use proptest::strategy::Strategy as _;
                proptest::sample::select(vec![$( $name::$variant ),*]).boxed()
            }
        }
    };
}
pub(crate) use wire_enum;
