//! When machines were last seen, written to the store beside what they wait for.
//!
//! Each commit waits for the disk. A machine that attaches need not wait for that, and a thousand of
//! them that attach at once should not cost a thousand commits: what is noted while one is under way,
//! or shortly after, goes into the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use underpass_store::{MachineId, Store, UnixMillis};

/// Between two commits.
const APART: Duration = Duration::from_secs(1);

/// Where it is handed in; clones are the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// What is not written yet: at most one time of each machine that has attached meanwhile.
    waiting: Mutex<HashMap<MachineId, UnixMillis>>,
    noted: Notify,
}

impl Seen {
    /// Notes that a machine was seen.
    pub(crate) fn note(&self, machine: MachineId, at: UnixMillis) {
        self.lock().insert(machine, at);
        self.0.noted.notify_one();
    }

    /// Writes what is noted until `stop`, and then what is left.
    pub(crate) async fn write(self, store: Arc<dyn Store>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.0.noted.notified() => {}
                () = stop.cancelled() => return self.commit(store.as_ref()).await,
            }
            self.commit(store.as_ref()).await;
            tokio::select! {
                () = tokio::time::sleep(APART) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn commit(&self, store: &dyn Store) {
        let seen: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        if seen.is_empty() {
            return;
        }
        if let Err(error) = store.note_machines_seen(&seen).await {
            let machines = seen.len();
            tracing::warn!(machines, "it was not written when they were seen: {error}");
            let mut waiting = self.lock();
            for (machine, at) in seen {
                waiting.entry(machine).or_insert(at);
            }
            drop(waiting);
            self.0.noted.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MachineId, UnixMillis>> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use underpass_store::{MachineKey, Name, NewMachine, SqliteStore};

    use super::*;
    use crate::code::OneTimeCode;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    async fn store() -> (TempDir, Arc<dyn Store>, MachineId) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("db")).await.unwrap();
        let code = OneTimeCode::new([1; 16]).digest();
        store.set_setup_code(code, NOW).await.unwrap();
        let machine = NewMachine {
            name: Name::new("m0").unwrap(),
            key: MachineKey([1; 32]),
        };
        let root = Name::new("root").unwrap();
        let enrolled = store.redeem_setup_code(code, &root, &machine, NOW).await;
        let id = enrolled.unwrap().machine.id;
        (folder, Arc::new(store), id)
    }

    async fn seen_in(store: &dyn Store, id: MachineId) -> Option<UnixMillis> {
        store.machine(id).await.unwrap().unwrap().last_seen
    }

    #[tokio::test]
    async fn one_alone_is_written_soon() {
        let (_folder, store, id) = store().await;
        let (seen, stop) = (Seen::default(), CancellationToken::new());
        let writing = tokio::spawn(seen.clone().write(Arc::clone(&store), stop.clone()));
        seen.note(id, NOW);
        while seen_in(store.as_ref(), id).await.is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen_in(store.as_ref(), id).await, Some(NOW));
        stop.cancel();
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_noted_before_the_end_is_written() {
        let (_folder, store, id) = store().await;
        let (seen, stop) = (Seen::default(), CancellationToken::new());
        let writing = tokio::spawn(seen.clone().write(Arc::clone(&store), stop.clone()));
        // The first goes at once, and the others wait for company.
        for ms in 0..100 {
            seen.note(id, UnixMillis(NOW.0 + ms));
            tokio::task::yield_now().await;
        }
        stop.cancel();
        writing.await.unwrap();
        assert_eq!(
            seen_in(store.as_ref(), id).await,
            Some(UnixMillis(NOW.0 + 99))
        );
    }
}
