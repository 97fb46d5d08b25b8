//! Logins by password, with OPAQUE (RFC 9807): neither end ever sends the password or anything that lets somebody on
//! the way try passwords, and each learns that the other knows it.
//!
//! The configuration is OPAQUE-3DH with ristretto255-SHA512, HKDF-SHA-512, HMAC-SHA-512 and SHA-512 (RFC 9807
//! section 7), stretched by Argon2id with the second recommended parameters of RFC 9106 section 4: 3 passes over
//! 64 MiB in 4 lanes, more than OWASP's Password Storage Cheat Sheet asks for (19 MiB, 2 passes, 1 lane). The
//! client identity is the user's name, the server identity the server's OPAQUE public key.
//!
//! Registering takes [`Registration::start`] at the client, [`Server::register`], [`Registration::finish`]; what
//! comes out of it is the [`PasswordFile`] that the server keeps. Logging in takes [`Login::start`],
//! [`Server::challenge`], [`Login::finish`] and [`Challenged::check`]. A user that does not exist is challenged all
//! the same, with work of the same kind and amount: nobody can tell such a user from a wrong password.

use std::fmt;

use aws_lc_rs::rand as system;
use opaque_ke::generic_array::{ArrayLength, GenericArray};
use opaque_ke::ksf::Ksf;
use opaque_ke::rand::{CryptoRng, Error as RandError, RngCore};
use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialFinalization, CredentialRequest,
    CredentialResponse, Identifiers, RegistrationRequest, RegistrationResponse, RegistrationUpload,
    Ristretto255, ServerLogin, ServerLoginParameters, ServerRegistration, ServerSetup, TripleDh,
};
use zeroize::{Zeroize, Zeroizing};

use crate::schedule::Label;

/// Length of the first message of a registration, in bytes (RFC 9807 section 5.1).
pub const REGISTER_LEN: usize = 32;
/// Length of the answer to it, in bytes.
pub const REGISTERED_LEN: usize = 64;
/// Length of what a server keeps of a user's password, in bytes.
pub const PASSWORD_FILE_LEN: usize = 192;
/// Length of the first message of a login, KE1, in bytes (RFC 9807 section 6.1).
pub const LOGIN_LEN: usize = 96;
/// Length of the answer to it, KE2, in bytes.
pub const CHALLENGE_LEN: usize = 320;
/// Length of the last message of a login, KE3, in bytes.
pub const PROOF_LEN: usize = 64;
/// Length of a server's secret, in bytes.
pub const SERVER_SECRET_LEN: usize = 128;
/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// Argon2id's memory in KiB, passes and lanes (RFC 9106 section 4, second recommended option).
const STRETCHING: (u32, u32, u32) = (64 * 1024, 3, 4);
/// Argon2id's salt. What it would do, the server's OPRF key of each user does (RFC 9807 section 7).
const SALT: [u8; 16] = [0; 16];

/// What a server keeps of a user's password: of no use for logging in, and for trying passwords only to whoever has
/// the server's secret too, at the price of one stretching each.
pub type PasswordFile = [u8; PASSWORD_FILE_LEN];

/// Why a step of a registration or a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// The password is wrong, there is no such user, or the other end does not know the password: nobody can tell
    /// which.
    #[error("wrong name or password")]
    Wrong,
    /// The password is empty or too long.
    #[error("a password has 1 to {MAX_PASSWORD} bytes")]
    Length,
    /// The message is none of this protocol.
    #[error(
        "the other end sent a message that is none of a login by password: it is broken or hostile"
    )]
    Malformed,
    /// Stretching takes 64 MiB of memory, and there is none.
    #[error("there is not enough memory to stretch the password; it takes 64 MiB")]
    Memory,
}

/// The algorithms of RFC 9807 in use here.
struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2::Sha512>;
    type Ksf = Stretching;
}

/// Argon2id.
#[derive(Default)]
struct Stretching;

impl Ksf for Stretching {
    fn hash<L: ArrayLength<u8>>(
        &self,
        mut input: GenericArray<u8, L>,
    ) -> Result<GenericArray<u8, L>, opaque_ke::errors::InternalError> {
        let failed = |_| opaque_ke::errors::InternalError::KsfError;
        let (memory, passes, lanes) = STRETCHING;
        let params =
            argon2::Params::new(memory, passes, lanes, Some(input.len())).map_err(failed)?;
        let argon =
            argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut output = GenericArray::default();
        argon
            .hash_password_into(&input, &SALT, &mut output)
            .map_err(failed)?;
        input.as_mut_slice().zeroize();
        Ok(output)
    }
}

/// The system's random generator, as this library wants it.
struct SystemRandom;

impl RngCore for SystemRandom {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        system::fill(dest)
            .expect("the system's random generator does not fail once the system runs");
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), RandError> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for SystemRandom {}

