//! Ways to move bytes between an Underpass agent and a relay over HTTP.
//!
//! A *carrier* is a reliable, ordered, two-way stream of bytes for as long as it lives. What it was
//! made of (one upgraded connection, a pair of streaming bodies, numbered requests) does not show
//! above this crate: a [`Carrier`] is a [`Sink`] and a [`Source`] of byte chunks, whose boundaries
//! mean nothing. Framing, encryption, keepalives and what happens when a carrier dies belong to the
//! session (`underpass-proto`) and its driver (`underpass-endpoint`).

pub mod answers;
mod authority;
mod body;
mod certificate;
mod client;
mod coding;
mod dates;
mod dial;
mod doors;
mod error;
mod front;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod h2;
mod h2posts;
mod http2;
mod inbox;
mod kind;
pub mod ladder;
mod listen;
mod memory;
pub mod mutual;
mod pipe;
mod poll;
mod portal;
mod posting;
mod posts;
pub mod probe;
pub mod proxy;
mod quic;
mod quic_listen;
mod quic_stream;
pub mod request;
mod server;
mod sizing;
mod sources;
pub mod span;
mod stall;
mod stream;
mod streams;
mod text;
mod tls;
mod upgrade;
pub mod uplink;
mod url;
pub mod window;
mod ws;
pub mod x509;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;

pub use body::BodyError;
pub use client::{ClientSettings, DEFAULT_MEDIA_TYPE, connect};
pub use doors::Doors;
pub use error::CarrierError;
pub use front::{ConnectedPeer, Fallback, NotFound, Page};
pub use kind::{Abilities, KINDS, Kind, kind_by_name};
pub use listen::listen;
pub use memory::{PathBounds, PathMemory};
pub use proxy::opening::ProxyUse;
pub use request::IdPlace;
pub use server::{Listen, Server, ServerError, ServerSettings};
pub use sources::{OfSource, SourceLimit, Sources, Watcher, source_of};
pub use tls::{
    Fingerprint, IdentityError, TlsIdentity, TlsInfo, TlsRoots, TlsTrust, UntrustedCertificate,
    show_fingerprint,
};
pub use url::{RelayUrl, RelayUrlError, Scheme};

/// One live carrier.
pub struct Carrier {
    /// Where bytes to the other side go.
    pub sink: Box<dyn Sink>,
    /// Where bytes from the other side come from.
    pub source: Box<dyn Source>,
    /// What is known about it, for `status` and the log.
    pub info: CarrierInfo,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            sink: _,
            source: _,
            info,
        } = self;
        f.debug_struct("Carrier")
            .field("info", info)
            .finish_non_exhaustive()
    }
}

/// What is known about a carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierInfo {
    /// The name of its kind.
    pub carrier: &'static str,
    /// Plain HTTP or TLS.
    pub scheme: Scheme,
    /// The TCP address at the other end of the connection it began on: the relay, or a box on the way.
    pub peer: Option<SocketAddr>,
    /// Our own address there.
    pub local: Option<SocketAddr>,
    /// What TLS agreed on, for `https`.
    pub tls: Option<TlsInfo>,
    /// The proxy that it passes, and how.
    pub proxy: Option<ProxyUse>,
}

/// The sending half of a carrier.
pub trait Sink: Send + 'static {
    /// Takes bytes from the front of `queue`, as many as fit without buffering more than the kernel
    /// or one request needs. Ready means that at least one byte was taken (or `queue` was empty).
    /// A chunk that was taken in part is left at the front with its rest. What was taken may be gathered with
    /// what comes next until [`Sink::poll_flush`] is asked for, though never for longer than the path needs to
    /// answer.
    ///
    /// # Errors
    /// The carrier is dead; what it had taken may or may not arrive.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>>;

    /// Ready when everything taken was handed to the network.
    ///
    /// # Errors
    /// As for [`Sink::poll_send`].
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>>;

    /// Flushes, then tells the other side that nothing more will come. Dropping a sink without this
    /// is an abrupt end.
    ///
    /// # Errors
    /// As for [`Sink::poll_send`].
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>>;
}

/// The receiving half of a carrier.
pub trait Source: Send + 'static {
    /// The next chunk. `None` is the other side's orderly end; every other end is an error.
    ///
    /// # Errors
    /// The carrier is dead.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>>;
}
