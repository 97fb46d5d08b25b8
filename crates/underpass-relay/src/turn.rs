//! Whose turn it is to take clients in: of several processes that were handed the same sockets, the one
//! that holds the lock. Two at once would each know half of the agents, and read each other's packets.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use underpass_carrier::Doors;

/// The file in the data folder that is locked.
const LOCK_FILE: &str = "turn.lock";

/// A turn that comes within this was free: nothing to tell about.
const SOON: Duration = Duration::from_millis(100);

/// Held by the process that takes clients in; dropping it lets the next one.
#[derive(Debug)]
struct Turn {
    _lock: File,
}

impl Turn {
    /// Whoever holds the lock now may keep it for days: the turn comes when it comes.
    ///
    /// # Errors
    /// The file cannot be opened.
    fn of(folder: &Path) -> io::Result<oneshot::Receiver<io::Result<Turn>>> {
        let mut options = File::options();
        let lock = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(LOCK_FILE))?;
        let (tell, turn) = oneshot::channel();
        // A thread of its own: the runtime would wait for one of its blocking threads at its end.
        std::thread::Builder::new()
            .name("turn".to_owned())
            .spawn(move || {
                let turn = lock.lock().map(|()| Turn { _lock: lock });
                // Who does not wait any more has not had its turn.
                let _ = tell.send(turn);
            })?;
        Ok(turn)
    }
}

/// The way from the process before this one to the one after.
pub(crate) struct Succession {
    waiting: JoinHandle<Option<Turn>>,
}

impl Succession {
    /// Opens the doors when it is this process's turn.
    ///
    /// # Errors
    /// The lock in the data folder cannot be used.
    pub(crate) fn begin(folder: &Path, doors: Doors) -> io::Result<Self> {
        let mut turn = Turn::of(folder)?;
        let waiting = tokio::spawn(async move {
            let soon = tokio::time::timeout(SOON, &mut turn).await;
            let turn = match soon {
                Ok(turn) => turn,
                Err(_) => {
                    tracing::info!("another relay uses the sockets; ready to take its place");
                    turn.await
                }
            };
            match turn.ok()? {
                Ok(turn) => {
                    doors.open();
                    tracing::info!("taking clients in on the sockets that were handed over");
                    Some(turn)
                }
                Err(error) => {
                    tracing::error!("cannot take a turn on the sockets: {error}");
                    None
                }
            }
        });
        Ok(Self { waiting })
    }

    /// Lets the next process have its turn.
    pub(crate) async fn end(self) {
        self.waiting.abort();
        // What was aborted, or has ended, lets go of its turn.
        drop(self.waiting.await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let first = Turn::of(folder.path()).unwrap().await.unwrap().unwrap();
        let mut second = Turn::of(folder.path()).unwrap();
        let third = Turn::of(folder.path()).unwrap();
        assert!(second.try_recv().is_err());
        // One that gave up before its turn holds nobody up.
        drop(third);
        drop(first);
        let second = second.await.unwrap().unwrap();
        drop(second);
        Turn::of(folder.path()).unwrap().await.unwrap().unwrap();
    }
}
