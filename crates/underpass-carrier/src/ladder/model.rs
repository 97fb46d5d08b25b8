//! Networks with boxes on the way, for tests: what becomes of a carrier there, on a virtual clock.

use std::collections::BTreeMap;
use std::time::Duration;

use underpass_proto::Time;

use super::{
    Action, AttemptId, Event, Fault, Held, Ladder, LadderSettings, Probation, Purpose, Rung, Step,
    Wanted,
};

/// What the boxes on the way do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Boxes {
    /// Upgrades are answered with an error.
    pub(super) refuse_upgrades: bool,
    /// Upgrades "succeed", and nothing passes after that.
    pub(super) swallow_upgrades: bool,
    pub(super) hold_responses: bool,
    pub(super) hold_requests: bool,
    /// UDP is swallowed.
    pub(super) drop_udp: bool,
    /// Nobody on the way speaks HTTP/2.
    pub(super) refuse_http2: bool,
    /// Whatever streams is cut after so many seconds.
    pub(super) cut_streams_after: Option<u64>,
    /// Extra delay on everything, in milliseconds.
    pub(super) round_trip_ms: u64,
    /// Extra delay on what streams.
    pub(super) drag_streams_ms: u64,
    /// Nothing gets through.
    pub(super) dead: bool,
}

/// What becomes of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Works,
    Refused,
    Swallowed,
    Dead,
}

impl Boxes {
    pub(super) fn fate(&self, rung: &Rung) -> Fate {
        let needs = &rung.abilities;
        if self.dead {
            Fate::Dead
        } else if needs.needs_udp {
            if self.drop_udp {
                Fate::Swallowed
            } else {
                Fate::Works
            }
        } else if needs.needs_upgrade && self.refuse_upgrades
            || needs.needs_http2 && self.refuse_http2
        {
            Fate::Refused
        } else if needs.needs_upgrade && self.swallow_upgrades
            || needs.needs_response_streaming && self.hold_responses
            || needs.needs_request_streaming && self.hold_requests
            || needs.needs_upgrade && (self.hold_responses || self.hold_requests)
        {
            Fate::Swallowed
        } else {
            Fate::Works
        }
    }

    fn streams(rung: &Rung) -> bool {
        !rung.abilities.survives_holding_proxy
    }

    fn round_trip(&self, rung: &Rung) -> Duration {
        let drag = if Self::streams(rung) {
            self.drag_streams_ms
        } else {
            0
        };
        Duration::from_millis(self.round_trip_ms.max(1) + drag)
    }

    /// The first choice among those that work and last.
    pub(super) fn best(&self, rungs: &[Rung]) -> Option<usize> {
        let lasts = |rung: &Rung| {
            self.fate(rung) == Fate::Works
                && !(Self::streams(rung) && self.cut_streams_after.is_some())
        };
        rungs.iter().position(lasts)
    }
}

/// What a simulated attempt is at.
enum Stage {
    /// Round trips until the relay's answer.
    Making {
        reached: Time,
        answered: Time,
    },
    Trying {
        probation: Probation,
        /// Pieces on their way back.
        back: Vec<(Time, bytes::Bytes)>,
    },
    Waiting,
    Resuming {
        at: Time,
    },
}

struct Attempt {
    rung: usize,
    since: Time,
    purpose: Purpose,
    stage: Stage,
}

/// A leg that carries, or is believed to.
struct Leg {
    rung: usize,
    since: Time,
    /// When nothing comes any more.
    silent_since: Option<Time>,
    late: bool,
    suspected: bool,
}

/// One machine and its network.
pub(super) struct World {
    pub(super) now: Time,
    pub(super) boxes: Boxes,
    pub(super) ladder: Ladder,
    attempts: BTreeMap<AttemptId, Attempt>,
    leg: Option<Leg>,
    next_measure: Time,
    retry_round: Option<Time>,
    /// Rungs that carried, since when.
    pub(super) history: Vec<(Time, usize)>,
    /// Longest time without a leg that works, and since when there is none.
    pub(super) longest_stall: Duration,
    stalled_since: Option<Time>,
    pub(super) most_at_once: usize,
    pub(super) tries: usize,
}

