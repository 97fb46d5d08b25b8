//! The programs under test: relays and agents, driven by their command line as a user would.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use underpass_lab::{Agent, Relay, TwoFirewalls};
//! let net = TwoFirewalls::new()?;
//! let relay = Relay::start(&net.relay)?;
//! let publisher = Agent::first(&net.a, &relay)?;
//! let _published = publisher.publish(&[("db", "127.0.0.1:5432")])?;
//! let client = Agent::invited(&net.b, &relay, "client", &publisher)?;
//! publisher.allow("client", "db")?;
//! let db = client.connect("db")?;
//! println!("psql -h 127.0.0.1 -p {} reaches it on {}", db.address.port(), net.b.name());
//! # Ok(())
//! # }
//! ```

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::FdFlags;
use tempfile::TempDir;

use crate::built::underpass;
use crate::exec::{self, Finished};
use crate::host::Host;
use crate::process::Process;

/// How long a program may take to be ready, or to end, on a busy machine.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// How a relay is started.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// The TCP port for plain HTTP.
    pub port: u16,
    /// Whether agents reach it by HTTPS on port 443, with a certificate that it signs itself, instead.
    pub tls: bool,
    /// Whether it is handed its sockets, as by a service manager: that for plain HTTP, and one for QUIC on UDP port 443.
    pub handed: bool,
    /// More arguments of `underpass relay`.
    pub arguments: Vec<String>,
    /// The lines of its configuration file, when it is to have one.
    pub configuration: Option<String>,
    /// More variables in its environment.
    pub environment: Vec<(String, String)>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            port: 8080,
            tls: false,
            handed: false,
            arguments: Vec::new(),
            configuration: None,
            environment: Vec::new(),
        }
    }
}

/// A running `underpass relay` with a fresh data folder.
pub struct Relay {
    process: Process,
    url: String,
    folder: TempDir,
    host: Host,
    options: RelayOptions,
    sockets: Option<Sockets>,
}

/// Sockets of a host that are handed to one program after the other.
struct Sockets {
    http: TcpListener,
    quic: UdpSocket,
}

impl Sockets {
    fn open(host: &Host, port: u16) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let any = Ipv4Addr::UNSPECIFIED;
            let (http, quic) = (
                TcpListener::bind((any, port))?,
                UdpSocket::bind((any, 443))?,
            );
            // The standard library's queue of 128 loses part of a burst of a thousand connections.
            rustix::net::listen(&http, 4096)?;
            // Whatever is started from here on gets them, and only what is told so takes them up.
            rustix::io::fcntl_setfd(&http, FdFlags::empty())?;
            rustix::io::fcntl_setfd(&quic, FdFlags::empty())?;
            Ok(Self { http, quic })
        };
        host.inside(open)?.context("open sockets to be handed over")
    }

    /// `underpass` on `host` with these as its descriptors 3 and 4, as sd_listen_fds(3) says.
    fn hand_over(&self, host: &Host) -> Result<Command> {
        // Copied out of the way first: either may stand on the other's number.
        let script = "exec 1000<&$1 1001<&$2; shift 2; exec 3<&1000 4<&1001 1000<&- 1001<&-; \
                      export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:quic; \
                      exec prlimit --nofile=1024: \"$@\"";
        let mut command = host.command("bash");
        command.args(["-c", script]);
        command.arg("bash");
        command.arg(self.http.as_raw_fd().to_string());
        command.arg(self.quic.as_raw_fd().to_string());
        command.arg(underpass()?);
        Ok(command)
    }
}

