//! Running a command to its end, within a limit of time.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a wait looks again. Only decides how late a limit is noticed, never an outcome.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; bytes that are not UTF-8 are replaced.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails unless the command ended with exit code 0.
    ///
    /// # Errors
    /// The exit status with the end of standard error.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let errors = self.errors();
        let tail: Vec<&str> = errors.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("ended with {}: {}", self.status, tail.join("\n"))
    }
}

/// Runs `command` to its end and collects its output. Standard input is empty unless the command set it.
///
/// # Errors
/// The command could not be started, or was still running after `limit` (it is killed then).
pub fn output(command: &mut Command, limit: Duration) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    output_of(command, limit).with_context(|| format!("run {name}"))
}

/// Like [`output`], and feeds `input` to the command's standard input first.
///
/// # Errors
/// As [`output`].
pub fn output_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut file = tempfile::tempfile().context("make a file for standard input")?;
    std::io::Write::write_all(&mut file, input)?;
    std::io::Seek::rewind(&mut file)?;
    command.stdin(file);
    output_of(command, limit).with_context(|| format!("run {name}"))
}

fn output_of(command: &mut Command, limit: Duration) -> Result<Finished> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let Some(status) = wait(&mut child, limit)? else {
        let _ = child.kill();
        let _ = child.wait();
        bail!(
            "still running after {limit:?}: {:?}",
            command.get_args().collect::<Vec<_>>()
        );
    };
    let take = |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    Ok(Finished {
        status,
        stdout: take(stdout),
        stderr: take(stderr),
    })
}

fn collect<R: Read + Send + 'static>(source: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            // A broken pipe ends the output as an end of file does.
            let _ = source.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for `child` at most `limit`; `None` when it still runs then.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Looks at `ready` again and again until it gives a value.
///
/// # Errors
/// `what` did not happen within `limit`, or `ready` failed.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(POLL);
    }
}

/// Runs a tool that makes or changes a network; they all end at once.
pub(crate) fn tool(command: &mut Command) -> Result<String> {
    let shown = format!(
        "{:?} {:?}",
        command.get_program(),
        command.get_args().collect::<Vec<_>>()
    );
    let done = output(command, Duration::from_secs(20)).and_then(Finished::success);
    Ok(done.with_context(|| shown)?.text())
}

/// Like [`tool`], with `input` on standard input.
pub(crate) fn tool_with_input(command: &mut Command, input: &str) -> Result<String> {
    let done = output_with_input(command, input.as_bytes(), Duration::from_secs(20));
    Ok(done
        .and_then(Finished::success)
        .with_context(|| input.to_owned())?
        .text())
}
