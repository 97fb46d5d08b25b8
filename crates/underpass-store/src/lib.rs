//! What a relay must remember: users, machines, one-time codes, services, access lists, events.
//!
//! Everything goes through one trait, [`Store`]. [`SqliteStore`] keeps it in one file of the
//! relay's data folder; another database is another implementation of the same trait, and runs
//! the same conformance suite. What must stay out of a database, such as the relay's own
//! identity, is a file that [`DataFolder`] creates and reads.
//!
//! Rules that hold for every implementation:
//!
//! - **No clock, no randomness.** Every moment is a [`UnixMillis`] argument, every key and code
//!   is made by the caller. One-time codes arrive as the SHA-256 of the code ([`CodeDigest`]),
//!   so a copied database opens no door.
//! - **Closed by default.** A service is usable by its owner and by whom its access list allows;
//!   a disabled user or a revoked machine is nobody.
//! - **One winner.** Each method is one transaction: two callers that race, in one process or in
//!   two, see one success and one stated refusal.
//! - **Refusals are not faults.** Each operation has an error enum of its own for what the rules
//!   forbid; a failing disk or database is the [`Fault`] inside it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod data_folder;
mod enrolment;
mod events;
mod fault;
mod machines;
mod name;
mod passwords;
mod services;
mod sqlite;
mod store;
mod time;
mod usage;
mod users;

pub use data_folder::{DataFolder, DataFolderError, SECRET_LEN};
pub use enrolment::{
    CODE_DIGEST_LEN, CodeDigest, Enrolled, Invitation, InvitationId, InviteError, NewInvitation,
    NewMachine, RedeemError, SetupCodeError,
};
pub use events::{
    AppendError, Event, EventField, EventFilter, EventId, EventRetention, MAX_EVENT_ADDRESS,
    MAX_EVENT_DETAILS, MAX_EVENT_KIND, MAX_EVENT_NAME, NewEvent,
};
pub use fault::{Cause, Fault, FaultKind};
pub use machines::{
    MACHINE_KEY_LEN, Machine, MachineId, MachineKey, MachineKind, MachineState, NewCertificate,
    RevokeError, TokenError,
};
pub use name::{MAX_NAME_LEN, Name, NameError, ServiceRef, ServiceRefError};
pub use passwords::{
    DecideError, EnrolError, PASSWORD_FILE_LEN, PASSWORD_SECRET_LEN, Password, PasswordFile,
    PasswordSecret, RegisterError,
};
pub use services::{
    Access, AccessEntry, AccessError, Caller, MAX_SERVICE_KEY_LEN, MIN_SERVICE_KEY_LEN, NewService,
    PublishError, Published, Publishing, ResolveError, Service, ServiceDecisionError, ServiceId,
    ServiceKey, ServiceKeyError, ServiceState, Who,
};
pub use sqlite::{OpenError, SqliteStore};
pub use store::{Store, StoreFuture};
pub use time::UnixMillis;
pub use usage::{Day, EndedSession, LimitException, NewUsage, UsageFilter, UsageKey, Used};
pub use users::{Role, UnknownWord, User, UserChangeError, UserId, UserState};
