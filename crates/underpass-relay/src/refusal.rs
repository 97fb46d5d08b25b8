//! Why a peer does not get what it asked for.

use std::fmt;

use underpass_proto::Code;
use underpass_proto::limit::LimitKind;

/// A code from the table and the sentence that goes with it, as they are sent to the peer.
///
/// The text is for people at the other end: it never tells of files, addresses or other users of
/// this relay. What the relay's manager should know goes to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What a program acts upon.
    pub code: Code,
    /// What a person reads.
    pub text: String,
}

impl Refusal {
    /// A refusal in words of its own.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// A refusal in the words of the table.
    #[must_use]
    pub fn of(code: Code) -> Self {
        Self::new(code, code.to_string())
    }

    /// Whether it is because a limit was reached.
    pub(crate) fn is_limit(&self) -> bool {
        matches!(
            self.code,
            Code::Busy
                | Code::TooManyAttempts
                | Code::AttachmentLimit
                | Code::SessionLimit
                | Code::ChannelLimit
                | Code::MonthLimit
        )
    }

    /// A refusal that says which limit of a user was reached, how much that is, and who can raise it.
    #[must_use]
    pub fn of_limit(kind: LimitKind, most: u64) -> Self {
        let code = kind.refusal().unwrap_or(Code::Busy);
        let next = code.explain().next;
        Self::new(
            code,
            format!(
                "the limit of this user is reached: {most} {}; {next}",
                kind.what()
            ),
        )
    }

    /// A refusal that says which of the relay's limits was reached.
    #[must_use]
    pub fn busy(limit: &str) -> Self {
        let next = Code::Busy.explain().next;
        Self::new(
            Code::Busy,
            format!("the relay's limit is reached: {limit}; {next}"),
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
