//! The process-wide bound on what replay queues hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one session may always hold, however full the process is: without it a new session could
/// never send its first record.
const RESERVED: u64 = 128 * 1024;

/// Bytes that the replay queues of all sessions of a process may hold together.
///
/// Clones share one account. It is a soft bound: each session may always hold 128 KiB.
#[derive(Clone, Debug)]
pub struct Budget {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Budget {
            account: Arc::new(Account {
                limit,
                used: AtomicU64::new(0),
            }),
        }
    }

    /// A budget that never runs out.
    #[must_use]
    pub fn unlimited() -> Self {
        Budget::new(u64::MAX)
    }

    /// Bytes taken by all sessions.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.account.used.load(Ordering::Relaxed)
    }

    pub(crate) fn has_room(&self, held: u64, more: u64) -> bool {
        held.saturating_add(more) <= RESERVED
            || self.used().saturating_add(more) <= self.account.limit
    }

    pub(crate) fn take(&self, bytes: u64) {
        self.account.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give(&self, bytes: u64) {
        self.account.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
