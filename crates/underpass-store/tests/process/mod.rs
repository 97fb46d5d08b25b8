//! A test program that starts itself again as another process, to be killed or to have a disk of its own.
//!
//! The program has one ignored test as the entry of such processes, which looks for its [`task`]. The relay's tests use
//! this file too.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use sqlx::{Connection as _, SqliteConnection, query, query_scalar};

const TASK: &str = "UNDERPASS_TEST_TASK";
const FOLDER: &str = "UNDERPASS_TEST_FOLDER";
/// Stands before every line that a process means for the one that started it.
const MARK: &str = "@ ";

/// What this process is to do, its folder and the runtime to do it on; none in an ordinary test run.
pub(crate) fn task() -> Option<(String, PathBuf, tokio::runtime::Runtime)> {
    let task = std::env::var(TASK).ok()?;
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    Some((task, folder, tokio::runtime::Runtime::new().unwrap()))
}

/// Tells the process that started this one.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").unwrap();
    out.flush().unwrap();
}

/// Another process at work on a task; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program at the test of that name, with a task in a folder.
    pub(crate) fn start(entry: &str, task: &str, folder: &Path) -> Self {
        Self::run(
            Command::new(std::env::current_exe().unwrap()),
            entry,
            task,
            folder,
        )
    }

    /// The same, where the folder is a disk of its own of so many MiB; none where the system does not allow that: it
    /// takes a mount namespace, and so root.
    pub(crate) fn start_on_disk(mib: u32, entry: &str, task: &str, folder: &Path) -> Option<Self> {
        let mount = format!(r#"mount -t tmpfs -o size={mib}m tmpfs "$0" && exec "$@""#);
        let own_disk = || {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &mount]).arg(folder);
            command
        };
        let possible = own_disk().arg("true").output();
        if !possible.is_ok_and(|output| output.status.success()) {
            println!("skipped: a mount namespace cannot be made here (that takes root)");
            return None;
        }
        let mut command = own_disk();
        command.arg(std::env::current_exe().unwrap());
        Some(Self::run(command, entry, task, folder))
    }

    fn run(mut command: Command, entry: &str, task: &str, folder: &Path) -> Self {
        let mut child = command
            .args(["--exact", entry, "--ignored", "--nocapture"])
            .env(TASK, task)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line meant for us, or none when the process has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            // The test harness may have begun the line already.
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.trim_end().to_owned());
            }
            line.clear();
        }
        None
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends it in the middle of whatever it does; what it has said until then can still be read.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection of its own to a database that is whole.
pub(crate) async fn intact(file: &Path) -> SqliteConnection {
    let mut raw = SqliteConnection::connect(&format!("sqlite://{}", file.display()))
        .await
        .unwrap();
    let said: String = query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert_eq!(said, "ok");
    let dangling = query("PRAGMA foreign_key_check").fetch_all(&mut raw);
    assert!(dangling.await.unwrap().is_empty());
    raw
}
