//! The handshake: Noise XX between two static keys, with an ML-KEM-768 secret as the pre-shared key.
//!
//! Three messages. The initiator sends an encapsulation key that anybody may read; the responder answers
//! with the ciphertext; from the third message on everything depends on both X25519 and ML-KEM. What is
//! recorded today stays secret unless both fall: the records always, and the third payload. The second
//! payload and the two static public keys are protected by X25519 alone.

use std::fmt;

use crate::kem::{CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN, Encapsulation, KemKey, encapsulate};
use crate::key::{PublicKey, StaticKey};
use crate::noise::{KEY_LEN, Noise, Role, TAG_LEN};
use crate::secrets::Secrets;

/// Longest payload that the caller may put into the second or third message, in bytes.
pub const MAX_PAYLOAD: usize = 2048;
/// Longest handshake message, in bytes. More is refused unread; Noise itself would allow 65535.
pub const MAX_MESSAGE: usize = ANSWER_OVERHEAD + MAX_PAYLOAD;

/// First message: ephemeral key, encapsulation key, tag. Its length never varies.
const HELLO_LEN: usize = KEY_LEN + ENCAPSULATION_KEY_LEN + TAG_LEN;
/// Second message without the payload: ephemeral key, sealed static key, ciphertext, tag.
const ANSWER_OVERHEAD: usize = KEY_LEN + KEY_LEN + TAG_LEN + CIPHERTEXT_LEN + TAG_LEN;
/// Third message without the payload: sealed static key, tag.
const FINISH_OVERHEAD: usize = KEY_LEN + TAG_LEN + TAG_LEN;

/// The side that starts, waiting for the answer to its first message.
pub struct Initiator {
    noise: Noise,
    kem: KemKey,
}

impl Initiator {
    /// Starts a handshake as `identity` and returns the first message, of 1232 bytes.
    ///
    /// Both ends give the same `prologue`; what it says is authenticated, not sent.
    ///
    /// # Errors
    /// [`HandshakeError::Random`] when the system gives no random bytes.
    pub fn start(
        identity: &StaticKey,
        prologue: &[u8],
    ) -> Result<(Initiator, Vec<u8>), HandshakeError> {
        let noise = Noise::new(Role::Initiator, identity, prologue, None)?;
        Self::start_with(noise, KemKey::generate()?)
    }

    fn start_with(mut noise: Noise, kem: KemKey) -> Result<(Initiator, Vec<u8>), HandshakeError> {
        let hello = noise.write(kem.encapsulation_key(), KEY_LEN + TAG_LEN)?;
        Ok((Initiator { noise, kem }, hello))
    }

    /// Reads the second message.
    ///
    /// # Errors
    /// [`HandshakeError::Length`] before anything is computed; [`HandshakeError::NotAuthentic`] when a byte
    /// of either message was changed, the prologues differ, or the answer belongs to another first message;
    /// [`HandshakeError::WeakKey`].
    pub fn read_answer(mut self, message: &[u8]) -> Result<Answered, HandshakeError> {
        check_length("second", message, ANSWER_OVERHEAD, MAX_PAYLOAD)?;
        let mut payload = self.noise.read(message)?;
        let ciphertext = payload
            .get(..CIPHERTEXT_LEN)
            .ok_or(HandshakeError::KemCiphertext)?;
        let shared = self.kem.decapsulate(ciphertext)?;
        self.noise.set_psk(&shared)?;
        payload.drain(..CIPHERTEXT_LEN);
        Ok(Answered {
            peer: self.noise.peer()?,
            payload,
            noise: self.noise,
        })
    }
}

/// The initiator's state after the answer: it knows the peer and can still turn away.
pub struct Answered {
    /// The responder's static key, which it has proved to hold. The caller decides whether it is the right one.
    pub peer: PublicKey,
    /// What the responder's caller said.
    pub payload: Vec<u8>,
    noise: Noise,
}

impl Answered {
    /// Writes the third message, which shows the responder who the initiator is, and yields the secrets.
    ///
    /// # Errors
    /// [`HandshakeError::PayloadTooLong`]; [`HandshakeError::WeakKey`].
    pub fn finish(mut self, payload: &[u8]) -> Result<(Vec<u8>, Secrets), HandshakeError> {
        check_payload(payload)?;
        let message = self.noise.write(payload, FINISH_OVERHEAD)?;
        Ok((message, self.noise.into_secrets()?))
    }
}

/// The side that answers, with a first message read.
pub struct Responder {
    noise: Noise,
    encapsulation_key: Vec<u8>,
}

impl Responder {
    /// Reads a first message as `identity`. Costs hashing only: no key agreement happens yet.
    ///
    /// # Errors
    /// [`HandshakeError::Length`] before anything is computed; [`HandshakeError::NotAuthentic`] when a byte
    /// was changed or the prologues differ.
    pub fn read_hello(
        identity: &StaticKey,
        prologue: &[u8],
        message: &[u8],
    ) -> Result<Responder, HandshakeError> {
        check_length("first", message, HELLO_LEN, 0)?;
        let noise = Noise::new(Role::Responder, identity, prologue, None)?;
        Self::read_hello_with(noise, message)
    }