/// A leg is suspected after so long without an answer, as in the session.
const SUSPECT: Duration = Duration::from_secs(2);
/// The same for one that is late.
const LATE: Duration = Duration::from_millis(700);

impl World {
    pub(super) fn new(rungs: Vec<Rung>, best: Option<usize>, boxes: Boxes) -> Self {
        Self::remembering(rungs, best, Vec::new(), boxes)
    }

    /// On a network of which it is remembered what was best, and what has failed.
    pub(super) fn remembering(
        rungs: Vec<Rung>,
        best: Option<usize>,
        held: Vec<Held>,
        boxes: Boxes,
    ) -> Self {
        let mut world = World {
            now: Time::from_micros(1),
            boxes,
            ladder: Ladder::new(rungs, best, LadderSettings::default()),
            attempts: BTreeMap::new(),
            leg: None,
            next_measure: Time::ZERO,
            retry_round: None,
            history: Vec::new(),
            longest_stall: Duration::ZERO,
            stalled_since: Some(Time::from_micros(1)),
            most_at_once: 0,
            tries: 0,
        };
        world.tell(Event::NetworkChanged {
            best,
            held,
            keepalive: None,
        });
        world.tell(Event::Wanted(Wanted::Start));
        world
    }

    fn rung(&self, rung: usize) -> Rung {
        self.ladder.rungs()[rung]
    }

    fn tell(&mut self, event: Event) {
        self.ladder.handle(self.now, event);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.ladder.poll_action() {
            match action {
                Action::Try {
                    attempt,
                    rung,
                    purpose,
                } => self.begin(attempt, rung, purpose),
                Action::Drop { attempt } => {
                    self.attempts.remove(&attempt);
                }
                Action::Promote { attempt } => {
                    let promoted = &self.attempts[&attempt];
                    let forgotten = matches!(promoted.stage, Stage::Making { .. });
                    let rung = self.rung(promoted.rung);
                    let at = match self.boxes.fate(&rung) {
                        Fate::Works if !forgotten => self.now + self.boxes.round_trip(&rung),
                        _ => Time::from_micros(u64::MAX),
                    };
                    if let Some(attempt) = self.attempts.get_mut(&attempt) {
                        attempt.stage = Stage::Resuming { at };
                    }
                }
                Action::KeepAlive { .. } => {}
                Action::RoundOver { .. } => {
                    self.retry_round = Some(self.now + Duration::from_secs(1));
                }
            }
        }
    }

    fn begin(&mut self, attempt: AttemptId, rung: usize, purpose: Purpose) {
        self.tries += 1;
        let trip = self.boxes.round_trip(&self.rung(rung));
        let never = Time::from_micros(u64::MAX);
        let (reached, answered) = match self.boxes.fate(&self.rung(rung)) {
            Fate::Dead => (never, never),
            Fate::Swallowed => (self.now + trip * 2, never),
            Fate::Works | Fate::Refused => (self.now + trip * 2, self.now + trip * 3),
        };
        let stage = Stage::Making { reached, answered };
        let made = Attempt {
            rung,
            since: self.now,
            purpose,
            stage,
        };
        self.attempts.insert(attempt, made);
        self.most_at_once = self.most_at_once.max(self.attempts.len());
    }

    /// The boxes change their minds. What is under way on legs that cannot go on is held or cut.
    pub(super) fn change(&mut self, boxes: Boxes) {
        self.boxes = boxes;
        let now = self.now;
        let Some(rung) = self.leg.as_ref().map(|leg| leg.rung) else {
            return;
        };
        let works = boxes.fate(&self.rung(rung)) == Fate::Works;
        if let Some(leg) = &mut self.leg {
            leg.late &= !works;
            leg.silent_since = match works {
                true => None,
                false => leg.silent_since.or(Some(now)),
            };
            if works {
                self.stalled_since = None;
            } else {
                self.stalled_since.get_or_insert(now);
            }
        }
        // Attempts begun before meet the boxes as they are now.
        let under_way: Vec<_> = self.attempts.keys().copied().collect();
        for attempt in under_way {
            if let Some(old) = self.attempts.remove(&attempt) {
                self.begin(attempt, old.rung, old.purpose);
                self.tries -= 1;
            }
        }
    }

