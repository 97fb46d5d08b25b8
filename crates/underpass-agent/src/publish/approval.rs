//! Which of the services are live: a manager may have to approve them, may refuse them later, and their owner may withdraw
//! them from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use underpass_endpoint::ControlError;
use underpass_proto::Code;

use super::access::Verdict;
use super::{PublishError, Publisher};
use crate::standing::RequestError;

/// How often it is asked although no relay has said that anything has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is known about whether services are live.
#[derive(Debug, Default)]
pub(super) struct Approval {
    /// Those that wait for a manager.
    waiting: Mutex<BTreeSet<String>>,
    /// Those that are not published any more, and why.
    gone: Mutex<BTreeMap<String, Code>>,
    /// Registrations under way: meanwhile a relay may not know yet what is published.
    registering: AtomicUsize,
}

/// Counts as long as it is there.
pub(super) struct Registering<'a>(&'a AtomicUsize);

impl Drop for Registering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Approval {
    pub(super) fn registering(&self) -> Registering<'_> {
        self.registering.fetch_add(1, Ordering::AcqRel);
        Registering(&self.registering)
    }

    /// A relay has taken the service.
    pub(super) fn registered(&self, name: &str, waits: bool) {
        match waits {
            true => lock(&self.waiting).insert(name.to_owned()),
            false => lock(&self.waiting).remove(name),
        };
    }

    pub(super) fn is_gone(&self, name: &str) -> bool {
        lock(&self.gone).contains_key(name)
    }
}

impl Publisher {
    /// The services that wait for a manager's approval, by their full names.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let waiting = lock(&self.approval.waiting).clone();
        let listings = self.listings().into_iter();
        let waiting = listings.filter(|listing| waiting.contains(&listing.name));
        waiting.map(|listing| listing.full_name).collect()
    }

    /// Waits until no service waits for a manager's approval. [`Publisher::keep`] must run beside it. Cancel safe.
    ///
    /// # Errors
    /// A manager has refused one of them, or its owner has withdrawn it.
    pub async fn approved(&self) -> Result<(), PublishError> {
        let mut changes = self.catalogue.access.changes();
        loop {
            let waiting = lock(&self.approval.waiting).clone();
            for name in waiting {
                match self.state(&name).await {
                    Verdict::Yes => {
                        tracing::info!("{name} is approved");
                        self.approval.registered(&name, false);
                    }
                    Verdict::Unknown | Verdict::No(Code::ServiceWaiting) => {}
                    Verdict::No(code) => return Err(not_published(&name, code)),
                }
            }
            if lock(&self.approval.waiting).is_empty() {
                return Ok(());
            }
            // Where that is all the relays say, it is asked now and then.
            let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
        }
    }

    /// Whether anybody may use a service of this name: its owner's machine may if anybody may.
    async fn state(&self, name: &str) -> Verdict {
        let own = self.first.0.attachment().machine_key();
        self.catalogue.access.verdict(name, own).await
    }

    /// Returns once none of the services is published any more. Cancel safe.
    pub(super) async fn none_left(&self) -> PublishError {
        let mut changes = self.catalogue.access.changes();
        loop {
            // The publisher holds what sends the changes.
            let _ = changes.changed().await;
            for offer in &self.offers {
                if !self.approval.is_gone(&offer.name)
                    && let Some(code) = self.has_gone(&offer.name).await
                {
                    let error = not_published(&offer.name, code);
                    tracing::error!("not published any more: {error}");
                    lock(&self.approval.gone).insert(offer.name.clone(), code);
                }
            }
            let gone = lock(&self.approval.gone);
            if let Some((name, code)) = gone.iter().next()
                && gone.len() == self.offers.len()
            {
                return not_published(name, *code);
            }
        }
    }

    /// Why a service is not published any more, if it is not.
    async fn has_gone(&self, name: &str) -> Option<Code> {
        match self.state(name).await {
            Verdict::No(Code::ServiceRefused) => Some(Code::ServiceRefused),
            Verdict::No(Code::NoService) => {
                // A relay that was started anew may not have been told of it yet.
                tokio::time::sleep(LOOK_AGAIN).await;
                let registering = self.approval.registering.load(Ordering::Acquire) > 0;
                let gone = self.state(name).await == Verdict::No(Code::NoService);
                (gone && !registering).then_some(Code::NoService)
            }
            _ => None,
        }
    }
}

fn not_published(name: &str, code: Code) -> PublishError {
    let text = match code {
        Code::NoService => "the service was withdrawn".to_owned(),
        code => code.explain().what.to_owned(),
    };
    let code = code.number();
    PublishError {
        name: name.to_owned(),
        error: RequestError::Control(ControlError::Failed { code, text }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
