//! What can go wrong with the store itself, as opposed to what its rules refuse.

use std::fmt;
use std::sync::Arc;

/// The lower-level error behind a [`Fault`].
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The store could not do its work: a failing disk, a damaged file, an unreachable server.
///
/// Whoever asks the store for a permission and gets a fault must refuse (closed by default).
/// The text names the place and the next step; the cause is the error's source, not its text.
#[derive(Debug, thiserror::Error)]
#[error("the store {place} {kind}")]
pub struct Fault {
    /// File or server that failed.
    pub place: Arc<str>,
    /// What is wrong, with a stable meaning.
    pub kind: FaultKind,
    /// What the layer below said.
    #[source]
    pub cause: Cause,
}

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// It can be read but not written.
    ReadOnly,
    /// No space left on the disk, or a quota is reached.
    Full,
    /// Content that cannot be understood: damaged, or no database at all.
    Corrupt,
    /// Another process held it for longer than the store waits.
    Busy,
    /// It cannot be opened or reached.
    Unreachable,
    /// The disk reported an error.
    Disk,
    /// It has been closed, as at the end of the process.
    Closed,
    /// Anything else: most likely a defect of this program.
    Unexpected,
}

impl FaultKind {
    /// Whether the same call may succeed later with nobody doing anything about it.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Unreachable)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => {
                "cannot be written; check owner and mode of the file and of its folder, and \
                 whether the disk is mounted read-only"
            }
            Self::Full => "has no space left; free some on its disk, then try again",
            Self::Corrupt => {
                "is damaged or is no Underpass database; stop the relay, keep a copy of the file, \
                 and restore it from a backup"
            }
            Self::Busy => {
                "is held by another process for too long; try again, and see which process has \
                 the file open"
            }
            Self::Unreachable => {
                "cannot be opened; check that its folder exists and that this user may enter it"
            }
            Self::Disk => {
                "cannot be used because its disk reports an error; see the system's log, and put \
                 the data folder on a healthy local disk"
            }
            Self::Closed => "is closed already, because the relay is stopping",
            Self::Unexpected => {
                "failed in a way that should not happen; please report it with the cause below"
            }
        })
    }
}

impl Fault {
    pub(crate) fn new(place: &Arc<str>, kind: FaultKind, cause: impl Into<Cause>) -> Self {
        Self {
            place: Arc::clone(place),
            kind,
            cause: cause.into(),
        }
    }
}