impl Relay {
    /// Starts one on `host` that speaks plain HTTP on port 8080.
    ///
    /// # Errors
    /// There is no binary, or it was not ready in time; the message shows its log.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_with(host, &RelayOptions::default())
    }

    /// Starts one as `options` say.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_with(host: &Host, options: &RelayOptions) -> Result<Self> {
        let folder = home("relay")?;
        let sockets = match options.handed {
            true => Some(Sockets::open(host, options.port)?),
            false => None,
        };
        let process = launch("relay", host, folder.path(), options, sockets.as_ref())?;
        let url = if options.tls {
            format!("https://{}", host.address())
        } else {
            format!("http://{}:{}", host.address(), options.port)
        };
        Ok(Self {
            process,
            url,
            folder,
            host: host.clone(),
            options: options.clone(),
            sockets,
        })
    }

    /// Starts another process on the same sockets and data, called `label`, and waits until it is ready to take over.
    ///
    /// # Errors
    /// The relay was not handed its sockets, or the new process was not ready in time.
    pub fn successor(&self, label: &str) -> Result<Process> {
        let sockets = self.sockets.as_ref();
        let sockets = sockets.context("the relay's sockets are its own")?;
        let folder = self.folder.path();
        launch(label, &self.host, folder, &self.options, Some(sockets))
    }

    /// The process. [`Process::restart`] starts it again with the same data; [`Relay::wait_ready`] waits for that.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where agents reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it is ready after a restart.
    ///
    /// # Errors
    /// It was not in time.
    pub fn wait_ready(&self) -> Result<()> {
        self.process.line(READY).map(drop)
    }

    /// The file that holds the one-time code for its first administrator.
    pub fn setup_file(&self) -> PathBuf {
        setup_file(self.folder.path())
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn launch(
    label: &str,
    host: &Host,
    folder: &Path,
    options: &RelayOptions,
    sockets: Option<&Sockets>,
) -> Result<Process> {
    let mut command = match sockets {
        Some(sockets) => sockets.hand_over(host)?,
        None => program(host)?,
    };
    command
        .env("UNDERPASS_HOME", folder)
        .envs(options.environment.iter().cloned());
    command.args([
        "relay",
        "--listen",
        &format!("0.0.0.0:{}", options.port),
        "--data",
    ]);
    command
        .arg(folder.join("data"))
        .arg("--setup-file")
        .arg(setup_file(folder));
    if let Some(lines) = &options.configuration {
        let file = folder.join("relay.toml");
        std::fs::write(&file, lines)?;
        command.arg("--config").arg(file);
    }
    if options.tls {
        command.args(["--tls-listen", "0.0.0.0:443", "--tls", "self-signed"]);
        command.args(["--tls-names", &host.address().to_string()]);
    }
    command.args(&options.arguments);
    let process = host.spawn(label, command)?;
    process.line(READY)?;
    Ok(process)
}

/// What a user tells an agent of the network that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Variables in the environment of all its commands.
    pub environment: Vec<(String, String)>,
    /// Where it reaches the relay, when that is not at the relay's own address.
    pub relay: Option<String>,
}

/// An agent's home on a host, enrolled with a relay, from which its commands are run.
pub struct Agent {
    host: Host,
    home: TempDir,
    carrier: Option<String>,
    told: Told,
}

/// A local address behind which a service lies: a running `underpass connect`.
pub struct Entrance {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Local addresses behind which several services lie: one running `underpass connect`, one session.
pub struct Entrances {
    /// The process.
    pub process: Process,
    /// Where it listens, in the order in which the services were named.
    pub addresses: Vec<SocketAddr>,
}

impl Agent {
    /// The first administrator of `relay`, by the code in its setup file.
    ///
    /// # Errors
    /// The login failed.
    pub fn first(host: &Host, relay: &Relay) -> Result<Self> {
        let agent = Self::unknown(host)?;
        agent.log_in_first(relay)?;
        Ok(agent)
    }

    /// The user `name`, invited by `administrator`.
    ///
    /// # Errors
    /// The invitation or the login failed.
    pub fn invited(host: &Host, relay: &Relay, name: &str, administrator: &Self) -> Result<Self> {
        let agent = Self::unknown(host)?;
        agent.log_in(relay, &administrator.invite(name)?)?;
        Ok(agent)
    }

    /// A home that no relay knows yet.
    ///
    /// # Errors
    /// The disk is full.
    pub fn unknown(host: &Host) -> Result<Self> {
        Ok(Self {
            host: host.clone(),
            home: home(host.name())?,
            carrier: None,
            told: Told::default(),
        })
    }

