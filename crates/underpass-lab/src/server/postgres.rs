//! PostgreSQL with a fresh cluster.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{END, READY, accepts, address, folder, program, text};
use crate::exec::{self, Finished};
use crate::harness::Skip;
use crate::host::Host;
use crate::namespace::which;
use crate::process::{Process, Signal};

/// The user that Debian's packages make; the server refuses to run as root.
const USER: &str = "postgres";

/// A PostgreSQL server with an empty database `postgres` and the superuser `postgres`, who needs no password.
pub struct Postgres {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Postgres {
    /// Starts one on `host` at `ip` and `port`.
    ///
    /// # Errors
    /// `Skip` when PostgreSQL is not installed.
    pub fn start(host: &Host, ip: impl Into<IpAddr>, port: u16) -> Result<Self> {
        let programs = programs()?;
        let folder = folder("postgres")?;
        let (uid, gid) = (id("-u")?, id("-g")?);
        chown(folder.path(), Some(uid), Some(gid)).context("give the folder to postgres")?;
        let data = folder.path().join("data");
        let mut initdb = as_user(Command::new("setpriv"), &programs.join("initdb"));
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username",
            USER,
            "--encoding=UTF8",
        ]);
        initdb
            .args(["--locale=C", "--pgdata"])
            .arg(&data)
            .current_dir(folder.path());
        exec::output(&mut initdb, Duration::from_secs(120)).and_then(Finished::success)?;
        // initdb trusts only the machine itself.
        let rules = data.join("pg_hba.conf");
        let mut trusted = fs::read_to_string(&rules)?;
        trusted.push_str("host all all samenet trust\n");
        fs::write(&rules, trusted)?;

        let address = address(ip, port);
        let mut command = as_user(host.command("setpriv"), &programs.join("postgres"));
        command.arg("-D").arg(&data).current_dir(folder.path());
        command.args(["-h", &address.ip().to_string(), "-p", &port.to_string()]);
        command.args(["-k", text(folder.path())?, "-c", "fsync=off"]);
        command.args(["-c", "shared_buffers=32MB", "-c", "max_connections=200"]);
        let process = host.spawn("postgres", command)?;
        process.logged("ready to accept connections", READY)?;
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

    /// `psql` on `client`, towards `to`; stops at the first error and prints bare values.
    ///
    /// # Errors
    /// `Skip` when psql is not installed.
    pub fn psql(client: &Host, to: SocketAddr, statement: &str) -> Result<Command> {
        let mut command = tool(client, "psql", to)?;
        command.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            USER,
        ]);
        Ok(command)
    }

    /// `pgbench` on `client`, towards `to`, with more arguments.
    ///
    /// # Errors
    /// `Skip` when pgbench is not installed.
    pub fn pgbench(client: &Host, to: SocketAddr, arguments: &[&str]) -> Result<Command> {
        let mut command = tool(client, "pgbench", to)?;
        command.args(arguments).arg(USER);
        Ok(command)
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT is its immediate shutdown; the processes it started are not in its group and would outlive a kill.
        let _ = self.process.signal(Signal::QUIT);
        let _ = self.process.wait(END);
    }
}

/// The folder of the server's programs; Debian keeps one for each version, out of `PATH`.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(|path| number(path));
    let elsewhere = || Some(which("initdb")?.parent()?.to_owned());
    newest
        .map(|path| path.join("bin"))
        .or_else(elsewhere)
        .ok_or_else(|| Skip::because("PostgreSQL is not installed"))
}

fn id(which: &str) -> Result<u32> {
    let mut command = Command::new("id");
    let done = exec::output(command.args([which, USER]), END)?.success()?;
    done.text().trim().parse().context("id prints a number")
}

/// Completes a `setpriv` to run `program` as the server's user.
fn as_user(mut setpriv: Command, program: &Path) -> Command {
    setpriv
        .args(["--reuid", USER, "--regid", USER, "--init-groups"])
        .arg(program);
    setpriv
}

fn tool(client: &Host, name: &str, to: SocketAddr) -> Result<Command> {
    let mut command = client.command(program(name)?);
    command.args([
        "-h",
        &to.ip().to_string(),
        "-p",
        &to.port().to_string(),
        "-U",
        USER,
    ]);
    Ok(command)
}
