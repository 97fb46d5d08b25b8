//! Drives the ladder: does what it decides with real carriers, and tells it what becomes of that.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use underpass_carrier::ladder::{
    Action, AttemptId, Event, Fault, Ladder, LadderSettings, Probation, Purpose, RungStory, Tried,
    Wanted, rungs_of,
};
use underpass_carrier::probe::{self, Measurements, ProbeSettings};
use underpass_carrier::{CarrierError, PathBounds};
use underpass_proto::code::{Code, describe};
use underpass_seal::{Fingerprint, StaticKey};

use crate::attachment::{AttachError, AttachSettings, barred_by};
use crate::attempt::{self, Begun, Failed, NewHop};
use crate::clock;
use crate::link::Link;
use crate::network;
use crate::packets::PacketCarrier;
use crate::recall::Recall;
use crate::routes::Routes;
use crate::session::Session;

/// How the carrier is chosen among those that are allowed.
#[derive(Clone, Debug, Default)]
pub struct AscentSettings {
    /// When to try again what failed.
    pub ladder: LadderSettings,
    /// The file in which it is remembered what worked on which network; nothing is without one.
    pub memory: Option<PathBuf>,
}

/// What a climb is to end with.
#[derive(Clone)]
pub(crate) enum Goal {
    /// A new hop session, with the relay of this key if it is known.
    Begin(Option<Fingerprint>),
    /// This one resumed.
    Resume(Session),
}

/// What an attempt came to.
enum Outcome {
    Begun(Box<Begun>),
    Carries(NewHop),
    Passed(Box<PacketCarrier>, Duration),
    Failed(Failed),
}

/// What a turn came to, where it matters to the attachment.
pub(crate) enum Turn {
    /// The session is on another link from now on.
    Carries(NewHop),
    /// Nothing carries.
    Over(AttachError),
}

/// The ladder of one attachment, and all attempts under way.
pub(crate) struct Ascent {
    settings: AttachSettings,
    identity: Arc<StaticKey>,
    routes: Arc<Routes>,
    ladder: SharedLadder,
    goal: Goal,
    tasks: JoinSet<(AttemptId, Outcome)>,
    under_way: HashMap<AttemptId, AbortHandle>,
    /// What attempts tell on their way.
    signs: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    /// Carriers that have passed, until it is decided about them.
    passed: HashMap<AttemptId, PacketCarrier>,
    /// Why the relay refused, in the round under way.
    refusal: Option<AttachError>,
    stale: Option<AttachError>,
    /// Why the last round was over that nothing came of.
    over_by: Fault,
    /// Errors of this round that somebody has to do something about.
    barred: Vec<CarrierError>,
    recall: Recall,
    /// What the settings say, before anything was learnt about the path.
    largest_body: usize,
    ping_after: Duration,
    /// What measures the path, at most once on each network.
    measuring: Measuring,
}

/// Whether the path is being measured.
enum Measuring {
    NotYet,
    Now(JoinHandle<Result<Measurements, CarrierError>>),
    Done,
}

impl Measuring {
    /// What was found out; waits for ever where nothing is being measured. Cancel safe.
    async fn found(&mut self) -> Option<Measurements> {
        let Measuring::Now(task) = self else {
            return std::future::pending().await;
        };
        let found = task.await;
        *self = Measuring::Done;
        found.ok()?.ok()
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        if let Measuring::Now(task) = self {
            task.abort();
        }
    }
}

/// The ladder, for whoever asks for its state.
#[derive(Clone)]
pub(crate) struct SharedLadder(Arc<Mutex<Ladder>>);

impl SharedLadder {
    /// For an attachment that stays on the carrier it has.
    pub(crate) fn without_rungs() -> Self {
        let ladder = Ladder::new(Vec::new(), None, LadderSettings::default());
        SharedLadder(Arc::new(Mutex::new(ladder)))
    }

    fn lock(&self) -> MutexGuard<'_, Ladder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each carrier.
    pub(crate) fn story(&self) -> Vec<RungStory> {
        self.lock().story(clock::now())
    }
}

