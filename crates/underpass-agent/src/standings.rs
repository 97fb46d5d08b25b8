//! Standing with several relays of one group at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use underpass_endpoint::{AttachError, Attachment, Fleet, FleetSettings};
use underpass_proto::control::Resolved;
use underpass_seal::{Fingerprint, StaticKey};

use crate::standing::{Reach, RequestError, Standing, StandingError};

/// Between attempts to reach a relay while others do: from this, twice as long each time, to that.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A relay that has not answered within this is not waited for where another one can be asked.
const ASK_NEXT: Duration = Duration::from_secs(3);

/// Between looks whether something still passes through a relay that is to be left.
const LEAVE_LOOK: Duration = Duration::from_secs(1);

/// The standing with each relay, where there is one; each with a number that no other had.
type Known = watch::Sender<Vec<Option<(u64, Standing)>>>;

/// Which standings [`Standings::joined`] has told of.
#[derive(Debug, Default)]
pub struct Seen(HashSet<u64>);

/// The standing with each of an agent's relays. Clones are the same ones.
#[derive(Clone)]
pub struct Standings {
    inner: Arc<Inner>,
}

struct Inner {
    fleet: Fleet,
    known: Arc<Known>,
    /// Our key, where there may be more relays later.
    identity: Option<Arc<StaticKey>>,
    joining: Mutex<Joining>,
}

/// The relays that there were so far, in the order of their numbers.
#[derive(Default)]
struct Joining {
    places: Vec<Place>,
    /// Attach to what is not attached to yet; they end with this.
    tasks: JoinSet<()>,
}

/// Which relay has a number.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    url: String,
    key: Option<Fingerprint>,
    announced_by: Option<String>,
}

impl From<&Reach> for Place {
    fn from(reach: &Reach) -> Self {
        Self {
            url: reach.relay.to_string(),
            key: reach.relay_key,
            announced_by: reach.announced_by.clone(),
        }
    }
}

impl std::fmt::Debug for Standings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Standings").field(&self.inner.fleet).finish()
    }
}

impl From<Standing> for Standings {
    /// With one relay alone. Must be called on a runtime.
    fn from(standing: Standing) -> Self {
        let attachment = standing.attachment();
        let names = [attachment.status().relay];
        let fleet = Fleet::new(&names, attachment.sessions(), FleetSettings::default());
        fleet.put(0, attachment.clone());
        Self {
            inner: Arc::new(Inner {
                fleet,
                known: Arc::new(watch::Sender::new(vec![Some((0, standing))])),
                identity: None,
                joining: Mutex::default(),
            }),
        }
    }
}

impl Standings {
    /// Attaches to these relays, or to those of them that `settings` want, the first one preferred where nothing
    /// tells them apart; done once one of them is attached to. Those that cannot be reached now are tried again
    /// for as long as this lasts.
    ///
    /// # Errors
    /// None of them is of use; what the first one's trouble is.
    pub async fn attach(
        reaches: Vec<Reach>,
        identity: Arc<StaticKey>,
        settings: FleetSettings,
    ) -> Result<Self, StandingError> {
        let names: Vec<String> = reaches.iter().map(|it| it.relay.to_string()).collect();
        let fleet = Fleet::new(&names, Default::default(), settings);
        let known = Arc::new(watch::Sender::new(vec![None; reaches.len()]));
        let (tell, mut told) = mpsc::channel(reaches.len().max(1));
        let mut joining = Joining::default();
        for (relay, reach) in reaches.into_iter().enumerate() {
            let joins = Joins {
                relay,
                reach,
                identity: Arc::clone(&identity),
                fleet: fleet.clone(),
                known: Arc::clone(&known),
                beside_others: names.len() > 1,
            };
            joining.places.push(Place::from(&joins.reach));
            joining.tasks.spawn(joins.run(Some(tell.clone())));
        }
        drop(tell);
        let mut first: Option<(usize, StandingError)> = None;
        // Each says once what became of it.
        while let Some((relay, outcome)) = told.recv().await {
            let Err(error) = outcome else {
                let inner = Arc::new(Inner {
                    fleet,
                    known,
                    identity: Some(identity),
                    joining: Mutex::new(joining),
                });
                return Ok(Self { inner });
            };
            if first.as_ref().is_none_or(|(before, _)| relay < *before) {
                first = Some((relay, error));
            }
        }
        let none = || AttachError::Ended("no relay was named".into()).into();
        Err(first.map_or_else(none, |(_, error)| error))
    }

