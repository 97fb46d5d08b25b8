//! Ed25519 signatures (RFC 8032), for what is believed after the session in which it was said.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::fingerprint::{Fingerprint, ParseFingerprintError};
use crate::schedule::Secret;

/// Length of a signature in bytes (RFC 8032 section 5.1.6).
pub const SIGNATURE_LEN: usize = 64;

/// The key with which somebody signs.
///
/// Overwritten when dropped; `Debug` prints the public half only.
pub struct SigningKey {
    seed: Secret,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Draws a new key from the system's random generator.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes: no key could be made safely then.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut_slice())
            .expect("the system's random generator does not fail once the system runs");
        Self::from_seed(seed)
    }

    /// Takes up a key written by [`SigningKey::to_bytes`]; any 32 bytes are one (RFC 8032 section 5.1.5).
    #[must_use]
    pub fn from_bytes(seed: [u8; 32]) -> Self {
        Self::from_seed(Zeroizing::new(seed))
    }

    fn from_seed(seed: Secret) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice());
        Self {
            pair: pair.expect("any 32 bytes are the seed of a key"),
            seed,
        }
    }

    /// The secret itself, to be stored where only its owner can read it.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// What others check signatures with.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        let public = self.pair.public_key().as_ref().try_into();
        VerifyingKey(public.expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs `message`, which has to say itself what it is.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature = self.pair.sign(message);
        let signature = signature.as_ref().try_into();
        signature.expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}

/// The public half of a [`SigningKey`]; shown and read as fingerprints are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey(
    /// The bytes as RFC 8032 section 5.1.5 encodes them.
    pub [u8; 32],
);

impl VerifyingKey {
    /// Whether the owner of this key signed `message`.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).is_ok()
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Fingerprint::from_bytes(self.0), f)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*text.parse::<Fingerprint>()?.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{from_hex, to_hex};

    /// RFC 8032 section 7.1, test 2.
    #[test]
    fn signatures_are_those_of_rfc_8032() {
        let seed = from_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SigningKey::from_bytes(seed.try_into().unwrap());
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(to_hex(&key.public().0), public);
        let signature = key.sign(&[0x72]);
        assert_eq!(
            to_hex(&signature),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        assert!(key.public().has_signed(&[0x72], &signature));
    }

    #[test]
    fn nothing_else_is_taken_for_signed() {
        let key = SigningKey::generate();
        let other = SigningKey::generate().public();
        let signature = key.sign(b"a list");
        assert!(key.public().has_signed(b"a list", &signature));
        assert!(!key.public().has_signed(b"a lisp", &signature));
        assert!(!other.has_signed(b"a list", &signature));
        for at in 0..SIGNATURE_LEN {
            let mut wrong = signature;
            wrong[at] ^= 1;
            assert!(!key.public().has_signed(b"a list", &wrong), "byte {at}");
        }
    }

    #[test]
    fn keys_are_written_and_read_back() {
        let key = SigningKey::generate();
        let again = SigningKey::from_bytes(*key.to_bytes());
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        let seed = to_hex(key.to_bytes().as_slice());
        assert!(!format!("{key:?}").contains(&seed[..16]));
    }
}
