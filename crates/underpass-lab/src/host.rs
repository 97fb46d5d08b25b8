//! A machine in the lab.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::exec::{self, Finished};
use crate::link::Link;
use crate::namespace::Namespace;
use crate::process::Process;

/// A machine in the lab. Clones are handles of the same one.
#[derive(Clone)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Arc<Namespace>,
    link: Link,
    logs: PathBuf,
}

impl Host {
    pub(crate) fn new(
        name: &str,
        address: Ipv4Addr,
        namespace: Arc<Namespace>,
        link: Link,
        logs: PathBuf,
    ) -> Self {
        Self {
            name: name.into(),
            address,
            namespace,
            link,
            logs,
        }
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on its network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The cable between it and its network.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The namespace that it is.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The folder that logs and captures of this test go to.
    pub fn logs(&self) -> &std::path::Path {
        &self.logs
    }

    /// Gives this host's programs names for addresses, beside `localhost`. Replaces what it knew before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn knows(&self, names: &[(&str, Ipv4Addr)]) -> Result<()> {
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, address) in names {
            hosts.push_str(&format!("{address} {name}\n"));
        }
        self.namespace.put_hosts(&hosts)
    }

    /// Has this host's programs ask the name server at this address, and no other.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn asks(&self, server: Ipv4Addr) -> Result<()> {
        let text = format!("nameserver {server}\noptions timeout:2 attempts:5\n");
        self.namespace.put("resolv.conf", &text)
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Starts `command` (from [`Host::command`]) with its output in the log `HOST-LABEL.log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, label: &str, command: Command) -> Result<Process> {
        Process::start(&format!("{}-{label}", self.name), &self.logs, command)
    }

    /// Runs a program on this host to its end and collects its output.
    ///
    /// # Errors
    /// It could not be started, or still ran after `limit`. A bad exit code is no error here.
    pub fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Result<Finished> {
        exec::output(self.command(program).args(arguments), limit)
            .with_context(|| format!("on {}", self.name))
    }

    /// Runs `work` on a thread on this host and gives its result. Sockets it opens are this host's.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.inside(work)
    }

    /// Starts a thread on this host. It and the threads it starts open this host's sockets.
    ///
    /// # Errors
    /// Joining gives an error when the lab was gone before the thread began.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let namespace = Arc::clone(&self.namespace);
        std::thread::spawn(move || {
            namespace.enter()?;
            Ok(work())
        })
    }
}
