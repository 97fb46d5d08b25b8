//! Secrets that put a session on a new leg: a generation each, ratcheted forward by every resume.

use std::fmt;

use crate::record::{Cipher, OpenError, RecordKey, RecordSecret, Space, TAG_LEN};
use crate::schedule::{Label, Secret, expand, root};

/// The secret of one generation of a session. Overwritten when dropped.
///
/// Generation 0 comes from the handshake. A resume goes from generation n to n + 1 by
/// [`ResumeSecret::advance`] with a nonce of each side; no generation reveals the one before it.
#[derive(Clone)]
pub struct ResumeSecret(Secret);

impl ResumeSecret {
    pub(crate) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Key of the one request that carries `nonce_a`, drawn by the side that resumes.
    #[must_use]
    pub fn request_key(&self, nonce_a: &[u8; 16]) -> OnceKey {
        OnceKey(expand(&root(&self.0), Label::ResumeRequest, nonce_a))
    }

    /// Key of the one reply to that request, with the answering side's `nonce_b`.
    #[must_use]
    pub fn reply_key(&self, nonce_a: &[u8; 16], nonce_b: &[u8; 16]) -> OnceKey {
        let nonces = join(nonce_a, nonce_b);
        OnceKey(expand(&root(&self.0), Label::ResumeReply, &nonces))
    }

    /// The secret of the next generation.
    #[must_use]
    pub fn advance(&self, nonce_a: &[u8; 16], nonce_b: &[u8; 16]) -> ResumeSecret {
        let nonces = join(nonce_a, nonce_b);
        Self(expand(&root(&self.0), Label::ResumeAdvance, &nonces))
    }

    /// Proves that its sender reached this generation, without giving anything else away.
    ///
    /// It is the same every time: whoever receives it compares it in constant time.
    #[must_use]
    pub fn confirm_tag(&self) -> [u8; 32] {
        *expand(&root(&self.0), Label::ResumeConfirm, &[])
    }

    /// Keys of the routing headers on a leg of this generation: from the initiator to the responder, and back.
    #[must_use]
    pub fn route_secrets(&self) -> (RecordSecret, RecordSecret) {
        let root = root(&self.0);
        (
            RecordSecret::new(expand(&root, Label::InitiatorRoute, &[])),
            RecordSecret::new(expand(&root, Label::ResponderRoute, &[])),
        )
    }
}

impl fmt::Debug for ResumeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeSecret").finish_non_exhaustive()
    }
}

/// Both nonces have a fixed length, so joining them is unambiguous.
fn join(nonce_a: &[u8; 16], nonce_b: &[u8; 16]) -> [u8; 32] {
    let mut joined = [0; 32];
    joined[..16].copy_from_slice(nonce_a);
    joined[16..].copy_from_slice(nonce_b);
    joined
}

/// AES-256-GCM key that seals exactly one message, with a nonce of zeros.
///
/// Used up by sealing or opening. The type cannot stop its maker from deriving it again: who seals a second
/// message draws a new nonce for its derivation first, who repeats a message repeats the same bytes.
pub struct OnceKey(Secret);

impl OnceKey {
    /// Encrypts `plaintext` and returns ciphertext and tag; `aad` is authenticated only.
    ///
    /// # Panics
    /// When `plaintext` or `aad` comes near the cipher's limit of 64 GiB.
    #[must_use]
    pub fn seal(self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plaintext.len() + TAG_LEN);
        sealed.extend_from_slice(plaintext);
        let tag = self.key().seal(Space::Reliable, 0, aad, &mut sealed);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Decrypts what the other holder of this key sealed.
    ///
    /// # Errors
    /// [`OpenError::TooShort`] and [`OpenError::NotAuthentic`].
    pub fn open(self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut plaintext = vec![0; sealed.len().saturating_sub(TAG_LEN)];
        self.key()
            .open(Space::Reliable, 0, aad, sealed, &mut plaintext)?;
        Ok(plaintext)
    }

