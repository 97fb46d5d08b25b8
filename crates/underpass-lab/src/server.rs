//! Real servers from Debian's packages, started on a host of the lab and ended with the value that stands for them.
//!
//! Where one is not installed, the test that wants it counts as skipped.

mod dnsmasq;
mod nginx;
mod postgres;
mod redis;
mod ssh;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::exec::wait_until;
use crate::harness::Skip;
use crate::host::Host;
use crate::namespace::which;
use crate::process::Process;

pub use dnsmasq::Dnsmasq;
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use redis::Redis;
pub use ssh::SshServer;

/// How long a server may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(60);
/// How long one may take to end in good order before it is killed.
const END: Duration = Duration::from_secs(10);

/// The program, or the skip of the test that wants it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    which(name).ok_or_else(|| Skip::because(format!("{name} is not installed")))
}

/// A folder for a server's files. Removed with the server.
pub(crate) fn folder(server: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("underpass-lab-{server}-"))
        .tempdir();
    folder.with_context(|| format!("make a folder for {server}"))
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Waits until `process` accepts connections at `at` on `host`.
pub(crate) fn accepts(host: &Host, process: &Process, at: SocketAddr) -> Result<()> {
    wait_until(
        &format!("{} accepts connections", process.label()),
        READY,
        || {
            if let Some(status) = process.exited()? {
                bail!(
                    "{} ended with {status}\n{}",
                    process.label(),
                    process.log_tail()
                );
            }
            let limit = Duration::from_secs(1);
            Ok(host
                .inside(|| TcpStream::connect_timeout(&at, limit))?
                .ok()
                .map(drop))
        },
    )
}

/// Where a server listens: the address that was asked for.
fn address(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}