impl From<opaque_ke::errors::ProtocolError> for PasswordError {
    fn from(error: opaque_ke::errors::ProtocolError) -> Self {
        use opaque_ke::errors::{InternalError, ProtocolError};
        match error {
            ProtocolError::InvalidLoginError => PasswordError::Wrong,
            ProtocolError::LibraryError(InternalError::KsfError) => PasswordError::Memory,
            _ => PasswordError::Malformed,
        }
    }
}

/// What both ends of a login must agree on beside the password: the session in which it takes place, by the hash of
/// its handshake. That covers both static keys, so a login cannot be passed on by somebody in the middle.
fn context(handshake_hash: &[u8; 32]) -> Vec<u8> {
    let label = Label::PasswordContext.text().as_bytes();
    [label, &[0], handshake_hash].concat()
}

fn identifiers(user: &str) -> Identifiers<'_> {
    Identifiers {
        client: Some(user.as_bytes()),
        server: None,
    }
}

/// A message, whose length the configuration fixes.
fn fixed<const N: usize>(message: &[u8]) -> [u8; N] {
    message
        .try_into()
        .expect("the lengths are those that RFC 9807 gives for this configuration")
}

fn kept(password: &[u8]) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    match password.len() {
        1..=MAX_PASSWORD => Ok(Zeroizing::new(password.to_vec())),
        _ => Err(PasswordError::Length),
    }
}

/// A registration under way at the client.
pub struct Registration {
    password: Zeroizing<Vec<u8>>,
    state: ClientRegistration<Suite>,
}

impl Registration {
    /// Begins to register a password. The bytes are taken as they are, so that the caller must have brought a text
    /// into the one form that it always uses.
    ///
    /// # Errors
    /// [`PasswordError::Length`].
    pub fn start(password: &[u8]) -> Result<(Self, [u8; REGISTER_LEN]), PasswordError> {
        Self::start_with(&mut SystemRandom, password)
    }

    fn start_with(
        random: &mut (impl RngCore + CryptoRng),
        password: &[u8],
    ) -> Result<(Self, [u8; REGISTER_LEN]), PasswordError> {
        let password = kept(password)?;
        let started = ClientRegistration::<Suite>::start(random, &password)?;
        let message = fixed(&started.message.serialize());
        let state = started.state;
        Ok((Self { password, state }, message))
    }

    /// Makes the password file of `user` with the server's answer. Takes a good part of a second and 64 MiB.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`], [`PasswordError::Memory`].
    pub fn finish(
        self,
        user: &str,
        answer: &[u8; REGISTERED_LEN],
    ) -> Result<PasswordFile, PasswordError> {
        self.finish_with(&mut SystemRandom, user, answer)
    }

    fn finish_with(
        self,
        random: &mut (impl RngCore + CryptoRng),
        user: &str,
        answer: &[u8; REGISTERED_LEN],
    ) -> Result<PasswordFile, PasswordError> {
        let answer = RegistrationResponse::deserialize(answer)?;
        let parameters = ClientRegistrationFinishParameters::new(identifiers(user), None);
        let finished = self
            .state
            .finish(random, &self.password, answer, parameters)?;
        Ok(fixed(&finished.message.serialize()))
    }
}

/// A login under way at the client.
pub struct Login {
    password: Zeroizing<Vec<u8>>,
    state: ClientLogin<Suite>,
}

impl Login {
    /// Begins to log in.
    ///
    /// # Errors
    /// [`PasswordError::Length`].
    pub fn start(password: &[u8]) -> Result<(Self, [u8; LOGIN_LEN]), PasswordError> {
        Self::start_with(&mut SystemRandom, password)
    }

    fn start_with(
        random: &mut (impl RngCore + CryptoRng),
        password: &[u8],
    ) -> Result<(Self, [u8; LOGIN_LEN]), PasswordError> {
        let password = kept(password)?;
        let started = ClientLogin::<Suite>::start(random, &password)?;
        let message = fixed(&started.message.serialize());
        let state = started.state;
        Ok((Self { password, state }, message))
    }

    /// Checks that the server knows the password of `user`, and that it took part in the session of this handshake;
    /// makes the proof that this side does. Takes a good part of a second and 64 MiB.
    ///
    /// # Errors
    /// [`PasswordError::Wrong`], [`PasswordError::Malformed`], [`PasswordError::Memory`].
    pub fn finish(
        self,
        user: &str,
        handshake_hash: &[u8; 32],
        challenge: &[u8; CHALLENGE_LEN],
    ) -> Result<[u8; PROOF_LEN], PasswordError> {
        self.finish_with(&mut SystemRandom, user, handshake_hash, challenge)
    }

    fn finish_with(
        self,
        random: &mut (impl RngCore + CryptoRng),
        user: &str,
        handshake_hash: &[u8; 32],
        challenge: &[u8; CHALLENGE_LEN],
    ) -> Result<[u8; PROOF_LEN], PasswordError> {
        let challenge = CredentialResponse::deserialize(challenge)?;
        let context = context(handshake_hash);
        let parameters = ClientLoginFinishParameters::new(Some(&context), identifiers(user), None);
        let finished = self
            .state
            .finish(random, &self.password, challenge, parameters)?;
        Ok(fixed(&finished.message.serialize()))
    }
}

