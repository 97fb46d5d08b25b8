//! The ladder: which carrier to use, and when to try another. It decides and does nothing itself.
//!
//! - *Start fast*: a round begins one carrier after the other, a quarter of a second apart, those
//!   first that ask least of the path beside the one to prefer; the first that carries wins.
//! - *Improve beside*: while one carries, better ones are tried one at a time, each on probation
//!   ([`Probation`]) while the old one goes on; what fails is left alone for a while, longer each time.
//!   What worked and was cut comes back soon, on a longer probation: it was mostly the path.
//! - *Come down*: what was lost, does not answer or answers much later than before is replaced. While
//!   an answer is late, others are made ready beside the leg, so that little is left to do should it be dead.
//! - *Let others pass*: where the relay itself was away or is busy, many agents come back to it at once. For a
//!   while attempts follow each other slowly then, none beside one that has reached the relay, and nothing is improved.
//!
//! The driving contract: after each call of [`Ladder::handle`] and [`Ladder::handle_timeout`] the
//! driver takes all of [`Ladder::poll_action`], and calls again at [`Ladder::poll_timeout`]. Time is
//! an argument and never runs backwards. Every [`Action::Try`] is answered by events of its attempt,
//! until the attempt carries, fails or is dropped; what comes later about it is ignored.

mod idle;
mod mark;
mod memory;
mod order;
mod probation;
mod round;
mod standby;
mod watch;
mod words;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use underpass_proto::Time;

pub use mark::{FIRST_BACKOFF, LONGEST_BACKOFF};
pub use memory::{HeldAgainst, Memory, Network, Remembered};
pub(crate) use probation::pattern;
pub use probation::{Probation, Step};
pub use round::{ATTEMPT_LIMIT, STAGGER};
pub use words::{
    Action, AttemptId, Event, Fault, Held, LadderSettings, Purpose, Rung, RungState, RungStory,
    Tried, Wanted, rungs_of,
};

use idle::IdleCuts;
use mark::Mark;
use round::{CROWDED, CUT, Next, Round, USUAL};
use standby::{PREPARE_AFTER, Standby};
use watch::Watch;

/// A new leg carries for so long before better ones are tried: what the user waits for goes first.
const IMPROVE_AFTER: Duration = Duration::from_secs(1);
/// A probation that has not come to its end after this has failed.
const TRIAL_LIMIT: Duration = Duration::from_secs(20);
/// What has passed must carry within this.
const PROMOTE_LIMIT: Duration = Duration::from_secs(5);
/// What failed on probation so shortly before the leg in use was lost, or suspect, met with the same.
const ALIKE: Duration = Duration::from_secs(3);
/// Relief is sought this often at most.
const RELIEF_AFTER: Duration = Duration::from_secs(60);
/// A better carrier may have so many times the round trip of the one in use, and so much more.
const SLOWER: (u32, Duration) = (4, Duration::from_millis(100));
/// Relief must have a round trip so many times shorter.
const RELIEVED: u32 = 3;
/// For so long after a relay was away or busy it is left in peace: half of the time within which all agents of
/// one that was restarted should be back.
const PEACE: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Active {
    rung: usize,
    since: Time,
    /// When its attempt began.
    made: Time,
    watch: Watch,
}

#[derive(Debug)]
struct Trial {
    attempt: AttemptId,
    rung: usize,
    relief: bool,
    started: Time,
    deadline: Time,
    promoted: bool,
}

/// What failed on probation last, and what was known against it before.
#[derive(Debug)]
struct LastFailure {
    rung: usize,
    at: Time,
    before: Mark,
}

/// Decides which carrier is used. See the module.
#[derive(Debug)]
pub struct Ladder {
    rungs: Vec<Rung>,
    settings: LadderSettings,
    marks: Vec<Mark>,
    /// Remembered for this network, or the last one that carried.
    best: Option<usize>,
    active: Option<Active>,
    round: Option<Round>,
    trial: Option<Trial>,
    last_failure: Option<LastFailure>,
    standby: Option<Standby>,
    next_standby: Time,
    idle_cuts: IdleCuts,
    /// The leg in use was cut when nothing passed on it, which is soon to be told of.
    cut_idle: bool,
    next_relief: Time,
    /// Others come back to the relay as well until then.
    crowded_until: Time,
    next_attempt: u64,
    actions: VecDeque<Action>,
}

