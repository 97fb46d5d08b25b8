//! The key schedule: the one table of labels, and HKDF-SHA256 (RFC 5869) over it.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

/// A 256-bit secret, overwritten when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a derived value is for. No two uses share a label, so no two derived values are related.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Label { $($(#[$doc])* $name,)* }

        impl Label {
            #[cfg(test)]
            pub(crate) const ALL: &[Label] = &[$(Label::$name,)*];

            /// The bytes that enter the derivation, without the zero byte that ends them.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Label::$name => $text,)* }
            }
        }
    };
}

labels! {
    /// Hash prefix of a public key's fingerprint.
    Fingerprint = "underpass/1 key fingerprint",
    /// Hash prefix of the handshake hash that stands in for a real one in simulations.
    Seed = "underpass/1 seed",
    /// Records from the initiator to the responder, first epoch.
    InitiatorRecords = "underpass/1 initiator records",
    /// Records from the responder to the initiator, first epoch.
    ResponderRecords = "underpass/1 responder records",
    /// Resume secret of generation 0.
    Resume = "underpass/1 resume",
    /// Key of one record cipher.
    RecordKey = "underpass/1 record key",
    /// Initial vector of one record cipher.
    RecordIv = "underpass/1 record iv",
    /// Record secret of the next epoch.
    KeyUpdate = "underpass/1 key update",
    /// Key that seals one resume request.
    ResumeRequest = "underpass/1 resume request",
    /// Key that seals one resume reply.
    ResumeReply = "underpass/1 resume reply",
    /// Resume secret of the next generation.
    ResumeAdvance = "underpass/1 resume advance",
    /// Proof that its sender holds the secret of a generation.
    ResumeConfirm = "underpass/1 resume confirm",
    /// Context that binds a login by password to the session in which it takes place.
    PasswordContext = "underpass/1 password login",
    /// What a machine signs that is let in by a certificate.
    CertificateLogin = "underpass/1 certificate login",
    /// Routing headers from the initiator to the responder.
    InitiatorRoute = "underpass/1 initiator route",
    /// Routing headers from the responder to the initiator.
    ResponderRoute = "underpass/1 responder route",
}

/// Output length of one expansion, in bytes.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Extract (RFC 5869 section 2.2).
pub(crate) fn extract(salt: &[u8], input: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, salt).extract(input)
}

/// A secret of this schedule, taken as the pseudorandom key of further expansions.
pub(crate) fn root(secret: &Secret) -> Prk {
    Prk::new_less_safe(HKDF_SHA256, secret.as_slice())
}

/// HKDF-Expand (RFC 5869 section 2.3) with `label || 0x00 || context` as info.
///
/// The zero byte ends the label, so no label with a context can equal another label.
pub(crate) fn expand<const N: usize>(
    root: &Prk,
    label: Label,
    context: &[u8],
) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    expand_info(
        root,
        &[label.text().as_bytes(), &[0], context],
        out.as_mut_slice(),
    );
    out
}

/// HKDF-Expand of the concatenation of `info` into `out`.
fn expand_info(root: &Prk, info: &[&[u8]], out: &mut [u8]) {
    root.expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF-SHA256 yields up to 8160 bytes, more than any output asked for here");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{from_hex, to_hex};

    /// RFC 5869 appendix A.1 (with salt and info) and A.3 (with neither).
    #[test]
    fn hkdf_gives_the_vectors_of_rfc_5869() {
        let cases = [
            (
                "000102030405060708090a0b0c",
                "f0f1f2f3f4f5f6f7f8f9",
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                "",
                "",
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (salt, info, expected) in cases {
            let root = extract(&from_hex(salt), &[0x0b; 22]);
            let mut out = [0; 42];
            expand_info(&root, &[&from_hex(info)], &mut out);
            assert_eq!(to_hex(&out), expected);
        }
    }

    #[test]
    fn labels_are_distinct_and_carry_the_version() {
        for (position, label) in Label::ALL.iter().enumerate() {
            assert!(label.text().starts_with("underpass/1 "), "{label:?}");
            assert!(!label.text().contains('\0'), "{label:?}");
            for other in &Label::ALL[position + 1..] {
                assert_ne!(label.text(), other.text());
            }
        }
    }

    #[test]
    fn the_specification_lists_every_label() {
        let specification = include_str!("../../../docs/protocol-keys.md");
        for label in Label::ALL {
            let cell = format!("`{}`", label.text());
            assert!(
                specification.contains(&cell),
                "{cell} is missing in docs/protocol-keys.md"
            );
        }
    }
}
