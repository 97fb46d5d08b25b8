//! Brings the events of a log into the store.
//!
//! While the store cannot take them they wait here and in the queue; what finds no room there is counted,
//! and the gap is written down once the store works again. So that it is not forgotten when the process
//! ends before that, it is kept in the [`Ledger`], with what waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use underpass_store::{AppendError, EventRetention, NewEvent, Store};

use super::gap::Gap;
use super::ledger::Ledger;
use super::repeats::Repeats;
use super::{Keep, Note};
use crate::clock;

/// Events that are written together at most.
const BATCH: usize = 512;
/// For how long events gather before they are written: twenty transactions a second at most.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure the store is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// If the store takes longer, what waits for it is kept in the ledger meanwhile.
const SLOW: Duration = Duration::from_millis(300);
/// How often old events and invitations are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What writes the events of a [`Log`](super::Log) to the store.
pub(crate) struct LogWriter {
    pub(super) queue: mpsc::Receiver<Note>,
    /// What found no room in the queue.
    pub(super) missed: Arc<Mutex<Gap>>,
    pub(super) repeats: Repeats,
    /// What the store is to take next.
    pub(super) batch: Vec<NewEvent>,
    /// What was not written and never will be.
    pub(super) gap: Gap,
    pub(super) failing: bool,
}

/// Where events go.
pub(crate) struct Destination {
    /// The store.
    pub(crate) store: Arc<dyn Store>,
    /// Where a gap is kept, if there is such a place.
    pub(crate) ledger: Option<Ledger>,
    /// What this relay is called in its events.
    pub(crate) relay: String,
}

impl LogWriter {
    /// Writes events until the last [`Log`](super::Log) is gone.
    pub(crate) async fn run(mut self, mut to: Destination) {
        if let Some(ledger) = &to.ledger {
            self.gap = ledger.kept();
        }
        loop {
            let open = self.gather(&to.relay).await;
            self.write(&mut to).await;
            if !open && (self.failing || self.batch.is_empty() && self.queue.is_empty()) {
                return;
            }
        }
    }

    /// Waits until there is something to write. False when no more events will come.
    async fn gather(&mut self, relay: &str) -> bool {
        if !self.batch.is_empty() {
            // The store did not take them.
            tokio::time::sleep(RETRY).await;
            return !self.queue.is_closed();
        }
        let due = self.repeats.due().map(clock::instant);
        let ended = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let first = tokio::select! {
            first = self.queue.recv() => first,
            () = ended => {
                let ended = self.repeats.ended(clock::now());
                self.batch.extend(ended.into_iter().map(|note| note.into_event(relay)));
                return true;
            }
        };
        let Some(first) = first else {
            let counted = self.repeats.all();
            self.batch
                .extend(counted.into_iter().map(|note| note.into_event(relay)));
            return false;
        };
        self.accept(first, relay);
        tokio::time::sleep(GATHER).await;
        while self.batch.len() < BATCH
            && let Ok(note) = self.queue.try_recv()
        {
            self.accept(note, relay);
        }
        true
    }

    fn accept(&mut self, note: Note, relay: &str) {
        if let Some(note) = self.repeats.take(note, clock::now()) {
            self.batch.push(note.into_event(relay));
        }
    }

    async fn write(&mut self, to: &mut Destination) {
        let missed = std::mem::take(&mut *self.missed());
        self.gap.merge(missed);
        let events = self.batch.len();
        if !self.gap.is_none() {
            self.batch.push(self.gap.note().into_event(&to.relay));
        }
        if self.batch.is_empty() {
            return;
        }
        let appended = {
            let mut appending = to.store.append_events(&self.batch);
            loop {
                match tokio::time::timeout(SLOW, &mut appending).await {
                    Ok(appended) => break appended,
                    Err(_) => keep(&mut to.ledger, self.at_stake(events)).await,
                }
            }
        };
        match appended {
            Ok(()) => {
                self.batch.clear();
                self.gap = Gap::default();
                keep(&mut to.ledger, Gap::default()).await;
                if std::mem::take(&mut self.failing) {
                    tracing::info!("events are written again");
                }
            }
            Err(AppendError::Fault(fault)) => {
                self.batch.truncate(events);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(cause = %fault.cause, "events cannot be written: {fault}");
                }
                keep(&mut to.ledger, self.at_stake(events)).await;
            }
            Err(AppendError::TooLong { .. } | AppendError::NotJson) => {
                tracing::error!(events, "events that the store does not take are left out");
                self.batch.truncate(events);
                for event in self.batch.drain(..) {
                    self.gap.add(event.at);
                }
            }
        }
    }

    fn missed(&self) -> MutexGuard<'_, Gap> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What would be missing if the process ended now, with the first `events` of the batch.
    fn at_stake(&self, events: usize) -> Gap {
        let mut stake = self.gap;
        stake.merge(*self.missed());
        for event in &self.batch[..events] {
            stake.add(event.at);
        }
        let queued = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
        let now = clock::calendar();
        stake.merge(Gap::between(queued, now, now));
        stake
    }
}

async fn keep(ledger: &mut Option<Ledger>, gap: Gap) {
    if let Some(ledger) = ledger {
        ledger.keep(gap).await;
    }
}

/// Forgets old events and invitations from time to time, without end. Apart from the writer: forgetting
/// many takes a while, in steps between which others have their turn.
pub(crate) async fn forget_old(store: Arc<dyn Store>, keep: Keep) {
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    loop {
        prune.tick().await;
        let oldest = clock::calendar().saturating_sub(keep.age);
        let retention = EventRetention {
            not_before: Some(oldest),
            at_most: Some(keep.count),
        };
        let pruned = store.prune_events(retention).await;
        let invitations = store.prune_invitations(oldest).await;
        for result in [pruned, invitations] {
            if let Err(error) = result {
                tracing::warn!("old events were not forgotten: {error}");
            }
        }
    }
}