    /// The boxes are like this for whatever is begun from now on; of what was begun before they know nothing.
    pub(super) fn forget_flows(&mut self, boxes: Boxes) {
        let never = Time::from_micros(u64::MAX);
        for attempt in self.attempts.values_mut() {
            attempt.stage = Stage::Making {
                reached: never,
                answered: never,
            };
        }
        self.silence();
        self.boxes = boxes;
    }

    fn carry(&mut self, attempt: AttemptId) {
        let Some(rung) = self.attempts.remove(&attempt).map(|it| it.rung) else {
            return;
        };
        self.leg = Some(Leg {
            rung,
            since: self.now,
            silent_since: None,
            late: false,
            suspected: false,
        });
        self.history.push((self.now, rung));
        if let Some(since) = self.stalled_since.take() {
            self.longest_stall = self.longest_stall.max(self.now.since(since));
        }
        self.tell(Event::Carries { attempt });
    }

    /// What is due on attempts.
    fn run_attempts(&mut self) {
        let under_way: Vec<_> = self.attempts.keys().copied().collect();
        for id in under_way {
            let Some(attempt) = self.attempts.get(&id) else {
                continue;
            };
            let rung = self.rung(attempt.rung);
            let fate = self.boxes.fate(&rung);
            if self.is_cut(&rung, attempt.since) {
                self.cut_attempt(id);
                continue;
            }
            match &attempt.stage {
                Stage::Making { reached, answered } => {
                    if *answered <= self.now {
                        self.answered(id, fate);
                    } else if *reached <= self.now {
                        self.tell(Event::Reached { attempt: id });
                    }
                }
                Stage::Trying { .. } => self.run_probation(id, fate),
                Stage::Resuming { at } if *at <= self.now => self.carry(id),
                Stage::Resuming { .. } | Stage::Waiting => {}
            }
        }
    }

    fn cut_attempt(&mut self, id: AttemptId) {
        let attempt = self.attempts.remove(&id);
        let worked = attempt.is_some_and(|it| match &it.stage {
            Stage::Trying { probation, .. } => probation.has_answered(),
            stage => matches!(stage, Stage::Waiting | Stage::Resuming { .. }),
        });
        self.tell(Event::Failed {
            attempt: id,
            fault: if worked { Fault::Cut } else { Fault::Path },
            reason: "cut".into(),
        });
    }

    /// Everything that streams is cut at this moment, and may be made anew at once.
    pub(super) fn cut_all(&mut self) {
        let streaming = |world: &World, rung: usize| Boxes::streams(&world.rung(rung));
        let under_way: Vec<_> = self
            .attempts
            .iter()
            .map(|(id, it)| (*id, it.rung))
            .collect();
        for (id, rung) in under_way {
            if streaming(self, rung) {
                self.cut_attempt(id);
            }
        }
        if self
            .leg
            .as_ref()
            .is_some_and(|leg| streaming(self, leg.rung))
        {
            self.leg = None;
            self.stalled_since.get_or_insert(self.now);
            self.tell(Event::Wanted(Wanted::Lost));
        }
    }

    fn answered(&mut self, id: AttemptId, fate: Fate) {
        if fate == Fate::Refused {
            self.attempts.remove(&id);
            return self.tell(Event::Failed {
                attempt: id,
                fault: Fault::Refused,
                reason: "refused".into(),
            });
        }
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        let probation = match attempt.purpose {
            Purpose::Carry => return self.carry(id),
            Purpose::Probation => Probation::full(self.now),
            Purpose::LastingProbation => Probation::lasting(self.now),
            Purpose::Relief | Purpose::Standby => Probation::relief(self.now),
        };
        attempt.stage = Stage::Trying {
            probation,
            back: Vec::new(),
        };
        self.run_probation(id, fate);
    }

