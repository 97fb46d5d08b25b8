//! One round of attempts: several carriers, each begun a moment after the one before, until one
//! carries the session.

use std::collections::VecDeque;
use std::time::Duration;

use underpass_proto::Time;

use super::standby::Ready;
use super::{AttemptId, Fault, Tried};

/// Between the beginnings of attempts: the delay between connection attempts that RFC 8305 §5
/// recommends.
pub const STAGGER: Duration = Duration::from_millis(250);
/// An attempt without success for so long has failed.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// How fast the attempts of a round follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Between the first two.
    first: Duration,
    /// Between the next ones.
    apart: Duration,
    /// After so many each one waits twice as long as the one before.
    close: u32,
    /// None is begun for so long after one has reached the relay.
    after_reached: Duration,
}

/// The first of each sort are among those that follow closely; not even a relay that is alone with its
/// agents should be asked nine times by each.
pub(super) const USUAL: Pace = Pace {
    first: STAGGER,
    apart: STAGGER,
    close: 3,
    after_reached: Duration::ZERO,
};
/// What was cut while nothing was wrong with it mostly works again at once, or the relay was started anew and
/// has all its agents come back. The hardiest still has its turn within 3 s.
pub(super) const CUT: Pace = Pace {
    first: Duration::from_millis(1500),
    apart: Duration::from_millis(500),
    close: 2,
    after_reached: Duration::ZERO,
};
/// Where the relay was just away or is busy, others come back as well: what is late is late because of them.
pub(super) const CROWDED: Pace = Pace {
    first: Duration::from_secs(2),
    after_reached: Duration::from_secs(1),
    ..CUT
};
/// A relay that has said that it is busy with an attempt says so again within less than this.
const HEARD_LASTS: Duration = Duration::from_secs(5);
/// For so long at the most an attempt is believed to be in the relay's hands.
const HEARD_LIMIT: Duration = Duration::from_secs(60);

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) attempt: AttemptId,
    pub(super) rung: usize,
    /// When it was begun.
    pub(super) made: Time,
    /// Since when it has to come to something.
    started: Time,
    /// It got as far as the relay, or a box that speaks HTTP.
    reached: bool,
    /// When the relay last said that it has it, and that others are before it.
    heard: Option<Time>,
}

impl Live {
    /// When it has failed unless it has come to something.
    fn limit(&self) -> Time {
        (self.started + ATTEMPT_LIMIT).min(self.made + HEARD_LIMIT)
    }
}

/// What a round does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin an attempt with this rung.
    Try(usize),
    /// Go on with this one, which was made ready before.
    Promote(AttemptId),
}

#[derive(Debug)]
pub(super) struct Round {
    queue: VecDeque<Next>,
    pace: Pace,
    /// How many were begun, without those that followed a failure at once.
    begun: u32,
    /// When the next one begins.
    next_at: Time,
    pub(super) live: Vec<Live>,
    /// What failed, and whether it was told so by somebody.
    pub(super) tried: Vec<Tried>,
    over: Option<Fault>,
}

impl Round {
    /// A round in this order; what was made ready before goes first. All are begun anew nevertheless:
    /// what is still being made ready may have been begun in the very outage, and what is ready may
    /// have died with the leg.
    pub(super) fn new(order: &[usize], ready: Vec<Ready>, pace: Pace, now: Time) -> Self {
        let prepared = |rung: &usize| ready.iter().find(|it| it.rung == *rung);
        let passed = order.iter().filter_map(prepared).filter(|it| it.passed);
        let passed = passed.map(|it| Next::Promote(it.attempt));
        let anew = order.iter().map(|rung| Next::Try(*rung));
        let queue = passed.chain(anew).collect();
        let live = |it: Ready| Live {
            attempt: it.attempt,
            rung: it.rung,
            made: it.started,
            // What waits to be gone on with has done its part in time.
            started: if it.passed { now } else { it.started },
            reached: it.passed,
            heard: None,
        };
        Round {
            queue,
            pace,
            begun: 0,
            next_at: now,
            live: ready.into_iter().map(live).collect(),
            tried: Vec::new(),
            over: None,
        }
    }

