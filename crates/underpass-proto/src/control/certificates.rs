//! Coming in by an X.509 certificate.

use bytes::Bytes;

use crate::wire::{Counted, Label, body};

body! {
    /// Enrols the machine whose key made this session under the user that a certificate names, or gives it a new
    /// certificate of the same user; answered by [`Identity`](super::Identity). The certificate stands inside the
    /// session, so that nothing depends on TLS below it, and on who opens that on the way.
    pub struct Certify {
        /// Chosen by the sender; the answer carries it too.
        pub request: u64,
        /// The machine's new name; at most 63 bytes; without meaning where it is enrolled.
        pub machine: String as Label<63>,
        /// The certificate and those between it and an authority, its own first: DER (RFC 5280), one after the other.
        pub chain: Bytes as Counted,
        /// How it is signed: a SignatureScheme (RFC 8446 section 4.2.3).
        pub scheme: u16,
        /// What the certificate's key has made of `underpass_seal::certificate_proof`.
        pub signature: Bytes as Counted,
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::wire::samples::Sampled;

    impl Sampled for Certify {
        fn samples() -> Vec<(Self, &'static str)> {
            vec![(
                Certify {
                    request: 29,
                    machine: "robot".into(),
                    chain: Bytes::from_static(&[0x30, 0x01, 0x02]),
                    scheme: 0x0807,
                    signature: Bytes::from_static(&[0x61; 4]),
                },
                "3c 1d 05 726f626f74 03 300102 4807 04 61616161",
            )]
        }
    }
}
