//! A ticket authority that is a process of its own, for relays of the lab.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::host::Host;
use crate::process::{Process, Signal};
use crate::tunnel::{READY, Relay, home, program};

/// A running `underpass authority` with a fresh data folder.
pub struct Authority {
    process: Process,
    address: String,
    allowed: PathBuf,
    _folder: TempDir,
    /// It is on the network for as long as somebody knows it.
    _host: Host,
}

impl Authority {
    /// Starts one on `host`, on port 8484, that answers no relay yet. `environment` has more variables for it.
    ///
    /// # Errors
    /// There is no binary, or it was not ready in time; the message shows its log.
    pub fn start(host: &Host, environment: &[(String, String)]) -> Result<Self> {
        let folder = home("authority")?;
        let allowed = folder.path().join("relays");
        std::fs::write(&allowed, "")?;
        let mut command = program(host)?;
        command
            .env("UNDERPASS_HOME", folder.path())
            .envs(environment.iter().cloned())
            .args(["authority", "--listen", &format!("{}:8484", host.address())])
            .arg("--allow-file")
            .arg(&allowed);
        let process = host.spawn("authority", command)?;
        let line = process.line(READY)?;
        let address = line.strip_prefix("ticket authority at ");
        let address = address.with_context(|| format!("no address in {line:?}"))?;
        Ok(Self {
            address: address.to_owned(),
            process,
            allowed,
            _folder: folder,
            _host: host.clone(),
        })
    }

    /// Where relays reach it: what `underpass relay --authority` is given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Answers these relays from now on, and no others. They were started with [`Authority::address`].
    ///
    /// # Errors
    /// One of them has not said who it is, or the authority did not take up the list.
    pub fn allow(&self, relays: &[&Relay]) -> Result<()> {
        let mut list = String::new();
        for relay in relays {
            let told = relay
                .process()
                .logged("underpass authority --allow ", READY)?;
            let print = told.rsplit(' ').next().unwrap_or_default();
            list.push_str(&format!("{print}  # {}\n", relay.url()));
        }
        std::fs::write(&self.allowed, list)?;
        self.process.signal(Signal::HUP)?;
        for relay in relays {
            relay.process().logged(" is there", READY)?;
        }
        Ok(())
    }

    /// The process. [`Process::restart`] starts it again with the same data and list; [`Authority::wait_ready`] waits
    /// for that.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until it is ready after a restart.
    ///
    /// # Errors
    /// It was not in time.
    pub fn wait_ready(&self) -> Result<()> {
        self.process.line(READY).map(drop)
    }
}
