//! The ticket authority: who gives out and checks first tickets.
//!
//! It stands behind one trait, so that a relay can have its own ([`InStore`]) or share one with
//! others: [`Remote`] asks an [`AuthorityProcess`]. What a ticket is, and when it is good,
//! `underpass_proto::ticket` decides; what the two say to each other, `underpass_proto::authority`.

mod address;
mod asking;
mod in_store;
mod process;
mod remote;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, ReadHalf};
use underpass_carrier::mutual::MutualStream;
use underpass_proto::ticket::{Claim, Handle, NotGood, Ticket};

pub use address::{AuthorityAddress, AuthorityAddressError};
pub use in_store::InStore;
pub use process::{AuthorityHandle, AuthorityProcess, ProcessError, ProcessSettings};
pub use remote::Remote;

/// What TLS calls the protocol between a relay and its authority; versions are told inside.
const ALPN: &[u8] = b"underpass-authority";

/// Reads more of what the other side says; 0 at the end. One that is killed says no farewell, which is no error:
/// messages tell their lengths.
async fn read_more(reader: &mut ReadHalf<MutualStream>, buf: &mut BytesMut) -> io::Result<usize> {
    match reader.read_buf(buf).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

/// What the methods of [`Authority`] return.
pub type AuthorityFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, AuthorityError>> + Send + 'a>>;

/// How often a relay renews the tickets of its open routes: less than half of what they last longer
/// than their sessions.
pub const RENEW_EVERY: Duration =
    Duration::from_secs(underpass_proto::ticket::MARGIN.as_secs() / 3);

/// Why there is no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The ticket is no good. The asker is told no more than that.
    #[error(transparent)]
    NotGood(#[from] NotGood),
    /// The authority, or its store, does not answer: nobody new is let in, and agents try again.
    #[error("the ticket authority cannot be reached: {0}")]
    Unreachable(String),
}

/// A ticket for a client.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The ticket.
    pub ticket: Ticket,
    /// What deletes it.
    pub handle: Handle,
    /// How long it is good for, unless it is renewed.
    pub lifetime: Duration,
    /// Where the far endpoint is.
    pub far: Vec<u8>,
}

/// Gives out and checks first tickets.
///
/// Every method can fail with [`AuthorityError::Unreachable`]; nothing is let in then.
pub trait Authority: fmt::Debug + Send + Sync + 'static {
    /// A first ticket for a session. `far` says where its far endpoint is, in words that all relays
    /// of the authority understand; at most 64 bytes.
    fn issue(&self, claim: Claim, far: Vec<u8>, keep: Duration) -> AuthorityFuture<'_, Granted>;

    /// Checks a ticket; where it is good, the one after it comes back.
    ///
    /// # Errors
    /// [`AuthorityError::NotGood`].
    fn check(&self, claim: Claim, ticket: Ticket) -> AuthorityFuture<'_, Granted>;

    /// The sessions of these tickets have a path: they last as long as new ones.
    fn renew(&self, handles: Vec<Handle>) -> AuthorityFuture<'_, ()>;

    /// Deletes a ticket; one that is gone already is no error.
    fn forget(&self, handle: Handle) -> AuthorityFuture<'_, ()>;
}