    fn run_probation(&mut self, id: AttemptId, fate: Fate) {
        let (now, boxes) = (self.now, self.boxes);
        let Some(rung) = self.attempts.get(&id).map(|it| self.rung(it.rung)) else {
            return;
        };
        let Some(Stage::Trying { probation, back }) =
            self.attempts.get_mut(&id).map(|it| &mut it.stage)
        else {
            return;
        };
        while back.first().is_some_and(|(at, _)| *at <= now) {
            let (_, piece) = back.remove(0);
            probation.heard(now, &piece);
        }
        let ended = loop {
            match probation.step(now) {
                Step::Send(piece) if fate == Fate::Works => {
                    back.push((now + boxes.round_trip(&rung), piece));
                }
                Step::Send(_) => {}
                Step::Wait(_) => return,
                ended => break ended,
            }
        };
        match ended {
            Step::Passed(round_trip) => {
                if let Some(attempt) = self.attempts.get_mut(&id) {
                    attempt.stage = Stage::Waiting;
                }
                self.tell(Event::Passed {
                    attempt: id,
                    round_trip,
                });
            }
            Step::Failed(reason) => {
                self.attempts.remove(&id);
                self.tell(Event::Failed {
                    attempt: id,
                    fault: Fault::Path,
                    reason,
                });
            }
            Step::Send(_) | Step::Wait(_) => {}
        }
    }

    fn is_cut(&self, rung: &Rung, since: Time) -> bool {
        let limit = self
            .boxes
            .cut_streams_after
            .filter(|_| Boxes::streams(rung));
        limit.is_some_and(|limit| self.now.since(since) >= Duration::from_secs(limit))
    }

    fn run_leg(&mut self) {
        let Some(leg) = &self.leg else {
            return;
        };
        let rung = self.rung(leg.rung);
        if self.is_cut(&rung, leg.since) {
            self.leg = None;
            self.stalled_since.get_or_insert(self.now);
            return self.tell(Event::Wanted(Wanted::Lost));
        }
        let silent = leg.silent_since.map(|since| self.now.since(since));
        let silent = silent.unwrap_or_default();
        if silent >= LATE && !leg.late {
            if let Some(leg) = &mut self.leg {
                leg.late = true;
            }
            return self.tell(Event::Late);
        }
        if silent >= SUSPECT && !leg.suspected {
            if let Some(leg) = &mut self.leg {
                leg.suspected = true;
            }
            return self.tell(Event::Wanted(Wanted::Suspect));
        }
        if leg.silent_since.is_none() && self.next_measure <= self.now {
            self.next_measure = self.now + Duration::from_secs(1);
            let round_trip = self.boxes.round_trip(&rung);
            self.tell(Event::Measured { round_trip });
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            if self.ladder.poll_timeout().is_some_and(|at| at <= self.now) {
                self.ladder.handle_timeout(self.now);
                self.act();
            }
            self.run_attempts();
            self.run_leg();
            if self.retry_round.is_some_and(|at| at <= self.now) {
                self.retry_round = None;
                self.tell(Event::Wanted(Wanted::Lost));
            }
        }
        if let Some(since) = self.stalled_since {
            self.longest_stall = self.longest_stall.max(self.now.since(since));
        }
    }

    /// Nothing comes on the leg in use any more, whatever becomes of others.
    pub(super) fn silence(&mut self) {
        if let Some(leg) = &mut self.leg {
            leg.silent_since.get_or_insert(self.now);
            self.stalled_since.get_or_insert(self.now);
        }
    }

    /// Attempts that are going on, or wait to be decided about.
    pub(super) fn under_way(&self) -> usize {
        self.attempts.len()
    }

    /// What carries.
    pub(super) fn carrying(&self) -> Option<usize> {
        let leg = self.leg.as_ref()?;
        leg.silent_since.is_none().then_some(leg.rung)
    }

    /// Switches from one rung to another.
    pub(super) fn switches(&self) -> usize {
        let changed = |pair: &&[(Time, usize)]| pair[0].1 != pair[1].1;
        self.history.windows(2).filter(changed).count()
    }
}
