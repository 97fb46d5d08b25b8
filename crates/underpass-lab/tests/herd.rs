//! A relay that was killed gets all its agents back within half a minute, and not all at once.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::{Host, Process, Relay, RelayOptions, TwoFirewalls, built, tests, wait_until};

fn main() -> ExitCode {
    tests!(two_thousand_agents_come_back_to_a_relay_that_was_killed)
}

const AGENTS: usize = 2000;
/// All must be back so soon.
const BACK: Duration = Duration::from_secs(30);
/// Accepted connections are counted in steps of at least this length.
const STEP: Duration = Duration::from_millis(100);
/// The largest part of the agents that may come in one step; where nothing keeps them apart all of them do.
const AT_ONCE: f64 = 0.6;
/// Connections for each agent: one that learns that it is forgotten, one to begin anew, and one to spare.
const EACH: usize = 3;
/// How much more memory the relay may hold with all agents back than it held before.
const MORE_MEMORY: f64 = 1.15;
/// How long enrolling all of them may take on a busy machine. Decides nothing.
const LIMIT: Duration = Duration::from_secs(240);

/// The agents are one process on `b` behind firewall B, so they share an address.
fn two_thousand_agents_come_back_to_a_relay_that_was_killed() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let more = 2 * AGENTS;
    let limits = format!("attachments_per_source = {more}\nattachments_per_user = {more}\n");
    let options = RelayOptions {
        configuration: Some(limits),
        ..RelayOptions::default()
    };
    let relay = Relay::start_with(&net.relay, &options)?;
    let begin = Instant::now();
    let mut herd = Herd::start(&net.b, &relay)?;
    let attached = begin.elapsed();
    let before = settled(relay.process())?;

    let earlier = accepted(relay.process())?;
    herd.begin_count()?;
    relay.process().restart()?;
    relay.wait_ready()?;
    let ready = Instant::now();
    let mut accepts = Accepts::of(relay.process())?;
    let back = wait_until("all agents are back", LIMIT, || {
        accepts.look()?;
        Ok((herd.back()? == AGENTS).then(|| ready.elapsed()))
    })?;
    let after = settled(relay.process())?;
    let all = accepted(relay.process())? - earlier;
    let share = accepts.most / AGENTS as f64;
    println!(
        "{AGENTS} agents: attached in {attached:.1?}, back in {back:.1?}; {all} connections accepted meanwhile, at most \
         {:.0} in {STEP:?}; the relay had {before}, and has {after}",
        accepts.most
    );
    ensure!(back <= BACK, "the last was back after {back:.1?}");
    ensure!(
        all <= EACH * AGENTS,
        "{all} connections for {AGENTS} agents"
    );
    ensure!(
        share <= AT_ONCE,
        "{share:.2} of the agents came in {STEP:?}"
    );
    let more = after.resident as f64 / before.resident as f64;
    ensure!(more <= MORE_MEMORY, "{more:.2} times the memory");
    ensure!(
        after.files <= before.files + AGENTS / 100,
        "open files: {after}"
    );

    drop(herd);
    let left = wait_until("nothing is left of the agents", LIMIT, || {
        let left = settled(relay.process())?;
        Ok((left.files < AGENTS / 10).then_some(left))
    })?;
    println!("without them it has {left}");
    Ok(())
}

/// What a process holds once it does not change any more.
struct Held {
    resident: u64,
    files: usize,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} MiB and {} descriptors",
            self.resident >> 20,
            self.files
        )
    }
}

/// Waits until nothing has come or gone for a while, and says what is held then.
fn settled(process: &Process) -> Result<Held> {
    let look = || -> Result<Held> {
        Ok(Held {
            resident: process.memory()?.resident,
            files: process.open_files()?,
        })
    };
    let (mut last, mut since) = (look()?, Instant::now());
    wait_until("the relay is at rest", LIMIT, || {
        let now = look()?;
        let moved = now.resident.abs_diff(last.resident) > last.resident / 100;
        if moved || now.files.abs_diff(last.files) > AGENTS / 100 {
            (last, since) = (now, Instant::now());
            return Ok(None);
        }
        Ok((since.elapsed() > Duration::from_secs(3)).then_some(now))
    })
}

/// Counts what a host accepts.
struct Accepts {
    process: Process,
    seen: usize,
    at: Instant,
    /// The most in one step.
    most: f64,
}

impl Accepts {
    fn of(process: &Process) -> Result<Self> {
        let seen = accepted(process)?;
        Ok(Self {
            process: process.clone(),
            seen,
            at: Instant::now(),
            most: 0.0,
        })
    }

    /// To be called often; where that is not so, what came meanwhile is parted evenly.
    fn look(&mut self) -> Result<()> {
        let passed = self.at.elapsed();
        if passed >= STEP {
            let seen = accepted(&self.process)?;
            let steps = passed.as_secs_f64() / STEP.as_secs_f64();
            self.most = self.most.max((seen - self.seen) as f64 / steps);
            (self.seen, self.at) = (seen, Instant::now());
        }
        Ok(())
    }
}

/// TCP connections that were accepted so far in the network of a process.
fn accepted(process: &Process) -> Result<usize> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/snmp", process.id()))?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next(), rows.next());
    let names = names.context("names of counters")?.split(' ');
    let values = values.context("values of counters")?.split(' ');
    let found = names.zip(values).find(|(name, _)| *name == "PassiveOpens");
    Ok(found
        .context("a counter of accepted connections")?
        .1
        .parse()?)
}

/// The agents.
struct Herd {
    child: Child,
    lines: Receiver<String>,
    back: usize,
}

impl Herd {
    fn start(host: &Host, relay: &Relay) -> Result<Self> {
        let code = std::fs::read_to_string(relay.setup_file())?;
        let mut command = host.command(built::example("herd")?);
        command.args([relay.url(), &AGENTS.to_string(), code.trim()]);
        let log = std::fs::File::create(host.logs().join("herd.log"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let out = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let herd = Self {
            child,
            lines,
            back: 0,
        };
        let line = herd.lines.recv_timeout(LIMIT).context("agents attach")?;
        ensure!(line == format!("attached {AGENTS}"), "{line}");
        Ok(herd)
    }

    fn begin_count(&mut self) -> Result<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .context("standard input is piped")?;
        writeln!(input, "again")?;
        self.back = 0;
        Ok(())
    }

    /// How many are back so far.
    fn back(&mut self) -> Result<usize> {
        for line in self.lines.try_iter() {
            let Some(number) = line.strip_prefix("back ") else {
                bail!("the agents say {line:?}");
            };
            self.back = number.parse()?;
        }
        Ok(self.back)
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
