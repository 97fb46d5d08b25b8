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
