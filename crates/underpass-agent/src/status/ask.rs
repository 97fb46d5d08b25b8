//! Asking the running agents of a home, over one socket each.
//!
//! Whoever connects is sent one JSON object, [`AgentReport`], and the end. The folder keeps other
//! users out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{AgentReport, Board};
use crate::home::{Home, HomeError};

/// An agent must answer within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes: thousands of sessions.
const LONGEST_ANSWER: u64 = 16 << 20;
/// Pause after the system refused a connection.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PREFIX: &str = "agent-";
const SUFFIX: &str = ".sock";

/// Answers who asks for the status of this process, until it is dropped.
#[derive(Debug)]
pub struct StatusServer {
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl StatusServer {
    /// Starts to answer from `board`. Must be called on a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(home: &Home, board: Board) -> Result<Self, HomeError> {
        let folder = home.run_folder()?;
        let path = folder.join(format!("{PREFIX}{}{SUFFIX}", std::process::id()));
        let listener = in_folder(folder, &path, |short| {
            // A process with our number that has died may have left its own.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            UnixListener::bind(short)
        });
        let listener = listener.map_err(|source| HomeError::Io {
            action: "listen on",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            serving: tokio::spawn(serve(listener, board)),
        })
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.serving.abort();
        // A leftover is swept by the next one who asks.
        let _ = fs::remove_file(&self.path);
    }
}

/// Calls `use_path` with a name of `path` that is short enough for a socket's address (108 bytes, see
/// unix(7)), however deep the folder lies.
pub(super) fn in_folder<T>(
    folder: &Path,
    path: &Path,
    use_path: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    use std::os::fd::AsRawFd as _;
    let handle = fs::File::open(folder)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let short = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string());
    use_path(&short.join(name))
}

async fn serve(listener: UnixListener, board: Board) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let board = board.clone();
                tokio::spawn(async move {
                    // Whoever asked and left misses nothing.
                    let _ = tokio::time::timeout(ANSWER_LIMIT, answer(stream, &board)).await;
                });
            }
            Err(error) => {
                tracing::debug!("cannot take a request for the status: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, board: &Board) -> io::Result<()> {
    let report = serde_json::to_vec(&board.report())?;
    stream.write_all(&report).await?;
    stream.shutdown().await
}

/// Asks all running agents of `home`, and sweeps away what dead ones left behind.
///
/// # Errors
/// The folder cannot be read. An agent that does not answer is left out.
pub async fn ask_all(home: &Home) -> Result<Vec<AgentReport>, HomeError> {
    let folder = home.run_folder()?;
    let failed = |source| HomeError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let mut reports = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let ours = name
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if !ours {
            continue;
        }
        match tokio::time::timeout(ANSWER_LIMIT, ask(folder, &entry.path())).await {
            Ok(Ok(report)) => reports.push(report),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Nobody listens: its process died. Another may sweep at the same time.
                let _ = fs::remove_file(entry.path());
            }
            Ok(Err(error)) => tracing::debug!("{}: {error}", entry.path().display()),
            Err(_) => tracing::warn!("{}: no answer", entry.path().display()),
        }
    }
    reports.sort_by_key(|report: &AgentReport| report.pid);
    Ok(reports)
}

async fn ask(folder: &Path, path: &Path) -> io::Result<AgentReport> {
    let stream = in_folder(folder, path, |short| {
        std::os::unix::net::UnixStream::connect(short)
    })?;
    stream.set_nonblocking(true)?;
    let mut text = Vec::new();
    UnixStream::from_std(stream)?
        .take(LONGEST_ANSWER)
        .read_to_end(&mut text)
        .await?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_running_agent_answers_and_a_dead_one_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        // Deeper than an address of a socket can be long.
        let root = dir.path().join("d".repeat(120));
        let home = Home::at(&root);
        assert_eq!(ask_all(&home).await.unwrap(), []);
        let folder = home.run_folder().unwrap();
        let dead = folder.join("agent-1.sock");
        drop(
            in_folder(folder, &dead, |short| {
                std::os::unix::net::UnixListener::bind(short)
            })
            .unwrap(),
        );
        fs::write(folder.join("other"), "").unwrap();

        let board = Board::new("publish");
        board.show_entry("db", "127.0.0.1:5432");
        let server = StatusServer::start(&home, board.clone()).unwrap();
        let reports = ask_all(&home).await.unwrap();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].pid, std::process::id());
        assert_eq!(reports[0].command, "publish");
        assert_eq!(reports[0].entries, board.report().entries);
        assert!(!dead.exists());
        drop(server);
        assert_eq!(ask_all(&home).await.unwrap(), []);
        assert!(folder.join("other").exists());
    }
}
