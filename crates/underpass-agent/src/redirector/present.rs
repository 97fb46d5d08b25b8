//! Processes for which a redirector has to be there.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most processes that are watched. There may be more: then it ends when those are gone, and nobody asked for a while.
const MOST: usize = 1024;

/// Processes that asked something and have not ended yet. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Present {
    processes: Arc<Mutex<HashSet<i32>>>,
}

impl Present {
    /// Watches a process until it ends. Must be called on a runtime.
    pub(super) fn watch(&self, process: i32) {
        {
            let mut processes = self.processes();
            if processes.len() >= MOST || !processes.insert(process) {
                return;
            }
        }
        let present = self.clone();
        tokio::spawn(async move {
            if let Some(handle) = open(process) {
                // Readable means ended (pidfd_open(2)).
                let _ = handle.readable().await;
            }
            present.processes().remove(&process);
        });
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.processes().is_empty()
    }

    fn processes(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` where it has ended, or this kernel has no such handles.
#[allow(
    unsafe_code,
    reason = "the runtime wants a promise about the descriptor"
)]
fn open(process: i32) -> Option<AsyncFd<OwnedFd>> {
    let handle = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and the result keeps it.
    unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn a_process_is_present_until_it_ends() {
        let present = Present::default();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = child.id().try_into().unwrap();
        present.watch(process);
        present.watch(process);
        tokio::task::yield_now().await;
        assert!(!present.is_empty());
        drop(child.stdin.take());
        while !present.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(child.try_wait().unwrap().is_some());
        // Of one that is gone nothing stays.
        present.watch(process);
        while !present.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