impl Ascent {
    pub(crate) fn new(
        settings: AttachSettings,
        identity: Arc<StaticKey>,
        routes: Arc<Routes>,
    ) -> Self {
        let mut choice = settings.ascent.ladder;
        choice.spread = rand::random();
        let recall = Recall::new(settings.ascent.memory.clone());
        let rungs = rungs_of(&settings.carriers);
        let mut ascent = Ascent {
            largest_body: settings.client.largest_body,
            ping_after: settings.session.ping_after,
            ladder: SharedLadder(Arc::new(Mutex::new(Ladder::new(rungs, None, choice)))),
            settings,
            identity,
            routes,
            goal: Goal::Begin(None),
            tasks: JoinSet::new(),
            under_way: HashMap::new(),
            signs: mpsc::unbounded_channel(),
            passed: HashMap::new(),
            refusal: None,
            stale: None,
            over_by: Fault::Path,
            barred: Vec::new(),
            recall,
            measuring: Measuring::NotYet,
        };
        ascent.enter(ascent.network());
        ascent
    }

    pub(crate) fn ladder(&self) -> SharedLadder {
        self.ladder.clone()
    }

    fn network(&self) -> String {
        let AttachSettings { relay, client, .. } = &self.settings;
        network::key(relay, None, client.proxies.named_for(relay).as_deref())
    }

    /// Looks whether this machine is on another network than before; otherwise keeps in mind what was
    /// learnt of this one.
    pub(crate) fn look_around(&mut self) {
        let network = self.network();
        if !self.recall.is_on(&network) {
            tracing::info!("this is another network, all carriers are tried again");
            return self.enter(network);
        }
        let (held, keepalive) = {
            let ladder = self.ladder.lock();
            (ladder.held(clock::now()), ladder.keepalive())
        };
        let AttachSettings {
            client, carriers, ..
        } = &self.settings;
        let bounds = client.path.bounds();
        self.recall.learn(bounds, &held, carriers, keepalive);
    }

    fn enter(&mut self, network: String) {
        self.recall.enter(network);
        self.measuring = Measuring::NotYet;
        let bounds = self.recall.bounds();
        let limit = bounds.largest_body.unwrap_or(usize::MAX);
        self.settings.client.largest_body = limit.min(self.largest_body);
        self.settings.client.path.replace(bounds);
        let carriers = &self.settings.carriers;
        let known = self.recall.known();
        let best = carriers.iter().position(|kind| kind.name == known.best);
        let held = self.recall.held(carriers);
        self.tell(Event::NetworkChanged {
            best,
            held,
            keepalive: known.keepalive,
        });
    }

    /// Tries until the goal is reached, or until all carriers have failed.
    pub(crate) async fn climb(
        &mut self,
        wanted: Wanted,
        goal: Goal,
    ) -> Result<NewHop, AttachError> {
        self.goal = goal;
        self.refusal = None;
        self.stale = None;
        self.barred.clear();
        self.tell(Event::Wanted(wanted));
        loop {
            match self.turn().await {
                Some(Turn::Carries(hop)) => return Ok(hop),
                Some(Turn::Over(error)) => return Err(error),
                None => {}
            }
        }
    }

    /// Why the last climb failed.
    pub(crate) fn over_by(&self) -> Fault {
        self.over_by
    }

    /// What was measured on the link that carries `session`.
    pub(crate) fn measure(&mut self, session: &Session) {
        self.goal = Goal::Resume(session.clone());
        if let Some(round_trip) = session.with_core(|core| core.rtt()) {
            self.tell(Event::Measured { round_trip });
        }
    }

    /// The link in use is lost.
    pub(crate) fn lost(&mut self, link: &Link) {
        if let Some(silence) = link.cut_after() {
            self.tell(Event::CutAfter { silence });
        }
    }

    /// The link in use is late with an answer.
    pub(crate) fn late(&mut self) {
        tracing::debug!("an answer is late, others are made ready");
        self.tell(Event::Late);
    }