    /// Enrols it as the first administrator of `relay`, by the code in its setup file.
    ///
    /// # Errors
    /// The login failed.
    pub fn log_in_first(&self, relay: &Relay) -> Result<()> {
        let file = relay.setup_file();
        let file = file.to_str().context("temporary folders are UTF-8")?;
        self.run(&["login", self.url_of(relay), "--setup-file", file])
            .map(drop)
    }

    /// Enrols it with `relay` by the code of an invitation.
    ///
    /// # Errors
    /// The login failed.
    pub fn log_in(&self, relay: &Relay, code: &str) -> Result<()> {
        self.run(&["login", self.url_of(relay), "--invite", code])
            .map(drop)
    }

    /// Where it reaches `relay`.
    fn url_of<'a>(&'a self, relay: &'a Relay) -> &'a str {
        self.told.relay.as_deref().unwrap_or(relay.url())
    }

    /// The same agent, with what it is to know of its network.
    pub fn told(mut self, told: Told) -> Self {
        self.told = told;
        self
    }

    /// The same agent, and from now on its commands use only the carrier `name`.
    pub fn by(mut self, name: &str) -> Self {
        self.carrier = Some(name.to_owned());
        self
    }

    /// The host it is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its `UNDERPASS_HOME`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// `underpass` with `arguments`, on its host and from its home.
    ///
    /// # Errors
    /// There is no binary.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = program(&self.host)?;
        command
            .env("UNDERPASS_HOME", self.home.path())
            .envs(self.told.environment.iter().cloned())
            .args(arguments);
        let carries = ["login", "publish", "connect", "nc", "send", "receive"];
        if let Some(carrier) = &self.carrier
            && arguments
                .first()
                .is_some_and(|first| carries.contains(first))
        {
            command.args(["--carrier", carrier]);
        }
        Ok(command)
    }

