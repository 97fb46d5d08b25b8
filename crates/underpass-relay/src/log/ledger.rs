//! Where a gap in the log is kept while the store cannot take it: a small file beside the database.
//!
//! Its blocks are there from the start, so that it can be written when the disk is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::gap::Gap;

/// The file's name in the data folder.
pub(crate) const LEDGER_FILE: &str = "events.gap";

/// The file.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Arc<File>,
    /// What stands in it.
    kept: Gap,
}

impl Ledger {
    /// Opens the file, or makes it, and reads what an earlier process has left in it.
    ///
    /// # Errors
    /// What the system says, such as that there is no room for it.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(LEDGER_FILE))?;
        let mut text = String::new();
        // What is no text of ours is overwritten: it is told by nobody.
        let kept = match file.read_to_string(&mut text) {
            Ok(_) => Gap::parse(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Gap::default(),
            Err(error) => return Err(error),
        };
        file.write_all_at(kept.to_text().as_bytes(), 0)?;
        file.sync_data()?;
        Ok(Self {
            file: Arc::new(file),
            kept,
        })
    }

    /// What stands in it.
    pub(super) fn kept(&self) -> Gap {
        self.kept
    }

    /// Writes a gap down, unless it stands there.
    pub(super) async fn keep(&mut self, gap: Gap) {
        if self.kept == gap {
            return;
        }
        let file = Arc::clone(&self.file);
        let write = move || {
            file.write_all_at(gap.to_text().as_bytes(), 0)?;
            file.sync_data()
        };
        // A disk that hangs must not hold a thread that serves sessions.
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => self.kept = gap,
            Ok(Err(error)) => tracing::warn!("cannot keep the gap in the events: {error}"),
            Err(error) => tracing::warn!("cannot keep the gap in the events: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use underpass_store::UnixMillis;

    use super::*;

    #[tokio::test]
    async fn the_next_process_finds_what_this_one_kept() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Ledger::open(folder.path()).unwrap();
        let mut ledger = open();
        assert!(ledger.kept().is_none());
        let gap = Gap::between(3, UnixMillis(10), UnixMillis(20));
        ledger.keep(gap).await;
        assert_eq!(open().kept(), gap);
        ledger.keep(Gap::default()).await;
        assert!(open().kept().is_none());
    }

    #[test]
    fn what_is_no_gap_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(LEDGER_FILE);
        for bytes in [&b"lost many"[..], b"\xff\xfe", b""] {
            std::fs::write(&file, bytes).unwrap();
            assert!(Ledger::open(folder.path()).unwrap().kept().is_none());
        }
    }
}
