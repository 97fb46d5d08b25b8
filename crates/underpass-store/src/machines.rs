//! Machines: the keys by which users are known.

use std::fmt;
use std::str::FromStr;

use crate::users::words;
use crate::{Fault, Name, UnixMillis, UserId};

/// Length of a machine's public key in bytes (X25519, RFC 7748 §5).
pub const MACHINE_KEY_LEN: usize = 32;

/// Number of a machine, never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub i64);

/// A machine's public key: the static key of its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineKey(pub [u8; MACHINE_KEY_LEN]);

/// Whether a machine's key is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineState {
    /// Accepted while its user is.
    Active,
    /// Refused for good: a revoked key is never accepted again.
    Revoked,
}

words!(MachineState {
    MachineState::Active => "active",
    MachineState::Revoked => "revoked",
} "active, revoked");

/// What holds a machine's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineKind {
    /// An agent.
    Agent,
    /// A token of a bare HTTP client, which the relay turns into the key while it serves that client.
    Token,
}

words!(MachineKind {
    MachineKind::Agent => "agent",
    MachineKind::Token => "token",
} "agent, token");

/// A machine enrolled under a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Number of the machine.
    pub id: MachineId,
    /// Its public key, unique in the relay for ever.
    pub key: MachineKey,
    /// Its name, unique among the active machines of its user.
    pub name: Name,
    /// The user it belongs to.
    pub user: UserId,
    /// Whether its key is accepted.
    pub state: MachineState,
    /// When it was enrolled.
    pub enrolled: UnixMillis,
    /// When it was last seen, if ever.
    pub last_seen: Option<UnixMillis>,
    /// What holds its key.
    pub kind: MachineKind,
    /// From when on its key is refused; `None` for never.
    pub expires: Option<UnixMillis>,
}

/// An X.509 certificate by which a machine is let in. The store knows nothing of what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCertificate {
    /// What is checked again at each attach; at most 65,536 bytes.
    pub chain: Vec<u8>,
    /// From when on the machine's key is refused.
    pub expires: UnixMillis,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no such user.
    #[error("no such user")]
    NoSuchUser,
    /// The user is disabled.
    #[error("this user is disabled; enable them first")]
    UserDisabled,
    /// Another active machine or token of this user has the name.
    #[error("a machine or token of this name exists; choose another one, or revoke the old one")]
    NameTaken,
    /// The key is known already, and not as this token.
    #[error("this key is known already; draw another token")]
    KeyKnown,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a machine was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// There is no machine of that number.
    #[error("no such machine")]
    NoSuchMachine,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}
