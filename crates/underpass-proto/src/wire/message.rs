//! One macro that makes a message out of its list of fields.

use bytes::{BufMut, Bytes};

use super::DecodeError;

/// The fields of a message, written one after the other.
pub(crate) trait Fields: Sized {
    /// Exactly how many bytes `put_fields` writes.
    fn fields_len(&self) -> usize;

    /// Appends all fields.
    fn put_fields(&self, buf: &mut impl BufMut);

    /// Takes all fields off the front; `code` is the message's type code.
    fn get_fields(code: u64, buf: &mut Bytes) -> Result<Self, DecodeError>;

    /// Bits that this value adds to its type code.
    fn code_bits(&self) -> u64 {
        0
    }

    /// The fields as the specification words them, one per item.
    #[cfg(test)]
    fn layout() -> Vec<String>;

    /// Any value that can be written and read back.
    #[cfg(test)]
    fn any() -> proptest::strategy::BoxedStrategy<Self>;
}

/// Defines a message: a struct with public fields, each with its codec after `as` where
/// [`Auto`](super::Auto) is not meant.
macro_rules! body {
    (@codec) => { $crate::wire::Auto };
    (@codec $codec:ty) => { $codec };
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* pub $field:ident : $ty:ty $(as $codec:ty)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty ),*
        }

        impl $crate::wire::Fields for $name {
            fn fields_len(&self) -> usize {
                let Self { $($field),* } = self;
                0 $( + <$crate::wire::body!(@codec $($codec)?) as $crate::wire::Codec<$ty>>::len($field) )*
            }

            fn put_fields(&self, buf: &mut impl bytes::BufMut) {
                let Self { $($field),* } = self;
                $( <$crate::wire::body!(@codec $($codec)?) as $crate::wire::Codec<$ty>>::put($field, buf); )*
            }

            fn get_fields(
                _: u64,
                buf: &mut bytes::Bytes,
            ) -> Result<Self, $crate::wire::DecodeError> {
                $(
                    let $field = <$crate::wire::body!(@codec $($codec)?) as $crate::wire::Codec<$ty>>::get(
                        buf,
                        concat!(stringify!($name), ".", stringify!($field)),
                    )?;
                )*
                Ok(Self { $($field),* })
            }

            #[cfg(test)]
            fn layout() -> Vec<String> {
                vec![$( format!(
                    "{}: {}",
                    stringify!($field),
                    <$crate::wire::body!(@codec $($codec)?) as $crate::wire::Codec<$ty>>::layout(),
                ) ),*]
            }

            #[cfg(test)]
            fn any() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy as _;
                ($( <$crate::wire::body!(@codec $($codec)?) as $crate::wire::Codec<$ty>>::any(), )*)
                    .prop_map(|($($field,)*)| Self { $($field),* })
                    .boxed()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let Self { $($field),* } = self;
                f.debug_struct(stringify!($name))
                    $( .field(
                        stringify!($field),
                        &<$crate::wire::body!(@codec $($codec)?) as $crate::wire::Codec<$ty>>::show($field),
                    ) )*
                    .finish()
            }
        }
    };
}
pub(crate) use body;
