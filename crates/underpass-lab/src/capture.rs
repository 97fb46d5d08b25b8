//! Recording the packets of a cable.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::exec::wait_until;
use crate::harness::Skip;
use crate::link::Link;
use crate::namespace::which;
use crate::process::Process;
use crate::search;

/// A running tcpdump.
pub struct Capture {
    process: Process,
    file: PathBuf,
    link: Link,
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
    pub(crate) fn start(link: &Link, file: &Path) -> Result<Self> {
        if which("tcpdump").is_none() {
            return Err(Skip::because("tcpdump is not installed"));
        }
        let mut command = link.near.namespace.command("tcpdump");
        // Whole packets, written at once, a kernel buffer of 64 MiB, root kept (the file is root's).
        command.args(["-i", link.interface(), "-n", "-s", "0", "-U", "-B", "65536"]);
        command
            .args(["--immediate-mode", "-Z", "root", "-w"])
            .arg(file);
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
            link: link.clone(),
        })
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// tcpdump failed, or lost packets: a search in the rest would prove nothing.
    pub fn stop(self) -> Result<Recording> {
        self.catch_up()?;
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

    /// Waits until everything that passed before is in the file: sends a packet last and waits for that one.
    fn catch_up(&self) -> Result<()> {
        let start = fs::metadata(&self.file)?.len();
        let last = format!(
            "the last packet of {}, {}",
            self.file.display(),
            self.process.id()
        );
        // A broadcast needs no answer from anybody, and the cable may be cut. Port 9 discards (RFC 863).
        let [a, b, c, _] = self.link.address.octets();
        self.link.near.namespace.inside(|| {
            let socket = UdpSocket::bind((self.link.address, 0))?;
            socket.set_broadcast(true)?;
            socket.send_to(last.as_bytes(), (Ipv4Addr::new(a, b, c, 255), 9))
        })??;
        wait_until("tcpdump catches up", Duration::from_secs(30), || {
            let mut file = File::open(&self.file)?;
            file.seek(SeekFrom::Start(start))?;
            Ok((search::occurrences(file, last.as_bytes())? > 0).then_some(()))
        })
    }
}

impl Recording {
    /// How often `canary` occurs in the packets.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn holds(&self, canary: &[u8]) -> Result<u64> {
        Ok(self.holds_each(&[canary])?[0])
    }

    /// The same for several canaries, looked for at once.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn holds_each(&self, canaries: &[&[u8]]) -> Result<Vec<u64>> {
        Ok(search::occurrences_of_each(
            File::open(&self.file)?,
            canaries,
        )?)
    }
}
