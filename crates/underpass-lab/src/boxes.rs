//! What stands on the way in real networks: proxies and web servers from Debian's packages, and a proxy with every bad
//! habit ([`Stubborn`]).
//!
//! Each runs on a host of the lab, without the rights of root and with its files in a folder of its own; its log is
//! shown when a test fails. Where one is not installed, the test that wants it counts as skipped.

mod authority;
mod haproxy;
mod microsocks;
mod nginx;
mod place;
mod squid;
mod stubborn;
mod tinyproxy;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::host::Host;
use crate::process::Process;
use crate::server::{accepts, folder};

pub use authority::Authority;
pub use haproxy::Haproxy;
pub use microsocks::Microsocks;
pub use nginx::{Buffering, NginxFront};
pub use place::{Enclosed, Installed, Place};
pub use squid::{Asks, Squid, SquidRules};
pub use stubborn::{COMMON, Connects, Login, Manners, Stubborn, Tally, Unusual};
pub use tinyproxy::Tinyproxy;

/// The user that the boxes run as: `nobody`, whose number is the same on every Debian.
const NOBODY: u32 = 65534;

/// A box that is a program: where it is reached, its process and its files.
struct Running {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

/// A folder that only the boxes' user and root can use.
fn own_folder(name: &str) -> Result<TempDir> {
    let folder = folder(name)?;
    give_away(folder.path())?;
    Ok(folder)
}

/// Makes `path` the boxes' user's.
fn give_away(path: &Path) -> Result<()> {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
        .with_context(|| format!("give {} to the user of the boxes", path.display()))
}

/// A command on `host` that runs without the rights of root.
fn unprivileged(host: &Host, program: &Path) -> Command {
    let mut command = host.command("setpriv");
    let id = NOBODY.to_string();
    command.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--no-new-privs",
    ]);
    command.arg(program);
    command
}

/// Starts the box and waits until it accepts connections.
fn run(
    host: &Host,
    name: &str,
    address: SocketAddr,
    folder: TempDir,
    command: Command,
) -> Result<Running> {
    let process = host.spawn(name, command)?;
    accepts(host, &process, address)?;
    Ok(Running {
        process,
        address,
        folder,
    })
}
