//! Opening the file: making it, bringing its schema up to date, refusing what is not ours.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::faults::{fault, io_fault};
use super::{Database, SqliteStore};
use crate::{Fault, FaultKind};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How long a writer waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for its turn in this process, the wait for other processes included.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections that read at once; each is a thread, and reads take microseconds.
const READERS: u32 = 4;
/// To what the log file is cut back once its content is in the main file: 16 MiB.
const LOG_SIZE_LIMIT: &str = "16777216";
/// How often, and how long apart, a file is tried that another process is just making. SQLite
/// does not wait by itself while two processes switch a fresh file to the write-ahead log.
const OPEN_TRIES: u32 = 50;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// Why a store was not opened. Nothing in the file has changed then.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A later version of Underpass has written to the file.
    #[error(
        "{} was written by a newer Underpass (schema {found}, this one knows up to {known}); \
         install that version again, or restore the backup made before it ran",
        file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Number of the newest schema change in the file.
        found: i64,
        /// Number of the newest schema change that this program knows.
        known: i64,
    },
    /// The history of the file's schema is not this program's.
    #[error(
        "the schema of {} is not one that a released Underpass has made (change {change} differs); \
         restore the file from a backup, or use the program that made it",
        file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Number of the first schema change that differs.
        change: i64,
    },
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl SqliteStore {
    /// Opens the store in `file`. A missing file is made, with mode 0600; its folder must exist.
    ///
    /// An older schema is brought up to date in one transaction, which several processes may try
    /// at once. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError::Newer`] and [`OpenError::Foreign`] for a file that this program would damage;
    /// a [`Fault`] when the file cannot be opened, written or understood.
    pub async fn open(file: &Path) -> Result<Self, OpenError> {
        let place: Arc<str> = file.display().to_string().into();
        make_file(file).map_err(|error| io_fault(&place, error))?;
        let mut tries = 1;
        loop {
            match Self::try_open(file, &place).await {
                Err(OpenError::Fault(busy))
                    if busy.kind == FaultKind::Busy && tries < OPEN_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    async fn try_open(file: &Path, place: &Arc<str>) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // A spent code must stay spent after a power cut, so every commit reaches the disk.
            .synchronous(SqliteSynchronous::Full)
            .pragma("journal_size_limit", LOG_SIZE_LIMIT)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(QUEUE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_release(|connection, _| Box::pin(is_reusable(connection)));
        let writer = options.clone().journal_mode(SqliteJournalMode::Wal);
        let write = pool.clone().max_connections(1).connect_lazy_with(writer);
        if let Err(error) = migrate(&write).await {
            write.close().await;
            return Err(explain(file, place, error));
        }
        let reader = options.pragma("query_only", "ON");
        let read = pool.max_connections(READERS).connect_lazy_with(reader);
        tracing::debug!(file = %place, "store opened");
        Ok(Self(Database {
            read,
            write,
            place: Arc::clone(place),
        }))
    }
}

/// Whether a connection that comes back can be lent again. When the disk is full SQLite rolls
/// back by itself, which sqlx does not learn: it would refuse every later transaction.
async fn is_reusable(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // The answer comes after the rollback that an abandoned transaction has queued.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Makes the file for its owner alone, which SQLite would not; its log files take over the mode.
fn make_file(file: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Applies the missing schema changes while holding the right to write: the first process does
/// it, the others find it done.
async fn migrate(write: &sqlx::SqlitePool) -> Result<(), MigrateError> {
    let mut transaction = write.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATIONS
        .run_direct(None, &mut *transaction, false)
        .await?;
    transaction.commit().await?;
    Ok(())
}

fn explain(file: &Path, place: &Arc<str>, error: MigrateError) -> OpenError {
    let file = file.to_owned();
    let known = MIGRATIONS.iter().map(|change| change.version).max();
    let known = known.unwrap_or_default();
    match error {
        MigrateError::VersionMissing(found) if found > known => {
            OpenError::Newer { file, found, known }
        }
        MigrateError::VersionMissing(change) | MigrateError::VersionMismatch(change) => {
            OpenError::Foreign { file, change }
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            let mut fault = fault(place, error);
            if fault.kind == FaultKind::Unreachable && !is_writable_folder_of(&file) {
                // SQLite says only that it cannot open the log beside the file.
                fault.kind = FaultKind::ReadOnly;
            }
            fault.into()
        }
        other => Fault::new(place, FaultKind::Unexpected, other).into(),
    }
}

/// Whether files can be made beside `file`.
fn is_writable_folder_of(file: &Path) -> bool {
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}
