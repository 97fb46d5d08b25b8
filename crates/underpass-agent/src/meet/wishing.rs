//! A wish that stands at every relay, for as long as it is kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use underpass_proto::Code;
use underpass_proto::control::{Meet, Met};
use underpass_seal::PublicKey;

use crate::standing::{RequestError, Standing};
use crate::standings::{Seen, Standings};

/// After this a relay is asked again that could not take the wish.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// For so long it is waited until relays know that a wish is taken back.
const PART_LIMIT: Duration = Duration::from_secs(2);

/// What is wished now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    number: u64,
    /// The only machine that may be met: there is a session with it.
    only: Option<PublicKey>,
}

/// What a relay has answered in a round; nothing where all say that nobody is there.
#[derive(Debug, Clone, Default)]
struct Heard {
    round: u64,
    said: Option<Result<Met, RequestError>>,
}

#[derive(Debug)]
struct Shared {
    standings: Standings,
    wish: Meet,
    round: watch::Sender<Round>,
    heard: watch::Sender<Heard>,
}

/// Keeps a wish at all relays, in each hop session.
#[derive(Debug)]
pub(super) struct Wishing {
    shared: Arc<Shared>,
    heard: watch::Receiver<Heard>,
    keeping: JoinHandle<()>,
    /// It has been taken back.
    parted: bool,
}

impl Wishing {
    /// Makes the wish at the best relay, then keeps it at all of them.
    ///
    /// # Errors
    /// That relay refuses it, or cannot be asked.
    pub(super) async fn begin(
        standings: Standings,
        application: &str,
        peer: &str,
    ) -> Result<Self, RequestError> {
        let wish = Meet {
            request: 0,
            application: application.to_owned(),
            peer: peer.to_owned(),
            holder: rand::random(),
            only: [0; 32],
        };
        let said = standings.best().1.meet(&wish).await?;
        let said = said.map(|met| Ok(Met { request: 0, ..met }));
        let (round, only) = (0, None);
        let shared = Arc::new(Shared {
            standings,
            wish,
            round: watch::Sender::new(Round {
                number: round,
                only,
            }),
            heard: watch::Sender::new(Heard { round, said }),
        });
        let mut heard = shared.heard.subscribe();
        heard.mark_changed();
        Ok(Self {
            heard,
            keeping: tokio::spawn(keep(Arc::clone(&shared))),
            shared,
            parted: false,
        })
    }

    /// Whether no relay has said in this round that somebody is there.
    pub(super) fn is_alone(&self) -> bool {
        self.heard.borrow().said.is_none()
    }

    /// What the relays say next about who is there. Cancel safe.
    pub(super) async fn heard(&mut self) -> Result<Met, RequestError> {
        loop {
            // The sender lives as long as this.
            let _ = self.heard.changed().await;
            let said = self.heard.borrow_and_update().said.clone();
            if let Some(said) = said {
                return said;
            }
        }
    }

    /// There is a session with this machine: nobody else is to be met.
    pub(super) fn settle(&self, machine: PublicKey) {
        let only = Some(machine);
        self.shared.round.send_modify(|round| round.only = only);
    }

    /// There is no session any more, or none could be made: whoever is there is to be met. What was heard before
    /// counts no more.
    pub(super) fn renew(&mut self) {
        let mut number = 0;
        self.shared.round.send_modify(|round| {
            round.number += 1;
            round.only = None;
            number = round.number;
        });
        let (round, said) = (number, None);
        self.shared.heard.send_replace(Heard { round, said });
    }

    /// Takes the wish back at all relays; those that do not answer soon are not waited for.
    pub(super) async fn part(&mut self) {
        self.keeping.abort();
        self.parted = true;
        part(&self.shared).await;
    }
}

impl Drop for Wishing {
    fn drop(&mut self) {
        self.keeping.abort();
        // Where the program ends, the relays forget what it wished.
        if !self.parted
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move { part(&shared).await });
        }
    }
}

async fn part(shared: &Shared) {
    let all = shared.standings.all().into_iter();
    let parting = all.map(|(_, standing)| async move {
        if let Err(error) = standing.part(&shared.wish).await {
            tracing::debug!("cannot take a wish back: {error}");
        }
    });
    let parting = futures_util::future::join_all(parting);
    let _ = tokio::time::timeout(PART_LIMIT, parting).await;
}

async fn keep(shared: Arc<Shared>) {
    let (mut seen, mut keeping) = (Seen::default(), JoinSet::new());
    loop {
        tokio::select! {
            standing = shared.standings.joined(&mut seen) => {
                keeping.spawn(Arc::clone(&shared).keep_at(standing));
            }
            Some(_) = keeping.join_next() => {}
        }
    }
}

impl Shared {
    /// Keeps the wish at one relay for as long as it is attached to.
    async fn keep_at(self: Arc<Self>, standing: Standing) {
        let attachment = standing.attachment().clone();
        let asking = async {
            let (mut changes, mut rounds) = (standing.meetings(), self.round.subscribe());
            loop {
                let session = attachment.session();
                changes.mark_unchanged();
                let round = *rounds.borrow_and_update();
                let answer = standing.meet(&self.wished_in(round)).await;
                let again = self.take(round, answer);
                tokio::select! {
                    // The senders live as long as the standing and this.
                    _ = changes.changed() => {}
                    _ = rounds.changed() => {}
                    true = attachment.session_changed(&session) => {}
                    () = tokio::time::sleep(ASK_AGAIN), if again => {}
                }
            }
        };
        tokio::select! {
            () = asking => {}
            _ = attachment.ended() => {}
        }
    }

    fn wished_in(&self, round: Round) -> Meet {
        Meet {
            only: round.only.map_or([0; 32], |key| key.0),
            ..self.wish.clone()
        }
    }

    /// Takes a relay's answer in; whether it is to be asked again soon.
    fn take(&self, round: Round, answer: Result<Option<Met>, RequestError>) -> bool {
        let (said, again) = match answer {
            Ok(None) => return false,
            Ok(Some(met)) => (Ok(Met { request: 0, ..met }), false),
            Err(error) => {
                let code = error.code();
                // A wish that stands goes on: what another program holds may be free soon, and what is published
                // may be allowed yet.
                let may_change = [
                    Code::Connected,
                    Code::Denied,
                    Code::ServiceWaiting,
                    Code::ServiceRefused,
                ];
                let passes = code.retry_helps() || may_change.contains(&code);
                tracing::debug!("the wish to meet {} was not taken: {error}", self.wish.peer);
                if passes || self.standings.all().len() > 1 {
                    return true;
                }
                (Err(error), true)
            }
        };
        self.heard.send_if_modified(|heard| {
            let is_new = match (&heard.said, &said) {
                (Some(Ok(before)), Ok(met)) => before != met,
                (Some(Err(_)), Err(_)) => false,
                _ => true,
            };
            let counts = is_new && heard.round == round.number;
            if counts {
                heard.said = Some(said);
            }
            counts
        });
        again
    }
}
