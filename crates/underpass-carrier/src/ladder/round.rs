//! One round of attempts: several carriers, each begun a moment after the one before, until one
//! carries the session.

use std::collections::VecDeque;
use std::time::Duration;

use underpass_proto::Time;

use super::{AttemptId, Fault, Tried};

/// Between the beginnings of attempts: the delay between connection attempts that RFC 8305 §5
/// recommends.
pub const STAGGER: Duration = Duration::from_millis(250);
/// An attempt without success for so long has failed.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) attempt: AttemptId,
    pub(super) rung: usize,
    started: Time,
    /// It got as far as the relay, or a box that speaks HTTP.
    reached: bool,
}

#[derive(Debug)]
pub(super) struct Round {
    queue: VecDeque<usize>,
    /// When the next one begins.
    next_at: Time,
    pub(super) live: Vec<Live>,
    /// What failed, and whether it was told so by somebody.
    pub(super) tried: Vec<Tried>,
    over: Option<Fault>,
}

impl Round {
    pub(super) fn new(order: Vec<usize>, now: Time) -> Self {
        Round {
            queue: order.into(),
            next_at: now,
            live: Vec::new(),
            tried: Vec::new(),
            over: None,
        }
    }

    /// The next one to begin now, if any.
    pub(super) fn next(&mut self, now: Time, attempt: AttemptId) -> Option<usize> {
        if self.over.is_some() || self.next_at > now {
            return None;
        }
        let rung = self.queue.pop_front()?;
        self.next_at = now + STAGGER;
        self.live.push(Live {
            attempt,
            rung,
            started: now,
            reached: false,
        });
        Some(rung)
    }

    pub(super) fn reached(&mut self, attempt: AttemptId) {
        for live in &mut self.live {
            live.reached |= live.attempt == attempt;
        }
    }

    /// Takes an attempt out; its rung.
    pub(super) fn take(&mut self, attempt: AttemptId) -> Option<usize> {
        let position = self.live.iter().position(|live| live.attempt == attempt)?;
        Some(self.live.swap_remove(position).rung)
    }

    /// One failed: the next need not wait for its time.
    pub(super) fn failed(&mut self, now: Time, rung: usize, fault: Fault, reason: String) {
        self.tried.push(Tried {
            rung,
            fault,
            reason,
        });
        self.next_at = self.next_at.min(now);
        let others_got_further = self.live.iter().any(|live| live.reached);
        match fault {
            Fault::Final => self.over = Some(Fault::Final),
            // Every other carrier would meet the same, unless one has got there already.
            Fault::Host if !others_got_further => self.over = Some(Fault::Host),
            _ => {}
        }
    }

    /// The oldest attempt whose time is over.
    pub(super) fn overdue(&self, now: Time) -> Option<AttemptId> {
        let late = |live: &&Live| live.started + ATTEMPT_LIMIT <= now;
        self.live.iter().find(late).map(|live| live.attempt)
    }

    /// Why it is over without success, once it is.
    pub(super) fn over(&self) -> Option<Fault> {
        let exhausted = self.queue.is_empty() && self.live.is_empty();
        self.over.or(exhausted.then_some(Fault::Path))
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        let next = (!self.queue.is_empty()).then_some(self.next_at);
        let limits = self.live.iter().map(|live| live.started + ATTEMPT_LIMIT);
        limits.chain(next).min()
    }
}
