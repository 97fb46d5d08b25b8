//! The sessions that live at this relay, as they are shown.

use std::sync::Arc;

use underpass_proto::Time;
use underpass_proto::control::{ConnectionClient, ConnectionKind, ConnectionRow, ConnectionWay};
use underpass_proto::packet::SessionId;
use underpass_store::UnixMillis;

use crate::clock;
use crate::direct::Direct;
use crate::log::short;
use crate::target::RELAY_OWNER;

/// One that lives.
#[derive(Clone, Debug)]
pub(crate) struct LivingRow {
    /// What ends it.
    pub(crate) end: LivingEnd,
    /// What is told of it.
    pub(crate) row: ConnectionRow,
}

/// What is to be ended.
#[derive(Clone, Debug)]
pub(crate) enum LivingEnd {
    /// A session through this relay.
    Session(SessionId),
    /// A channel that ends here.
    Direct(Arc<Direct>),
}

impl LivingRow {
    /// Whether somebody is at one of its ends.
    pub(crate) fn concerns(&self, user: &str) -> bool {
        self.row.client.user == user || self.row.owner == user
    }

    /// Who is at the other end, seen from that user.
    pub(crate) fn other(&self, user: &str) -> &str {
        match self.row.client.user == user {
            true => &self.row.owner,
            false => &self.row.client.user,
        }
    }

    /// As it is told to a user who may see their own alone: no addresses of others.
    pub(crate) fn told_to(mut self, user: &str) -> Self {
        if self.row.client.user != user {
            self.row.client.address.clear();
        }
        self
    }
}

/// A row about a channel that ends here. Of its attachment the rest has to be told.
pub(crate) fn of_direct(direct: &Arc<Direct>) -> LivingRow {
    let (sent, received) = direct.passed();
    LivingRow {
        end: LivingEnd::Direct(Arc::clone(direct)),
        row: ConnectionRow {
            id: format!("{:08x}", direct.id),
            kind: ConnectionKind::Direct,
            client: ConnectionClient {
                user: direct.by.user_name.clone(),
                machine: direct.by.machine_name.clone(),
                address: String::new(),
            },
            service: direct.service.clone(),
            owner: RELAY_OWNER.to_owned(),
            publisher: String::new(),
            way: ConnectionWay {
                carrier: String::new(),
                far_carrier: String::new(),
                paths: 1,
                round_trip_us: 0,
            },
            since_ms: calendar(direct.since),
            sent,
            received,
        },
    }
}

/// The name of a session.
pub(crate) fn name_of(session: &SessionId) -> String {
    short(session)
}

/// A moment of the clock that never jumps, in milliseconds since 1970 as the calendar has it now.
pub(crate) fn calendar(time: Time) -> u64 {
    let UnixMillis(at) = clock::calendar().saturating_sub(clock::now().since(time));
    u64::try_from(at).unwrap_or(0)
}
