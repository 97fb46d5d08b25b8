//! Whether a machine may use an application of ours, asked for each channel.
//!
//! The relay lets a machine through to one service, once; its session may live on when that is taken back. So the relay is
//! asked again at each channel, about the key that the session's handshake has proved. A yes is remembered until the relay
//! says that rights have changed, a no is not: whoever has just been let in need not wait.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use underpass_proto::Code as Reason;
use underpass_seal::PublicKey;

use crate::standing::Standing;

/// A yes this old is asked again, although the relay has not said that anything has changed.
const FRESH: Duration = Duration::from_secs(30);
/// The relay that has not answered within this is not waited for; its path may just be made anew.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// So many are remembered before those are forgotten whose answer is too old.
const REMEMBERED: usize = 4096;

/// A yes.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: Instant,
    /// How many changes there had been by then.
    changes: u64,
}

impl Said {
    fn holds(self, changes: u64, now: Instant) -> bool {
        self.changes == changes && now.saturating_duration_since(self.at) < FRESH
    }
}

/// The relay's word on who may use what.
pub(crate) struct Access {
    standing: Standing,
    said: Mutex<HashMap<(String, PublicKey), Said>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    pub(crate) fn new(standing: Standing) -> Self {
        let said = Mutex::default();
        Self { standing, said }
    }

    /// Changes whenever what was said may not be true any more.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.standing.control.rights()
    }

    /// Whether the machine with this key may use `application`; if not, or where nobody can be asked, why.
    pub(crate) async fn check(&self, application: &str, machine: PublicKey) -> Result<(), Reason> {
        let key = (application.to_owned(), machine);
        // Counted before it is asked: what changes meanwhile may not be in the answer.
        let said = Said {
            at: Instant::now(),
            changes: *self.changes().borrow(),
        };
        let known = self.said().get(&key).copied();
        if known.is_some_and(|known| known.holds(said.changes, said.at)) {
            return Ok(());
        }
        let asking = self.standing.may_use(application, machine);
        let answer = tokio::time::timeout(ANSWER_LIMIT, asking).await;
        answer.unwrap_or(Err(Reason::GoingAway))?;
        let mut all = self.said();
        if all.len() >= REMEMBERED {
            all.retain(|_, said| said.at.elapsed() < FRESH);
        }
        all.insert(key, said);
        Ok(())
    }

    fn said(&self) -> MutexGuard<'_, HashMap<(String, PublicKey), Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_yes_holds_until_something_changes_and_not_for_long() {
        let start = Instant::now();
        let said = Said {
            at: start,
            changes: 7,
        };
        assert!(said.holds(7, start + FRESH / 2));
        assert!(!said.holds(8, start + FRESH / 2));
        assert!(!said.holds(7, start + FRESH));
    }
}