    /// Initial vector, space and number of zero make the nonce of zeros.
    fn key(&self) -> RecordKey {
        RecordKey::new(Cipher::Aes256Gcm, &self.0, [0; 12])
    }
}

impl fmt::Debug for OnceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secrets;
    use proptest::prelude::*;

    fn generation_0() -> ResumeSecret {
        Secrets::dangerous_from_seed([1; 32]).resume
    }

    #[test]
    fn both_ends_walk_through_the_generations_together() {
        let (mut near, mut far) = (generation_0(), generation_0());
        for round in 0..5u8 {
            let (a, b) = ([round; 16], [0x80 | round; 16]);
            let request = near.request_key(&a).seal(b"session", b"what I have");
            assert_eq!(
                far.request_key(&a).open(b"session", &request).unwrap(),
                b"what I have"
            );
            let reply = far.reply_key(&a, &b).seal(b"session", b"what I have too");
            assert_eq!(
                near.reply_key(&a, &b).open(b"session", &reply).unwrap(),
                b"what I have too"
            );
            (near, far) = (near.advance(&a, &b), far.advance(&a, &b));
            assert_eq!(near.confirm_tag(), far.confirm_tag());
        }
    }

    #[test]
    fn each_key_opens_its_own_message_only() {
        let secret = generation_0();
        let (a, b) = ([1; 16], [2; 16]);
        let request = secret.request_key(&a).seal(b"aad", b"request");
        let reply = secret.reply_key(&a, &b).seal(b"aad", b"reply");
        let wrong_for_request = [
            secret.request_key(&b),
            secret.reply_key(&a, &b),
            secret.advance(&a, &b).request_key(&a),
        ];
        for key in wrong_for_request {
            assert_eq!(key.open(b"aad", &request), Err(OpenError::NotAuthentic));
        }
        let wrong_for_reply = [
            secret.request_key(&a),
            secret.reply_key(&b, &a),
            secret.reply_key(&a, &a),
            secret.reply_key(&b, &b),
            secret.advance(&a, &b).reply_key(&a, &b),
        ];
        for key in wrong_for_reply {
            assert_eq!(key.open(b"aad", &reply), Err(OpenError::NotAuthentic));
        }
        assert_eq!(
            secret.request_key(&a).open(b"other", &request),
            Err(OpenError::NotAuthentic)
        );
    }

    #[test]
    fn nothing_that_follows_from_a_generation_is_shared_with_another() {
        let first = generation_0();
        let second = first.advance(&[1; 16], &[2; 16]);
        let sibling = first.advance(&[1; 16], &[3; 16]);
        let mut seen = std::collections::HashSet::new();
        for secret in [&first, &second, &sibling] {
            let (there, back) = secret.route_secrets();
            assert!(seen.insert(*secret.bytes()));
            assert!(seen.insert(secret.confirm_tag()));
            assert!(seen.insert(*there.bytes()));
            assert!(seen.insert(*back.bytes()));
        }
    }

    proptest! {
        #[test]
        fn opening_anything_else_fails_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let opened = generation_0().request_key(&[1; 16]).open(b"", &bytes);
            let expected = if bytes.len() < TAG_LEN {
                OpenError::TooShort(bytes.len())
            } else {
                OpenError::NotAuthentic
            };
            prop_assert_eq!(opened, Err(expected));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            text in proptest::collection::vec(any::<u8>(), 0..200),
            position: proptest::sample::Index,
            change in 1..=255u8,
        ) {
            let mut sealed = generation_0().request_key(&[1; 16]).seal(b"aad", &text);
            prop_assert_eq!(sealed.len(), text.len() + TAG_LEN);
            let position = position.index(sealed.len());
            sealed[position] ^= change;
            let opened = generation_0().request_key(&[1; 16]).open(b"aad", &sealed);
            prop_assert_eq!(opened, Err(OpenError::NotAuthentic));
        }
    }
}
