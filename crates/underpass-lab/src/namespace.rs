//! One network namespace: made, entered, swept away.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::exec::{tool, tool_with_input};
use crate::harness::Skip;

/// Where `ip netns` keeps a file per namespace.
const FOLDER: &str = "/run/netns";
/// Where `ip netns exec` looks for files that a namespace's programs see in `/etc` (ip-netns(8)).
const FILES: &str = "/etc/netns";
/// Starts the name of every namespace of this crate; the owner's process id follows.
const PREFIX: &str = "underpass-";

/// A network namespace that lives as long as this value.
///
/// Its name carries the id of the process that made it, so that a later run can tell a stale one from one in use.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up. `label` ends the name.
    ///
    /// # Errors
    /// [`Skip`] where this process may not make namespaces.
    pub(crate) fn create(label: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        available()?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        tool(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that its machine has in the lab.
    pub fn label(&self) -> &str {
        self.name.splitn(4, '-').nth(3).unwrap_or(&self.name)
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        // The proxies of whoever runs the tests are not those of the lab.
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    /// Moves the calling thread inside. Threads that it starts from then on, and sockets that it opens, are inside
    /// too; sockets that were open before stay where they were.
    ///
    /// # Errors
    /// The namespace is gone, or this process lost the right to enter it.
    pub fn enter(&self) -> Result<()> {
        let file = fs::File::open(self.path()).with_context(|| format!("open {}", self.name))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {}", self.name))
    }

    /// Runs `work` on a thread inside and gives its result; a panic in there goes on here.
    ///
    /// # Errors
    /// As [`Namespace::enter`].
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let result =
            std::thread::scope(|scope| scope.spawn(|| self.enter().map(|()| work())).join());
        match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `ip` inside, once for each line.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        tool_with_input(command.args(["-n", &self.name, "-batch", "-"]), lines)?;
        Ok(())
    }

    /// Loads `rules` into the packet filter inside, all at once or not at all.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        tool_with_input(self.command("nft").args(["-f", "-"]), rules)?;
        Ok(())
    }

    /// Sets a kernel setting below `/proc/sys/net` inside, where the kernel has it.
    pub(crate) fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.inside(|| match fs::write(&path, value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("set {setting}")),
        })?
    }

    /// Makes `text` the `/etc/hosts` of the programs that are started inside from now on.
    pub(crate) fn put_hosts(&self, text: &str) -> Result<()> {
        self.put("hosts", text)
    }

    /// Makes `text` a file of this name in `/etc` for the programs that are started inside from now on.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<()> {
        let folder = Path::new(FILES).join(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(fs::write(folder.join(name), text)?)
    }

    fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Kills what still runs in a namespace, then removes it. Best effort: the next run sweeps what is left.
fn remove(name: &str) {
    let listed = tool(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in listed
        .lines()
        .filter_map(|line| line.trim().parse().ok().and_then(Pid::from_raw))
    {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = tool(Command::new("ip").args(["netns", "del", name]));
    let _ = fs::remove_dir_all(Path::new(FILES).join(name));
}

/// The names of all namespaces that this process has made and not yet removed.
pub fn left_behind() -> Vec<String> {
    let own = format!("{PREFIX}{}-", std::process::id());
    names()
        .into_iter()
        .filter(|name| name.starts_with(&own))
        .collect()
}

fn names() -> Vec<String> {
    let Ok(folder) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    folder
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Removes the namespaces of processes that died without doing so.
fn sweep() {
    for name in names() {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new("/proc").join(owner.to_string()).exists() {
            remove(&name);
        }
    }
}

/// Whether this process can make namespaces. The first call also sweeps away stale ones.
///
/// # Errors
/// [`Skip`] with the reason why not.
pub fn available() -> Result<()> {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    match REFUSAL.get_or_init(refusal) {
        None => Ok(()),
        Some(why) => Err(Skip::because(why)),
    }
}

fn refusal() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for tool in ["ip", "nft", "tc"] {
        if which(tool).is_none() {
            return Some(format!("{tool} is not installed"));
        }
    }
    sweep();
    // Only trying tells: a container may give root without the right to make namespaces or load filter rules.
    let name = format!("{PREFIX}{}-probe", std::process::id());
    let probe = Namespace { name };
    let tried = tool(Command::new("ip").args(["netns", "add", &probe.name]))
        .and_then(|_| probe.nft("table inet probe { }\n"));
    tried
        .err()
        .map(|error| format!("the kernel refuses a network namespace: {error:#}"))
}

/// Where a program is, looked for in `PATH` and in the folders that only root has there.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
