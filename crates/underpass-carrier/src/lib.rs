//! Ways to move bytes between an Underpass agent and a relay over HTTP.
//!
//! A *carrier* is a reliable, ordered, two-way stream of bytes for as long as it lives. What it was
//! made of (one upgraded connection, a pair of streaming bodies, numbered requests) does not show
//! above this crate: a [`Carrier`] is a [`Sink`] and a [`Source`] of byte chunks, whose boundaries
//! mean nothing. Framing, encryption, keepalives and what happens when a carrier dies belong to the
//! session (`underpass-proto`) and its driver (`underpass-endpoint`).

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;

/// One live carrier.
pub struct Carrier {
    /// Where bytes to the other side go.
    pub sink: Box<dyn Sink>,
    /// Where bytes from the other side come from.
    pub source: Box<dyn Source>,
    /// What is known about it, for `status` and the log.
    pub info: CarrierInfo,
}

/// The sending half of a carrier.
pub trait Sink: Send + 'static {
    /// Takes bytes from the front of `queue`, as many as fit without buffering more than the kernel
    /// or one request needs. Ready means that at least one byte was taken (or `queue` was empty).
    /// A chunk that was taken in part is left at the front with its rest.
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
