//! Programs at work while relays come and go: whatever breaks or changes a byte is an error.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use underpass_lab::server::{Postgres, SshServer};
use underpass_lab::traffic::{self, Pattern, Service};
use underpass_lab::{Process, exec, soak, wait_until};

use crate::group::Group;

/// No byte for so long, and a connection has failed.
pub(crate) const STALL: Duration = Duration::from_secs(60);
const CHANNELS: usize = 500;
/// What comes back before an event, and after it before it counts as overcome.
const STEP: u64 = 1 << 20;
/// The longest run of a program.
const LIMIT: Duration = Duration::from_secs(600);

/// Servers beside the publisher, and what leads to them.
pub(crate) struct Work {
    echo: Service,
    sshd: SshServer,
    _postgres: Postgres,
    pub(crate) published: Process,
    pub(crate) connected: Process,
    at: [SocketAddr; 3],
}

impl Work {
    /// Publishes an echo service, PostgreSQL and sshd, and connects to them in one session.
    pub(crate) fn start(group: &Group) -> Result<Self> {
        let (a, b) = (&group.net.a, &group.net.b);
        let echo = Service::echo(a, 0)?;
        let postgres = Postgres::start(a, a.address(), 5432)?;
        let sshd = SshServer::start(a, a.address(), 22)?;
        let targets = [echo.address(), postgres.address(), sshd.address()];
        let targets = targets.map(|target| target.to_string());
        let names = ["echo", "db", "shell"];
        let offers = names.into_iter().zip(targets.iter().map(String::as_str));
        let offers: Vec<_> = offers.collect();
        let published = group.publisher.publish(&offers)?;
        for name in names {
            group.publisher.allow("client", name)?;
        }
        let entrances = group.client.connect_all(&names)?;
        let at = entrances.addresses.try_into();
        let at: [SocketAddr; 3] = at.map_err(|_| anyhow!("three addresses"))?;
        let mut fill = Postgres::pgbench(b, at[1], &["-i", "-q", "-s", "2"])?;
        exec::output(&mut fill, LIMIT)?.success()?;
        Ok(Self {
            echo,
            sshd,
            _postgres: postgres,
            published,
            connected: entrances.process,
            at,
        })
    }

    /// Does `meanwhile` while all programs are at work; it gets the number of bytes that an echo has brought back.
    pub(crate) fn while_busy<T>(
        &self,
        group: &Group,
        meanwhile: impl FnOnce(&AtomicU64) -> Result<T>,
    ) -> Result<T> {
        let b = &group.net.b;
        let [echo, ..] = self.at;
        let channels = traffic::open_many(b, echo, CHANNELS, STALL)?;
        let stream = traffic::connect(b, echo, STALL)?;
        let mut idle = self.idle_shell(group)?;
        idle.says("before")?;
        let (over, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        let done = std::thread::scope(|scope| -> Result<T> {
            let over = &over;
            let progress = &progress;
            let works = [
                AtWork::begin(scope, "the echo", move || {
                    traffic::echo_until(&stream, 7, over, progress).map(drop)
                }),
                AtWork::begin(scope, "500 channels", move || channels.echo_until(over)),
                AtWork::begin(scope, "pgbench", move || self.run_pgbench(group, over)),
                AtWork::begin(scope, "scp", move || self.run_scp(group, over)),
            ];
            let done = meanwhile(progress);
            over.store(true, Ordering::Relaxed);
            for work in works {
                work.end()?;
            }
            done
        })?;
        idle.says("after")?;
        idle.ends()?;
        let connections = self.echo.tally().connections();
        ensure!(
            connections as usize == CHANNELS + 1,
            "{connections} connections"
        );
        Ok(done)
    }

    fn idle_shell(&self, group: &Group) -> Result<Shell> {
        let mut command = self.sshd.ssh(&group.net.b, self.at[2])?;
        command
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("start ssh")?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Shell {
            child,
            input,
            output,
        })
    }

