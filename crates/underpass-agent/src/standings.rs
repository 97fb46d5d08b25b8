//! Standing with several relays of one group at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use underpass_endpoint::choice::ChoiceSettings;
use underpass_endpoint::{AttachError, Fleet};
use underpass_proto::control::Resolved;
use underpass_seal::StaticKey;

use crate::standing::{Reach, RequestError, Standing, StandingError};

/// Between attempts to reach a relay while others do: from this, twice as long each time, to that.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A relay that has not answered within this is not waited for where another one can be asked.
const ASK_NEXT: Duration = Duration::from_secs(3);

type Known = watch::Sender<Vec<Option<Standing>>>;

/// The standing with each of an agent's relays. Clones are the same ones.
#[derive(Clone)]
pub struct Standings {
    inner: Arc<Inner>,
}

struct Inner {
    fleet: Fleet,
    known: Arc<Known>,
    /// Attach to what is not attached to yet; they end with this.
    _joining: Mutex<JoinSet<()>>,
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
        let fleet = Fleet::new(&names, attachment.sessions(), ChoiceSettings::default());
        fleet.put(0, attachment.clone());
        Self {
            inner: Arc::new(Inner {
                fleet,
                known: Arc::new(watch::Sender::new(vec![Some(standing)])),
                _joining: Mutex::default(),
            }),
        }
    }
}

impl Standings {
    /// Attaches to all of these relays, the first one preferred where nothing tells them apart; done once
    /// one of them is attached to. Those that cannot be reached now are tried again for as long as this
    /// lasts.
    ///
    /// # Errors
    /// None of them is of use; what the first one's trouble is.
    pub async fn attach(
        reaches: Vec<Reach>,
        identity: Arc<StaticKey>,
    ) -> Result<Self, StandingError> {
        let names: Vec<String> = reaches.iter().map(|it| it.relay.to_string()).collect();
        let fleet = Fleet::new(&names, Default::default(), ChoiceSettings::default());
        let known = Arc::new(watch::Sender::new(vec![None; reaches.len()]));
        let (tell, mut told) = mpsc::channel(reaches.len().max(1));
        let mut joining = JoinSet::new();
        for (relay, reach) in reaches.into_iter().enumerate() {
            let joins = Joins {
                relay,
                reach,
                identity: Arc::clone(&identity),
                fleet: fleet.clone(),
                known: Arc::clone(&known),
                beside_others: names.len() > 1,
            };
            joining.spawn(joins.run(tell.clone()));
        }
        drop(tell);
        let mut first: Option<(usize, StandingError)> = None;
        // Each says once what became of it.
        while let Some((relay, outcome)) = told.recv().await {
            let Err(error) = outcome else {
                let _joining = Mutex::new(joining);
                let inner = Arc::new(Inner {
                    fleet,
                    known,
                    _joining,
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
        let order = self.inner.fleet.in_order();
        let in_order = order.iter().map(|(relay, _)| *relay);
        let mut all = in_order.chain(0..known.len());
        let found = all.find_map(|relay| Some((relay, known[relay].clone()?)));
        found.expect("standings begin with one at least")
    }

    /// All there are by now, the best first.
    #[must_use]
    pub fn all(&self) -> Vec<(usize, Standing)> {
        let known = self.inner.known.borrow();
        let order = self.inner.fleet.in_order().into_iter();
        let all = order.filter_map(|(relay, _)| Some((relay, known[relay].clone()?)));
        all.collect()
    }

    /// Waits for the next one that is not in `seen` yet, and puts it there. Cancel safe.
    pub async fn joined(&self, seen: &mut Vec<usize>) -> Standing {
        let mut known = self.inner.known.subscribe();
        let is_new = |known: &Vec<Option<Standing>>| {
            (0..known.len()).find(|relay| known[*relay].is_some() && !seen.contains(relay))
        };
        let found = match known.wait_for(|known| is_new(known).is_some()).await {
            Ok(known) => is_new(&known).and_then(|relay| Some((relay, known[relay].clone()?))),
            Err(_) => None,
        };
        match found {
            Some((relay, standing)) => {
                seen.push(relay);
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

    /// Ends all of them in order, and all sessions.
    pub async fn detach(&self) {
        self.inner.fleet.detach().await;
    }
}

/// Attaches to one of the relays.
struct Joins {
    relay: usize,
    reach: Reach,
    identity: Arc<StaticKey>,
    fleet: Fleet,
    known: Arc<Known>,
    beside_others: bool,
}

impl Joins {
    /// Tries until it is attached to or that is no use; says through `tell` what the first attempt came to.
    async fn run(self, tell: mpsc::Sender<(usize, Result<(), StandingError>)>) {
        let mut tell = Some(tell);
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.attempt().await;
            let again = outcome
                .as_ref()
                .err()
                .map(|error| error.code().retry_helps());
            // Where there is but one, whoever asked says why.
            if let Err(error) = &outcome
                && self.beside_others
            {
                tracing::warn!("{}: {error}", self.reach.relay);
            }
            if again == Some(false)
                && let Err(error) = &outcome
            {
                let (code, text) = (error.code().number(), error.to_string());
                let why = AttachError::Refused { code, text };
                self.fleet.give_up(self.relay, why);
            }
            if let Some(tell) = tell.take() {
                let _ = tell.send((self.relay, outcome)).await;
            }
            if again != Some(true) {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self) -> Result<(), StandingError> {
        let identity = Arc::clone(&self.identity);
        let attaching = Standing::attach_with(&self.reach, identity, self.fleet.sessions());
        let (standing, identity) = attaching.await?;
        let attachment = standing.attachment().clone();
        if identity.user.is_empty() {
            attachment.leave().await;
            let relay = self.reach.relay.to_string();
            return Err(StandingError::NotEnrolled { relay });
        }
        let relay = self.relay;
        self.known
            .send_modify(|known| known[relay] = Some(standing));
        self.fleet.put(relay, attachment);
        Ok(())
    }
}
