//! Why something did not work.

use thiserror::Error;
use underpass_endpoint::{AttachError, ChannelError, ConnectError, ControlError};

/// The reason from the table of codes in `docs/errors.md`.
pub use underpass_proto::Code;

/// Why something did not work. [`Error::code`] tells what to make of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that cannot be used.
    #[error("{option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The relay could not be attached to, or the attachment has ended.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The relay refused a request, or could not be asked.
    #[error(transparent)]
    Request(#[from] ControlError),
    /// The relay answered something else than was asked; it is of another version.
    #[error("the relay answered a request with something else; is it of another version?")]
    Unexpected,
    /// There is no session with the service's publisher.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The service, or its publisher, refused.
    #[error(transparent)]
    Refused(#[from] ChannelError),
}

impl Error {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Option { .. } => Code::NameInvalid,
            Self::Attach(error) => error.code(),
            Self::Request(error) => error.code(),
            Self::Unexpected => Code::ProtocolViolation,
            Self::Connect(error) => error.code(),
            Self::Refused(error) => error.code(),
        }
    }

    /// Whether the same may work later although nobody does anything about it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code().retry_helps()
    }

    /// Whether the session ended while it was about to be used.
    pub(crate) fn is_session_end(&self) -> bool {
        matches!(self, Self::Refused(ChannelError::SessionClosed(_)))
    }
}
