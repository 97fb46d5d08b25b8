//! What is sent, and what is known of it and of its receivers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use underpass_proto::Code;
use underpass_proto::transfer::EntryKind;

use super::offer::{Beginnings, Want};
use super::{Digest, ReceiverEnd, Report, Sending, Settings, Sources, Trouble, digest_of_all};

/// For how long a receiver is looked for whose connection broke.
const AGAIN: Duration = Duration::from_secs(60);
/// Rounds of one receiver without anything new, before it is given up.
const TRIES: usize = 4;

/// What all receivers share.
pub(super) struct Job {
    pub(super) sources: Sources,
    pub(super) settings: Settings,
    pub(super) beginnings: Beginnings,
    pub(super) runtime: Handle,
    /// Of each entry, once it is known.
    digests: Mutex<Vec<Option<Digest>>>,
    /// Why an entry could not be sent.
    unsent: Mutex<Vec<Option<Trouble>>>,
}

/// One who is to have everything.
pub(super) struct Receiver {
    pub(super) user: String,
    /// Until when it is looked for.
    pub(super) until: Instant,
    tries: usize,
    /// What it has, or does not want.
    wants: Vec<Want>,
    pub(super) declined: Vec<(usize, Trouble)>,
    pub(super) end: Option<Result<(u64, Digest), Trouble>>,
}

impl Receiver {
    pub(super) fn new(user: &str, until: Instant) -> Self {
        Self {
            user: user.to_owned(),
            until,
            tries: TRIES,
            wants: Vec::new(),
            declined: Vec::new(),
            end: None,
        }
    }

    /// What it says that it wants now. Where that is less than before, something has arrived.
    pub(super) fn is_ripe(&mut self, wants: &[Want]) {
        if self.wants != wants {
            self.tries = TRIES;
        }
        wants.clone_into(&mut self.wants);
        self.declined = wants
            .iter()
            .enumerate()
            .filter_map(|(entry, want)| match want {
                Want::Declined(trouble) => Some((entry, trouble.clone())),
                _ => None,
            })
            .collect();
    }
}

impl Job {
    pub(super) fn new(sources: Sources, settings: Settings, runtime: Handle) -> Self {
        let count = sources.list.len();
        Self {
            sources,
            settings,
            beginnings: Beginnings::default(),
            runtime,
            digests: Mutex::new(vec![None; count]),
            unsent: Mutex::new(vec![None; count]),
        }
    }

    /// The digest of all files but these.
    pub(super) fn digest_without(&self, missing: &[(usize, Trouble)]) -> Digest {
        let all = self.sources.list.iter().enumerate();
        let there = all.filter(|(at, _)| !missing.iter().any(|(it, _)| it == at));
        digest_of_all(there.filter_map(|(at, it)| Some((&*it.entry.path, self.digest(at)?))))
    }

    pub(super) fn tell(&self, what: Sending) {
        (self.settings.on)(what);
    }

    pub(super) fn path(&self, entry: usize) -> String {
        self.sources.list[entry].entry.path.clone()
    }

    pub(super) fn digest(&self, entry: usize) -> Option<Digest> {
        lock(&self.digests)[entry]
    }

    pub(super) fn set_digest(&self, entry: usize, digest: Digest) {
        lock(&self.digests)[entry] = Some(digest);
        // It may not have been readable in an earlier round.
        lock(&self.unsent)[entry] = None;
    }

    pub(super) fn set_unsent(&self, entry: usize, trouble: Trouble) {
        lock(&self.unsent)[entry] = Some(trouble);
    }

    pub(super) fn is_unsent(&self, entry: usize) -> bool {
        lock(&self.unsent)[entry].is_some()
    }

    /// What is read from standard input can be sent only once.
    fn can_repeat(&self) -> bool {
        let list = &self.sources.list;
        list.iter().all(|it| it.entry.kind != EntryKind::Open)
    }

    /// The receiver is done, one way or the other.
    pub(super) fn end(&self, receiver: &mut Receiver, outcome: Result<(u64, Digest), Trouble>) {
        receiver.end = Some(outcome);
        self.tell(Sending::Done(self.end_of(receiver)));
    }

    fn end_of(&self, receiver: &Receiver) -> ReceiverEnd {
        let declined = receiver.declined.iter();
        let declined = declined.map(|(entry, trouble)| (self.path(*entry), trouble.clone()));
        let gone = || Err(Trouble::of(Code::Internal));
        ReceiverEnd {
            user: receiver.user.clone(),
            outcome: receiver.end.clone().unwrap_or_else(gone),
            declined: declined.collect(),
        }
    }

    /// It broke off; whether it is tried again.
    pub(super) fn broke(&self, receiver: &mut Receiver, trouble: Trouble) {
        receiver.tries = receiver.tries.saturating_sub(1);
        if receiver.tries == 0 || !self.can_repeat() {
            return self.end(receiver, Err(trouble));
        }
        let until = Instant::now() + self.settings.wait.max(AGAIN);
        receiver.until = until;
        let user = receiver.user.clone();
        self.tell(Sending::Again { user, trouble });
    }

    pub(super) fn report(&self, receivers: Vec<Receiver>) -> Report {
        let unsent = lock(&self.unsent);
        let unsent = unsent.iter().enumerate();
        let unsent = unsent.filter_map(|(at, it)| Some((self.path(at), it.clone()?)));
        Report {
            unsent: unsent.collect(),
            receivers: receivers.iter().map(|it| self.end_of(it)).collect(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
