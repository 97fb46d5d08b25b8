//! Why a carrier could not be made, or ended.

use std::io;
use std::time::Duration;

use underpass_proto::code::Code;

use crate::proxy::ProxyError;
use crate::tls::UntrustedCertificate;

/// Why a carrier could not be made, or why it died.
///
/// Cloneable, because both halves of a carrier report the same death.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierError {
    /// A setting cannot be used (for example a header value, or a TLS root store that does not load).
    #[error("unusable setting: {reason}")]
    Setting {
        /// What is wrong with it.
        reason: String,
    },
    /// The host's name could not be resolved.
    #[error("cannot resolve {host}: {reason}; is the name right, and is there a DNS server here?")]
    Resolve {
        /// The name that was looked up.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No TCP connection to the relay could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Host and port.
        address: String,
        /// The system's answer, so that a caller can tell refused from unreachable.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// The TLS handshake failed, or the certificate is not the one that was pinned.
    #[error("TLS with {address} failed: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// What the TLS library said.
        reason: String,
    },
    /// The certificate is neither the pinned one nor signed by anybody who is trusted.
    #[error(transparent)]
    Certificate(Box<UntrustedCertificate>),
    /// The way through a proxy is barred.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A web page answers in the relay's place.
    #[error(
        "a web page answers in the relay's place (HTTP status {status}{})",
        .to.as_ref().map(|to| format!(", which leads to {to}")).unwrap_or_default()
    )]
    Portal {
        /// The HTTP status code.
        status: u16,
        /// Where it sends to.
        to: Option<String>,
    },
    /// Something did not happen in time.
    #[error("{what} took longer than {after:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The relay, or a box on the way, answered with an HTTP status that ends the carrier.
    #[error("refused with HTTP status {status} ({what})")]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// The request that was refused.
        what: &'static str,
    },
    /// The relay itself says that it has no room for another carrier, of whatever kind.
    #[error("the relay is busy: it takes no further carrier at the moment")]
    Busy,
    /// The carrier ended without the orderly end of its stream.
    #[error("the carrier broke: {reason}")]
    ClosedAbruptly {
        /// What was seen.
        reason: String,
    },
    /// Bytes came that the carrier's rules do not allow; something on the way alters the traffic,
    /// or the other side is not a relay.
    #[error("the other side broke the carrier's rules: {reason}")]
    Protocol {
        /// Which rule.
        reason: String,
    },
    /// The carrier was used after its end.
    #[error("the carrier is closed")]
    Closed,
}

impl CarrierError {
    /// A short word that never changes, for logs and for telling kinds of failure apart.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "setting",
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Certificate(_) => "certificate",
            Self::Proxy(_) => "proxy",
            Self::Portal { .. } => "portal",
            Self::TimedOut { .. } => "timed-out",
            Self::Refused { .. } => "refused",
            Self::Busy => "busy",
            Self::ClosedAbruptly { .. } => "broken",
            Self::Protocol { .. } => "protocol",
            Self::Closed => "closed",
        }
    }

    /// Whether the relay's host was not reached at all, or not let near: any other carrier would meet
    /// the same.
    #[must_use]
    pub fn is_about_the_host(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Certificate(_)
            | Self::Portal { .. } => true,
            // Other carriers send requests, which a proxy may forward all the same.
            Self::Proxy(error) => !matches!(error, ProxyError::Refused { .. }),
            _ => false,
        }
    }

    /// The reason from the table of codes, where it is one that people can do something about.
    #[must_use]
    pub fn reason(&self) -> Option<Code> {
        match self {
            Self::Proxy(error) => Some(error.code()),
            Self::Portal { .. } => Some(Code::Portal),
            Self::Certificate(_) => Some(Code::Certificate),
            _ => None,
        }
    }

    /// Whether another proxy, or none, may do where this way to the relay failed.
    pub(crate) fn another_route_may_do(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::TimedOut { .. } => true,
            Self::Proxy(error) => error.another_may_do(),
            _ => false,
        }
    }

    pub(crate) fn broken(reason: impl std::fmt::Display) -> Self {
        Self::ClosedAbruptly {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn protocol(reason: impl Into<String>) -> Self {
        Self::Protocol {
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(reason: impl std::fmt::Display) -> Self {
        Self::Setting {
            reason: reason.to_string(),
        }
    }
}

impl From<io::Error> for CarrierError {
    fn from(error: io::Error) -> Self {
        Self::broken(error)
    }
}

impl From<hyper::Error> for CarrierError {
    fn from(error: hyper::Error) -> Self {
        // Hyper's own text names the step only; the cause stands in its source.
        match std::error::Error::source(&error) {
            Some(source) => Self::broken(format_args!("{error}: {source}")),
            None => Self::broken(error),
        }
    }
}
