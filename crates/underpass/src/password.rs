//! Logging in and registering by name and password.
//!
//! The password stays on this machine; what it is stretched with takes 64 MiB and a good part of a second, off the
//! runtime's threads.

use underpass_proto::Code as Reason;
use underpass_proto::control::{Control as Message, Prove, Register, SetPassword, SignIn};
use underpass_seal::password::{Login, PasswordError, Registration};

use crate::error::{Error, Result};
use crate::standing::{Standing, one};

impl Standing {
    /// Proves the password of `user` to the relay, having learned that the relay knows it too, and enrols this machine.
    pub(crate) async fn sign_in(&self, user: &str, password: &[u8]) -> Result<()> {
        let session = self.attachment.session();
        let (login, message) = Login::start(password).map_err(Error::password)?;
        let name = user.to_owned();
        let make = move |request| {
            SignIn {
                request,
                user: name,
                message,
            }
            .into()
        };
        let challenge = one!(self.request(make).await?, Challenge)?.message;
        if self.attachment.session().id() != session.id() {
            let text = "the path to the relay was made anew during the login; sign in again";
            return Err(Error::local(Reason::GoingAway, text));
        }
        let (user, hash) = (user.to_owned(), session.handshake_hash());
        let message = stretched(move || login.finish(&user, &hash, &challenge)).await?;
        let machine = self.machine_name.clone();
        let make = move |request| {
            Prove {
                request,
                machine,
                message,
            }
            .into()
        };
        one!(self.request(make).await?, Identity).map(drop)
    }

    /// Registers `user` with a password, who waits for approval then, and enrols this machine.
    pub(crate) async fn register(&self, user: &str, password: &[u8]) -> Result<()> {
        let (registration, message) = Registration::start(password).map_err(Error::password)?;
        let name = user.to_owned();
        let make = move |request| {
            Register {
                request,
                user: name,
                message,
            }
            .into()
        };
        let evaluated = one!(self.request(make).await?, Evaluated)?.message;
        let (user, name) = (user.to_owned(), user.to_owned());
        let file = stretched(move || registration.finish(&name, &evaluated)).await?;
        let machine = self.machine_name.clone();
        let make = move |request| {
            SetPassword {
                request,
                user,
                machine,
                file,
            }
            .into()
        };
        match self.request(make).await {
            // That is how it goes well.
            Err(error) if error.code() == crate::Code::WAITING => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::unexpected()),
        }
    }
}

/// Does what takes long on a thread of its own.
async fn stretched<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Error::password),
        Err(_) => Err(Error::local(Reason::Cancelled, "the program is ending")),
    }
}