    fn read_hello_with(mut noise: Noise, message: &[u8]) -> Result<Responder, HandshakeError> {
        let encapsulation_key = noise.read(message)?;
        Ok(Responder {
            noise,
            encapsulation_key,
        })
    }

    /// Writes the second message: `payload` can be read by whoever started the handshake, known or not.
    ///
    /// # Errors
    /// [`HandshakeError::PayloadTooLong`]; [`HandshakeError::KemKey`] and [`HandshakeError::WeakKey`] when
    /// the initiator's keys are none; [`HandshakeError::Random`].
    pub fn answer(self, payload: &[u8]) -> Result<(Vec<u8>, AwaitingFinish), HandshakeError> {
        check_payload(payload)?;
        let encapsulation = encapsulate(&self.encapsulation_key)?;
        self.answer_with(payload, &encapsulation)
    }

    fn answer_with(
        mut self,
        payload: &[u8],
        encapsulation: &Encapsulation,
    ) -> Result<(Vec<u8>, AwaitingFinish), HandshakeError> {
        self.noise.set_psk(&encapsulation.shared)?;
        let whole = [&encapsulation.ciphertext, payload].concat();
        let message = self.noise.write(&whole, ANSWER_OVERHEAD - CIPHERTEXT_LEN)?;
        Ok((message, AwaitingFinish { noise: self.noise }))
    }
}

/// The responder's state after its answer: it does not know the peer yet.
pub struct AwaitingFinish {
    noise: Noise,
}

impl AwaitingFinish {
    /// Reads the third message.
    ///
    /// # Errors
    /// [`HandshakeError::Length`] before anything is computed; [`HandshakeError::NotAuthentic`] when a byte
    /// of any message was changed or the initiator holds other keys; [`HandshakeError::WeakKey`].
    pub fn read_finish(mut self, message: &[u8]) -> Result<Finished, HandshakeError> {
        check_length("third", message, FINISH_OVERHEAD, MAX_PAYLOAD)?;
        let payload = self.noise.read(message)?;
        Ok(Finished {
            peer: self.noise.peer()?,
            payload,
            secrets: self.noise.into_secrets()?,
        })
    }
}

/// What the responder holds at the end.
pub struct Finished {
    /// The initiator's static key, which it has proved to hold. The caller decides whether it is welcome.
    pub peer: PublicKey,
    /// What the initiator's caller said.
    pub payload: Vec<u8>,
    /// The secrets of the new session.
    pub secrets: Secrets,
}

/// Why a handshake failed. The other end learns no more than that it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The message cannot be what was expected; it was not looked at.
    #[error(
        "the {message} handshake message has {length} bytes, expected {least} to {most}: \
         it was cut off or changed on the way, or the other end speaks something else"
    )]
    Length {
        /// Which message: first, second or third.
        message: &'static str,
        /// Its length in bytes.
        length: usize,
        /// Shortest length allowed, in bytes.
        least: usize,
        /// Longest length allowed, in bytes.
        most: usize,
    },
    /// The caller's payload exceeds [`MAX_PAYLOAD`].
    #[error("a handshake payload of {0} bytes is too long, at most {MAX_PAYLOAD} fit")]
    PayloadTooLong(usize),
    /// The message was not made by the holder of the expected keys for this handshake.
    #[error(
        "the handshake message is not authentic: it was changed on the way, \
         or the other end expects another version, session or relay"
    )]
    NotAuthentic,
    /// An X25519 key of low order: agreeing with it yields a secret that everybody knows.
    #[error("the other end sent an X25519 key that gives no secret: it is broken or hostile")]
    WeakKey,
    /// The initiator's ML-KEM key is not one.
    #[error("the other end sent an invalid ML-KEM-768 key: it is broken or hostile")]
    KemKey,
    /// The responder's ML-KEM ciphertext is not one.
    #[error("the other end sent an invalid ML-KEM-768 ciphertext: it is broken or hostile")]
    KemCiphertext,
    /// The system's random generator failed.
    #[error("the system gave no random bytes, so no key can be made")]
    Random,
    /// The handshake library refused what cannot be refused: a fault of this program.
    #[error("the handshake library failed ({0}): please report this")]
    Internal(String),
}

/// Checked before a message is parsed: `least` bytes, and at most `spare` more.
fn check_length(
    name: &'static str,
    message: &[u8],
    least: usize,
    spare: usize,
) -> Result<(), HandshakeError> {
    let most = least + spare;
    if (least..=most).contains(&message.len()) {
        return Ok(());
    }
    Err(HandshakeError::Length {
        message: name,
        length: message.len(),
        least,
        most,
    })
}

fn check_payload(payload: &[u8]) -> Result<(), HandshakeError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(HandshakeError::PayloadTooLong(payload.len()));
    }
    Ok(())
}

macro_rules! debug_without_secrets {
    ($($name:ident $(: $peer:ident)?),*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field("peer", &self.$peer))?
                    .finish_non_exhaustive()
            }
        }
    )* };
}

debug_without_secrets!(Initiator, Answered: peer, Responder, AwaitingFinish, Finished: peer);

#[cfg(test)]
pub(crate) mod tests;
