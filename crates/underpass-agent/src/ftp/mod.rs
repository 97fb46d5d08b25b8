//! FTP, which breaks in a plain forward: its control connection names addresses for further ones (RFC 959, RFC 2428).
//!
//! Both agents read the control connection. The client's agent puts listeners of its own in the place of the ports that the
//! server opens, the publisher's agent puts its own in the place of those that the client opens. Each data connection is a
//! further channel of the same session, and leads to what was announced there and nowhere else: to a port of the server that
//! it named last, or to the address that the client named last, which must be its own (RFC 2577 section 3).
//!
//! A control connection under TLS cannot be read, so a request for TLS is answered with a refusal that says so: what passes
//! between the agents is sealed without it. `line`, `speech`, `near`, `far` and `asked` decide and are pure; `client` and
//! `server` drive them.

mod asked;
mod client;
mod far;
mod line;
mod near;
mod server;
mod speech;

use std::time::Duration;

use thiserror::Error;

pub(crate) use asked::Asked;
pub(crate) use client::{Door, Expected};
pub(crate) use server::{Announced, control, data};

/// How long a data connection that was announced is waited for. Servers wait for a minute by themselves (vsftpd's
/// `accept_timeout`).
const DATA_LIMIT: Duration = Duration::from_secs(90);

/// What was said cannot be FTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Garbled {
    /// A line that does not end.
    #[error("a line of more than {} bytes", line::MAX_LINE)]
    Line,
    /// The beginning of a TLS handshake.
    #[error("TLS from the first byte on")]
    Tls,
}

impl Garbled {
    /// The reason from the table of codes.
    pub(crate) fn code(self) -> underpass_proto::Code {
        match self {
            Self::Line => underpass_proto::Code::OtherProtocol,
            Self::Tls => underpass_proto::Code::FtpTls,
        }
    }
}
