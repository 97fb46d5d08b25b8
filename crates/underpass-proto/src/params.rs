//! Session parameters: what each end tells the other in the handshake, sealed.
//!
//! A row of `id: varint | length: varint | value`, each id at most once, in any order. An id
//! that the reader does not know is skipped, so parameters can be added without a new version;
//! one that is missing has the value of [`Params::default`].

use std::fmt;

use bytes::{BufMut, Bytes};

use underpass_seal::Cipher;

use crate::packet::whole;
use crate::varint;
use crate::wire::{Auto, Codec, Counted, DecodeError, Secret, Text};

/// Bit of [`Params::encodings`]: blocks may be compressed with LZ4.
pub const ENCODING_LZ4: u8 = 1;
/// Bit of [`Params::encodings`]: blocks may be compressed with Zstandard.
pub const ENCODING_ZSTD: u8 = 2;

/// The bit of [`Params::ciphers`] that stands for `cipher`: bit n for code n.
pub fn cipher_bit(cipher: Cipher) -> u8 {
    1 << cipher.code()
}

/// What one end of a session tells the other.
#[derive(Clone, PartialEq, Eq)]
pub struct Params {
    /// How many bytes the peer may send at first on all stream channels together.
    pub max_data: u64,
    /// How many bytes the peer may send at first on each stream channel.
    pub max_channel_data: u64,
    /// How many channels the peer may open at first.
    pub max_channels: u64,
    /// The ciphers that this end can use, as a sum of [`cipher_bit`]s.
    pub ciphers: u8,
    /// How blocks sent to this end may be compressed: [`ENCODING_LZ4`], [`ENCODING_ZSTD`].
    pub encodings: u8,
    /// How long this end keeps the session while no leg is attached, in seconds.
    pub keep_s: u64,
    /// The largest datagram that this end takes, in bytes.
    pub max_datagram: u64,
    /// The ticket for the first resume; only from a responder.
    pub ticket: Option<[u8; 32]>,
    /// Program and version, for people; at most 128 bytes.
    pub agent: String,
    /// The SHA-256 of the certificate that the sender shows in TLS below the session, where it ends TLS
    /// itself: whoever sees another one there knows that something on the way opens TLS.
    pub certificate: Option<[u8; 32]>,
    /// How many legs this end lets carry the session at once, up to
    /// [`MAX_LEGS`](crate::frame::MAX_LEGS); the smaller number of both ends holds.
    pub max_legs: u64,
    /// This end asks that the two directions take different legs, where several carry the session; one that
    /// asks is enough.
    pub split_ways: bool,
}

impl Default for Params {
    /// 1 MiB of credit, 256 KiB of it per channel, 4096 channels, every cipher and encoding
    /// of version 1, kept for 10 minutes; datagrams up to the largest that UDP carries over
    /// IPv4 (65,507 bytes, RFC 768 and RFC 791); one leg at a time.
    fn default() -> Self {
        Params {
            max_data: 1 << 20,
            max_channel_data: 256 << 10,
            max_channels: 4096,
            ciphers: Cipher::ALL.into_iter().map(cipher_bit).sum(),
            encodings: ENCODING_LZ4 | ENCODING_ZSTD,
            keep_s: 600,
            max_datagram: 65_507,
            ticket: None,
            agent: String::new(),
            certificate: None,
            max_legs: 1,
            split_ways: false,
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            max_data,
            max_channel_data,
            max_channels,
            ciphers,
            encodings,
            keep_s,
            max_datagram,
            ticket,
            agent,
            certificate,
            max_legs,
            split_ways,
        } = self;
        f.debug_struct("Params")
            .field("max_data", max_data)
            .field("max_channel_data", max_channel_data)
            .field("max_channels", max_channels)
            .field("ciphers", ciphers)
            .field("encodings", encodings)
            .field("keep_s", keep_s)
            .field("max_datagram", max_datagram)
            .field(
                "ticket",
                &ticket.map(|_| format_args!("(secret)").to_string()),
            )
            .field("agent", agent)
            .field("certificate", certificate)
            .field("max_legs", max_legs)
            .field("split_ways", split_ways)
            .finish()
    }
}

