//! A calendar clock that belongs to some processes alone, and can be set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::exec;
use crate::harness::Skip;

/// The calendar clock (`CLOCK_REALTIME`) of the processes that have [`WallClock::environment`] in theirs. Setting it is to
/// them as setting the machine's clock is: the clock that measures time (`CLOCK_MONOTONIC`) and timers go on as before.
///
/// libfaketime stands between them and the C library, and looks into a file each time when one asks what time it is.
pub struct WallClock {
    library: PathBuf,
    folder: TempDir,
}

impl WallClock {
    /// One that is right.
    ///
    /// # Errors
    /// `Skip` when libfaketime is not installed.
    pub fn new() -> Result<Self> {
        let library = find().ok_or_else(|| Skip::because("libfaketime is not installed"))?;
        let folder = tempfile::tempdir()?;
        let clock = Self { library, folder };
        clock.set_off_by_days(0)?;
        Ok(clock)
    }

    /// What processes need in their environment when they are started.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", path(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", path(&self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // The times of files are the machine's.
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Sets it to the right time and so many days more.
    ///
    /// # Errors
    /// The disk is full.
    pub fn set_off_by_days(&self, days: i64) -> Result<()> {
        // Put in its place whole: somebody may be reading it.
        let next = self.folder.path().join("next");
        std::fs::write(&next, format!("{days:+}d\n"))?;
        Ok(std::fs::rename(next, self.file())?)
    }

    /// The date that it shows (UTC), as `2026-11-22`.
    ///
    /// # Errors
    /// date(1) failed.
    pub fn today(&self) -> Result<String> {
        let mut date = Command::new("date");
        date.args(["-u", "+%F"]).envs(self.environment());
        let done = exec::output(&mut date, Duration::from_secs(20))?.success()?;
        Ok(done.text().trim_end().to_owned())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

/// The library for programs with threads, in the folder of whichever architecture this is.
fn find() -> Option<PathBuf> {
    let architectures = std::fs::read_dir("/usr/lib").ok()?.flatten();
    architectures
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.is_file())
}
