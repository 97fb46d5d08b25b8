//! One-time codes, and how machines come in by them.

use std::fmt;

use crate::{Fault, Machine, MachineKey, Name, UnixMillis, User, UserId};

/// Length of a code's digest in bytes (SHA-256, FIPS 180-4).
pub const CODE_DIGEST_LEN: usize = 32;

/// SHA-256 of a one-time code.
///
/// A plain hash is enough because codes are 128 random bits: nobody can try them all.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeDigest(pub [u8; CODE_DIGEST_LEN]);

impl fmt::Debug for CodeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeDigest(..)")
    }
}

/// A machine that asks to be enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMachine {
    /// Its name, which must be free among the active machines of its user.
    pub name: Name,
    /// Its public key, which its handshake has proved.
    pub key: MachineKey,
}

/// A machine together with its user: what a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The user.
    pub user: User,
    /// The machine.
    pub machine: Machine,
}

impl Enrolled {
    /// The same as one who wants to use services.
    #[must_use]
    pub fn caller(&self) -> crate::Caller {
        crate::Caller {
            user: self.user.id,
            machine: self.machine.id,
        }
    }

    /// Whether this machine is let in: its key not revoked, its user not disabled. Ask
    /// [`Enrolled::is_admitted_at`] where its key may have expired.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.machine.state == crate::MachineState::Active
            && self.user.state == crate::UserState::Active
    }

    /// Whether this machine is let in at `at`: as [`Enrolled::is_admitted`], and not expired.
    #[must_use]
    pub fn is_admitted_at(&self, at: UnixMillis) -> bool {
        self.is_admitted() && self.machine.expires.is_none_or(|expires| at < expires)
    }
}

/// Number of an invitation, never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvitationId(pub i64);

/// An invitation to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvitation {
    /// Hash of its code.
    pub digest: CodeDigest,
    /// Whom it is for: an existing user, or one that redeeming it will create.
    pub user: Name,
    /// Who makes it. Whether that user may is for the caller to decide.
    pub made_by: UserId,
    /// When it is made.
    pub made_at: UnixMillis,
    /// From when on it is refused.
    pub expires_at: UnixMillis,
}

/// An invitation as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Number of the invitation.
    pub id: InvitationId,
    /// Whom it is for.
    pub user: Name,
    /// Who made it.
    pub made_by: UserId,
    /// When it was made.
    pub made_at: UnixMillis,
    /// From when on it is refused.
    pub expires_at: UnixMillis,
    /// When it was redeemed, if it was.
    pub used_at: Option<UnixMillis>,
}

/// Why no setup code was set.
#[derive(Debug, thiserror::Error)]
pub enum SetupCodeError {
    /// Somebody has set this relay up already.
    #[error("this relay has an administrator already; ask them for an invitation")]
    AdministratorExists,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why an invitation was not made.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The user who makes it does not exist or is disabled.
    #[error("only an active user of this relay can invite")]
    InviterUnknown,
    /// The invited user exists and is disabled.
    #[error("this user is disabled; enable them first")]
    UserDisabled,
    /// The invited user has registered and waits for approval.
    #[error("this user waits for approval; approve or deny that first")]
    UserWaits,
    /// Another invitation has the same code.
    #[error("this code is in use already; make another one")]
    CodeInUse,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a one-time code was refused. Nothing has changed then, and the code is not spent.
///
/// The first four tell a stranger which codes exist or existed; the caller decides how much of
/// that to show.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// No such code.
    #[error("unknown code; check for typing errors")]
    UnknownCode,
    /// The code was used before, by another machine.
    #[error("this code has been used already; ask for a new one")]
    Used,
    /// The code came too late.
    #[error("this code has expired; ask for a new one")]
    Expired,
    /// The user who made the invitation has been disabled since.
    #[error("the user who made this invitation is disabled; ask somebody else for a new one")]
    InviterDisabled,
    /// The relay has an administrator, so a setup code is worth nothing.
    #[error("this relay has an administrator already; ask them for an invitation")]
    AdministratorExists,
    /// The invited user is disabled.
    #[error("this user is disabled; ask an administrator")]
    UserDisabled,
    /// Somebody has registered under the invited name since, and waits for approval.
    #[error("a user of this name waits for approval; ask a manager")]
    UserWaits,
    /// A user of the name that the first administrator wants exists.
    #[error("this user name is taken; choose another one")]
    UserNameTaken,
    /// Another active machine of this user has the name.
    #[error("you have a machine of this name; choose another one, or revoke the old machine")]
    MachineNameTaken,
    /// The key is enrolled, or was and is revoked.
    #[error(
        "this machine's key is known already; log in with it, or make a new key if it was revoked"
    )]
    KeyKnown,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}
