//! Which sessions live here.

use std::collections::HashMap;

use underpass_proto::Time;
use underpass_proto::packet::SessionId;

use super::routes::shown;
use super::{AttachmentId, Hub, Member, RouteEnd};

/// A session with a route that leads to its publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// The session.
    pub session: SessionId,
    /// Whose agent has begun it.
    pub opener: AttachmentId,
    /// The same as a user and a machine.
    pub by: Member,
    /// The service.
    pub service: String,
    /// Its owner.
    pub owner: String,
    /// The name of the publishing machine, where its attachment is still there.
    pub publisher: String,
    /// Since when it has been at this relay.
    pub since: Time,
    /// The ends of its routes: of the client, and of the publisher.
    pub paths: Vec<(RouteEnd, RouteEnd)>,
    /// What passed on routes that have ended, there and back, in bytes.
    pub before: (u64, u64),
}

impl Hub {
    /// All sessions that live here, the oldest first.
    #[must_use]
    pub fn living(&self) -> Vec<Living> {
        let mut found: HashMap<SessionId, Living> = HashMap::new();
        for route in self.routes.values() {
            let Some((session, near, far, publisher)) = route.joined() else {
                continue;
            };
            let living = found.entry(session).or_insert_with(|| {
                let grant = route.grant();
                let (since, before) = self.sessions.seen(session);
                let publisher = self.member(publisher);
                Living {
                    session,
                    opener: route.opener(),
                    by: route.by().clone(),
                    service: grant.map_or_else(String::new, |grant| shown(grant.name.clone())),
                    owner: grant.map_or_else(String::new, |grant| grant.owner.clone()),
                    publisher: publisher
                        .map_or_else(String::new, |member| member.machine_name.clone()),
                    since,
                    paths: Vec::new(),
                    before,
                }
            });
            living.paths.push((near, far));
        }
        let mut all: Vec<Living> = found.into_values().collect();
        all.sort_by_key(|living| (living.since, living.session.0));
        all
    }

    /// What passed on a route that has ended, there and back, in bytes.
    pub fn add_passed(&mut self, session: SessionId, sent: u64, received: u64) {
        self.sessions.add_passed(session, sent, received);
    }
}
