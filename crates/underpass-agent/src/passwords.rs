//! Logging in and registering by name and password.
//!
//! The password stays on this machine; what it is stretched with takes 64 MiB and a good part of a second, off the
//! runtime's threads.

use thiserror::Error;
use underpass_endpoint::ControlError;
use underpass_proto::Code;
use underpass_proto::control::{
    Control as Message, Identity, Prove, Register, SetPassword, SignIn,
};
use underpass_seal::password::{Login, PasswordError, Registration};
use zeroize::Zeroizing;

use crate::standing::{RequestError, Standing};

/// Why a login or a registration by password failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum PasswordLoginError {
    /// The relay refused it, or could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The password is not right for this relay and user, cannot be one, or cannot be stretched.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl PasswordLoginError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Request(error) => error.code(),
            Self::Password(PasswordError::Wrong) => Code::WrongPassword,
            Self::Password(PasswordError::Malformed) => Code::ProtocolViolation,
            Self::Password(_) => Code::Internal,
        }
    }
}

/// All of these fail with the relay's refusal, or when it cannot be asked.
#[allow(clippy::missing_errors_doc, reason = "said once above")]
impl Standing {
    /// Proves the password of `user` to the relay, having learned that the relay knows it too, and enrols this
    /// machine. The proof holds in this one session with this one relay.
    pub async fn sign_in(
        &self,
        user: &str,
        password: &Zeroizing<Vec<u8>>,
        machine: &str,
    ) -> Result<Identity, PasswordLoginError> {
        let session = self.attachment().session();
        let (login, message) = Login::start(password)?;
        let user = user.to_owned();
        let answer = self.request(|request| {
            let user = user.clone();
            SignIn {
                request,
                user,
                message,
            }
            .into()
        });
        let challenge = match answer.await?.pop() {
            Some(Message::Challenge(challenge)) => challenge.message,
            _ => return Err(RequestError::Unexpected.into()),
        };
        if self.attachment().session().id() != session.id() {
            let text = "the attachment went on in another session".to_owned();
            return Err(RequestError::from(ControlError::Lost(text)).into());
        }
        let hash = session.handshake_hash();
        let message = stretched(move || login.finish(&user, &hash, &challenge)).await?;
        let machine = machine.to_owned();
        let answer = self.request(|request| {
            Prove {
                request,
                machine,
                message,
            }
            .into()
        });
        match answer.await?.pop() {
            Some(Message::Identity(identity)) => Ok(identity),
            _ => Err(RequestError::Unexpected.into()),
        }
    }

    /// Registers `user` with a password, who waits for approval then, and enrols this machine.
    pub async fn register(
        &self,
        user: &str,
        password: &Zeroizing<Vec<u8>>,
        machine: &str,
    ) -> Result<(), PasswordLoginError> {
        match self.send_file(user, password, machine).await {
            // That is how it goes well.
            Err(PasswordLoginError::Request(error)) if error.code() == Code::Waiting => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(RequestError::Unexpected.into()),
        }
    }

    /// Sets the password of this machine's user, whose name is `user`.
    pub async fn set_password(
        &self,
        user: &str,
        password: &Zeroizing<Vec<u8>>,
    ) -> Result<(), PasswordLoginError> {
        match self.send_file(user, password, "").await? {
            Message::Done(_) => Ok(()),
            _ => Err(RequestError::Unexpected.into()),
        }
    }

    async fn send_file(
        &self,
        user: &str,
        password: &Zeroizing<Vec<u8>>,
        machine: &str,
    ) -> Result<Message, PasswordLoginError> {
        let (registration, message) = Registration::start(password)?;
        let (user, machine) = (user.to_owned(), machine.to_owned());
        let answer = self.request(|request| {
            let user = user.clone();
            Register {
                request,
                user,
                message,
            }
            .into()
        });
        let evaluated = match answer.await?.pop() {
            Some(Message::Evaluated(evaluated)) => evaluated.message,
            _ => return Err(RequestError::Unexpected.into()),
        };
        let name = user.clone();
        let file = stretched(move || registration.finish(&name, &evaluated)).await?;
        let answer = self.request(|request| {
            SetPassword {
                request,
                user,
                machine,
                file,
            }
            .into()
        });
        answer
            .await?
            .pop()
            .ok_or_else(|| RequestError::Unexpected.into())
    }
}

/// Does what takes long on a thread of its own.
async fn stretched<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
) -> Result<T, PasswordLoginError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        // The program is ending.
        Err(_) => Err(RequestError::from(ControlError::TimedOut).into()),
    }
}