    /// Does what is due, then waits for one thing to happen. Cancel safe while no new session is being begun.
    pub(crate) async fn turn(&mut self) -> Option<Turn> {
        if let Some(over) = self.act() {
            return Some(Turn::Over(over));
        }
        let due = self.ladder.lock().poll_timeout();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(clock::instant(due)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next() => match ended {
                Ok((attempt, outcome)) => self.outcome(attempt, outcome).await,
                // Dropped; or it panicked, which has been reported, and runs into its time limit.
                Err(_) => None,
            },
            found = self.measuring.found() => {
                self.found(&found.unwrap_or_default());
                None
            }
            Some(sign) = self.signs.1.recv() => {
                self.tell(sign);
                None
            }
            () = timer => {
                self.ladder.lock().handle_timeout(clock::now());
                None
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.ladder.lock().handle(clock::now(), event);
    }

    async fn outcome(&mut self, attempt: AttemptId, outcome: Outcome) -> Option<Turn> {
        self.under_way.remove(&attempt)?;
        let outcome = match outcome {
            // The others wait meanwhile: only one of them may become the session.
            Outcome::Begun(begun) => match attempt::finish(*begun, &self.routes).await {
                Ok(hop) => Outcome::Carries(hop),
                Err(failed) => Outcome::Failed(failed),
            },
            outcome => outcome,
        };
        match outcome {
            Outcome::Carries(hop) => {
                self.tell(Event::Carries { attempt });
                self.act();
                self.recall.carries(hop.link.info().carrier);
                hop.session
                    .keep_alive_every(self.settings.session.ping_after);
                self.measure_path(hop.link.info().carrier);
                return Some(Turn::Carries(hop));
            }
            Outcome::Passed(packets, round_trip) => {
                self.passed.insert(attempt, *packets);
                self.tell(Event::Passed {
                    attempt,
                    round_trip,
                });
            }
            Outcome::Failed(failed) => self.failed(attempt, failed),
            Outcome::Begun(_) => {}
        }
        None
    }

    fn failed(&mut self, attempt: AttemptId, failed: Failed) {
        let (fault, reason) = match failed {
            Failed::Path(reason) => (Fault::Path, reason),
            Failed::Cut(reason) => (Fault::Cut, reason),
            Failed::Carrier(error) => {
                let found = (attempt::fault_of(&error), error.to_string());
                if error.reason().is_some() && self.barred.len() < self.settings.carriers.len() {
                    self.barred.push(error);
                }
                found
            }
            Failed::Stale(error) => {
                let reason = error.to_string();
                self.stale = Some(error);
                (Fault::Path, reason)
            }
            Failed::Busy(error) => (Fault::Busy, error.to_string()),
            Failed::Final(error) => {
                let reason = error.to_string();
                self.refusal = Some(error);
                (Fault::Final, reason)
            }
        };
        tracing::debug!("attempt {} failed: {reason}", attempt.0);
        self.tell(Event::Failed {
            attempt,
            fault,
            reason,
        });
    }

    /// Where the first choice does not carry, finds out which others need not be tried.
    fn measure_path(&mut self, carrier: &str) {
        let first = self.settings.carriers.first();
        let is_first = first.is_none_or(|first| first.name == carrier);
        if is_first || !matches!(self.measuring, Measuring::NotYet) {
            return;
        }
        let (relay, client) = (self.settings.relay.clone(), self.settings.client.clone());
        self.measuring = Measuring::Now(tokio::spawn(async move {
            probe::measure(&relay, &client, ProbeSettings::default()).await
        }));
    }

    fn found(&mut self, known: &Measurements) {
        tracing::debug!("the path: {known:?}");
        if let Some(limit) = known.largest_body {
            self.recall.passes(limit);
            self.settings.client.largest_body = limit.min(self.largest_body);
            // It was seen just now, whatever was remembered.
            let bounds = self.settings.client.path.bounds();
            self.settings.client.path.replace(PathBounds {
                largest_body: Some(limit),
                ..bounds
            });
        }
        for (rung, known_of) in rungs_of(&self.settings.carriers).iter().enumerate() {
            if let Some(reason) = known.hopeless(known_of) {
                let reason = reason.to_owned();
                self.tell(Event::Hopeless { rung, reason });
            }
        }
    }

    /// Says something on the session's leg as often as the path needs it, or as seldom as is usual.
    fn keep_alive(&mut self, every: Option<Duration>) {
        let every = every.map_or(self.ping_after, |every| every.min(self.ping_after));
        tracing::debug!("what is silent is kept alive every {every:?}");
        self.settings.session.ping_after = every;
        if let Goal::Resume(session) = &self.goal {
            session.keep_alive_every(every);
        }
    }

    /// Does what the ladder wants done. Why nothing carries, if it has come to that.
    fn act(&mut self) -> Option<AttachError> {
        let mut over = None;
        loop {
            let action = self.ladder.lock().poll_action();
            match action {
                None => return over,
                Some(Action::Try {
                    attempt,
                    rung,
                    purpose,
                }) => self.begin(attempt, rung, purpose),
                Some(Action::Promote { attempt }) => self.promote(attempt),
                Some(Action::KeepAlive { every }) => self.keep_alive(every),
                Some(Action::Drop { attempt }) => {
                    self.passed.remove(&attempt);
                    if let Some(task) = self.under_way.remove(&attempt) {
                        task.abort();
                    }
                }
                Some(Action::RoundOver { fault, tried }) => over = Some(self.over(fault, &tried)),
            }
        }
    }

    fn over(&mut self, fault: Fault, tried: &[Tried]) -> AttachError {
        self.over_by = fault;
        // What needs UDP passes no proxy: that it failed says nothing about what bars the others.
        let by_tcp = |tried: &&Tried| !self.settings.carriers[tried.rung].abilities.needs_udp;
        let others = tried.iter().filter(by_tcp).count();
        let all_barred = others > 0 && self.barred.len() == others;
        let refused = match fault {
            Fault::Final => self.refusal.take(),
            Fault::Busy => Some(AttachError::Refused {
                code: Code::Busy.number(),
                text: describe(Code::Busy.number()),
            }),
            // What is in the way of all, or what kept the host itself away: the last one says it.
            _ if all_barred || (fault == Fault::Host && self.barred_last(tried)) => {
                let error = self.barred.pop();
                error.map(|error| barred_by(&self.settings, error))
            }
            // No carrier was the reason: the requests themselves were out of date.
            _ if tried.len() == self.settings.carriers.len() => self.stale.take(),
            _ => None,
        };
        let line = |tried: &Tried| match tried.fault {
            Fault::Host => tried.reason.clone(),
            _ => format!(
                "{}: {}",
                self.settings.carriers[tried.rung].name, tried.reason
            ),
        };
        refused.unwrap_or_else(|| AttachError::Unreachable {
            relay: self.settings.relay.to_string(),
            tried: tried.iter().map(line).collect(),
        })
    }

    fn barred_last(&self, tried: &[Tried]) -> bool {
        match (self.barred.last(), tried.last()) {
            (Some(error), Some(tried)) => error.to_string() == tried.reason,
            _ => false,
        }
    }

    fn begin(&mut self, attempt: AttemptId, rung: usize, purpose: Purpose) {
        let kind = self.settings.carriers[rung];
        tracing::debug!(
            attempt = attempt.0,
            carrier = kind.name,
            "trying {purpose:?}"
        );
        let settings = self.settings.clone();
        let identity = self.identity.clone();
        let routes = self.routes.clone();
        let goal = self.goal.clone();
        let signs = self.signs.0.clone();
        let run = async move {
            let mut packets = attempt::make(&settings, kind).await?;
            let _ = signs.send(Event::Reached { attempt });
            let heard = || {
                let _ = signs.send(Event::Heard { attempt });
            };
            let probation = match (purpose, goal) {
                (Purpose::Carry, Goal::Begin(pin)) => {
                    let begun = attempt::begin(packets, &settings, &identity, pin, heard).await?;
                    return Ok(Outcome::Begun(Box::new(begun)));
                }
                (Purpose::Carry, Goal::Resume(session)) => {
                    let hop = attempt::resume(packets, &session, &routes, heard).await?;
                    return Ok(Outcome::Carries(hop));
                }
                (Purpose::Probation, _) => Probation::full(clock::now()),
                (Purpose::LastingProbation, _) => Probation::lasting(clock::now()),
                (Purpose::Relief | Purpose::Standby, _) => Probation::relief(clock::now()),
            };
            let round_trip = attempt::try_out(&mut packets, probation).await?;
            Ok(Outcome::Passed(Box::new(packets), round_trip))
        };
        self.spawn(attempt, run);
    }

    fn promote(&mut self, attempt: AttemptId) {
        let Some(packets) = self.passed.remove(&attempt) else {
            return;
        };
        let Goal::Resume(session) = self.goal.clone() else {
            return;
        };
        let routes = self.routes.clone();
        let signs = self.signs.0.clone();
        self.spawn(attempt, async move {
            let heard = || {
                let _ = signs.send(Event::Heard { attempt });
            };
            let hop = attempt::resume(packets, &session, &routes, heard).await?;
            Ok(Outcome::Carries(hop))
        });
    }

    fn spawn(
        &mut self,
        attempt: AttemptId,
        run: impl Future<Output = Result<Outcome, Failed>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(async move {
            let outcome = run.await.unwrap_or_else(Outcome::Failed);
            (attempt, outcome)
        });
        self.under_way.insert(attempt, task);
    }
}
