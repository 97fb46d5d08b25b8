//! microsocks, a proxy that speaks SOCKS 5.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Running, own_folder, run, unprivileged};
use crate::host::Host;
use crate::process::Process;
use crate::server::program;

/// A running microsocks.
pub struct Microsocks {
    running: Running,
}

impl Microsocks {
    /// Starts one on `host` at `port` that wants a user name and a password (RFC 1929).
    ///
    /// # Errors
    /// `Skip` when microsocks is not installed.
    pub fn asking(host: &Host, port: u16, (user, password): (&str, &str)) -> Result<Self> {
        let microsocks = program("microsocks")?;
        let address = SocketAddr::from((host.address(), port));
        let mut command = unprivileged(host, &microsocks);
        command.args(["-i", &address.ip().to_string(), "-p", &port.to_string()]);
        command.args(["-u", user, "-P", password]);
        let folder = own_folder("microsocks")?;
        Ok(Self {
            running: run(host, "microsocks", address, folder, command)?,
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
