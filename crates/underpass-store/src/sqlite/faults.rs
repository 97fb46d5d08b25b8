//! What SQLite and sqlx report, as faults of the store.

use std::io;
use std::sync::Arc;

use super::Database;
use crate::{Cause, Fault, FaultKind};

/// SQLite's primary result codes (sqlite.org/rescode.html), the ones that say what is wrong.
mod code {
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const PERM: i32 = 3;
    pub(super) const AUTH: i32 = 23;
    pub(super) const NOTADB: i32 = 26;
}

/// Turns what the layer below reports into a fault that names the file.
pub(super) trait OrFault<T> {
    fn or_fault(self, database: &Database) -> Result<T, Fault>;
}

impl<T> OrFault<T> for Result<T, sqlx::Error> {
    fn or_fault(self, database: &Database) -> Result<T, Fault> {
        self.map_err(|error| fault(&database.place, error))
    }
}

impl Database {
    /// The fault of a row that this program could not have written.
    pub(super) fn unreadable(&self, what: impl Into<Cause>) -> Fault {
        Fault::new(&self.place, FaultKind::Corrupt, what)
    }
}

pub(super) fn fault(place: &Arc<str>, error: sqlx::Error) -> Fault {
    Fault::new(place, kind(&error), error)
}

pub(super) fn io_fault(place: &Arc<str>, error: io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => FaultKind::ReadOnly,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::Full,
        _ => FaultKind::Unreachable,
    };
    Fault::new(place, kind, error)
}

fn kind(error: &sqlx::Error) -> FaultKind {
    match error {
        sqlx::Error::Database(reported) => {
            let extended = reported.code().and_then(|code| code.parse::<i32>().ok());
            extended.map_or(FaultKind::Unexpected, |code| kind_of_code(code & 0xff))
        }
        sqlx::Error::PoolTimedOut => FaultKind::Busy,
        sqlx::Error::PoolClosed => FaultKind::Closed,
        sqlx::Error::Io(_) => FaultKind::Disk,
        // The file holds values of other types than the schema says.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => FaultKind::Corrupt,
        _ => FaultKind::Unexpected,
    }
}

fn kind_of_code(primary: i32) -> FaultKind {
    match primary {
        code::BUSY | code::LOCKED => FaultKind::Busy,
        code::READONLY => FaultKind::ReadOnly,
        code::IOERR => FaultKind::Disk,
        code::CORRUPT | code::NOTADB => FaultKind::Corrupt,
        code::FULL => FaultKind::Full,
        code::CANTOPEN | code::PERM | code::AUTH => FaultKind::Unreachable,
        _ => FaultKind::Unexpected,
    }
}
