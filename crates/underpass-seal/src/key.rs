//! X25519 keys that name a machine, and the two primitives that other crates borrow.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::{digest, rand};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;
use crate::schedule::{Label, Secret};

/// The X25519 secret that a machine proves to hold in every handshake.
///
/// Overwritten when dropped; `Debug` prints the public half only.
pub struct StaticKey {
    secret: Secret,
    public: PublicKey,
}

impl StaticKey {
    /// Draws a new key from the system's random generator.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes: no key could be made safely then.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(secret.as_mut_slice())
            .expect("the system's random generator does not fail once the system runs");
        Self::from_secret(secret)
    }

    /// Takes up a key written by [`StaticKey::to_bytes`].
    ///
    /// Any 32 bytes are a key: X25519 clamps them at use (RFC 7748 section 5).
    #[must_use]
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self::from_secret(Zeroizing::new(secret))
    }

    /// The secret itself, to be stored where only its owner can read it.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.secret.clone()
    }

    /// The half that peers see and pin.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// What both ends of a Diffie-Hellman agreement with `peer` know (RFC 7748 section 6.1); nothing for a key of low
    /// order.
    pub(crate) fn agree(&self, peer: &PublicKey) -> Option<Secret> {
        let key = PrivateKey::from_private_key(&X25519, self.secret.as_slice()).ok()?;
        let peer = UnparsedPublicKey::new(&X25519, peer.0);
        agree(&key, peer, (), |shared| {
            <[u8; 32]>::try_from(shared)
                .map(Secret::new)
                .map_err(|_| ())
        })
        .ok()
    }

    fn from_secret(secret: Secret) -> Self {
        let public = PrivateKey::from_private_key(&X25519, secret.as_slice())
            .ok()
            .and_then(|key| key.compute_public_key().ok())
            .and_then(|key| key.as_ref().try_into().ok())
            .expect("any 32 bytes are an X25519 secret with a public key of 32 bytes");
        Self {
            secret,
            public: PublicKey(public),
        }
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The public half of a [`StaticKey`]: a u-coordinate of Curve25519, 32 bytes, little-endian.
///
/// That a handshake yielded it means that the peer holds the secret half, not that the peer is welcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(
    /// The bytes as RFC 7748 section 5 encodes them.
    pub [u8; 32],
);

impl PublicKey {
    /// What people compare and configuration pins.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::from_bytes(sha256(&[
            Label::Fingerprint.text().as_bytes(),
            &[0],
            &self.0,
        ]))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// SHA-256 (FIPS 180-4) of the parts one after the other.
///
/// Nothing marks where a part ends: parts of varying length need their own length prefixes.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}

/// SHA-256 of what comes in parts. A clone goes on from the same state.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sha256").finish_non_exhaustive()
    }
}

impl Sha256 {
    /// Takes the next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The digest of all parts so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let digest = self.0.clone().finish();
        let digest = digest.as_ref().try_into();
        digest.expect("a SHA-256 digest has 32 bytes")
    }
}

/// Whether two strings of bytes are the same, in a time that depends on their lengths only.
#[must_use]
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{from_hex, to_hex};

    /// RFC 7748 section 6.1.
    #[test]
    fn public_keys_are_those_of_rfc_7748() {
        for (secret, public) in [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ] {
            let key = StaticKey::from_bytes(from_hex(secret).try_into().unwrap());
            assert_eq!(to_hex(&key.public().0), public);
            assert_eq!(to_hex(key.to_bytes().as_slice()), secret);
        }
    }

    #[test]
    fn generated_keys_differ_and_survive_storage() {
        let (one, other) = (StaticKey::generate(), StaticKey::generate());
        assert_ne!(one.public(), other.public());
        let stored = *one.to_bytes();
        assert_eq!(StaticKey::from_bytes(stored).public(), one.public());
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let key = StaticKey::from_bytes([0xa7; 32]);
        let printed = format!("{key:?}");
        assert!(!printed.contains("a7a7") && !printed.contains("167, 167"));
        assert!(printed.contains(&key.public().fingerprint().to_string()));
    }

    /// FIPS 180-4, the "abc" example, whole and in parts.
    #[test]
    fn sha256_gives_the_vector_of_fips_180() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(to_hex(&sha256(&[b"abc"])), expected);
        assert_eq!(to_hex(&sha256(&[b"a", b"", b"bc"])), expected);
        let mut parts = Sha256::default();
        parts.update(b"ab");
        let mut other = parts.clone();
        other.update(b"x");
        parts.update(b"c");
        assert_eq!(to_hex(&parts.digest()), expected);
        assert_ne!(parts.digest(), other.digest());
    }

    #[test]
    fn comparison_sees_content_and_length() {
        assert!(constant_time_eq(b"", b""));
        assert!(constant_time_eq(b"same", b"same"));
        assert!(!constant_time_eq(b"same", b"sane"));
        assert!(!constant_time_eq(b"same", b"sam"));
    }
}
