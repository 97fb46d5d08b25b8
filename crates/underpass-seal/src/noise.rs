//! The Noise protocol instance that the handshake runs on, and the one check that the library leaves to us.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::handshake::HandshakeError;
use crate::key::{PublicKey, StaticKey};
use crate::schedule::Secret;
use crate::secrets::Secrets;

/// Full name of the protocol, which is also the first input of its hash (Noise revision 34 section 8).
pub(crate) const PROTOCOL: &str = "Noise_XXpsk3_25519_AESGCM_SHA256";
/// Position of the pre-shared key's token: the end of the third message.
const PSK_POSITION: usize = 3;
/// Bytes of a public key on the wire.
pub(crate) const KEY_LEN: usize = 32;
/// Bytes that each encryption inside a message adds.
pub(crate) const TAG_LEN: usize = 16;

/// Which end of the handshake this is.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// One end of a handshake, as far as Noise knows it.
pub(crate) struct Noise(HandshakeState);

impl Noise {
    /// `ephemeral` is drawn at random when not given; only tests give one.
    pub(crate) fn new(
        role: Role,
        identity: &StaticKey,
        prologue: &[u8],
        ephemeral: Option<&[u8; KEY_LEN]>,
    ) -> Result<Self, HandshakeError> {
        let secret = identity.to_bytes();
        let params = PROTOCOL
            .parse()
            .expect("the name of the protocol is a constant that the library knows");
        let mut builder = Builder::with_resolver(params, Box::new(CheckedResolver))
            .local_private_key(secret.as_slice())?
            .prologue(prologue)?;
        if let Some(ephemeral) = ephemeral {
            builder = builder.fixed_ephemeral_key_for_testing_only(ephemeral);
        }
        Ok(Self(match role {
            Role::Initiator => builder.build_initiator()?,
            Role::Responder => builder.build_responder()?,
        }))
    }

    /// Lets the shared secret of the key encapsulation enter at the end of the third message.
    pub(crate) fn set_psk(&mut self, shared: &Secret) -> Result<(), HandshakeError> {
        Ok(self.0.set_psk(PSK_POSITION, shared.as_slice())?)
    }

    /// Writes the next message; `overhead` is what it has beside the payload, in bytes.
    pub(crate) fn write(
        &mut self,
        payload: &[u8],
        overhead: usize,
    ) -> Result<Vec<u8>, HandshakeError> {
        let mut message = vec![0; payload.len() + overhead];
        let written = self.0.write_message(payload, &mut message)?;
        message.truncate(written);
        Ok(message)
    }

    /// Reads the next message and returns its payload.
    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut payload = vec![0; message.len()];
        let read = self.0.read_message(message, &mut payload)?;
        payload.truncate(read);
        Ok(payload)
    }

    /// The static key that the peer has proved to hold, once it has.
    pub(crate) fn peer(&self) -> Result<PublicKey, HandshakeError> {
        let key = self.0.get_remote_static();
        key.and_then(|key| key.try_into().ok())
            .map(PublicKey)
            .ok_or_else(|| HandshakeError::Internal("the peer's key is missing".to_owned()))
    }

    /// Derives the session's secrets after the third message.
    pub(crate) fn into_secrets(mut self) -> Result<Secrets, HandshakeError> {
        let hash = self
            .0
            .get_handshake_hash()
            .try_into()
            .expect("SHA-256 yields 32 bytes");
        let (first, second) = self.0.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        Ok(Secrets::from_split((&first, &second), hash))
    }
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Decrypt => HandshakeError::NotAuthentic,
            snow::Error::Dh => HandshakeError::WeakKey,
            snow::Error::Rng => HandshakeError::Random,
            other => HandshakeError::Internal(other.to_string()),
        }
    }
}

/// The library's own choice of algorithms, with its X25519 checked.
struct CheckedResolver;

impl CryptoResolver for CheckedResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let inner = DefaultResolver.resolve_dh(choice)?;
        Some(Box::new(CheckedDh(inner)))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Refuses results of zero and overwrites the secret when dropped; the library does neither.
struct CheckedDh(Box<dyn Dh>);

impl Dh for CheckedDh {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn dh_len(&self) -> usize {
        self.0.dh_len()
    }

    fn set(&mut self, secret: &[u8]) {
        self.0.set(secret);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.0.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    /// RFC 7748 section 6.1: a public key of low order gives zero whatever the secret is, so that anybody
    /// could compute the result. Seen without branching on single bytes.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.dh(public, out)?;
        let result = &out[..self.0.dh_len()];
        if result.iter().fold(0, |seen, byte| seen | byte) == 0 {
            return Err(snow::Error::Dh);
        }
        Ok(())
    }
}

impl Drop for CheckedDh {
    fn drop(&mut self) {
        self.0.set(&[0; KEY_LEN]);
    }
}
