//! haproxy in front of a relay, with the defaults of Debian's package.

use std::fs;
use std::net::SocketAddr;

use anyhow::Result;

use super::{Running, own_folder, run, unprivileged};
use crate::host::Host;
use crate::process::Process;
use crate::server::program;

/// A running haproxy that passes everything on to one server.
pub struct Haproxy {
    running: Running,
}

impl Haproxy {
    /// Starts one on `host` at `port`, before `onward`.
    ///
    /// # Errors
    /// `Skip` when haproxy is not installed.
    pub fn start(host: &Host, port: u16, onward: SocketAddr) -> Result<Self> {
        let haproxy = program("haproxy")?;
        let folder = own_folder("haproxy")?;
        let address = SocketAddr::from((host.address(), port));
        let file = folder.path().join("haproxy.cfg");
        let lines = format!(
            "global\n    log stderr format raw local0 notice\n\
             defaults\n    log global\n    mode http\n    option httplog\n    option dontlognull\n    \
             timeout connect 5000\n    timeout client 50000\n    timeout server 50000\n\
             frontend web\n    bind {address}\n    default_backend relay\n\
             backend relay\n    server relay {onward}\n"
        );
        fs::write(&file, lines)?;
        let mut command = unprivileged(host, &haproxy);
        command.arg("-db").arg("-f").arg(&file);
        Ok(Self {
            running: run(host, "haproxy", address, folder, command)?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.running.process
    }
}
