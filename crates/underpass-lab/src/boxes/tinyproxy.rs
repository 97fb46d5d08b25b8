//! tinyproxy, the small forward proxy, as Debian configures it.

use std::fs;
use std::net::SocketAddr;

use anyhow::Result;

use super::{Running, give_away, own_folder, run, unprivileged};
use crate::host::Host;
use crate::process::Process;
use crate::server::program;

/// A running tinyproxy.
pub struct Tinyproxy {
    running: Running,
}

impl Tinyproxy {
    /// Starts one on `host` at `port`.
    ///
    /// # Errors
    /// `Skip` when tinyproxy is not installed.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        Self::with(host, port, "")
    }

    /// Starts one that asks for this user name and password, by Basic (RFC 7617).
    ///
    /// # Errors
    /// As [`Tinyproxy::start`].
    pub fn asking(host: &Host, port: u16, (user, password): (&str, &str)) -> Result<Self> {
        Self::with(host, port, &format!("BasicAuth {user} {password}\n"))
    }

    fn with(host: &Host, port: u16, more: &str) -> Result<Self> {
        let tinyproxy = program("tinyproxy")?;
        let folder = own_folder("tinyproxy")?;
        let address = SocketAddr::from((host.address(), port));
        let file = folder.path().join("tinyproxy.conf");
        // The settings of the package, except for who may use it and where it logs (standard output).
        let lines = format!(
            "Port {port}\nListen {}\nTimeout 600\nMaxClients 100\nLogLevel Info\n\
             DefaultErrorFile \"/usr/share/tinyproxy/default.html\"\nViaProxyName \"tinyproxy\"\n{more}",
            address.ip()
        );
        fs::write(&file, lines)?;
        give_away(&file)?;
        let mut command = unprivileged(host, &tinyproxy);
        command.arg("-d").arg("-c").arg(&file);
        Ok(Self {
            running: run(host, "tinyproxy", address, folder, command)?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// The proxy itself.
    pub fn process(&self) -> &Process {
        &self.running.process
    }
}
