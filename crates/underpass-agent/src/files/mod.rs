//! Files from user to user: sealed once for all receivers, resumed where they broke off, never in the place of another file.
//!
//! A machine that [takes](Inbox) files publishes [`FILES_SERVICE`] of its owner; [`send`] opens a channel to that of each
//! receiver. What they say to each other stands in [`underpass_proto::transfer`]. Disks are read and written on threads of
//! their own.

mod body;
mod claims;
mod extent;
mod inbox;
mod job;
mod line;
mod lines;
mod offer;
mod place;
mod report;
mod sealing;
mod send;
mod source;
mod take;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;
use thiserror::Error;
use underpass_endpoint::ChannelError;
use underpass_proto::transfer::{Entry, EntryKind};
use underpass_proto::{Code, DecodeError, code};
use underpass_seal::age::AgeError;
use underpass_seal::{Sha256, sha256};

pub use inbox::{Inbox, Visit};
pub use line::Line;
pub use lines::{Lines, ServiceLines};
pub use report::{ReceiverEnd, Report, Sending};
pub use send::{Settings, send};
pub use source::{Source, Sources};
pub use take::{Arrival, Received};
pub use underpass_proto::transfer::FILES_SERVICE;

/// A SHA-256.
pub type Digest = [u8; 32];

/// Why a file, or a transfer, did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Trouble {
    /// The reason from the table of codes.
    pub code: Code,
    /// In words.
    pub text: String,
}

impl Trouble {
    /// For this reason, in the words of the table.
    #[must_use]
    pub fn of(code: Code) -> Self {
        let text = code.explain().what.to_owned();
        Self { code, text }
    }

    /// For this reason, in words of its own.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// What another side said.
    fn said(number: u64, text: &str) -> Self {
        let code = Code::from_number(number).unwrap_or(Code::Internal);
        let text = match text {
            "" => code::describe(number),
            text => text.to_owned(),
        };
        Self { code, text }
    }

    /// A file on this machine cannot be used.
    fn of_disk(error: &io::Error, what: &str) -> Self {
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Code::DiskFull,
            Kind::AlreadyExists | Kind::IsADirectory => Code::FileExists,
            // A link, or a file, where a folder should be.
            Kind::NotADirectory => Code::PathRefused,
            _ if Errno::from_io_error(error) == Some(Errno::LOOP) => Code::PathRefused,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Code::Denied,
            Kind::WouldBlock => Code::Busy,
            Kind::UnexpectedEof | Kind::NotFound => Code::FileChanged,
            _ => Code::Internal,
        };
        Self::new(code, format!("{what}: {error}"))
    }
}

/// Why a transfer ended before its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The connection broke off.
    #[error("the connection broke off: {0}")]
    Line(#[from] io::Error),
    /// What the other side says cannot be read.
    #[error("the other side cannot be understood: {0}")]
    Decode(#[from] DecodeError),
    /// What was sealed cannot be opened.
    #[error(transparent)]
    Sealed(#[from] AgeError),
    /// The other side said something at the wrong time.
    #[error("the other side spoke out of turn: {0}")]
    Turn(&'static str),
    /// Something is in the way, here or there.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

impl FilesError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Line(error) => of_line(error),
            Self::Decode(_) | Self::Turn(_) => Code::ProtocolViolation,
            Self::Sealed(_) => Code::Checksum,
            Self::Trouble(trouble) => trouble.code,
        }
    }
}

impl From<FilesError> for Trouble {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Trouble(trouble) => trouble,
            error => Self::new(error.code(), error.to_string()),
        }
    }
}

fn of_line(error: &io::Error) -> Code {
    let inner = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<ChannelError>());
    match inner.map(ChannelError::code) {
        Some(Code::NoError) => Code::Aborted,
        Some(code) => code,
        None => Code::of_io(error.kind()),
    }
}

/// How far a transfer is, for whoever wants to look now and then. Bytes count with the holes.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    open: AtomicBool,
}

impl Progress {
    /// Bytes that were sent or received, and those that there are, if that is known.
    #[must_use]
    pub fn so_far(&self) -> (u64, Option<u64>) {
        let total = self.total.load(Ordering::Relaxed);
        let known = !self.open.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed), known.then_some(total))
    }

    fn expect(&self, entries: &[Entry]) {
        let total = entries.iter().map(|it| it.size).sum();
        self.total.store(total, Ordering::Relaxed);
        let open = entries.iter().any(|it| it.kind == EntryKind::Open);
        self.open.store(open, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One digest of several files: SHA-256 over `HEX  PATH\n` of each, which is what `sha256sum FILE... | sha256sum` says.
fn digest_of_all<'a>(files: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let mut all = Sha256::default();
    for (path, digest) in files {
        all.update(format!("{}  {path}\n", hex(&digest)).as_bytes());
    }
    all.digest()
}

/// A digest as `sha256sum` shows it.
#[must_use]
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file is called until all of it is there.
fn part_name(name: &str) -> String {
    underpass_proto::transfer::path::part_name(name, |name| sha256(&[name]))
}
