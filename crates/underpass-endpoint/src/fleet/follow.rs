//! Sessions that this agent began: each has its own best relay, because the peer's path counts too.

use std::time::Duration;

use underpass_proto::frame::Hop;

use super::Fleet;
use crate::choice::{Choice, Measured, Side, Vary};
use crate::session::Session;

/// One such session.
pub(super) struct Followed {
    pub(super) session: Session,
    pub(super) choice: Choice,
    pub(super) vary: Option<Vary>,
    /// What it is called in the log.
    pub(super) label: String,
}

impl Fleet {
    /// From now on what the peer tells of its paths counts for this session, until it ends.
    pub(crate) fn follow(&self, session: &Session, label: String) {
        let mut state = self.lock();
        let followed = Followed {
            session: session.clone(),
            choice: state.choice.for_session(),
            vary: self.inner.settings.vary.map(Vary::every),
            label,
        };
        state.followed.insert(session.id(), followed);
        drop(state);
        tokio::spawn(listen(self.clone(), session.clone()));
    }

    fn take_in(&self, session: &Session, hop: &Hop) {
        let Hop {
            relay,
            round_trip_us,
            rate,
        } = hop;
        let measured = Measured {
            round_trip: Duration::from_micros(*round_trip_us),
            rate: *rate,
            full: false,
        };
        self.decide(|state, now| {
            // One that got another address is there twice, once to be left.
            let known =
                |member: &super::Member| member.key.as_ref() == Some(relay) && !member.retired;
            // A relay that we know nothing of, or want nothing of, is of no use to us.
            if let Some(relay) = state.members.iter().position(known)
                && let Some(followed) = state.followed.get_mut(&session.id())
            {
                followed.choice.measured(now, relay, Side::Far, measured);
            }
        });
    }
}

async fn listen(fleet: Fleet, session: Session) {
    while let Some(hop) = session.told_of_hop().await {
        fleet.take_in(&session, &hop);
    }
    fleet.lock().followed.remove(&session.id());
}
