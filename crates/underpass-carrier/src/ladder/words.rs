//! What a ladder is told, and what it says.

use std::time::Duration;

use super::mark::FIRST_BACKOFF;
use crate::kind::{Abilities, Kind};

/// One carrier, as the ladder sees it.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    /// Its name.
    pub name: &'static str,
    /// What it needs and can do.
    pub abilities: Abilities,
}

/// The rungs of these kinds, the first choice first.
#[must_use]
pub fn rungs_of(kinds: &[&'static Kind]) -> Vec<Rung> {
    let rung = |kind: &&'static Kind| Rung {
        name: kind.name,
        abilities: kind.abilities,
    };
    kinds.iter().map(rung).collect()
}

/// Names an attempt; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing carries the session: make a carrier, and begin or resume the session on it.
    Carry,
    /// Something carries it: make a carrier and put it on [`Probation::full`](super::Probation::full).
    Probation,
    /// The same with [`Probation::lasting`](super::Probation::lasting): it was cut before.
    LastingProbation,
    /// Something carries it badly: make a carrier and put it on [`Probation::relief`](super::Probation::relief).
    Relief,
    /// What carries it is late: make a carrier, put it on [`Probation::relief`](super::Probation::relief),
    /// and keep it ready until it is promoted or dropped.
    Standby,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin an attempt with this rung.
    Try {
        /// Its name from now on.
        attempt: AttemptId,
        /// Index among the rungs.
        rung: usize,
        /// What for.
        purpose: Purpose,
    },
    /// The attempt has passed its probation, now or a while ago: resume the session on it.
    Promote {
        /// Which.
        attempt: AttemptId,
    },
    /// Give an attempt up, and what it has made.
    Drop {
        /// Which.
        attempt: AttemptId,
    },
    /// Say something on the leg at least this often from now on; none is the usual.
    KeepAlive {
        /// How often.
        every: Option<Duration>,
    },
    /// The round is over and nothing carries. Everything it began was dropped.
    RoundOver {
        /// Why it ended: [`Fault::Path`] where all were tried.
        fault: Fault,
        /// What failed, in the order in which it did.
        tried: Vec<Tried>,
    },
}

/// Why an attempt failed, as far as it matters for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It broke, or nothing came: perhaps this carrier, perhaps the path at this moment.
    Path,
    /// It worked, and was cut: perhaps this carrier, perhaps the path at this moment.
    Cut,
    /// Somebody on the way has said no to this carrier.
    Refused,
    /// The host was not reached: no carrier would have got there.
    Host,
    /// The relay was reached, and has no room at the moment, whatever the carrier.
    Busy,
    /// The relay was reached and its answer is the same on every carrier.
    Final,
}

/// One carrier that failed in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Index among the rungs.
    pub rung: usize,
    /// Why.
    pub fault: Fault,
    /// The same in words.
    pub reason: String,
}

/// A carrier that has failed, and is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Index among the rungs.
    pub rung: usize,
    /// How many times it has failed.
    pub failures: u32,
    /// In how long it may be tried again.
    pub retry_in: Duration,
}

/// Why a round is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// There is no session yet, or the old one is gone.
    Start,
    /// The leg was lost.
    Lost,
    /// The leg does not answer. It goes on until another one carries.
    Suspect,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A leg is needed. Ignored while a round is under way.
    Wanted(Wanted),
    /// The leg is late with an answer. It may still come.
    Late,
    /// A carrier stands, and nothing has come back on it.
    Reached {
        /// Of this attempt.
        attempt: AttemptId,
    },
    /// The relay says of an attempt to begin a session that it has it, and that others are before it.
    Heard {
        /// Of this attempt.
        attempt: AttemptId,
    },
    /// An attempt failed, or a promotion.
    Failed {
        /// Which.
        attempt: AttemptId,
        /// How it concerns others.
        fault: Fault,
        /// In words.
        reason: String,
    },
    /// A probation was passed.
    Passed {
        /// Which.
        attempt: AttemptId,
        /// The usual round trip on it.
        round_trip: Duration,
    },
    /// The session's leg is on this attempt's carrier from now on.
    Carries {
        /// Which.
        attempt: AttemptId,
    },
    /// The smoothed round trip of the leg that carries.
    Measured {
        /// How long.
        round_trip: Duration,
    },
    /// The leg was cut after so long without a byte either way; told before [`Wanted::Lost`].
    CutAfter {
        /// How long.
        silence: Duration,
    },
    /// This machine is on another network: what was held against carriers does not count any more.
    NetworkChanged {
        /// The best one there, as far as it is remembered.
        best: Option<usize>,
        /// What is remembered to have failed there.
        held: Vec<Held>,
        /// How often something must be said there, where the usual is known to be too seldom.
        keepalive: Option<Duration>,
    },
    /// A measurement has shown that a carrier cannot work on this path.
    Hopeless {
        /// Index among the rungs.
        rung: usize,
        /// What was measured.
        reason: String,
    },
}

/// How a ladder behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LadderSettings {
    /// How long a carrier that failed is left alone the first time.
    pub first_backoff: Duration,
    /// A random number from 0 to 1, drawn once: makes each agent's waits up to a tenth longer, so
    /// that many agents do not try again in one wave.
    pub spread: f64,
}

impl Default for LadderSettings {
    fn default() -> Self {
        LadderSettings {
            first_backoff: FIRST_BACKOFF,
            spread: 0.0,
        }
    }
}

/// What is known of one rung, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RungStory {
    /// Its name.
    pub name: &'static str,
    /// What it is at.
    pub state: RungState,
}

/// What a rung is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RungState {
    /// It carries the session.
    InUse,
    /// It is being tried.
    Trying,
    /// Nothing is held against it.
    Untried,
    /// It failed.
    Failed {
        /// Why.
        reason: String,
        /// In how long it may be tried again.
        retry_in: Duration,
    },
}
