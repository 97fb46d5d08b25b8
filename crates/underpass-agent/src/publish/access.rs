//! Whether a machine may use a service of this one, asked for each channel.
//!
//! The relay lets a machine through to one service, once; a session may live on when that is taken back, and may ask for
//! other services of the same publisher. So the publisher asks its relays at each channel, for the key that the session's
//! handshake has proved. A yes is remembered until a relay says that rights have changed; a no is not, so that whoever
//! has just been let in need not wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use underpass_proto::Code;
use underpass_seal::PublicKey;

use crate::standing::{RequestError, Standing};
use crate::standings::Standings;

/// A yes this old is asked again, although no relay has said that anything has changed.
const FRESH: Duration = Duration::from_secs(30);
/// A relay that has not answered within this is taken to know nothing. Its path may just be made anew.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// After this it is asked again what no relay knew.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// So many services and machines are remembered before those are forgotten whom nobody asks about.
const REMEMBERED: usize = 4096;

/// The relays' word on whether a machine may use a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Yes,
    /// No relay says that it may, and this is why.
    No(Code),
    /// No relay can be asked: nothing new is begun, and what there is goes on.
    Unknown,
}

/// What was said last about one machine and service.
#[derive(Debug)]
struct Said {
    verdict: Verdict,
    /// When it was asked.
    asked: Instant,
    /// How many changes there had been by then.
    changes: u64,
}

impl Said {
    /// Whether it answers somebody who came at `came`, when there have been so many changes.
    fn answers(&self, came: Instant, changes: u64, now: Instant) -> bool {
        let asked_since = self.asked >= came;
        let remembered = self.verdict == Verdict::Yes
            && self.changes == changes
            && now.saturating_duration_since(self.asked) < FRESH;
        asked_since || remembered
    }
}

/// Whoever asks holds the lock, so that others wait for the answer and do not ask the same.
type Slot = Arc<tokio::sync::Mutex<Option<Said>>>;

/// Asks the relays who may use what.
#[derive(Debug)]
pub(super) struct Access {
    standings: Standings,
    slots: Mutex<HashMap<(String, PublicKey), Slot>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Access {
    pub(super) fn new(standings: Standings) -> Self {
        Self {
            standings,
            slots: Mutex::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Heeds what this relay says about changes, for as long as it is attached to.
    pub(super) fn heed(&self, standing: &Standing) {
        let (mut rights, changes) = (standing.rights(), Arc::clone(&self.changes));
        let attachment = standing.attachment().clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = rights.changed() => match changed {
                        Ok(()) => changes.send_modify(|changes| *changes += 1),
                        Err(_) => return,
                    },
                    _ = attachment.ended() => return,
                }
            }
        });
    }

    /// Changes whenever rights may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether the machine with this key may use the service of this name.
    pub(super) async fn verdict(&self, service: &str, machine: PublicKey) -> Verdict {
        let came = Instant::now();
        let slot = self.slot(service, machine);
        let mut said = slot.lock().await;
        let (now, changes) = (Instant::now(), *self.changes.borrow());
        if let Some(said) = said.as_ref().filter(|it| it.answers(came, changes, now)) {
            return said.verdict.clone();
        }
        *said = None;
        let verdict = self.ask(service, machine).await;
        *said = Some(Said {
            verdict: verdict.clone(),
            asked: now,
            changes,
        });
        verdict
    }

    fn slot(&self, service: &str, machine: PublicKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= REMEMBERED {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = slots.entry((service.to_owned(), machine)).or_default();
        Arc::clone(slot)
    }

    /// One relay that lets the machine in is enough: it is the one by which it comes. Relays with a store of their own
    /// need not agree.
    async fn ask(&self, service: &str, machine: PublicKey) -> Verdict {
        let mut all = self.standings.all();
        if all.is_empty() {
            all.push(self.standings.best());
        }
        // All at once: one that is just dying is not to be waited for.
        let asking = all.iter().map(|(_, standing)| async move {
            let asking = standing.may_use(service, machine);
            let answer = tokio::time::timeout(ANSWER_LIMIT, asking).await;
            answer.map_or(Verdict::Unknown, understand)
        });
        let mut answers: FuturesUnordered<_> = asking.collect();
        let mut verdict = Verdict::Unknown;
        while let Some(answer) = answers.next().await {
            match answer {
                Verdict::Yes => return Verdict::Yes,
                Verdict::No(_) if verdict == Verdict::Unknown => verdict = answer,
                Verdict::No(_) | Verdict::Unknown => {}
            }
        }
        verdict
    }

    /// Waits until it must be asked again whether a machine may use a service: since something has changed, or since
    /// nobody `knew`. False once nothing changes any more.
    pub(super) async fn ask_again(changes: &mut watch::Receiver<u64>, knew: bool) -> bool {
        tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            () = tokio::time::sleep(ASK_AGAIN), if !knew => true,
        }
    }
}

fn understand(answer: Result<(), RequestError>) -> Verdict {
    match answer {
        Ok(()) => Verdict::Yes,
        Err(RequestError::Control(underpass_endpoint::ControlError::Failed { code, .. })) => {
            let code = Code::from_number(code).unwrap_or(Code::Denied);
            match code.retry_helps() {
                true => Verdict::Unknown,
                false => Verdict::No(code),
            }
        }
        Err(error) => {
            tracing::debug!("cannot ask who is allowed: {error}");
            Verdict::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_yes_lasts_until_something_changes_and_a_no_for_those_who_waited() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let said = |verdict| Said {
            verdict,
            asked: at(100),
            changes: 7,
        };
        let denied = Verdict::No(Code::Denied);
        for (verdict, came, changes, now, expected) in [
            (Verdict::Yes, 110, 7, 110, true),
            (Verdict::Yes, 110, 8, 110, false),
            (Verdict::Yes, 140, 7, 140, false),
            (denied.clone(), 110, 7, 110, false),
            (Verdict::Unknown, 110, 7, 110, false),
            // Who came before it was asked waited for just this answer, whatever it is and whatever came since.
            (denied, 99, 8, 101, true),
            (Verdict::Yes, 99, 8, 101, true),
            (Verdict::Unknown, 99, 7, 101, true),
        ] {
            let answers = said(verdict.clone()).answers(at(came), changes, at(now));
            assert_eq!(answers, expected, "{verdict:?} {came} {changes} {now}");
        }
    }

    #[test]
    fn what_may_pass_is_no_refusal() {
        let failed = |code: Code| {
            let (code, text) = (code.number(), String::new());
            let error = underpass_endpoint::ControlError::Failed { code, text };
            understand(Err(error.into()))
        };
        assert_eq!(failed(Code::Denied), Verdict::No(Code::Denied));
        assert_eq!(failed(Code::NoService), Verdict::No(Code::NoService));
        assert_eq!(failed(Code::StoreUnavailable), Verdict::Unknown);
        assert_eq!(understand(Err(RequestError::Unexpected)), Verdict::Unknown);
        assert_eq!(understand(Ok(())), Verdict::Yes);
    }
}