impl Ladder {
    /// A ladder of these rungs, the first choice first; `best` is what is remembered for this network.
    #[must_use]
    pub fn new(rungs: Vec<Rung>, best: Option<usize>, settings: LadderSettings) -> Self {
        Ladder {
            marks: vec![Mark::default(); rungs.len()],
            best: best.filter(|best| *best < rungs.len()),
            rungs,
            settings,
            active: None,
            round: None,
            trial: None,
            last_failure: None,
            standby: None,
            next_standby: Time::ZERO,
            idle_cuts: IdleCuts::new(None, Time::ZERO),
            cut_idle: false,
            next_relief: Time::ZERO,
            crowded_until: Time::ZERO,
            next_attempt: 0,
            actions: VecDeque::new(),
        }
    }

    /// The rungs.
    #[must_use]
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// The rung that carries the session, or did last.
    #[must_use]
    pub fn in_use(&self) -> Option<&Rung> {
        self.active.as_ref().map(|active| &self.rungs[active.rung])
    }

    /// What is known of each rung.
    #[must_use]
    pub fn story(&self, now: Time) -> Vec<RungStory> {
        let story = |(index, rung): (usize, &Rung)| RungStory {
            name: rung.name,
            state: self.state(index, now),
        };
        self.rungs.iter().enumerate().map(story).collect()
    }

    fn state(&self, rung: usize, now: Time) -> RungState {
        let mark = &self.marks[rung];
        let in_round = |round: &Round| round.live.iter().any(|live| live.rung == rung);
        let in_trial = |trial: &Trial| trial.rung == rung;
        // What is but made ready beside the leg in use is not worth mentioning.
        if self.trial.as_ref().is_some_and(in_trial) || self.round.as_ref().is_some_and(in_round) {
            return RungState::Trying;
        }
        if self.active.as_ref().is_some_and(|it| it.rung == rung) {
            return RungState::InUse;
        }
        match (mark.reason(), mark.retry_at()) {
            (Some(reason), Some(at)) => RungState::Failed {
                reason: reason.to_owned(),
                retry_in: at.since(now),
            },
            _ => RungState::Untried,
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Wanted(wanted) => self.wanted(now, wanted),
            Event::Late => self.late(now),
            Event::Reached { attempt } => {
                if let Some(round) = &mut self.round {
                    round.reached(now, attempt);
                }
            }
            Event::Heard { attempt } => {
                self.crowded_until = now + PEACE;
                let given_up = self.round.as_mut().map(|round| round.heard(now, attempt));
                for attempt in given_up.into_iter().flatten() {
                    self.drop_attempt(attempt);
                }
            }
            Event::Failed {
                attempt,
                fault,
                reason,
            } => self.failed(now, attempt, fault, reason),
            Event::Passed {
                attempt,
                round_trip,
            } => self.passed(now, attempt, round_trip),
            Event::Carries { attempt } => self.carries(now, attempt),
            Event::Measured { round_trip } => self.measured(now, round_trip),
            Event::NetworkChanged {
                best,
                held,
                keepalive,
            } => self.network_changed(now, best, held, keepalive),
            Event::CutAfter { silence } => {
                let before = self.idle_cuts.interval();
                self.cut_idle = self.idle_cuts.cut(silence, now);
                self.keep_alive_from(before);
            }
            Event::Hopeless { rung, reason } => {
                let free = |mark: &Mark| !mark.shunned(now);
                let in_use = self.active.as_ref().is_some_and(|it| it.rung == rung);
                if !in_use && self.marks.get(rung).is_some_and(free) {
                    self.hold_against(now, rung, reason);
                }
            }
        }
        self.proceed(now);
    }

    /// Acts on the time.
    pub fn handle_timeout(&mut self, now: Time) {
        self.proceed(now);
    }

