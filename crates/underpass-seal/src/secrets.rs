//! What a handshake yields, and how it follows from Noise's split.

use std::fmt;

use zeroize::Zeroizing;

use crate::key::sha256;
use crate::record::RecordSecret;
use crate::resume::ResumeSecret;
use crate::schedule::{Label, Secret, expand, extract};

/// The secrets that both ends of one session hold and nobody else.
#[derive(Clone)]
pub struct Secrets {
    /// Seals records from the initiator to the responder, first epoch.
    pub initiator_records: RecordSecret,
    /// Seals records from the responder to the initiator, first epoch.
    pub responder_records: RecordSecret,
    /// Resumes the session on a new leg, generation 0.
    pub resume: ResumeSecret,
    /// Hash of the whole handshake: not secret, the same at both ends, different in every session.
    pub handshake_hash: [u8; 32],
}

impl Secrets {
    /// From the two keys of Noise's `Split()`, the initiator's sending key first.
    pub(crate) fn from_split(split: (&Secret, &Secret), handshake_hash: [u8; 32]) -> Self {
        let mut input = Zeroizing::new([0; 64]);
        input[..32].copy_from_slice(split.0.as_slice());
        input[32..].copy_from_slice(split.1.as_slice());
        let root = extract(&handshake_hash, input.as_slice());
        Self {
            initiator_records: RecordSecret::new(expand(&root, Label::InitiatorRecords, &[])),
            responder_records: RecordSecret::new(expand(&root, Label::ResponderRecords, &[])),
            resume: ResumeSecret::new(expand(&root, Label::Resume, &[])),
            handshake_hash,
        }
    }

    /// The same secrets from the same seed, with no handshake at all.
    ///
    /// For simulations and byte-exact samples only: whoever knows the seed reads and forges everything.
    #[must_use]
    pub fn dangerous_from_seed(seed: [u8; 32]) -> Self {
        let handshake_hash = sha256(&[Label::Seed.text().as_bytes(), &[0], &seed]);
        let seed = Zeroizing::new(seed);
        Self::from_split((&seed, &seed), handshake_hash)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_every_secret() {
        let key = |byte| Zeroizing::new([byte; 32]);
        let base = Secrets::from_split((&key(1), &key(2)), [3; 32]);
        for other in [
            Secrets::from_split((&key(9), &key(2)), [3; 32]),
            Secrets::from_split((&key(1), &key(9)), [3; 32]),
            Secrets::from_split((&key(2), &key(1)), [3; 32]),
            Secrets::from_split((&key(1), &key(2)), [9; 32]),
        ] {
            assert_ne!(
                base.initiator_records.bytes(),
                other.initiator_records.bytes()
            );
            assert_ne!(
                base.responder_records.bytes(),
                other.responder_records.bytes()
            );
            assert_ne!(base.resume.bytes(), other.resume.bytes());
        }
        assert_ne!(
            base.initiator_records.bytes(),
            base.responder_records.bytes()
        );
        assert_ne!(base.initiator_records.bytes(), base.resume.bytes());
    }

    #[test]
    fn a_seed_gives_both_ends_the_same_secrets() {
        let (one, other) = (
            Secrets::dangerous_from_seed([7; 32]),
            Secrets::dangerous_from_seed([7; 32]),
        );
        assert_eq!(
            one.initiator_records.bytes(),
            other.initiator_records.bytes()
        );
        assert_eq!(one.handshake_hash, other.handshake_hash);
        let stranger = Secrets::dangerous_from_seed([8; 32]);
        assert_ne!(one.resume.bytes(), stranger.resume.bytes());
        assert_ne!(one.handshake_hash, stranger.handshake_hash);
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let secrets = Secrets::dangerous_from_seed([7; 32]);
        assert_eq!(format!("{secrets:?}"), "Secrets { .. }");
        assert_eq!(format!("{:?}", secrets.resume), "ResumeSecret { .. }");
        assert_eq!(
            format!("{:?}", secrets.initiator_records),
            "RecordSecret { .. }"
        );
    }
}