/// One line per parameter: id, field, codec. All code below follows from it.
macro_rules! parameters {
    ($( $id:literal $field:ident: $ty:ty as $codec:ty $(, optional $some:ident)?; )*) => {
        impl Params {
            /// Exactly how many bytes [`encode`](Self::encode) writes.
            pub fn encoded_len(&self) -> usize {
                let mut len = 0;
                self.each(|id, value_len, _| {
                    len += varint::size(id) + varint::size(value_len as u64) + value_len;
                });
                len
            }

            /// Appends all parameters, in the order of their ids.
            pub fn encode(&self, buf: &mut impl BufMut) {
                self.each(|id, value_len, field| {
                    varint::put(buf, id);
                    varint::put(buf, value_len as u64);
                    match field {
                        $( Field::$field(value) => <$codec as Codec<$ty>>::put(value, buf), )*
                    }
                });
            }

            fn each(&self, mut each: impl FnMut(u64, usize, Field<'_>)) {
                $( parameters!(@each self each $id $field $ty, $codec $(, $some)?); )*
            }

            fn set(&mut self, id: u64, value: Bytes) -> Result<(), DecodeError> {
                match id {
                    $( $id => {
                        let what = concat!("Params.", stringify!($field));
                        let value = whole(value, what, |value| <$codec as Codec<$ty>>::get(value, what))?;
                        self.$field = parameters!(@wrap value $(, $some)?);
                    } )*
                    // Of a version to come.
                    _ => {}
                }
                Ok(())
            }

            /// The parameters as the specification words them.
            #[cfg(test)]
            fn table() -> Vec<String> {
                vec![$( format!("{:#04x} {}: {}", $id, stringify!($field), <$codec as Codec<$ty>>::layout()) ),*]
            }
        }

        #[allow(non_camel_case_types)]
        enum Field<'a> {
            $( $field(&'a $ty) ),*
        }
    };
    (@each $self:ident $each:ident $id:literal $field:ident $ty:ty, $codec:ty) => {
        $each($id, <$codec as Codec<$ty>>::len(&$self.$field), Field::$field(&$self.$field))
    };
    (@each $self:ident $each:ident $id:literal $field:ident $ty:ty, $codec:ty, $some:ident) => {
        if let Some(value) = &$self.$field {
            $each($id, <$codec as Codec<$ty>>::len(value), Field::$field(value));
        }
    };
    (@wrap $value:ident) => { $value };
    (@wrap $value:ident, $some:ident) => { $some($value) };
}

parameters! {
    0x01 max_data: u64 as Auto;
    0x02 max_channel_data: u64 as Auto;
    0x03 max_channels: u64 as Auto;
    0x04 ciphers: u8 as Auto;
    0x05 encodings: u8 as Auto;
    0x06 keep_s: u64 as Auto;
    0x07 max_datagram: u64 as Auto;
    0x08 ticket: [u8; 32] as Secret, optional Some;
    0x09 agent: String as Text<128>;
    0x0a certificate: [u8; 32] as Auto, optional Some;
    0x0b max_legs: u64 as Auto;
    0x0c split_ways: bool as Auto;
}

/// Ids below this one are watched for doubles.
const WATCHED: u64 = 64;

impl Params {
    /// Reads all parameters.
    ///
    /// # Errors
    /// [`DecodeError`] where a row is cut short, a known value is malformed, or an id below 64
    /// comes twice.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let mut params = Params::default();
        let mut seen = 0u64;
        while !bytes.is_empty() {
            let id = <Auto as Codec<u64>>::get(&mut bytes, "Params.id")?;
            let value = <Counted as Codec<Bytes>>::get(&mut bytes, "Params.value")?;
            if id < WATCHED {
                if seen & 1 << id != 0 {
                    return Err(DecodeError::InvalidValue { what: "Params.id" });
                }
                seen |= 1 << id;
            }
            params.set(id, value)?;
        }
        Ok(params)
    }
}

/// The sample for the specification.
#[cfg(test)]
pub(crate) fn samples() -> Vec<crate::wire::samples::Sample> {
    use tests::{SAMPLE, sample};

    vec![crate::wire::samples::Sample {
        tag: "handshake Params".into(),
        layout: Params::table(),
        values: vec![(format!("{:?}", sample()), SAMPLE)],
    }]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::samples::bytes_of;

    pub(super) const SAMPLE: &str = "01 04 80100000 02 04 80040000 03 02 5000 04 01 06 05 01 03 06 02 4258 \
         07 04 8000ffe3 08 20 abababababababababababababababababababababababababababababababab \
         09 0c 0b 756e646572706173732f31 \
         0a 20 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd \
         0b 01 02 0c 01 01";

    pub(super) fn sample() -> Params {
        Params {
            ticket: Some([0xab; 32]),
            agent: "underpass/1".into(),
            certificate: Some([0xcd; 32]),
            max_legs: 2,
            split_ways: true,
            ..Params::default()
        }
    }

    fn any_params() -> impl Strategy<Value = Params> {
        let int = || <Auto as Codec<u64>>::any();
        (
            (int(), int(), int(), int(), int(), int()),
            (
                any::<u8>(),
                any::<u8>(),
                any::<Option<[u8; 32]>>(),
                any::<Option<[u8; 32]>>(),
                any::<bool>(),
            ),
            <Text<128> as Codec<String>>::any(),
        )
            .prop_map(|(ints, bits, agent)| {
                let (max_data, max_channel_data, max_channels, keep_s, max_datagram, max_legs) =
                    ints;
                let (ciphers, encodings, ticket, certificate, split_ways) = bits;
                Params {
                    max_data,
                    max_channel_data,
                    max_channels,
                    ciphers,
                    encodings,
                    keep_s,
                    max_datagram,
                    ticket,
                    agent,
                    certificate,
                    max_legs,
                    split_ways,
                }
            })
    }

    fn decode(hex: &str) -> Result<Params, DecodeError> {
        Params::decode(bytes_of(hex).into())
    }

    #[test]
    fn sample_is_byte_exact() {
        let mut written = Vec::new();
        sample().encode(&mut written);
        assert_eq!(written, bytes_of(SAMPLE));
        assert_eq!(decode(SAMPLE), Ok(sample()));
        assert!(!format!("{:?}", sample()).contains("171"));
    }

    #[test]
    fn missing_is_default_and_unknown_is_skipped() {
        assert_eq!(decode(""), Ok(Params::default()));
        let keep = Params {
            keep_s: 5,
            ..Params::default()
        };
        assert_eq!(decode("407b 03 ffffff 06 01 05 3f 00 407b 00"), Ok(keep));
    }

    #[test]
    fn doubles_and_malformed_values_are_refused() {
        let invalid = |what| Err(DecodeError::InvalidValue { what });
        assert_eq!(decode("06 01 05 06 01 05"), invalid("Params.id"));
        assert_eq!(decode("3f 00 3f 00"), invalid("Params.id"));
        let what = "Params.keep_s";
        assert_eq!(
            decode("06 02 0505"),
            Err(DecodeError::TrailingBytes { what, count: 1 })
        );
        assert_eq!(decode("06 01 45"), Err(DecodeError::Truncated { what }));
        let what = "Params.value";
        assert_eq!(decode("06 04 05"), Err(DecodeError::Truncated { what }));
    }

    proptest! {
        #[test]
        fn round_trip(params in any_params()) {
            let mut bytes = Vec::new();
            params.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), params.encoded_len());
            prop_assert_eq!(Params::decode(bytes.into()), Ok(params));
        }

        #[test]
        fn arbitrary_bytes(bytes: Vec<u8>) {
            if let Ok(params) = Params::decode(bytes.into()) {
                let mut written = Vec::new();
                params.encode(&mut written);
                prop_assert_eq!(Params::decode(written.into()), Ok(params));
            }
        }
    }
}