    /// One run after the other: each has its own connections, which outlive several relays.
    fn run_pgbench(&self, group: &Group, over: &AtomicBool) -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            let arguments = ["-n", "-c", "4", "-T", "10"];
            let mut command = Postgres::pgbench(&group.net.b, self.at[1], &arguments)?;
            let done = exec::output(&mut command, LIMIT)?.success()?.text();
            ensure!(done.contains("failed transactions: 0 "), "{done}");
        }
        let sums = "select (select sum(abalance) from pgbench_accounts) = sum(delta) \
                    and (select sum(tbalance) from pgbench_tellers) = sum(delta) \
                    and (select sum(bbalance) from pgbench_branches) = sum(delta) from pgbench_history";
        let mut ask = Postgres::psql(&group.net.b, self.at[1], sums)?;
        let sums = exec::output(&mut ask, LIMIT)?.success()?.text();
        ensure!(sums.trim() == "t", "the books do not balance: {sums}");
        Ok(())
    }

    fn run_scp(&self, group: &Group, over: &AtomicBool) -> Result<()> {
        // So that one takes as long as many kills; in kbit/s.
        let (size, rate) = match soak() {
            true => (1 << 30, "80000"),
            false => (64 << 20, "32000"),
        };
        let logs = group.net.lab.logs();
        let (here, there) = (logs.join("here"), logs.join("there"));
        let mut content = vec![0; size];
        Pattern::new(size as u64).fill(&mut content);
        fs::write(&here, &content)?;
        let remote = format!("lab:{}", there.display());
        while !over.load(Ordering::Relaxed) {
            let mut command = self.sshd.scp(&group.net.b, self.at[2])?;
            command.args(["-l", rate]).arg(&here).arg(&remote);
            exec::output(&mut command, LIMIT)?.success()?;
            ensure!(fs::read(&there)? == content, "scp sent another file");
        }
        for file in [here, there] {
            fs::remove_file(file)?;
        }
        Ok(())
    }
}

/// Something that is done beside the test.
struct AtWork<'scope> {
    name: &'static str,
    thread: ScopedJoinHandle<'scope, Result<()>>,
}

impl<'scope> AtWork<'scope> {
    fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        name: &'static str,
        work: impl FnOnce() -> Result<()> + Send + 'scope,
    ) -> Self {
        let thread = scope.spawn(work);
        Self { name, thread }
    }

    fn end(self) -> Result<()> {
        let Self { name, thread } = self;
        let done = thread.join().map_err(|_| anyhow!("{name} panicked"))?;
        done.context(name)
    }
}

/// A shell on the other side in which nothing happens.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn says(&mut self, word: &str) -> Result<()> {
        writeln!(self.input, "{word}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim_end() == word, "ssh brought back {line:?}");
        Ok(())
    }

    fn ends(self) -> Result<()> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        let status = child.wait()?;
        ensure!(status.success(), "ssh ended with {status}");
        Ok(())
    }
}

/// Waits until the echo has come further.
pub(crate) fn come_further(progress: &AtomicU64) -> Result<()> {
    let due = progress.load(Ordering::Relaxed) + STEP;
    wait_until("the echo goes on", STALL, || {
        Ok((progress.load(Ordering::Relaxed) >= due).then_some(()))
    })
}

/// The longest time for which the echo brought nothing back during `event` and until it has come further.
pub(crate) fn longest_silence(
    progress: &AtomicU64,
    event: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let longest = scope.spawn(|| {
            let (mut last, mut heard) = (0, Instant::now());
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let now = progress.load(Ordering::Relaxed);
                longest = longest.max(heard.elapsed());
                if now != last {
                    (last, heard) = (now, Instant::now());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            longest
        });
        let done = event().and_then(|()| come_further(progress));
        over.store(true, Ordering::Relaxed);
        let longest = longest.join().map_err(|_| anyhow!("the clock panicked"))?;
        done.map(|()| longest)
    })
}
