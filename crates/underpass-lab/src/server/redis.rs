//! redis, in memory only.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{accepts, address, folder, program};
use crate::host::Host;
use crate::process::Process;

/// A redis that keeps nothing on disk.
pub struct Redis {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Redis {
    /// Starts one on `host` at `ip` and `port`.
    ///
    /// # Errors
    /// `Skip` when redis-server is not installed.
    pub fn start(host: &Host, ip: impl Into<IpAddr>, port: u16) -> Result<Self> {
        let server = program("redis-server")?;
        let folder = folder("redis")?;
        let address = address(ip, port);
        let mut command = host.command(server);
        command.args([
            "--bind",
            &address.ip().to_string(),
            "--port",
            &port.to_string(),
        ]);
        command.args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--protected-mode",
            "no",
            "--dir",
        ]);
        command.arg(folder.path());
        let process = host.spawn("redis", command)?;
        accepts(host, &process, address)?;
        Ok(Self {
            process,
            address,
            _folder: folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `redis-cli` on `client`, towards `to`; its command is still to be added.
    ///
    /// # Errors
    /// `Skip` when redis-cli is not installed.
    pub fn cli(client: &Host, to: SocketAddr) -> Result<Command> {
        tool(client, "redis-cli", to)
    }

    /// `redis-benchmark` on `client`, towards `to`.
    ///
    /// # Errors
    /// `Skip` when redis-benchmark is not installed.
    pub fn benchmark(client: &Host, to: SocketAddr) -> Result<Command> {
        tool(client, "redis-benchmark", to)
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn tool(client: &Host, name: &str, to: SocketAddr) -> Result<Command> {
    let mut command = client.command(program(name)?);
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
    Ok(command)
}
