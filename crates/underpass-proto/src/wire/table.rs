//! One macro that makes a family of messages out of a table: the enum, the type codes, where
//! each may stand, dispatch, and the tests that every line must pass.

/// Defines a family of messages.
///
/// Each line gives the type code (two where the lowest bit is a flag), the message and the
/// places where it may stand. Each message must be a [`Fields`](super::Fields) in scope, and
/// in tests a [`Sampled`](super::samples::Sampled): a line without a byte-exact sample does
/// not compile.
macro_rules! messages {
    (
        $(#[$emeta:meta])*
        pub enum $enum:ident;
        $(#[$tmeta:meta])*
        pub enum $type:ident, unknown = $unknown:ident;
        place = $place:ident, family = $family:literal;
        $( $(#[$vmeta:meta])* $code:literal $(| $more:literal)? $name:ident in [$($where:ident),+]; )*
    ) => {
        $(#[$emeta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $enum {
            $( $(#[$vmeta])* $name($name), )*
        }

        $(#[$tmeta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $( $(#[$vmeta])* $name, )*
        }

        impl $type {
            /// All types, in the order of their codes.
            pub const ALL: &[$type] = &[$( $type::$name ),*];

            /// The code on the wire; where there are two, the lower.
            pub fn code(self) -> u64 {
                match self {
                    $( $type::$name => $code, )*
                }
            }

            /// The type that a code on the wire stands for.
            pub fn from_code(code: u64) -> Option<Self> {
                match code {
                    $( $code $(| $more)? => Some($type::$name), )*
                    _ => None,
                }
            }

            /// The name, as the specification writes it.
            pub fn name(self) -> &'static str {
                match self {
                    $( $type::$name => stringify!($name), )*
                }
            }

            /// Whether such a message may stand there.
            pub fn allowed_in(self, place: $place) -> bool {
                match self {
                    $( $type::$name => matches!(place, $($place::$where)|+), )*
                }
            }
        }

        impl $enum {
            /// The type of this message.
            pub fn kind(&self) -> $type {
                match self {
                    $( $enum::$name(_) => $type::$name, )*
                }
            }

            /// Exactly how many bytes [`encode`](Self::encode) writes.
            pub fn encoded_len(&self) -> usize {
                match self {
                    $( $enum::$name(message) => message.encoded_len(), )*
                }
            }

            /// Appends type code and fields.
            pub fn encode(&self, buf: &mut impl bytes::BufMut) {
                match self {
                    $( $enum::$name(message) => message.encode(buf), )*
                }
            }

            /// Takes one message, type code included, off the front of `buf`.
            ///
            /// # Errors
            /// What is wrong and where; `buf` is then of no further use.
            pub fn decode(buf: &mut bytes::Bytes) -> Result<Self, $crate::wire::DecodeError> {
                let code = $crate::varint::get(buf)?;
                let kind = $type::from_code(code)
                    .ok_or($crate::wire::DecodeError::$unknown(code))?;
                Self::decode_fields(kind, code, buf)
            }

            fn decode_fields(
                kind: $type,
                code: u64,
                buf: &mut bytes::Bytes,
            ) -> Result<Self, $crate::wire::DecodeError> {
                match kind {
                    $( $type::$name => {
                        <$name as $crate::wire::Fields>::get_fields(code, buf).map($enum::$name)
                    } )*
                }
            }

            /// Like [`decode`](Self::decode), and the message must be one that may stand in
            /// `place`.
            ///
            /// # Errors
            /// Also [`DecodeError::NotAllowed`](crate::DecodeError::NotAllowed), before any
            /// field is read.
            pub fn decode_in(
                place: $place,
                buf: &mut bytes::Bytes,
            ) -> Result<Self, $crate::wire::DecodeError> {
                let code = $crate::varint::get(buf)?;
                let kind = $type::from_code(code)
                    .ok_or($crate::wire::DecodeError::$unknown(code))?;
                if !kind.allowed_in(place) {
                    return Err($crate::wire::DecodeError::NotAllowed {
                        what: kind.name(),
                        place: place.name(),
                    });
                }
                Self::decode_fields(kind, code, buf)
            }
        }

        $(
            impl $name {
                /// Exactly how many bytes [`encode`](Self::encode) writes.
                pub fn encoded_len(&self) -> usize {
                    $crate::varint::size($code) + $crate::wire::Fields::fields_len(self)
                }

                /// Appends type code and fields.
                pub fn encode(&self, buf: &mut impl bytes::BufMut) {
                    let bits = $crate::wire::Fields::code_bits(self);
                    $crate::varint::put(buf, $code | bits);
                    $crate::wire::Fields::put_fields(self, buf);
                }

                /// Takes one such message, type code included, off the front of `buf`.
                ///
                /// # Errors
                /// What is wrong and where; another message's type code is an invalid value.
                pub fn decode(buf: &mut bytes::Bytes) -> Result<Self, $crate::wire::DecodeError> {
                    let code = $crate::varint::get(buf)?;
                    if $type::from_code(code) != Some($type::$name) {
                        return Err($crate::wire::DecodeError::InvalidValue {
                            what: concat!(stringify!($name), ".type"),
                        });
                    }
                    $crate::wire::Fields::get_fields(code, buf)
                }
            }

            impl From<$name> for $enum {
                fn from(message: $name) -> Self {
                    $enum::$name(message)
                }
            }
        )*

        /// The samples of every line, for the tests and the specification.
        #[cfg(test)]
        pub(crate) fn samples() -> Vec<$crate::wire::samples::Sample> {
            let mut all = Vec::new();
            $(
                let codes: &[u64] = &[$code $(, $more)?];
                let places: &[&str] = &[$( $place::$where.name() ),+];
                all.push($crate::wire::samples::Sample::of::<$name>(
                    $family,
                    stringify!($name),
                    $crate::wire::samples::heading(codes, places),
                    |value, buf| value.encode(buf),
                ));
            )*
            all
        }

        #[cfg(test)]
        mod table_tests {
            use bytes::Bytes;
            use proptest::prelude::*;

            use super::*;
            use $crate::wire::samples::{Sampled, bytes_of};

            fn any_message() -> impl Strategy<Value = $enum> {
                proptest::strategy::Union::new([
                    $( <$name as $crate::wire::Fields>::any().prop_map($enum::$name).boxed() ),*
                ])
            }

            #[test]
            fn codes_are_unique_and_found_again() {
                for kind in $type::ALL {
                    assert_eq!($type::from_code(kind.code()), Some(*kind));
                }
                $( $( assert_eq!($type::from_code($more), Some($type::$name)); )? )*
            }

            #[test]
            fn samples_are_byte_exact() {
                $(
                    let samples = <$name as Sampled>::samples();
                    assert!(!samples.is_empty(), stringify!($name));
                    for (value, hex) in samples {
                        let bytes = bytes_of(hex);
                        let mut written = Vec::new();
                        value.encode(&mut written);
                        assert_eq!(written, bytes, "{value:?} is written otherwise");
                        assert_eq!(value.encoded_len(), bytes.len(), "{value:?}");
                        let mut buf = Bytes::from(bytes);
                        assert_eq!($name::decode(&mut buf.clone()), Ok(value.clone()));
                        assert_eq!($enum::decode(&mut buf), Ok(value.into()));
                        assert!(buf.is_empty());
                    }
                )*
            }

            proptest! {
                #[test]
                fn round_trip(message in any_message()) {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    prop_assert_eq!(bytes.len(), message.encoded_len());
                    let mut buf = Bytes::from(bytes);
                    prop_assert_eq!($enum::decode(&mut buf), Ok(message));
                    prop_assert!(buf.is_empty());
                }

                #[test]
                fn cut_messages_are_errors(message in any_message(), cut: proptest::sample::Index) {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    bytes.truncate(cut.index(bytes.len()));
                    prop_assert!($enum::decode(&mut Bytes::from(bytes)).is_err());
                }

                #[test]
                fn arbitrary_bytes_never_panic(
                    code in proptest::sample::select($type::ALL),
                    typed: bool,
                    tail: Vec<u8>,
                ) {
                    let mut bytes = Vec::new();
                    if typed {
                        $crate::varint::put(&mut bytes, code.code());
                    }
                    bytes.extend_from_slice(&tail);
                    let len = bytes.len();
                    let mut buf = Bytes::from(bytes);
                    if let Ok(message) = $enum::decode(&mut buf) {
                        // What was understood is never longer than what was read.
                        prop_assert!(message.encoded_len() <= len - buf.len());
                    }
                }
            }
        }
    };
}
pub(crate) use messages;
