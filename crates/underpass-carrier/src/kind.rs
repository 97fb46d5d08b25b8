//! The table of carriers, and what each entry states about itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::Carrier;
use crate::client::Client;
use crate::error::CarrierError;
use crate::front::{Exchange, Reply};

/// What a carrier needs from the path, and what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Both directions run at once in one connection, without requests.
    pub two_way_streaming: bool,
    /// Every box on the way must pass an HTTP `Upgrade` on.
    pub needs_upgrade: bool,
    /// Every box on the way must pass a response on while it is being sent.
    pub needs_response_streaming: bool,
    /// Every box on the way must pass a request body on while it is being sent.
    pub needs_request_streaming: bool,
    /// Works where a proxy holds each response until it is complete.
    pub survives_holding_proxy: bool,
    /// Works where a proxy may deliver a request twice.
    pub survives_repeated_requests: bool,
    /// Works where every connection is cut after some time or some requests.
    pub survives_cut_connections: bool,
    /// Works where a box on the way speaks HTTP/1.0 only: a length on each body, GET and POST at most.
    pub works_over_http10: bool,
    /// Every body is text, for boxes that refuse or change others.
    pub text_only: bool,
    /// HTTP/2 must be spoken from end to end, or from box to box.
    pub needs_http2: bool,
    /// UDP must pass. Such a carrier cannot go through an HTTP proxy.
    pub needs_udp: bool,
    /// The largest body that a limit on the way must let through, in bytes; none if there is no body
    /// or it never ends.
    pub largest_body: Option<usize>,
    /// Connections in use at a time, at most.
    pub connections: usize,
}

impl Abilities {
    /// Needs nothing and survives nothing: what a kind does not state.
    pub(crate) const NONE: Self = Self {
        two_way_streaming: false,
        needs_upgrade: false,
        needs_response_streaming: false,
        needs_request_streaming: false,
        survives_holding_proxy: false,
        survives_repeated_requests: false,
        survives_cut_connections: false,
        works_over_http10: false,
        text_only: false,
        needs_http2: false,
        needs_udp: false,
        largest_body: None,
        connections: 0,
    };

    /// Whether a proxy that only forwards requests is likely to stop it, so that a tunnel through the
    /// proxy is worth a try first.
    #[must_use]
    pub fn wants_tunnel(&self) -> bool {
        let Self {
            two_way_streaming,
            needs_upgrade,
            needs_request_streaming,
            needs_http2,
            ..
        } = self;
        *two_way_streaming || *needs_upgrade || *needs_request_streaming || *needs_http2
    }
}

pub(crate) type Connecting =
    Pin<Box<dyn Future<Output = Result<Carrier, CarrierError>> + Send + 'static>>;
pub(crate) type Serving = Pin<Box<dyn Future<Output = Reply> + Send + 'static>>;

/// One kind of carrier: its name, its abilities, and both its sides.
pub struct Kind {
    /// The name that people and URLs use.
    pub name: &'static str,
    /// What it needs and can do.
    pub abilities: Abilities,
    pub(crate) connect: fn(Arc<Client>) -> Connecting,
    pub(crate) serve: fn(Exchange) -> Serving,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            abilities,
            connect: _,
            serve: _,
        } = self;
        f.debug_struct("Kind")
            .field("name", name)
            .field("abilities", abilities)
            .finish_non_exhaustive()
    }
}

/// Every kind of carrier, the one to prefer first.
pub static KINDS: &[Kind] = &[
    crate::quic::KIND,
    crate::upgrade::KIND,
    crate::h2::KIND,
    crate::ws::KIND,
    crate::stream::KIND,
    crate::posts::KIND,
    crate::h2posts::KIND,
    crate::poll::KIND,
    crate::text::KIND,
];

/// The kind of this name.
#[must_use]
pub fn kind_by_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_into_a_path() {
        for (index, kind) in KINDS.iter().enumerate() {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(kind.name.bytes().all(plain) && kind.name.len() <= 16);
            let first = KINDS.iter().position(|other| other.name == kind.name);
            assert_eq!(first, Some(index), "{} stands twice", kind.name);
            assert_eq!(kind_by_name(kind.name).map(|k| k.name), Some(kind.name));
        }
        assert!(kind_by_name("carrier-pigeon").is_none());
    }
}