    /// The relays together.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    /// The standing with the best relay, and that relay's number.
    ///
    /// # Panics
    /// Never: there is at least one from the beginning.
    #[must_use]
    pub fn best(&self) -> (usize, Standing) {
        let known = self.inner.known.borrow();
        let order = self.inner.fleet.in_order(None);
        let in_order = order.iter().map(|(relay, _)| *relay);
        let mut all = in_order.chain(0..known.len());
        let found = all.find_map(|relay| Some((relay, known[relay].clone()?.1)));
        found.expect("standings begin with one at least")
    }

    /// All there are by now, the best first.
    #[must_use]
    pub fn all(&self) -> Vec<(usize, Standing)> {
        let known = self.inner.known.borrow();
        let order = self.inner.fleet.in_order(None).into_iter();
        let all = order.filter_map(|(relay, _)| Some((relay, known[relay].clone()?.1)));
        all.collect()
    }

    /// Waits for the next one that has not been told of yet: `seen` remembers those that were. Cancel safe.
    pub async fn joined(&self, seen: &mut Seen) -> Standing {
        let mut known = self.inner.known.subscribe();
        let is_new = |known: &Vec<Option<(u64, Standing)>>| {
            let mut there = known.iter().flatten();
            there.find(|(number, _)| !seen.0.contains(number)).cloned()
        };
        let found = match known.wait_for(|known| is_new(known).is_some()).await {
            Ok(known) => is_new(&known),
            Err(_) => None,
        };
        match found {
            Some((number, standing)) => {
                seen.0.insert(number);
                standing
            }
            // Nobody is left who could join.
            None => std::future::pending().await,
        }
    }

    /// Where a service is, as the best relay that answers has it now; and that relay's number.
    ///
    /// # Errors
    /// There is no such service for this user, or no relay can be asked.
    pub async fn resolve(&self, service: &str) -> Result<(usize, Resolved), RequestError> {
        let mut all = self.all();
        let last = all.pop().unwrap_or_else(|| self.best());
        for (relay, standing) in all {
            match tokio::time::timeout(ASK_NEXT, standing.resolve(service)).await {
                Ok(Err(error)) if error.code().retry_helps() => {
                    tracing::debug!("{service}: {error}; asking another relay");
                }
                Ok(answer) => return Ok((relay, answer?)),
                Err(_) => tracing::debug!("{service}: no answer; asking another relay"),
            }
        }
        let (relay, standing) = last;
        Ok((relay, standing.resolve(service).await?))
    }

    /// Uses these relays from now on and no others: those that are new are attached to, those that are not among them
    /// are left once the sessions that pass through them have gone on through another. A relay is the same where
    /// its address and its key are. Must be called on a runtime.
    pub fn use_only(&self, reaches: &[Reach]) {
        let (fleet, known) = (&self.inner.fleet, &self.inner.known);
        let Some(identity) = &self.inner.identity else {
            return;
        };
        let mut joining = lock(&self.inner.joining);
        let wanted: Vec<Place> = reaches.iter().map(Place::from).collect();
        let is = |one: &Place, other: &Place| (&one.url, one.key) == (&other.url, other.key);
        for (place, reach) in wanted.iter().zip(reaches) {
            if let Some(relay) = joining.places.iter().position(|it| is(it, place)) {
                fleet.retire(relay, false);
                continue;
            }
            // Before the fleet has it, whose order is looked up here.
            known.send_modify(|known| known.push(None));
            let joins = Joins {
                relay: fleet.add(&place.url),
                reach: reach.clone(),
                identity: Arc::clone(identity),
                fleet: fleet.clone(),
                known: Arc::clone(known),
                beside_others: true,
            };
            joining.places.push(place.clone());
            joining.tasks.spawn(joins.run(None));
        }
        for (relay, place) in joining.places.iter().enumerate() {
            if !wanted.iter().any(|it| is(it, place)) {
                fleet.retire(relay, true);
            }
        }
    }

