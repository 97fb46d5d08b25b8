//! What an agent is doing right now, gathered from its parts when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use underpass_endpoint::{Fleet, MemberStatus, PeerInfo, Session};
use underpass_seal::Fingerprint;

use super::{AgentReport, EntryReport, PairReport, RankReport, SessionReport};
use crate::standings::Standings;

/// Shared by the parts of one agent; clones are the same board.
#[derive(Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

struct Inner {
    command: &'static str,
    started: Instant,
    shown: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    standings: Option<Standings>,
    entries: Vec<EntryReport>,
    sessions: BTreeMap<u64, SessionEntry>,
    pairs: Vec<PairReport>,
    next: u64,
}

/// A session and whom it is with.
#[derive(Debug, Clone)]
pub struct SessionEntry {
    service: String,
    user: Option<String>,
    peer: Fingerprint,
    session: Session,
    /// What finds its paths, where it was made from here.
    fleet: Option<Fleet>,
}

impl SessionEntry {
    /// One that somebody made to a service published here.
    #[must_use]
    pub fn inbound(peer: &PeerInfo, session: Session) -> Self {
        Self {
            service: peer.service.clone(),
            user: Some(peer.user.clone()),
            peer: peer.machine.fingerprint(),
            session,
            fleet: None,
        }
    }

    /// One made from here, whose paths `fleet` finds.
    #[must_use]
    pub fn outbound(service: &str, peer: Fingerprint, session: Session, fleet: Fleet) -> Self {
        Self {
            service: service.to_owned(),
            user: None,
            peer,
            session,
            fleet: Some(fleet),
        }
    }

    fn report(&self, rank: impl Fn(&MemberStatus) -> RankReport) -> SessionReport {
        let Self {
            service,
            user,
            peer,
            session,
            fleet,
        } = self;
        let status = session.status();
        let relays = fleet.as_ref().map(|fleet| fleet.status(Some(session.id())));
        SessionReport {
            service: service.clone(),
            user: user.clone(),
            peer: peer.to_string(),
            grade: status.grade.word().to_owned(),
            rtt_ms: status.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            bytes_per_s: status.rate,
            resumes: status.resumes,
            detached_for_s: status.detached_for.map(|time| time.as_secs_f64()),
            channels: status.channels,
            unacknowledged: status.unacknowledged,
            unread: status.unread,
            path: (&status.told).into(),
            legs: status.legs.iter().map(Into::into).collect(),
            relays: relays.iter().flatten().map(rank).collect(),
        }
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("command", &self.inner.command)
            .finish_non_exhaustive()
    }
}

impl Board {
    /// An empty board of an agent that does `command`.
    #[must_use]
    pub fn new(command: &'static str) -> Self {
        Self {
            inner: Arc::new(Inner {
                command,
                started: Instant::now(),
                shown: Mutex::default(),
            }),
        }
    }

    /// Shows the ways to the relays.
    pub fn show_standings(&self, standings: impl Into<Standings>) {
        self.content().standings = Some(standings.into());
    }

    /// Shows a published service, or a listener.
    pub fn show_entry(&self, service: &str, address: &str) {
        self.content().entries.push(EntryReport {
            service: service.to_owned(),
            address: address.to_owned(),
            trouble: None,
        });
    }

    /// Shows these published services, or listeners, and no others.
    pub fn show_entries(&self, entries: Vec<EntryReport>) {
        self.content().entries = entries;
    }

    /// A published service leads to another host.
    pub fn retarget(&self, service: &str, address: &str) {
        for entry in &mut self.content().entries {
            if entry.service == service {
                address.clone_into(&mut entry.address);
            }
        }
    }

    /// Shows a session until the result is dropped.
    #[must_use]
    pub fn show_session(&self, entry: SessionEntry) -> Shown {
        let mut content = self.content();
        let number = content.next;
        content.next += 1;
        content.sessions.insert(number, entry);
        Shown {
            board: self.clone(),
            number,
        }
    }

    /// Shows somebody who is to be met, for as long as the program runs.
    #[must_use]
    pub fn show_pair(&self, pair: PairReport) -> PairShown {
        let mut content = self.content();
        content.pairs.push(pair);
        PairShown {
            board: self.clone(),
            at: content.pairs.len() - 1,
        }
    }

    /// Everything on it.
    #[must_use]
    pub fn report(&self) -> AgentReport {
        // Sessions have locks of their own: ask them without holding this one.
        let (standings, entries, pairs, sessions) = {
            let content = self.content();
            let sessions: Vec<_> = content.sessions.values().cloned().collect();
            let (entries, pairs) = (content.entries.clone(), content.pairs.clone());
            (content.standings.clone(), entries, pairs, sessions)
        };
        let rank = |member: &MemberStatus| {
            let standings = standings.as_ref();
            let by = standings.and_then(|it| it.announced_by(member.ranked.relay));
            RankReport::new(member, by)
        };
        let members = standings.as_ref().map(|it| it.fleet().status(None));
        let members = members.unwrap_or_default();
        AgentReport {
            pid: std::process::id(),
            command: self.inner.command.to_owned(),
            running_s: self.inner.started.elapsed().as_secs_f64(),
            relay: members
                .iter()
                .find_map(|it| it.attachment.as_ref())
                .map(Into::into),
            relays: members.iter().map(rank).collect(),
            entries,
            pairs,
            sessions: sessions.iter().map(|it| it.report(rank)).collect(),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.inner
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pair on the board, whose state changes.
#[derive(Debug)]
pub struct PairShown {
    board: Board,
    at: usize,
}

impl PairShown {
    /// From now on it is `waiting`, `connected`, or this is in the way.
    pub fn set(&self, state: &str) {
        if let Some(pair) = self.board.content().pairs.get_mut(self.at) {
            state.clone_into(&mut pair.state);
        }
    }
}

/// Keeps a session on the board.
#[derive(Debug)]
pub struct Shown {
    board: Board,
    number: u64,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.content().sessions.remove(&self.number);
    }
}
