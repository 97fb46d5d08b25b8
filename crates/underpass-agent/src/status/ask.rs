//! Asking the running agents of a home, over one socket each.
//!
//! Whoever connects is sent one JSON object, [`AgentReport`], and the end.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::socket::{self, AgentSocket};
use super::{AgentReport, Board};
use crate::home::{Home, HomeError};

/// An agent must answer within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes: thousands of sessions.
const LONGEST_ANSWER: u64 = 16 << 20;
const PURPOSE: &str = "agent";

/// Answers who asks for the status of this process, until it is dropped.
#[derive(Debug)]
pub struct StatusServer {
    _socket: AgentSocket,
}

impl StatusServer {
    /// Starts to answer from `board`. Must be called on a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(home: &Home, board: Board) -> Result<Self, HomeError> {
        let socket = AgentSocket::serve(home, PURPOSE, move |stream| {
            let board = board.clone();
            async move {
                // Whoever asked and left misses nothing.
                let _ = tokio::time::timeout(ANSWER_LIMIT, answer(stream, &board)).await;
            }
        })?;
        Ok(Self { _socket: socket })
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
    let mut reports = Vec::new();
    for path in socket::all(home, PURPOSE)? {
        match tokio::time::timeout(ANSWER_LIMIT, ask(&path)).await {
            Ok(Ok(report)) => reports.push(report),
            Ok(Err(error)) => tracing::debug!("{}: {error}", path.display()),
            Err(_) => tracing::warn!("{}: no answer", path.display()),
        }
    }
    reports.sort_by_key(|report: &AgentReport| report.pid);
    Ok(reports)
}

async fn ask(path: &Path) -> io::Result<AgentReport> {
    let mut text = Vec::new();
    socket::connect(path)?
        .take(LONGEST_ANSWER)
        .read_to_end(&mut text)
        .await?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            socket::in_folder(folder, &dead, |short| {
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