    /// The next one to begin now, if any.
    pub(super) fn next(&mut self, now: Time, attempt: AttemptId) -> Option<Next> {
        if self.over.is_some() || self.next_at.max(self.quiet_until()) > now {
            return None;
        }
        let next = self.queue.pop_front()?;
        self.begun += 1;
        let doublings = self.begun.saturating_sub(self.pace.close).min(8);
        let apart = match self.begun {
            1 => self.pace.first,
            _ => self.pace.apart * 2u32.pow(doublings),
        };
        self.next_at = now + apart;
        match next {
            Next::Try(rung) => self.live.push(Live {
                attempt,
                rung,
                made: now,
                started: now,
                reached: false,
                heard: None,
            }),
            Next::Promote(attempt) => self.passed(now, attempt),
        }
        Some(next)
    }

    /// Whether this attempt is part of the round.
    pub(super) fn has(&self, attempt: AttemptId) -> bool {
        self.live.iter().any(|live| live.attempt == attempt)
    }

    /// An attempt that was being made ready is, and has its time anew to carry.
    pub(super) fn passed(&mut self, now: Time, attempt: AttemptId) {
        for live in &mut self.live {
            if live.attempt == attempt {
                (live.reached, live.started) = (true, now);
            }
        }
    }

    pub(super) fn reached(&mut self, now: Time, attempt: AttemptId) {
        for live in &mut self.live {
            live.reached |= live.attempt == attempt;
        }
        if self.has(attempt) {
            self.next_at = self.next_at.max(now + self.pace.after_reached);
        }
    }

    /// The relay has this one, and says that it will take a while: its time begins anew, and no other
    /// would be any faster. Those that the relay has not spoken of are to be given up; their carriers come
    /// again should this one come to nothing.
    pub(super) fn heard(&mut self, now: Time, attempt: AttemptId) -> Vec<AttemptId> {
        if !self.has(attempt) {
            return Vec::new();
        }
        for live in &mut self.live {
            if live.attempt == attempt {
                (live.reached, live.started, live.heard) = (true, now, Some(now));
            }
        }
        let given_up = self.live.extract_if(.., |live| live.heard.is_none());
        let given_up: Vec<(AttemptId, usize)> =
            given_up.map(|live| (live.attempt, live.rung)).collect();
        for (attempt, rung) in given_up.iter().rev() {
            self.queue.retain(|next| *next != Next::Promote(*attempt));
            self.queue.push_front(Next::Try(*rung));
        }
        given_up.into_iter().map(|(attempt, _)| attempt).collect()
    }

    /// Until when the relay's word holds that it has an attempt.
    fn quiet_until(&self) -> Time {
        let heard = self.live.iter().filter_map(|live| live.heard);
        heard.max().map_or(Time::ZERO, |heard| heard + HEARD_LASTS)
    }

    /// Takes an attempt out.
    pub(super) fn take(&mut self, attempt: AttemptId) -> Option<Live> {
        self.queue.retain(|next| *next != Next::Promote(attempt));
        let position = self.live.iter().position(|live| live.attempt == attempt)?;
        Some(self.live.swap_remove(position))
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
            Fault::Host | Fault::Busy if !others_got_further => self.over = Some(fault),
            _ => {}
        }
    }

    /// The oldest attempt whose time is over.
    pub(super) fn overdue(&self, now: Time) -> Option<AttemptId> {
        let late = |live: &&Live| live.limit() <= now;
        self.live.iter().find(late).map(|live| live.attempt)
    }

    /// Why it is over without success, once it is.
    pub(super) fn over(&self) -> Option<Fault> {
        let exhausted = self.queue.is_empty() && self.live.is_empty();
        self.over.or(exhausted.then_some(Fault::Path))
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        let next_at = self.next_at.max(self.quiet_until());
        let next = (!self.queue.is_empty()).then_some(next_at);
        let limits = self.live.iter().map(Live::limit);
        limits.chain(next).min()
    }
}
