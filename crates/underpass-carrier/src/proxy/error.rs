//! What goes wrong between this machine and a proxy.

use underpass_proto::code::Code;

/// Why a proxy did not help. No variant holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// No connection to the proxy itself.
    #[error("cannot reach the proxy {proxy}: {reason}")]
    Unreachable {
        /// The proxy, without credentials.
        proxy: String,
        /// The system's words.
        reason: String,
    },
    /// The proxy wants to know who asks, and there is nothing to tell it.
    #[error("the proxy {proxy} wants credentials (it offers {offered}), and there are none for it")]
    NeedsCredentials {
        /// The proxy.
        proxy: String,
        /// The schemes that it offers.
        offered: String,
    },
    /// The proxy knows the user not, or not with this password.
    #[error("the proxy {proxy} does not accept the credentials given for it (by {scheme})")]
    WrongCredentials {
        /// The proxy.
        proxy: String,
        /// The scheme in which they were shown.
        scheme: &'static str,
    },
    /// Nothing of what the proxy offers can be done here.
    #[error("the proxy {proxy} offers {offered} only, which cannot be used: {reason}")]
    NoScheme {
        /// The proxy.
        proxy: String,
        /// The schemes that it offers.
        offered: String,
        /// Why none of them can be used.
        reason: String,
    },
    /// The proxy does not let connections to this host and port through.
    #[error("the proxy {proxy} refuses connections to {target} (HTTP status {status})")]
    Refused {
        /// The proxy.
        proxy: String,
        /// Host and port of the relay.
        target: String,
        /// The HTTP status, or the code of SOCKS.
        status: u16,
    },
    /// The proxy tried, and did not reach the relay.
    #[error("the proxy {proxy} cannot reach {target} (status {status})")]
    Beyond {
        /// The proxy.
        proxy: String,
        /// Host and port of the relay.
        target: String,
        /// The HTTP status, or the code of SOCKS.
        status: u16,
    },
    /// What the proxy says is not what a proxy says.
    #[error("the proxy {proxy} does not speak as a proxy does: {reason}")]
    Broken {
        /// The proxy.
        proxy: String,
        /// What was seen.
        reason: String,
    },
    /// The PAC file does not tell a way.
    #[error("the PAC file {place} cannot be used: {reason}")]
    Pac {
        /// Where it is, without credentials.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

impl ProxyError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::ProxyUnreachable,
            Self::NeedsCredentials { .. } | Self::NoScheme { .. } => Code::ProxyNeedsCredentials,
            Self::WrongCredentials { .. } => Code::ProxyWrongCredentials,
            Self::Refused { .. } => Code::ProxyRefused,
            Self::Beyond { .. } => Code::ProxyCannotReach,
            Self::Broken { .. } => Code::ProxyUnreachable,
            Self::Pac { .. } => Code::PacUnusable,
        }
    }

    /// Whether another of several proxies may do where this one does not.
    pub(crate) fn another_may_do(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken { .. })
    }
}