    /// Runs `underpass` with `arguments` to its end and gives what it printed.
    ///
    /// # Errors
    /// It failed or did not end in time.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let done = exec::output(&mut self.command(arguments)?, READY).and_then(Finished::success);
        let done = done.with_context(|| {
            format!("underpass {} on {}", arguments.join(" "), self.host.name())
        })?;
        Ok(done.text())
    }

    /// Invites a user and gives the one-time code.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub fn invite(&self, user: &str) -> Result<String> {
        Ok(self.run(&["users", "invite", user])?.trim().to_owned())
    }

    /// Lets `who` use `service`.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub fn allow(&self, who: &str, service: &str) -> Result<()> {
        self.run(&["services", "allow", who, service]).map(drop)
    }

    /// Publishes services, each a name and a target, until the process is dropped; returns when it is ready.
    ///
    /// # Errors
    /// It was not ready in time; the message shows its log.
    pub fn publish(&self, services: &[(&str, &str)]) -> Result<Process> {
        self.publish_with(services, &[])
    }

    /// The same with more arguments of `underpass publish`.
    ///
    /// # Errors
    /// As [`Agent::publish`].
    pub fn publish_with(&self, services: &[(&str, &str)], more: &[&str]) -> Result<Process> {
        let mut arguments = vec!["publish"];
        arguments.extend(more);
        arguments.extend(services.iter().flat_map(|(name, target)| [*name, *target]));
        let process = self.host.spawn("publish", self.command(&arguments)?)?;
        process.line(READY)?;
        Ok(process)
    }

    /// Opens a free local port for `service`, until the entrance is dropped; returns when it is ready.
    ///
    /// # Errors
    /// It was not ready in time; the message shows its log.
    pub fn connect(&self, service: &str) -> Result<Entrance> {
        let command = self.command(&["connect", service, "127.0.0.1:0"])?;
        let process = self.host.spawn(&format!("connect-{service}"), command)?;
        let line = process.line(READY)?;
        let address = listening_at(&line).with_context(|| format!("no address in {line:?}"))?;
        Ok(Entrance { process, address })
    }

    /// Opens a free local port for each of several services of one publisher, as [`Agent::connect`] does for one.
    ///
    /// # Errors
    /// As [`Agent::connect`].
    pub fn connect_all(&self, services: &[&str]) -> Result<Entrances> {
        self.connect_all_with(services, &[])
    }

    /// As [`Agent::connect_all`], with `more` arguments.
    ///
    /// # Errors
    /// As [`Agent::connect`].
    pub fn connect_all_with(&self, services: &[&str], more: &[&str]) -> Result<Entrances> {
        let services: Vec<_> = services.iter().map(|name| (*name, "127.0.0.1:0")).collect();
        self.connect_at(&services, more)
    }

    /// Opens a local address, as `underpass connect` takes it, for each of several services of one publisher.
    ///
    /// # Errors
    /// As [`Agent::connect`].
    pub fn connect_at(&self, services: &[(&str, &str)], more: &[&str]) -> Result<Entrances> {
        let pairs = services
            .iter()
            .map(|(name, local)| format!("{name}={local}"));
        let pairs: Vec<String> = pairs.collect();
        let mut arguments = vec!["connect"];
        arguments.extend(more);
        arguments.extend(pairs.iter().map(String::as_str));
        let names: Vec<_> = services.iter().map(|(name, _)| *name).collect();
        let label = format!("connect-{}", names.join("-"));
        let process = self.host.spawn(&label, self.command(&arguments)?)?;
        let mut addresses = Vec::with_capacity(services.len());
        for _ in services {
            let line = process.line(READY)?;
            let address = listening_at(&line).with_context(|| format!("no address in {line:?}"))?;
            addresses.push(address);
        }
        Ok(Entrances { process, addresses })
    }

    /// What the running agent `process` of this home tells to `underpass status --json`.
    ///
    /// # Errors
    /// As [`Agent::run`]; or it is not among those that answered.
    pub fn status_of(&self, process: &Process) -> Result<serde_json::Value> {
        let text = self.run(&["status", "--offline", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&text).context("status is JSON")?;
        let id = u64::from(process.id());
        let agents = status["agents"].as_array();
        let found = agents.and_then(|agents| agents.iter().find(|one| one["pid"] == id));
        let found = found.with_context(|| format!("{} is not in {text}", process.label()))?;
        Ok(found.clone())
    }

    /// A shell command that connects its standard input and output to `service`, as ssh's `ProxyCommand` wants it.
    /// It runs on whatever host ssh does.
    ///
    /// # Errors
    /// There is no binary.
    pub fn nc(&self, service: &str) -> Result<String> {
        let (program, home) = (underpass()?, self.home.path());
        let carrier = self
            .carrier
            .as_ref()
            .map_or(String::new(), |name| format!(" --carrier {name}"));
        Ok(format!(
            "env UNDERPASS_HOME={} {} nc {service}{carrier}",
            home.display(),
            program.display()
        ))
    }
}

/// The command `underpass` on `host`, with as many open files as a shell or a service manager usually allows at first;
/// whoever runs the tests may have more.
pub(crate) fn program(host: &Host) -> Result<Command> {
    let mut command = host.command("prlimit");
    command.arg("--nofile=1024:").arg(underpass()?);
    Ok(command)
}

/// The address of this machine in a line that tells where a command listens.
fn listening_at(line: &str) -> Option<SocketAddr> {
    let words = line.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
    words
        .filter_map(|word| word.trim_matches(['.', ':']).parse::<SocketAddr>().ok())
        .next_back()
}

fn setup_file(folder: &Path) -> PathBuf {
    folder.join("setup-code")
}

pub(crate) fn home(owner: &str) -> Result<TempDir> {
    let made = tempfile::Builder::new()
        .prefix(&format!("underpass-home-{owner}-"))
        .tempdir();
    made.with_context(|| format!("make a home for {owner}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_a_line_for_people() {
        let found = |line: &str| listening_at(line).map(|address| address.to_string());
        assert_eq!(
            found("db is at 127.0.0.1:40123").as_deref(),
            Some("127.0.0.1:40123")
        );
        assert_eq!(
            found("db\t127.0.0.1:15432\tready.").as_deref(),
            Some("127.0.0.1:15432")
        );
        assert_eq!(
            found("db at (127.0.0.1:9).").as_deref(),
            Some("127.0.0.1:9")
        );
        assert_eq!(found("connecting"), None);
    }
}