/// The server's side: its secret, which all servers of one group share.
pub struct Server {
    setup: ServerSetup<Suite>,
    /// Read where there is no file of a user, so that reading takes place in any case.
    decoy: PasswordFile,
}

impl Server {
    /// Draws the secret of a new server.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    #[must_use]
    pub fn generate() -> Self {
        Self::generate_with(&mut SystemRandom)
    }

    fn generate_with(random: &mut (impl RngCore + CryptoRng)) -> Self {
        Self::with(ServerSetup::new(random))
    }

    /// Takes up a secret written by [`Server::to_bytes`].
    ///
    /// # Errors
    /// [`PasswordError::Malformed`] for other bytes.
    pub fn from_bytes(secret: &[u8; SERVER_SECRET_LEN]) -> Result<Self, PasswordError> {
        let setup = ServerSetup::deserialize(secret)?;
        Ok(Self::with(setup))
    }

    fn with(setup: ServerSetup<Suite>) -> Self {
        let mut decoy = [0; PASSWORD_FILE_LEN];
        decoy[..32].copy_from_slice(&setup.keypair().public().serialize());
        Self { setup, decoy }
    }

    /// The secret itself. Whoever has it and password files can try passwords.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; SERVER_SECRET_LEN]> {
        Zeroizing::new(fixed(&self.setup.serialize()))
    }

    /// Answers the first message of a registration of `user`. Whoever has also seen one challenge of that user can find
    /// out with the answer whether one password is right: who answers strangers counts this as a guess.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`].
    pub fn register(
        &self,
        user: &str,
        message: &[u8; REGISTER_LEN],
    ) -> Result<[u8; REGISTERED_LEN], PasswordError> {
        let message = RegistrationRequest::deserialize(message)?;
        let answer = ServerRegistration::start(&self.setup, message, user.as_bytes())?;
        Ok(fixed(&answer.message.serialize()))
    }

    /// Answers the first message of a login of `user`, whose file is `file`; `None` where there is no such user, or
    /// none with a password, which nobody learns.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`] for the message, and for a file that is none.
    pub fn challenge(
        &self,
        user: &str,
        file: Option<&PasswordFile>,
        handshake_hash: &[u8; 32],
        message: &[u8; LOGIN_LEN],
    ) -> Result<(Challenged, [u8; CHALLENGE_LEN]), PasswordError> {
        self.challenge_with(&mut SystemRandom, user, file, handshake_hash, message)
    }

    fn challenge_with(
        &self,
        random: &mut (impl RngCore + CryptoRng),
        user: &str,
        file: Option<&PasswordFile>,
        handshake_hash: &[u8; 32],
        message: &[u8; LOGIN_LEN],
    ) -> Result<(Challenged, [u8; CHALLENGE_LEN]), PasswordError> {
        let message = CredentialRequest::deserialize(message)?;
        let read = read_file(file.unwrap_or(&self.decoy))?;
        let context = context(handshake_hash);
        let parameters = ServerLoginParameters {
            context: Some(&context),
            identifiers: identifiers(user),
        };
        // Given no file, the library makes up one of random bytes; it does so, unseen, in any case.
        let started = ServerLogin::start(
            random,
            &self.setup,
            file.is_some().then_some(read),
            message,
            user.as_bytes(),
            parameters,
        )?;
        let challenged = Challenged {
            user: user.to_owned(),
            context,
            state: started.state,
        };
        Ok((challenged, fixed(&started.message.serialize())))
    }
}

fn read_file(file: &PasswordFile) -> Result<ServerRegistration<Suite>, PasswordError> {
    Ok(ServerRegistration::deserialize(file)?)
}

/// Whether bytes are a password file: a server checks that before it keeps them.
///
/// # Errors
/// [`PasswordError::Malformed`].
pub fn check_file(file: &PasswordFile) -> Result<(), PasswordError> {
    let file = RegistrationUpload::<Suite>::deserialize(file)?;
    drop(ServerRegistration::finish(file));
    Ok(())
}

/// A login under way at the server, which waits for the client's proof.
pub struct Challenged {
    user: String,
    context: Vec<u8>,
    state: ServerLogin<Suite>,
}

impl Challenged {
    /// The user whose password is to be proven.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Checks the client's proof, in a time that does not depend on it.
    ///
    /// # Errors
    /// [`PasswordError::Wrong`]; a proof of a user that does not exist is always wrong.
    pub fn check(self, proof: &[u8; PROOF_LEN]) -> Result<(), PasswordError> {
        let proof = CredentialFinalization::deserialize(proof)?;
        let parameters = ServerLoginParameters {
            context: Some(&self.context),
            identifiers: identifiers(&self.user),
        };
        self.state.finish(proof, parameters)?;
        Ok(())
    }
}

macro_rules! debug_without_secrets {
    ($($name:ident),*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )* };
}

debug_without_secrets!(Registration, Login, Server, Challenged);

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
