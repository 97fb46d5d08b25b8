//! HTTP/1.1 of a service that lies behind an address which is not its own: a client names the local address where the agent
//! listens, and the server wants to hear its own name, and answers with it.
//!
//! The publisher's agent rewrites `Host`, and `Origin` and `Referer` where they name the client's address, in requests; and in
//! answers `Location` and `Content-Location` where they name the server, and cookies' `Domain`. Bodies pass untouched, and so
//! does everything after an upgrade. Heads are bounded; what could be read in two ways (RFC 9112 section 11.2) is refused, for
//! the server might read it in the other one.
//!
//! `head`, `body` and `rewrite` are pure.

mod body;
mod carry;
mod head;
mod rewrite;

use thiserror::Error;

pub(crate) use carry::carry;

/// What was said cannot be HTTP/1.1, or could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is not HTTP/1.1: {0}")]
pub(crate) struct Garbled(&'static str);
