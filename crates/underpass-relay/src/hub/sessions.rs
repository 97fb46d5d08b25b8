//! Which sessions had a route here, so that one that goes on is told from one that comes from elsewhere.

use std::collections::{HashMap, VecDeque};

use underpass_proto::Time;
use underpass_proto::packet::SessionId;

use super::Opened;

/// Sessions without a route that are remembered: about 4 MiB.
const MOST: usize = 32_768;

/// One session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    routes: u32,
    since: Time,
    /// What passed on routes that have ended, there and back.
    passed: (u64, u64),
}

/// Sessions that have a joined route, and the last ones that had one.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    seen: HashMap<SessionId, Seen>,
    /// Those that had none left at some time, the one of longest ago first.
    left: VecDeque<SessionId>,
}

impl Sessions {
    /// A route of a session leads to its publisher. `resumes` where its first packet resumes the session.
    pub(super) fn opened(&mut self, session: SessionId, resumes: bool, now: Time) -> Opened {
        let before = self.seen.get(&session).map(|seen| seen.routes);
        let seen = self.seen.entry(session).or_insert_with(|| Seen {
            since: now,
            ..Seen::default()
        });
        seen.routes += 1;
        match before {
            _ if !resumes => Opened::New,
            Some(routes) => Opened::Again { beside: routes > 0 },
            None => Opened::FromElsewhere,
        }
    }

    /// A route of a session that had led to its publisher is no more.
    pub(super) fn closed(&mut self, session: SessionId) {
        let Some(seen) = self.seen.get_mut(&session) else {
            return;
        };
        seen.routes = seen.routes.saturating_sub(1);
        if seen.routes > 0 {
            return;
        }
        self.left.push_back(session);
        if self.left.len() > MOST
            && let Some(oldest) = self.left.pop_front()
            // It may have come back since.
            && self.seen.get(&oldest).is_some_and(|seen| seen.routes == 0)
        {
            self.seen.remove(&oldest);
        }
    }

    /// Since when a session has been here, and what passed on routes of it that have ended.
    pub(super) fn seen(&self, session: SessionId) -> (Time, (u64, u64)) {
        let seen = self.seen.get(&session);
        seen.map_or_else(Default::default, |seen| (seen.since, seen.passed))
    }

    /// Something passed on a route that has ended. Of a session that is forgotten, nobody asks.
    pub(super) fn add_passed(&mut self, session: SessionId, sent: u64, received: u64) {
        if let Some(seen) = self.seen.get_mut(&session) {
            seen.passed.0 = seen.passed.0.saturating_add(sent);
            seen.passed.1 = seen.passed.1.saturating_add(received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u32) -> SessionId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        SessionId(id)
    }

    #[test]
    fn what_goes_on_is_told_from_what_comes_from_elsewhere() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.opened(session(1), false, Time::ZERO), Opened::New);
        let again = |beside| Opened::Again { beside };
        assert_eq!(sessions.opened(session(1), true, Time::ZERO), again(true));
        sessions.closed(session(1));
        sessions.closed(session(1));
        assert_eq!(sessions.opened(session(1), true, Time::ZERO), again(false));
        assert_eq!(
            sessions.opened(session(2), true, Time::ZERO),
            Opened::FromElsewhere
        );
        sessions.closed(session(3));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_living_are_not_forgotten() {
        let mut sessions = Sessions::default();
        sessions.opened(session(0), false, Time::ZERO);
        sessions.closed(session(0));
        sessions.opened(session(0), true, Time::ZERO);
        let most = u32::try_from(MOST).unwrap();
        for n in 1..=2 * most {
            sessions.opened(session(n), false, Time::ZERO);
            sessions.closed(session(n));
        }
        assert!(sessions.seen.len() <= MOST + 1 && sessions.left.len() <= MOST);
        let again = Opened::Again { beside: true };
        assert_eq!(
            sessions.opened(session(0), true, Time::ZERO),
            again,
            "it has a route"
        );
        assert_eq!(
            sessions.opened(session(1), true, Time::ZERO),
            Opened::FromElsewhere
        );
    }
}
