//! A program that runs on a host: its log, its signals, what it uses.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::exec::{self, wait_until};
use crate::search;

/// A running program. Clones are handles of the same one; when the last is dropped, it and what it started are killed.
///
/// What it writes goes to its log; lines of its standard output can be waited for as well.
#[derive(Clone)]
pub struct Process {
    shared: Arc<Shared>,
}

struct Shared {
    label: String,
    log: PathBuf,
    state: Mutex<State>,
}

struct State {
    command: Command,
    child: Child,
    lines: Receiver<String>,
    /// Length of the log when the program was last started.
    log_start: u64,
    /// Set once it has ended and been waited for: its id may belong to another by now.
    ended: Option<ExitStatus>,
}

/// Memory of a process, in bytes (proc(5), `VmRSS` and `VmHWM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Process {
    /// Starts `command`, with its output in `folder/label.log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(label: &str, folder: &Path, mut command: Command) -> Result<Self> {
        let log = folder.join(format!("{label}.log"));
        // A group of its own, so that what it starts can be ended with it.
        command.process_group(0);
        let (child, lines, log_start) = launch(&mut command, &log, label)?;
        let state = Mutex::new(State {
            command,
            child,
            lines,
            log_start,
            ended: None,
        });
        Ok(Self {
            shared: Arc::new(Shared {
                label: label.into(),
                log,
                state,
            }),
        })
    }

    /// What it is called in logs.
    pub fn label(&self) -> &str {
        &self.shared.label
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.state().child.id()
    }

    /// The file that its output goes to.
    pub fn log(&self) -> &Path {
        &self.shared.log
    }

    /// The next line of its standard output, each given once.
    ///
    /// # Errors
    /// It ended, or wrote none within `limit`; the message shows the end of its log.
    pub fn line(&self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let ended = self.exited()?;
            let left = end.saturating_duration_since(Instant::now());
            match self
                .state()
                .lines
                .recv_timeout(left.min(Duration::from_millis(20)))
            {
                Ok(line) => return Ok(line),
                Err(_) if ended.is_some() || left.is_zero() => {}
                Err(_) => continue,
            }
            let why = ended.map_or(format!("none within {limit:?}"), |status| {
                status.to_string()
            });
            bail!(
                "wait for a line from {}: {why}\n{}",
                self.label(),
                self.log_tail()
            );
        }
    }

    /// Waits until a line of its log, standard error included, contains `text`, and gives that line. Lines from before
    /// the last restart do not count.
    ///
    /// # Errors
    /// As [`Process::line`].
    pub fn logged(&self, text: &str, limit: Duration) -> Result<String> {
        let begin = self.state().log_start as usize;
        let found = wait_until(&format!("{:?} in the log", text), limit, || {
            // Asked first: what it wrote before it ended is in the log after that.
            let ended = self.exited()?;
            let log = fs::read(&self.shared.log)?;
            let log = String::from_utf8_lossy(log.get(begin..).unwrap_or_default()).into_owned();
            match (log.lines().find(|line| line.contains(text)), ended) {
                (Some(line), _) => Ok(Some(line.to_owned())),
                (None, Some(status)) => bail!("ended with {status}"),
                (None, None) => Ok(None),
            }
        });
        found.with_context(|| format!("{}\n{}", self.label(), self.log_tail()))
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = state.child.try_wait()?;
        }
        Ok(state.ended)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        wait_until(&format!("{} ends", self.label()), limit, || self.exited())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn terminate(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Ends it at once (SIGKILL), as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// Freezes it (SIGSTOP): sockets stay open, nothing answers.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::freeze`] (SIGCONT).
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends it a signal; does nothing when it has ended.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        kill_process(pid(self.id()), signal).with_context(|| format!("signal {}", self.label()))
    }

    /// Kills it when it still runs, and starts the same command again.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        let mut state = self.state();
        let (child, lines, log_start) =
            launch(&mut state.command, &self.shared.log, &self.shared.label)?;
        state.child = child;
        state.lines = lines;
        state.log_start = log_start;
        state.ended = None;
        Ok(())
    }

    /// The memory it uses.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(&path).with_context(|| self.label().to_owned())?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024)
                .with_context(|| format!("{path} has no {name}"))
        };
        Ok(Memory {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }

    /// How many file descriptors it holds.
    ///
    /// # Errors
    /// It has ended.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// How often `canary` occurs in its memory.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory_holds(&self, canary: &[u8]) -> Result<u64> {
        Ok(self.memory_holds_each(&[canary])?[0])
    }

    /// The same for several canaries, looked for at once.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory_holds_each(&self, canaries: &[&[u8]]) -> Result<Vec<u64>> {
        Ok(search::occurrences_in_memory(self.id(), canaries)?)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.shared.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self
            .state
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // The group outlives its first process, so its id is safe to use as long as that one is not waited for.
        if state.ended.is_none() {
            let _ = kill_process_group(pid(state.child.id()), Signal::KILL);
            let _ = exec::wait(&mut state.child, Duration::from_secs(10));
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("the id of a process is never 0")
}

fn launch(
    command: &mut Command,
    log: &Path,
    label: &str,
) -> Result<(Child, Receiver<String>, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    let start = file.metadata()?.len();
    writeln!(file, "$ {}", shown(command))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("start {label}"))?;
    let stdout = child
        .stdout
        .take()
        .context("a child's standard output is piped")?;
    Ok((child, copy_lines(stdout, file), start))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn copy_lines(stdout: impl std::io::Read + Send + 'static, mut log: File) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while matches!(stdout.read_until(b'\n', &mut line), Ok(1..)) {
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line);
            // Nobody may be waiting for lines any more; the log still wants them.
            let _ = sender.send(text.trim_end_matches(['\r', '\n']).to_owned());
            line.clear();
        }
    });
    receiver
}
