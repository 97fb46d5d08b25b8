//! The network that all rows share, with one publisher and one client's agent.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use underpass_lab::{CLIENT, Entrances, Finished, Host, Options, Process, Scene, exec, wait_until};

/// How long one program may run on a busy machine. Decides nothing but when a hanging test ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// How long to try what cannot work: more than one connection attempt needs on an idle network by far.
const LOOK: Duration = Duration::from_millis(1500);

/// What is published: name, what stands before the host, and port on `a`.
const SERVICES: [(&str, &str, u16); 11] = [
    ("ftp", "ftp:", 21),
    ("telnet", "", 23),
    ("share", "", 445),
    ("queue", "", 1883),
    ("people", "", 389),
    ("shell", "", 22),
    ("web", "", 80),
    ("mirror", "", 873),
    ("screen", "", 5900),
    ("desktop", "", 3389),
    ("db", "", 5432),
];

/// The network, and the ways to the services.
pub(crate) struct Place {
    pub(crate) scene: Scene,
    entrances: Entrances,
    _published: Process,
    files: TempDir,
}

impl Place {
    /// Everything but the servers.
    pub(crate) fn new() -> Result<Self> {
        let options = Options::by("ws");
        let scene = Scene::start(options.network()?, &options)?;
        let ip = scene.net.a.address();
        let targets = SERVICES.map(|(name, before, port)| (name, format!("{before}{ip}:{port}")));
        let pairs: Vec<(&str, &str)> = targets.iter().map(|(name, at)| (*name, &at[..])).collect();
        let published = scene.publisher.publish(&pairs)?;
        for (name, ..) in SERVICES {
            scene.publisher.allow(CLIENT, name)?;
        }
        let names = SERVICES.map(|(name, ..)| name);
        let entrances = scene.client.connect_all(&names)?;
        let files = tempfile::Builder::new()
            .prefix("underpass-lab-matrix-")
            .tempdir()?;
        open_to_all(files.path())?;
        Ok(Self {
            scene,
            entrances,
            _published: published,
            files,
        })
    }

    /// The servers' machine.
    pub(crate) fn a(&self) -> &Host {
        &self.scene.net.a
    }

    /// The clients' machine.
    pub(crate) fn b(&self) -> &Host {
        &self.scene.net.b
    }

    /// Where the server of a service listens on `a`.
    pub(crate) fn target(&self, service: &str) -> SocketAddr {
        let found = SERVICES.iter().find(|(name, ..)| *name == service);
        let (_, _, port) = found.expect("the rows name services that are published");
        (self.a().address(), *port).into()
    }

    /// Where clients reach a service on `b`.
    pub(crate) fn at(&self, service: &str) -> SocketAddr {
        let found = SERVICES.iter().position(|(name, ..)| *name == service);
        self.entrances.addresses[found.expect("the rows name services that are published")]
    }

    /// Makes certain that the tunnel is the only way to the server of a service.
    pub(crate) fn no_other_way(&self, service: &str) -> Result<()> {
        let target = self.target(service);
        let outside = IpAddr::from(self.scene.net.firewall_a.address());
        for at in [target, SocketAddr::new(outside, target.port())] {
            let direct = self.b().inside(|| TcpStream::connect_timeout(&at, LOOK))?;
            ensure!(direct.is_err(), "{at} is reached without a tunnel");
        }
        Ok(())
    }

    /// Starts a server on `a` and waits until it takes connections for `service`.
    pub(crate) fn serve(&self, service: &str, command: Command) -> Result<Process> {
        let process = self.a().spawn(service, command)?;
        let at = self.target(service);
        accepts(self.a(), &process, at)?;
        Ok(process)
    }

    /// A new folder for a row's files, which every user may read.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.files.path().join(name);
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }
}

/// Waits until `process` takes connections at `at` on `host`.
pub(crate) fn accepts(host: &Host, process: &Process, at: SocketAddr) -> Result<()> {
    wait_until(
        &format!("{} takes connections", process.label()),
        LIMIT,
        || {
            if let Some(status) = process.exited()? {
                bail!(
                    "{} ended with {status}\n{}",
                    process.label(),
                    process.log_tail()
                );
            }
            let connected = host.inside(|| TcpStream::connect_timeout(&at, LOOK))?;
            Ok(connected.ok().map(drop))
        },
    )
}

/// Lets every user read a folder and what is in it from now on.
pub(crate) fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Runs a program to its end, which must be a good one.
pub(crate) fn run(command: &mut Command) -> Result<Finished> {
    exec::output(command, LIMIT)?.success()
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests are UTF-8")
}

/// Whether a program is there, also where only root looks.
pub(crate) fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.iter().any(|folder| folder.join(name).is_file())
}

/// Bytes that no compression makes smaller, different for each `seed`.
pub(crate) fn random(seed: u64, length: usize) -> Vec<u8> {
    // SplitMix64, of which the upper half is good enough to be called random.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .collect();
    bytes.truncate(length);
    bytes
}

/// A program that is talked to while it runs, and killed when this is dropped.
pub(crate) struct Talk {
    child: Child,
    what: String,
}

impl Talk {
    /// Starts it with its input and output to be used; errors go where the test's go.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Self { child, what })
    }

    /// Its input.
    pub(crate) fn input(&mut self) -> Result<std::process::ChildStdin> {
        self.child.stdin.take().context("its input is taken once")
    }

    /// Its output.
    pub(crate) fn output(&mut self) -> Result<std::process::ChildStdout> {
        self.child.stdout.take().context("its output is taken once")
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it ends by itself, and gives what it has written since.
    pub(crate) fn ends(mut self) -> Result<String> {
        let mut output = self.output()?;
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).map(|_| bytes)
        });
        let what = format!("{} ends", self.what);
        wait_until(&what, LIMIT, || Ok(self.child.try_wait()?))?;
        let bytes = reading.join().expect("reading does not panic")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It has ended already, or it is to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
