//! What each user has here, and may have.

use std::collections::{BTreeSet, HashMap};

use underpass_proto::limit::LimitKind;
use underpass_proto::packet::SessionId;
use underpass_store::UserId;

use super::Hub;
use super::ids::RouteId;
use crate::refusal::Refusal;

/// What holds for one user instead of what is usual; `None` for no limit.
pub type Exceptions = HashMap<(UserId, LimitKind), Option<u64>>;

/// Users, as far as something is limited for each of them.
#[derive(Debug, Default)]
pub(super) struct Users {
    exceptions: Exceptions,
    /// Attachments.
    pub(super) attached: HashMap<UserId, usize>,
    /// How many routes each session has that a user has begun.
    sessions: HashMap<UserId, HashMap<SessionId, usize>>,
    /// Those who have used all that they may use in a month, and why they are refused.
    exhausted: HashMap<UserId, Refusal>,
}

impl Users {
    /// How much of something a user may have, where `usual` is allowed to all; `None` for no limit.
    fn allowed(&self, user: UserId, kind: LimitKind, usual: usize) -> Option<usize> {
        match self.exceptions.get(&(user, kind)) {
            None => Some(usual),
            Some(exception) => exception.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
        }
    }

    /// Whether one more of something is too many.
    pub(super) fn check(
        &self,
        user: UserId,
        kind: LimitKind,
        usual: usize,
        count: usize,
    ) -> Result<(), Refusal> {
        match self.allowed(user, kind, usual) {
            Some(most) if count >= most => Err(Refusal::of_limit(kind, most as u64)),
            _ => Ok(()),
        }
    }

    /// How many sessions a user has begun that have a route.
    pub(super) fn sessions(&self, user: UserId) -> usize {
        self.sessions.get(&user).map_or(0, HashMap::len)
    }

    pub(super) fn has(&self, user: UserId, session: SessionId) -> bool {
        let sessions = self.sessions.get(&user);
        sessions.is_some_and(|sessions| sessions.contains_key(&session))
    }

    /// A route of a session has begun.
    pub(super) fn add(&mut self, user: UserId, session: SessionId) {
        let sessions = self.sessions.entry(user).or_default();
        *sessions.entry(session).or_default() += 1;
    }

    /// A route of a session has ended.
    pub(super) fn remove(&mut self, user: UserId, session: SessionId) {
        let Some(sessions) = self.sessions.get_mut(&user) else {
            return;
        };
        if let Some(routes) = sessions.get_mut(&session) {
            *routes -= 1;
            if *routes == 0 {
                sessions.remove(&session);
            }
        }
        if sessions.is_empty() {
            self.sessions.remove(&user);
        }
    }

    pub(super) fn exhausted(&self, user: UserId) -> Option<&Refusal> {
        self.exhausted.get(&user)
    }
}

impl Hub {
    /// What holds for some users instead of what is usual. What they have beyond it already stays.
    pub fn set_exceptions(&mut self, exceptions: Exceptions) {
        self.users.exceptions = exceptions;
    }

    /// How much a user has at the moment: attachments, and sessions that the user has begun.
    #[must_use]
    pub fn taken_up(&self, user: UserId) -> (usize, usize) {
        let attached = self.users.attached.get(&user).copied();
        (attached.unwrap_or(0), self.users.sessions(user))
    }

    /// Those who have used all that they may use for now: what they have begun is ended, and nothing further begins.
    pub fn set_exhausted(&mut self, exhausted: HashMap<UserId, Refusal>) {
        let by_them = |(id, route): (&RouteId, &super::routes::Route)| {
            Some((*id, exhausted.get(&route.user())?.clone()))
        };
        let over: Vec<_> = self.routes.iter().filter_map(by_them).collect();
        self.users.exhausted = exhausted;
        for (id, why) in over {
            self.refuse(id, why);
        }
    }

    /// Sessions that were ended for good, all of them and why: what they have here is ended as well, with the tickets by
    /// which they would go on, and no route of theirs begins any more.
    pub fn set_ended(&mut self, ended: HashMap<SessionId, Refusal>) {
        self.ended = ended;
        let of_them = |(id, route): (&RouteId, &super::routes::Route)| {
            let why = self.ended.get(&route.session()?)?;
            Some((*id, route.ticket(), why.clone()))
        };
        let over: Vec<_> = self.routes.iter().filter_map(of_them).collect();
        let mut discarded = BTreeSet::new();
        for (id, ticket, why) in over {
            self.refuse(id, why);
            // A ticket that was never used is discarded with its route.
            if let Some(handle) = ticket
                && discarded.insert(handle.0)
            {
                self.commands.push_back(super::Command::Discard { handle });
            }
        }
    }

    /// The same for one more session.
    pub fn end_session(&mut self, session: SessionId, why: Refusal) {
        let mut ended = std::mem::take(&mut self.ended);
        ended.insert(session, why);
        self.set_ended(ended);
    }
}
