//! Which sessions had a route here, so that one that goes on is told from one that comes from elsewhere.

use std::collections::{HashMap, VecDeque};

use underpass_proto::packet::SessionId;

use super::Opened;

/// Sessions without a route that are remembered: about 3 MiB.
const MOST: usize = 32_768;

/// Sessions that have a joined route, and the last ones that had one.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// How many routes each has.
    routes: HashMap<SessionId, u32>,
    /// Those that had none left at some time, the one of longest ago first.
    left: VecDeque<SessionId>,
}

impl Sessions {
    /// A route of a session leads to its publisher. `resumes` where its first packet resumes the session.
    pub(super) fn opened(&mut self, session: SessionId, resumes: bool) -> Opened {
        let before = self.routes.get(&session).copied();
        *self.routes.entry(session).or_default() += 1;
        match before {
            _ if !resumes => Opened::New,
            Some(routes) => Opened::Again { beside: routes > 0 },
            None => Opened::FromElsewhere,
        }
    }

    /// A route of a session that had led to its publisher is no more.
    pub(super) fn closed(&mut self, session: SessionId) {
        let Some(routes) = self.routes.get_mut(&session) else {
            return;
        };
        *routes = routes.saturating_sub(1);
        if *routes > 0 {
            return;
        }
        self.left.push_back(session);
        if self.left.len() > MOST
            && let Some(oldest) = self.left.pop_front()
            // It may have come back since.
            && self.routes.get(&oldest) == Some(&0)
        {
            self.routes.remove(&oldest);
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
        assert_eq!(sessions.opened(session(1), false), Opened::New);
        let again = |beside| Opened::Again { beside };
        assert_eq!(sessions.opened(session(1), true), again(true));
        sessions.closed(session(1));
        sessions.closed(session(1));
        assert_eq!(sessions.opened(session(1), true), again(false));
        assert_eq!(sessions.opened(session(2), true), Opened::FromElsewhere);
        sessions.closed(session(3));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_living_are_not_forgotten() {
        let mut sessions = Sessions::default();
        sessions.opened(session(0), false);
        sessions.closed(session(0));
        sessions.opened(session(0), true);
        let most = u32::try_from(MOST).unwrap();
        for n in 1..=2 * most {
            sessions.opened(session(n), false);
            sessions.closed(session(n));
        }
        assert!(sessions.routes.len() <= MOST + 1 && sessions.left.len() <= MOST);
        let again = Opened::Again { beside: true };
        assert_eq!(sessions.opened(session(0), true), again, "it has a route");
        assert_eq!(sessions.opened(session(1), true), Opened::FromElsewhere);
    }
}
