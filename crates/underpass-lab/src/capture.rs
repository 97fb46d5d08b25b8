//! Recording the packets of a cable.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::harness::Skip;
use crate::namespace::{Namespace, which};
use crate::process::Process;
use crate::search;

/// A running tcpdump.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// A finished recording.
#[derive(Debug)]
pub struct Recording {
    /// The packets, in tcpdump's format.
    pub file: PathBuf,
    /// How many packets it holds.
    pub packets: u64,
}

impl Capture {
    pub(crate) fn start(namespace: &Namespace, interface: &str, file: &Path) -> Result<Self> {
        if which("tcpdump").is_none() {
            return Err(Skip::because("tcpdump is not installed"));
        }
        let mut command = namespace.command("tcpdump");
        // Whole packets, written at once, a kernel buffer of 64 MiB, root kept (the file is root's).
        command.args([
            "-i", interface, "-n", "-s", "0", "-U", "-B", "65536", "-Z", "root", "-w",
        ]);
        command.arg(file);
        let folder = file.parent().context("the recording needs a folder")?;
        let name = file
            .file_stem()
            .context("the recording needs a name")?
            .to_string_lossy();
        let process = Process::start(&format!("tcpdump-{name}"), folder, command)?;
        process.logged("listening on", Duration::from_secs(10))?;
        Ok(Self {
            process,
            file: file.into(),
        })
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// tcpdump failed, or lost packets: a search in the rest would prove nothing.
    pub fn stop(self) -> Result<Recording> {
        self.process.signal(Signal::INT)?;
        let status = self.process.wait(Duration::from_secs(20))?;
        let summary = |what: &str| {
            let line = self.process.logged(what, Duration::ZERO)?;
            let number = line
                .split(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            number.with_context(|| format!("tcpdump said {line:?}"))
        };
        let (packets, lost) = (summary("captured")?, summary("dropped by kernel")?);
        if !status.success() || lost > 0 {
            bail!("tcpdump ended with {status} and lost {lost} packets");
        }
        Ok(Recording {
            file: self.file,
            packets,
        })
    }
}

impl Recording {
    /// How often `canary` occurs in the packets.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn holds(&self, canary: &[u8]) -> Result<u64> {
        Ok(search::occurrences(File::open(&self.file)?, canary)?)
    }
}