    /// The relay that announced the one of this number, if one did.
    #[must_use]
    pub fn announced_by(&self, relay: usize) -> Option<String> {
        let joining = lock(&self.inner.joining);
        joining.places.get(relay)?.announced_by.clone()
    }

    /// Ends all of them in order, and all sessions.
    pub async fn detach(&self) {
        self.inner.fleet.detach().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Tell = mpsc::Sender<(usize, Result<(), StandingError>)>;

/// Attaches to one of the relays.
struct Joins {
    relay: usize,
    reach: Reach,
    identity: Arc<StaticKey>,
    fleet: Fleet,
    known: Arc<Known>,
    beside_others: bool,
}

/// What an attempt to attach came to.
enum Joined {
    /// It is attached to.
    Yes(Attachment),
    /// It may be a little later.
    NotYet,
    /// It will not be.
    Never,
}

impl Joins {
    /// Keeps it attached to whenever it is wanted; says through `tell` what the first attempt came to.
    async fn run(self, mut tell: Option<Tell>) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.fleet.wanted(self.relay, true).await;
            match self.attempt(&mut tell).await {
                Joined::Yes(attachment) => {
                    pause = FIRST_PAUSE;
                    tokio::select! {
                        () = self.leave() => {}
                        _ = attachment.ended() => return,
                    }
                }
                Joined::NotYet => {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.fleet.wanted(self.relay, false) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Joined::Never => return,
            }
        }
    }

    async fn attempt(&self, tell: &mut Option<Tell>) -> Joined {
        let outcome = self.attach().await;
        let joined = match &outcome {
            Ok(attachment) => Joined::Yes(attachment.clone()),
            Err(error) => {
                // Where there is but one, whoever asked says why.
                if self.beside_others {
                    tracing::warn!("{}: {error}", self.reach.relay);
                }
                match error.code().retry_helps() {
                    true => Joined::NotYet,
                    false => {
                        let (code, text) = (error.code().number(), error.to_string());
                        let why = AttachError::Refused { code, text };
                        self.fleet.give_up(self.relay, why);
                        Joined::Never
                    }
                }
            }
        };
        if let Some(tell) = tell.take() {
            let _ = tell.send((self.relay, outcome.map(drop))).await;
        }
        joined
    }

    async fn attach(&self) -> Result<Attachment, StandingError> {
        let identity = Arc::clone(&self.identity);
        let attaching = Standing::attach_with(&self.reach, identity, self.fleet.sessions());
        let (standing, identity) = attaching.await?;
        let attachment = standing.attachment().clone();
        if identity.user.is_empty() {
            attachment.leave().await;
            let relay = self.reach.relay.to_string();
            return Err(StandingError::NotEnrolled { relay });
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let relay = self.relay;
        self.known
            .send_modify(|known| known[relay] = Some((number, standing)));
        self.fleet.put(relay, attachment.clone());
        Ok(attachment)
    }

    /// Lets it rest once that is wanted and nothing passes through it any more.
    async fn leave(&self) {
        loop {
            self.fleet.wanted(self.relay, false).await;
            let relay = self.relay;
            if self.fleet.rest(relay, || self.forget()).await {
                return;
            }
            tokio::time::sleep(LEAVE_LOOK).await;
        }
    }

    /// Nobody is to ask for anything there.
    fn forget(&self) {
        self.known.send_modify(|known| known[self.relay] = None);
    }
}
