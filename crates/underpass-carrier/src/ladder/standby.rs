//! Carriers made ready beside a leg that is late with an answer, so that one is there at once should
//! the leg turn out to be dead.

use std::collections::VecDeque;
use std::time::Duration;

use underpass_proto::Time;

use super::AttemptId;
use super::round::STAGGER;

/// Carriers that are made ready at most: the same kind again, and what is hardier.
pub(super) const MOST: usize = 4;
/// A carrier is kept ready for so long: less than the 10 s for which a relay waits for more of one
/// that has not begun a session.
const KEPT: Duration = Duration::from_secs(8);
/// A leg that is late again and again, and never suspect, is a slow one: nothing is prepared oftener
/// than this.
pub(super) const PREPARE_AFTER: Duration = Duration::from_secs(30);

/// A carrier that is being made ready, or is.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) attempt: AttemptId,
    pub(super) rung: usize,
    pub(super) started: Time,
    /// It has answered on its probation.
    pub(super) passed: bool,
}

#[derive(Debug)]
pub(super) struct Standby {
    queue: VecDeque<usize>,
    next_at: Time,
    until: Time,
    pub(super) ready: Vec<Ready>,
}

impl Standby {
    /// `order` is the one in which they would be tried if the leg were dead.
    pub(super) fn new(order: impl Iterator<Item = usize>, now: Time) -> Self {
        Standby {
            queue: order.take(MOST).collect(),
            next_at: now,
            until: now + KEPT,
            ready: Vec::new(),
        }
    }

    /// The next one to begin now, if any: none once one has passed.
    pub(super) fn next(&mut self, now: Time, attempt: AttemptId) -> Option<usize> {
        if self.next_at > now || self.ready.iter().any(|it| it.passed) {
            return None;
        }
        let rung = self.queue.pop_front()?;
        self.next_at = now + STAGGER;
        self.ready.push(Ready {
            attempt,
            rung,
            started: now,
            passed: false,
        });
        Some(rung)
    }

    /// An attempt has passed. False if it is none of these.
    pub(super) fn passed(&mut self, attempt: AttemptId) -> bool {
        let found = self.ready.iter_mut().find(|it| it.attempt == attempt);
        found.map(|it| it.passed = true).is_some()
    }

    /// An attempt has failed, and the next need not wait for its time. False if it is none of these.
    pub(super) fn failed(&mut self, now: Time, attempt: AttemptId) -> bool {
        let before = self.ready.len();
        self.ready.retain(|it| it.attempt != attempt);
        let found = self.ready.len() < before;
        if found {
            self.next_at = self.next_at.min(now);
        }
        found
    }

    /// Whether it has been kept for long enough.
    pub(super) fn is_over(&self, now: Time) -> bool {
        self.until <= now
    }

    pub(super) fn timeout(&self) -> Time {
        let done = self.queue.is_empty() || self.ready.iter().any(|it| it.passed);
        if done {
            return self.until;
        }
        self.until.min(self.next_at)
    }
}
