//! Why something did not work.

use std::fmt;
use std::io;

use thiserror::Error;
use underpass_endpoint::{AttachError, ChannelError, ConnectError, ControlError};
use underpass_proto::code as table;
use underpass_seal::password::PasswordError;

use crate::code::Code;

/// Why something did not work: the variant says where, [`Error::code`] what to make of it.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or an argument has a value that cannot be used.
    #[error("{setting}: {reason} [{}]", Code::BAD_SETTING.name())]
    #[non_exhaustive]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The relay could not be attached to, or the attachment has ended.
    #[error("{0}")]
    Attach(Reason),
    /// The relay refused a request, or could not be asked.
    #[error("{0}")]
    Request(Reason),
    /// There is no session with the peer.
    #[error("{0}")]
    Connect(Reason),
    /// The peer refused, or the channel broke off.
    #[error("{0}")]
    Channel(Reason),
    /// A message did not come, is too large, or was cut short.
    #[error("{0}")]
    Message(Reason),
    /// [`Client::disconnect`](crate::Client::disconnect) was called before.
    #[error("this side has disconnected; attach again [{}]", Code::DISCONNECTED.name())]
    Disconnected,
}

/// What was said about a failure, and its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    code: Code,
    text: String,
}

impl Reason {
    /// The text ends with the code's name; where it comes from the other side it may have it already.
    fn new(code: table::Code, error: &impl fmt::Display) -> Self {
        let (code, mut text) = (Code::of_failure(code), error.to_string());
        if !text.contains(code.name()) {
            text += &format!(" [{}]", code.name());
        }
        Self { code, text }
    }

    fn of(code: table::Code) -> Self {
        Self::new(code, &code)
    }

    /// Where it stands in the table; never positive.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Where it stands in the table of codes; never positive.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Setting { .. } => Code::BAD_SETTING,
            Self::Attach(reason)
            | Self::Request(reason)
            | Self::Connect(reason)
            | Self::Channel(reason)
            | Self::Message(reason) => reason.code,
            Self::Disconnected => Code::DISCONNECTED,
        }
    }

    /// Whether the same may work later although nobody does anything about it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code().is_retryable()
    }

    /// The error inside one of IO, if it came from here.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(crate) fn setting(setting: &'static str, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        Self::Setting { setting, reason }
    }

    pub(crate) fn attach(error: &AttachError) -> Self {
        Self::Attach(Reason::new(error.code(), error))
    }

    pub(crate) fn request(error: &ControlError) -> Self {
        match error {
            ControlError::Attach(error) => Self::attach(error),
            ControlError::TooLong(_) => Self::setting("argument", error),
            error => Self::Request(Reason::new(error.code(), error)),
        }
    }

    /// The relay answered something else than was asked; it is of another version.
    pub(crate) fn unexpected() -> Self {
        let text = "the relay answered a request with something else; is it of another version?";
        Self::Request(Reason::new(table::Code::ProtocolViolation, &text))
    }

    pub(crate) fn password(error: PasswordError) -> Self {
        let code = match error {
            PasswordError::Wrong => table::Code::WrongPassword,
            PasswordError::Malformed => table::Code::ProtocolViolation,
            PasswordError::Length => return Self::setting("password", error),
            PasswordError::Memory => table::Code::Internal,
        };
        Self::Request(Reason::new(code, &error))
    }

    pub(crate) fn connect(error: &ConnectError) -> Self {
        match error {
            ConnectError::Attach(error) => Self::attach(error),
            error => Self::Connect(Reason::new(error.code(), error)),
        }
    }

    pub(crate) fn channel(error: &ChannelError) -> Self {
        Self::Channel(Reason::new(error.code(), error))
    }

    pub(crate) fn message(code: table::Code) -> Self {
        Self::Message(Reason::of(code))
    }

    /// The other side ended where it may not.
    pub(crate) fn cut_short() -> Self {
        let text = "the other side ended in the middle of a message";
        Self::Message(Reason::new(table::Code::ProtocolViolation, &text))
    }

    pub(crate) fn local(code: table::Code, text: &str) -> Self {
        Self::Request(Reason::new(code, &text))
    }
}

/// The kind is the one by which a program on the far side's own network would have learned it.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.code().io_kind(), error)
    }
}

/// What the inner layers say about a channel, as an error of this crate inside.
pub(crate) fn outward(error: io::Error) -> io::Error {
    match error.downcast::<ChannelError>() {
        Ok(inner) => io::Error::new(
            io::Error::from(inner.clone()).kind(),
            Error::channel(&inner),
        ),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_io_gives_back_what_is_inside() {
        let broken = outward(ChannelError::Reset(table::REFUSED).into());
        assert_eq!(broken.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(Error::of_io(&broken).map(Error::code), Some(Code::REFUSED));
        let other = outward(io::Error::other("something else"));
        assert!(Error::of_io(&other).is_none());
        let again = io::Error::from(Error::message(table::Code::NoMessage));
        assert_eq!(again.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn no_failure_looks_like_success() {
        let unproven = Error::channel(&ChannelError::Reset(table::NO_ERROR));
        assert_eq!(unproven.code(), Code::ABORTED);
        assert_eq!(
            outward(ChannelError::Reset(0).into()).kind(),
            io::ErrorKind::ConnectionAborted
        );
        assert!(Error::channel(&ChannelError::Reset(table::BUSY)).is_retryable());
    }

    #[test]
    fn each_text_names_its_code_once() {
        let all = [
            Error::channel(&ChannelError::Reset(table::REFUSED)),
            Error::channel(&ChannelError::Closed),
            Error::setting("relay", "missing"),
            Error::unexpected(),
            Error::Disconnected,
        ];
        for error in all {
            let (text, name) = (error.to_string(), error.code().name());
            assert_eq!(text.matches(name).count(), 1, "{text}");
        }
    }
}
