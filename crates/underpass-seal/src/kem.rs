//! ML-KEM-768 (FIPS 203): the part of the handshake that a quantum computer does not undo.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768, SharedSecret};
use zeroize::Zeroizing;

use crate::handshake::HandshakeError;
use crate::schedule::Secret;

/// Bytes of an encapsulation key (FIPS 203 table 3).
pub(crate) const ENCAPSULATION_KEY_LEN: usize = 1184;
/// Bytes of a ciphertext (FIPS 203 table 3).
pub(crate) const CIPHERTEXT_LEN: usize = 1088;

/// The initiator's key of one handshake. The library overwrites it when dropped.
pub(crate) struct KemKey {
    decapsulation: DecapsulationKey,
    encapsulation: Vec<u8>,
}

impl KemKey {
    pub(crate) fn generate() -> Result<Self, HandshakeError> {
        let decapsulation =
            DecapsulationKey::generate(&ML_KEM_768).map_err(|_| HandshakeError::Random)?;
        let encapsulation = decapsulation
            .encapsulation_key()
            .and_then(|key| Ok(key.key_bytes()?.as_ref().to_vec()))
            .expect("a generated key has an encapsulation key");
        Ok(Self {
            decapsulation,
            encapsulation,
        })
    }

    /// From the encoding of FIPS 203 section 7.1, which holds the encapsulation key from byte 1152 on.
    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            decapsulation: DecapsulationKey::new(&ML_KEM_768, bytes).unwrap(),
            encapsulation: bytes[1152..1152 + ENCAPSULATION_KEY_LEN].to_vec(),
        }
    }

    #[cfg(test)]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.decapsulation.key_bytes().unwrap().as_ref().to_vec()
    }

    pub(crate) fn encapsulation_key(&self) -> &[u8] {
        &self.encapsulation
    }

    /// A ciphertext made for another key yields a secret that nobody else has (FIPS 203 section 6.3).
    pub(crate) fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, HandshakeError> {
        self.decapsulation
            .decapsulate(Ciphertext::from(ciphertext))
            .map(shared)
            .map_err(|_| HandshakeError::KemCiphertext)
    }
}

/// What the responder makes of the initiator's key.
pub(crate) struct Encapsulation {
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) shared: Secret,
}

/// Draws a secret and seals it to `encapsulation_key`, which is checked as FIPS 203 section 7.2 demands.
pub(crate) fn encapsulate(encapsulation_key: &[u8]) -> Result<Encapsulation, HandshakeError> {
    let key = EncapsulationKey::new(&ML_KEM_768, encapsulation_key)
        .map_err(|_| HandshakeError::KemKey)?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| HandshakeError::KemKey)?;
    Ok(Encapsulation {
        ciphertext: ciphertext.as_ref().to_vec(),
        shared: shared(secret),
    })
}

fn shared(secret: SharedSecret) -> Secret {
    let bytes = secret
        .as_ref()
        .try_into()
        .expect("ML-KEM-768 shares 32 bytes");
    Zeroizing::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_share_a_secret_that_other_keys_do_not_yield() {
        let key = KemKey::generate().unwrap();
        assert_eq!(key.encapsulation_key().len(), ENCAPSULATION_KEY_LEN);
        let made = encapsulate(key.encapsulation_key()).unwrap();
        assert_eq!(made.ciphertext.len(), CIPHERTEXT_LEN);
        assert_eq!(key.decapsulate(&made.ciphertext).unwrap(), made.shared);

        let stranger = KemKey::generate().unwrap();
        assert_ne!(stranger.decapsulate(&made.ciphertext).unwrap(), made.shared);
        let stored = KemKey::from_bytes(&key.to_bytes());
        assert_eq!(stored.encapsulation_key(), key.encapsulation_key());
        assert_eq!(stored.decapsulate(&made.ciphertext).unwrap(), made.shared);
    }

    /// FIPS 203 section 7.2: a coefficient of 3329 or more is not reduced, and such a key is refused.
    #[test]
    fn a_key_with_unreduced_coefficients_is_refused() {
        let mut key = KemKey::generate().unwrap().encapsulation_key().to_vec();
        key[..2].copy_from_slice(&[0xff, 0xff]);
        assert!(matches!(encapsulate(&key), Err(HandshakeError::KemKey)));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let key = KemKey::generate().unwrap();
        for length in [0, 1, CIPHERTEXT_LEN - 1, CIPHERTEXT_LEN + 1] {
            let refused = key.decapsulate(&vec![0; length]);
            assert!(matches!(refused, Err(HandshakeError::KemCiphertext)));
        }
        for length in [0, 1, ENCAPSULATION_KEY_LEN - 1, ENCAPSULATION_KEY_LEN + 1] {
            let refused = encapsulate(&vec![0; length]);
            assert!(matches!(refused, Err(HandshakeError::KemKey)));
        }
    }
}
