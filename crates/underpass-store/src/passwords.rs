//! Passwords, and who comes in by them.
//!
//! The store keeps what the server's side of OPAQUE (RFC 9807) needs, and knows nothing of what it means.

use std::fmt;

use crate::{Fault, UserId};

/// Length of a password file in bytes.
pub const PASSWORD_FILE_LEN: usize = 192;
/// Length of the secret of logins by password in bytes.
pub const PASSWORD_SECRET_LEN: usize = 128;

/// What is kept of a user's password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordFile(pub [u8; PASSWORD_FILE_LEN]);

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordFile(..)")
    }
}

/// The secret of logins by password, which all relays on one store share.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordSecret(pub [u8; PASSWORD_SECRET_LEN]);

impl fmt::Debug for PasswordSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordSecret(..)")
    }
}

impl Drop for PasswordSecret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// A user's password file, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// The user, let in or not.
    pub user: UserId,
    /// The file.
    pub file: PasswordFile,
}

/// Why a new user was not registered. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// There is a user of this name.
    #[error("this user name is taken; choose another one")]
    NameTaken,
    /// As many users wait for approval as may.
    #[error("too many users wait for approval; ask a manager to decide about them")]
    TooManyWait,
    /// The machine's key is enrolled, or was and is revoked.
    #[error(
        "this machine's key is known already; log in with it, or make a new key if it was revoked"
    )]
    KeyKnown,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a machine was not enrolled under a user who had proven the password.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The user is gone.
    #[error("no such user")]
    NoSuchUser,
    /// The user waits for approval.
    #[error("this user waits for approval; ask a manager")]
    UserWaits,
    /// The user is disabled.
    #[error("this user is disabled; ask a manager")]
    UserDisabled,
    /// Another active machine of this user has the name.
    #[error("you have a machine of this name; choose another one, or revoke the old machine")]
    MachineNameTaken,
    /// The key is enrolled under somebody else, or was and is revoked.
    #[error(
        "this machine's key is known already; log in with it, or make a new key if it was revoked"
    )]
    KeyKnown,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a registration was not decided about.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// There is no user of that number; perhaps the registration was denied.
    #[error("no such user")]
    NoSuchUser,
    /// The user does not wait for approval.
    #[error("this user does not wait for approval; somebody has decided already")]
    Decided,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}
