//! Channels of which this relay itself is the far end, while they live: what passes on them, and how they are ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use underpass_endpoint::splice::Way;
use underpass_proto::{Code, Time};

use crate::clock;
use crate::hub::{AttachmentId, Member};
use crate::meter::{Direction, Meter};

/// One channel.
#[derive(Debug)]
pub(crate) struct Direct {
    /// By what it is named: random, since such a channel has no session of its own.
    pub(crate) id: u32,
    /// The attachment that it is in.
    pub(crate) attachment: AttachmentId,
    /// Whose it is.
    pub(crate) by: Member,
    /// The service.
    pub(crate) service: String,
    pub(crate) since: Time,
    meter: Arc<Meter>,
    sent: AtomicU64,
    received: AtomicU64,
    ended: CancellationToken,
    why: Mutex<Code>,
}

impl Direct {
    /// Bytes from the client and to it.
    pub(crate) fn passed(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.sent), load(&self.received))
    }

    /// Bytes are about to pass; waits until they may.
    pub(crate) async fn passes(&self, way: Way, bytes: usize) {
        let (direction, count) = match way {
            Way::ToHost => (Direction::Sent, &self.sent),
            Way::FromHost => (Direction::Received, &self.received),
        };
        self.meter.pass_in_time(direction, bytes).await;
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Ends it, for this reason.
    pub(crate) fn end(&self, code: Code) {
        *lock(&self.why) = code;
        self.ended.cancel();
    }

    /// Waits until it is to end, and why. Cancel safe.
    pub(crate) async fn ended(&self) -> Code {
        self.ended.cancelled().await;
        *lock(&self.why)
    }

    /// Why it was ended, if it was.
    pub(crate) fn end_code(&self) -> Option<Code> {
        self.ended.is_cancelled().then(|| *lock(&self.why))
    }
}

/// All of them; clones are the same table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directs(Arc<Mutex<BTreeMap<u32, Arc<Direct>>>>);

/// A channel's place in the table, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    all: Directs,
    pub(crate) direct: Arc<Direct>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&self.direct.id);
    }
}

impl Directs {
    /// A channel begins; `draw` makes names until one is free.
    pub(crate) fn begin(
        &self,
        attachment: AttachmentId,
        by: Member,
        service: &str,
        meter: Arc<Meter>,
        mut draw: impl FnMut() -> u32,
    ) -> Seat {
        let mut table = lock(&self.0);
        let mut id = draw();
        while table.contains_key(&id) {
            id = draw();
        }
        meter.begin();
        let direct = Arc::new(Direct {
            id,
            attachment,
            by,
            service: service.to_owned(),
            since: clock::now(),
            meter,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            ended: CancellationToken::new(),
            why: Mutex::new(Code::Ended),
        });
        table.insert(id, Arc::clone(&direct));
        Seat {
            all: self.clone(),
            direct,
        }
    }

    /// All that there are.
    pub(crate) fn all(&self) -> Vec<Arc<Direct>> {
        lock(&self.0).values().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
