//! Handshake, key schedule, sealing and opening of Underpass records.
//!
//! Bytes in, bytes out: this crate knows keys and messages, but no frames, sockets, files or clocks.
//! It is the only crate of the workspace that names a cryptographic library, and the only one that
//! draws randomness by itself: for static keys and signing keys, for the handshake's ephemeral keys, for ML-KEM and for
//! logins by password.
//! Everything after the handshake is a deterministic function of the [`Secrets`] it yields.
//!
//! The order of use is fixed by the types, each of which is consumed by its one next step:
//!
//! ```
//! use underpass_seal::{Cipher, Initiator, Responder, Space, StaticKey, TAG_LEN};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (near, far) = (StaticKey::generate(), StaticKey::generate());
//! let prologue = b"what both ends must agree on beforehand";
//!
//! let (initiator, hello) = Initiator::start(&near, prologue)?;
//! let responder = Responder::read_hello(&far, prologue, &hello)?;
//! let (answer, awaiting) = responder.answer(b"from the responder")?;
//! let answered = initiator.read_answer(&answer)?;
//! assert_eq!(answered.peer, far.public()); // the caller decides whom it trusts
//! let (finish, near_secrets) = answered.finish(b"from the initiator")?;
//! let finished = awaiting.read_finish(&finish)?;
//! assert_eq!(finished.peer, near.public());
//!
//! let sealing = near_secrets.initiator_records.sealing_key(Cipher::preferred());
//! let opening = finished.secrets.initiator_records.opening_key(Cipher::preferred());
//! let mut record = b"hello".to_vec();
//! let tag = sealing.seal_in_place(Space::Reliable, 0, b"header", &mut record);
//! record.extend_from_slice(&tag);
//! let mut plain = vec![0; record.len() - TAG_LEN];
//! opening.open_into(Space::Reliable, 0, b"header", &record, &mut plain)?;
//! assert_eq!(plain, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! `docs/protocol-keys.md` specifies every message and derivation for a second implementation.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod certificate;
mod fingerprint;
mod handshake;
mod kem;
mod key;
mod noise;
pub mod password;
mod record;
mod resume;
#[cfg(test)]
mod samples;
mod schedule;
mod secrets;
mod signing;

pub use certificate::certificate_proof;
pub use fingerprint::{Fingerprint, ParseFingerprintError};
pub use handshake::{
    Answered, AwaitingFinish, Finished, HandshakeError, Initiator, MAX_MESSAGE, MAX_PAYLOAD,
    Responder,
};
pub use key::{PublicKey, StaticKey, constant_time_eq, sha256};
pub use record::{Cipher, OpenError, OpeningKey, RecordSecret, SealingKey, Space, TAG_LEN};
pub use resume::{OnceKey, ResumeSecret};
pub use secrets::Secrets;
pub use signing::{SIGNATURE_LEN, SigningKey, VerifyingKey};