    /// What to do next, until there is nothing.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Ladder::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if let Some(round) = &self.round {
            return round.timeout();
        }
        let standby = self.standby.as_ref().map(Standby::timeout);
        let trial = self.trial.as_ref().map(|trial| trial.deadline);
        if let Some(next) = [standby, trial].into_iter().flatten().min() {
            return Some(next);
        }
        let active = self.active.as_ref()?;
        let free = |rung: usize| self.marks[rung].retry_at().unwrap_or(Time::ZERO);
        let better = (0..active.rung).map(free).min();
        let better = better.map(|at| at.max(active.since + IMPROVE_AFTER).max(self.crowded_until));
        better.into_iter().chain(self.idle_cuts.timeout()).min()
    }

    fn wanted(&mut self, now: Time, wanted: Wanted) {
        if self.round.is_some() {
            return;
        }
        if let Some(trial) = self.trial.take() {
            self.drop_attempt(trial.attempt);
        }
        let previous = self.active.take();
        let had_leg = previous.is_some();
        if let Some(active) = &previous
            && wanted != Wanted::Start
        {
            self.ended(now, active, wanted);
        }
        let marks = &self.marks;
        let shunned = |rung: usize| marks[rung].shunned(now);
        let order = match previous {
            Some(active) => order::recovery_order(&self.rungs, active.rung, shunned),
            None => order::start_order(&self.rungs, self.best, shunned),
        };
        let ready = self.standby.take().map(|standby| standby.ready);
        let pace = match ready {
            _ if self.crowded_until > now => CROWDED,
            None if wanted == Wanted::Lost && had_leg => CUT,
            _ => USUAL,
        };
        let round = Round::new(&order, ready.unwrap_or_default(), pace, now);
        self.round = Some(round);
    }

    fn network_changed(
        &mut self,
        now: Time,
        best: Option<usize>,
        held: Vec<Held>,
        keepalive: Option<Duration>,
    ) {
        self.marks.fill(Mark::default());
        for held in held {
            if let Some(mark) = self.marks.get_mut(held.rung) {
                *mark = Mark::held(now, &held);
            }
        }
        self.best = best.filter(|best| *best < self.rungs.len());
        self.next_relief = now;
        // It was this machine that was away.
        self.crowded_until = Time::ZERO;
        self.last_failure = None;
        let before = self.idle_cuts.interval();
        self.idle_cuts = IdleCuts::new(keepalive, now);
        self.keep_alive_from(before);
    }

    /// Says how often something is to be said, where that is not what it was.
    fn keep_alive_from(&mut self, before: Option<Duration>) {
        let every = self.idle_cuts.interval();
        if every != before {
            self.actions.push_back(Action::KeepAlive { every });
        }
    }

    /// What has failed and is left alone, to be remembered: not what was but cut.
    #[must_use]
    pub fn held(&self, now: Time) -> Vec<Held> {
        let held = |(rung, mark): (usize, &Mark)| mark.to_held(rung, now);
        self.marks.iter().enumerate().filter_map(held).collect()
    }

    /// How often something is to be said, where it has shown that the usual is too seldom.
    #[must_use]
    pub fn keepalive(&self) -> Option<Duration> {
        self.idle_cuts.proven()
    }

    /// The leg in use came to an end that nobody here wanted.
    fn ended(&mut self, now: Time, active: &Active, wanted: Wanted) {
        if std::mem::take(&mut self.cut_idle) {
            // Nobody missed it, and that it was idle for too long is no fault of its kind.
            return;
        }
        let alike = |failure: &mut LastFailure| now.since(failure.at) <= ALIKE;
        if let Some(failure) = self.last_failure.take_if(alike) {
            // Two that die together die of the path: neither has shown that it is no good.
            self.marks[failure.rung] = failure.before;
            return;
        }
        let age = now.since(active.made);
        if !self.marks[active.rung].ended(now.since(active.since), age) {
            return;
        }
        let reason = match wanted {
            Wanted::Suspect => "stops answering soon after it was made",
            _ => "is cut soon after it was made",
        };
        self.set_aside(now, active.rung, reason.to_owned());
    }

    /// The leg in use is late with an answer: others are made ready, in case it is dead.
    fn late(&mut self, now: Time) {
        let free = self.round.is_none() && self.standby.is_none();
        let Some(active) = self.active.as_ref().filter(|_| free) else {
            return;
        };
        if self.next_standby.max(self.crowded_until) > now {
            return;
        }
        self.next_standby = now + PREPARE_AFTER;
        let shunned = |rung: usize| self.marks[rung].shunned(now);
        let order = order::recovery_order(&self.rungs, active.rung, shunned);
        let order = order.into_iter().filter(|rung| !shunned(*rung));
        self.standby = Some(Standby::new(order, now));
    }

    fn drop_standby(&mut self) {
        for ready in self.standby.take().into_iter().flat_map(|it| it.ready) {
            self.drop_attempt(ready.attempt);
        }
    }

    fn failed(&mut self, now: Time, attempt: AttemptId, fault: Fault, reason: String) {
        if let Some(trial) = self.trial.take_if(|trial| trial.attempt == attempt) {
            self.trial_failed(now, &trial, fault, reason);
        } else if let Some(standby) = &mut self.standby
            && standby.failed(now, attempt)
        {
            // Nobody wanted it yet; what is wrong with it shows when somebody does.
        } else if let Some(round) = &mut self.round
            && let Some(live) = round.take(attempt)
        {
            round.failed(now, live.rung, fault, reason);
        }
    }

    fn trial_failed(&mut self, now: Time, trial: &Trial, fault: Fault, reason: String) {
        // One that brought no relief may still be good.
        if trial.relief {
            return;
        }
        if fault != Fault::Refused {
            self.last_failure = Some(LastFailure {
                rung: trial.rung,
                at: now,
                before: self.marks[trial.rung].clone(),
            });
        }
        if fault == Fault::Cut {
            let mark = &mut self.marks[trial.rung];
            mark.remember_age(now.since(trial.started));
            if !mark.dies_of_age() {
                return self.set_aside(now, trial.rung, reason);
            }
        }
        self.hold_against(now, trial.rung, reason);
    }

    /// A carrier of this rung has worked, and was cut.
    fn set_aside(&mut self, now: Time, rung: usize, reason: String) {
        let (first, spread) = self.backoff();
        self.marks[rung].cut(now, reason, first, spread);
    }

    /// The first wait, and how much longer than others this agent waits.
    fn backoff(&self) -> (Duration, f64) {
        let LadderSettings {
            first_backoff,
            spread,
        } = self.settings;
        (first_backoff, spread.clamp(0.0, 1.0) / 10.0)
    }

    fn hold_against(&mut self, now: Time, rung: usize, reason: String) {
        let (first, spread) = self.backoff();
        if let Some(mark) = self.marks.get_mut(rung) {
            mark.fail(now, reason, first, spread);
        }
    }

    fn passed(&mut self, now: Time, attempt: AttemptId, round_trip: Duration) {
        if let Some(round) = self.round.as_mut().filter(|it| it.has(attempt)) {
            round.passed(now, attempt);
            self.actions.push_back(Action::Promote { attempt });
            return;
        }
        if self.standby.as_mut().is_some_and(|it| it.passed(attempt)) {
            return;
        }
        let in_use = self.active.as_ref().and_then(|it| it.watch.last());
        let Some(trial) = self.trial.as_mut().filter(|it| it.attempt == attempt) else {
            return;
        };
        let in_use = in_use.unwrap_or(round_trip);
        let good = match trial.relief {
            true => round_trip * RELIEVED <= in_use,
            false => round_trip <= in_use * SLOWER.0 + SLOWER.1,
        };
        if good {
            trial.promoted = true;
            trial.deadline = now + PROMOTE_LIMIT;
            self.actions.push_back(Action::Promote { attempt });
            return;
        }
        let reason = format!("slower than what is in use: {round_trip:.0?} against {in_use:.0?}");
        self.drop_attempt(attempt);
        if let Some(trial) = self.trial.take() {
            self.trial_failed(now, &trial, Fault::Refused, reason);
        }
    }

    fn carries(&mut self, now: Time, attempt: AttemptId) {
        let (rung, made) = if let Some(trial) = self.trial.take_if(|trial| trial.attempt == attempt)
        {
            if let Some(old) = self.active.take() {
                self.marks[old.rung].replaced(now.since(old.since));
                if trial.relief {
                    self.hold_against(now, old.rung, old.watch.story());
                }
            }
            (trial.rung, trial.started)
        } else {
            match self.round.as_mut().and_then(|round| round.take(attempt)) {
                Some(live) => (live.rung, live.made),
                None => return,
            }
        };
        if let Some(round) = self.round.take() {
            self.settle(now, round);
            // It was right to prepare, and may be again.
            self.next_standby = now;
        }
        self.drop_standby();
        self.cut_idle = false;
        self.marks[rung].carries();
        self.best = Some(rung);
        self.active = Some(Active {
            rung,
            since: now,
            made,
            watch: Watch::default(),
        });
    }

    /// A round was won: what is still under way is given up, what was refused is remembered. What only
    /// broke may have met with the trouble that the round is about, and will be tried beside.
    fn settle(&mut self, now: Time, round: Round) {
        for live in round.live {
            self.drop_attempt(live.attempt);
        }
        for tried in round.tried {
            if tried.fault == Fault::Refused {
                self.hold_against(now, tried.rung, tried.reason);
            }
        }
    }

    fn measured(&mut self, now: Time, round_trip: Duration) {
        let Some(active) = &mut self.active else {
            return;
        };
        let late = active.watch.measured(now, round_trip);
        let free = self.round.is_none() && self.trial.is_none();
        if !late || !free || self.next_relief > now {
            return;
        }
        self.next_relief = now + RELIEF_AFTER;
        let marks = &self.marks;
        // The hardiest first: what lies between is tried as an improvement over it.
        let relief = order::hardier(&self.rungs, active.rung)
            .filter(|rung| !marks[*rung].shunned(now))
            .last();
        if let Some(rung) = relief {
            self.try_beside(now, rung, Purpose::Relief);
        }
    }

    fn try_beside(&mut self, now: Time, rung: usize, purpose: Purpose) {
        let attempt = self.new_attempt();
        self.trial = Some(Trial {
            attempt,
            rung,
            relief: purpose == Purpose::Relief,
            started: now,
            deadline: now + TRIAL_LIMIT,
            promoted: false,
        });
        self.actions.push_back(Action::Try {
            attempt,
            rung,
            purpose,
        });
    }

    fn new_attempt(&mut self) -> AttemptId {
        self.next_attempt += 1;
        AttemptId(self.next_attempt)
    }

    fn drop_attempt(&mut self, attempt: AttemptId) {
        self.actions.push_back(Action::Drop { attempt });
    }

    /// Goes on with whatever is due.
    fn proceed(&mut self, now: Time) {
        let before = self.idle_cuts.interval();
        self.idle_cuts.handle_timeout(now);
        self.keep_alive_from(before);
        self.proceed_standby(now);
        if self.round.is_some() {
            self.proceed_round(now);
        } else if let Some(trial) = self.trial.take_if(|trial| trial.deadline <= now) {
            self.drop_attempt(trial.attempt);
            let reason = match trial.promoted {
                true => "did not take the session over",
                false => "came to no end on probation",
            };
            self.trial_failed(now, &trial, Fault::Path, reason.to_owned());
        }
        if self.round.is_none() && self.trial.is_none() && self.standby.is_none() {
            self.improve(now);
        }
    }

    fn proceed_standby(&mut self, now: Time) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        if standby.is_over(now) {
            return self.drop_standby();
        }
        let attempt = AttemptId(self.next_attempt + 1);
        if let Some(rung) = standby.next(now, attempt) {
            self.next_attempt += 1;
            let purpose = Purpose::Standby;
            self.actions.push_back(Action::Try {
                attempt,
                rung,
                purpose,
            });
        }
    }

    fn improve(&mut self, now: Time) {
        let Some(active) = &self.active else {
            return;
        };
        if (active.since + IMPROVE_AFTER).max(self.crowded_until) > now {
            return;
        }
        let next = (0..active.rung).find(|rung| !self.marks[*rung].shunned(now));
        if let Some(rung) = next {
            let purpose = match self.marks[rung].must_last() {
                true => Purpose::LastingProbation,
                false => Purpose::Probation,
            };
            self.try_beside(now, rung, purpose);
        }
    }

    fn proceed_round(&mut self, now: Time) {
        loop {
            let attempt = AttemptId(self.next_attempt + 1);
            let Some(round) = &mut self.round else {
                return;
            };
            if let Some(overdue) = round.overdue(now) {
                if let Some(live) = round.take(overdue) {
                    let reason = format!("no answer within {ATTEMPT_LIMIT:?}");
                    round.failed(now, live.rung, Fault::Path, reason);
                }
                self.drop_attempt(overdue);
            } else if let Some(fault) = round.over() {
                return self.end_round(now, fault);
            } else if let Some(next) = round.next(now, attempt) {
                self.actions.push_back(match next {
                    Next::Promote(attempt) => Action::Promote { attempt },
                    Next::Try(rung) => {
                        self.next_attempt += 1;
                        let purpose = Purpose::Carry;
                        Action::Try {
                            attempt,
                            rung,
                            purpose,
                        }
                    }
                });
            } else {
                return;
            }
        }
    }

    fn end_round(&mut self, now: Time, fault: Fault) {
        // One whose answer is final has mostly forgotten the session, since it was started anew.
        if matches!(fault, Fault::Host | Fault::Busy | Fault::Final) {
            self.crowded_until = now + PEACE;
        }
        if let Some(round) = self.round.take() {
            for live in &round.live {
                self.drop_attempt(live.attempt);
            }
            self.actions.push_back(Action::RoundOver {
                fault,
                tried: round.tried,
            });
        }
    }
}
