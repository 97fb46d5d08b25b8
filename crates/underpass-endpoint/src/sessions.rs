//! The end-to-end sessions of an agent, by which relay ever their paths lead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use underpass_proto::code::Code;
use underpass_proto::packet::SessionId;
use underpass_proto::session as core;

use crate::session::Session;

/// How often it is looked whether all has been delivered.
const DELIVERY_LOOK: Duration = Duration::from_millis(5);

type Table = Mutex<HashMap<SessionId, Session>>;

/// The end-to-end sessions of one agent. Attachments that share them (clones are the same ones) take in
/// a session's further paths by whichever relay these come.
#[derive(Clone, Default)]
pub struct Sessions {
    /// Those that others opened to this agent, to be resumed by name.
    resumable: Arc<Table>,
    /// Those in either direction whose peers may still have to be told something.
    living: Arc<Table>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let living = lock(&self.living).len();
        f.debug_struct("Sessions").field("living", &living).finish()
    }
}

impl Sessions {
    /// The session of this name that somebody opened to this agent.
    pub(crate) fn resumable(&self, id: SessionId) -> Option<Session> {
        lock(&self.resumable).get(&id).cloned()
    }

    /// Keeps a session that came in resumable until it ends.
    pub(crate) fn keep(&self, session: &Session) {
        self.remember(session);
        let id = session.id();
        lock(&self.resumable).insert(id, session.clone());
        let (sessions, session) = (self.clone(), session.clone());
        tokio::spawn(async move {
            session.closed().await;
            lock(&sessions.resumable).remove(&id);
        });
    }

    /// Remembers a session for [`Sessions::part`].
    pub(crate) fn remember(&self, session: &Session) {
        let id = session.id();
        lock(&self.living).insert(id, session.clone());
        let (sessions, session) = (self.clone(), session.clone());
        tokio::spawn(async move {
            session.parted().await;
            lock(&sessions.living).remove(&id);
        });
    }

    /// Those that others opened to this agent.
    pub(crate) fn opened_by_others(&self) -> Vec<Session> {
        lock(&self.resumable).values().cloned().collect()
    }

    /// The sessions in either direction that are not over.
    pub(crate) fn living(&self) -> Vec<Session> {
        lock(&self.living).values().cloned().collect()
    }

    /// Waits until what was written has reached the peers, as far as channels go that this side has ended: the end of a
    /// session would take the rest with it. Cancel safe.
    pub async fn delivered(&self) {
        for session in self.living() {
            while !session.is_closed() && !session.with_core(core::Session::is_delivered) {
                tokio::time::sleep(DELIVERY_LOOK).await;
            }
        }
    }

    /// Ends all sessions, those of others included, and waits until their peers know.
    pub(crate) async fn part(&self, code: Code, reason: &str) {
        let sessions = self.living();
        for session in &sessions {
            session.close(code, reason);
        }
        for session in &sessions {
            session.parted().await;
        }
    }
}

fn lock(table: &Table) -> MutexGuard<'_, HashMap<SessionId, Session>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
