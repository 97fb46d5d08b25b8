//! Who is attached, what is published, which routes there are: the relay's decisions, as a pure
//! state machine.
//!
//! # The driving contract
//!
//! A [`Hub`] does nothing by itself. Its driver
//!
//! 1. hands in what happens: attachments and links that come and go, what agents publish, the
//!    `Open` and `Gone` of their routes, the store's verdicts, [`Hub::handle_timeout`] when the time
//!    of [`Hub::poll_timeout`] has come;
//! 2. then drains [`Hub::poll_command`] until it is empty, and carries the commands out in that
//!    order before it hands in anything else;
//! 3. asks [`Hub::poll_timeout`] last, since everything above may change it.
//!
//! Every call that depends on time takes it as an argument. The hub never sees a payload: packets of
//! a route that is joined pass through the [queues](crate::queue) without it.
//!
//! # What holds at any moment
//!
//! - Every `Open` is answered once: its route is joined, or its end is finished with a stated reason,
//!   unless its own link goes or its agent ends it before.
//! - A route never outlives either of its links, and no command names a link that is down.
//! - Nothing is let in without a verdict of the store, and none is kept: each `Open` is a new
//!   question.

mod attachments;
mod command;
mod grades;
mod ids;
mod limits;
mod living;
mod meetings;
mod presence;
mod routes;
mod sessions;
#[cfg(test)]
mod tests;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use underpass_proto::Time;
use underpass_proto::packet::SessionId;
use underpass_store::ServiceId;

pub use command::{
    Account, Asked, Check, Command, Ended, EndedBy, Given, Grant, Opened, Question, RouteEvent,
    RouteNews, Wanted,
};
pub use ids::{AttachmentId, CheckId, LinkId, Member, RouteEnd, Source};
pub use limits::Limits;
pub use living::Living;
pub use presence::Publication;
pub use routes::{Opening, Path};
pub use users::Exceptions;

use crate::rendezvous::Rendezvous;
use attachments::Attachment;
use ids::RouteId;
use routes::Route;
use sessions::Sessions;
use users::Users;

use crate::refusal::Refusal;

/// What one link carries.
#[derive(Debug)]
struct LinkEntry {
    attachment: AttachmentId,
    /// The next number that the relay picks for a route here: odd, never used twice while others
    /// are free, so that a late packet of an old route is not taken for one of a new route.
    next_route: u32,
    routes: BTreeMap<u32, RouteId>,
}

/// What the hub wants to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// A machine has not enrolled in time.
    Enrol(AttachmentId),
    /// A route has waited long enough for its publisher, or for the publisher's first packet.
    Route {
        /// A number that means something to the hub only.
        route: u64,
    },
}

/// How much the hub keeps at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Attachments.
    pub attachments: usize,
    /// Those of machines that are not enrolled.
    pub strangers: usize,
    /// Links.
    pub links: usize,
    /// Services that an attached agent publishes.
    pub services: usize,
    /// Routes, joined or not.
    pub routes: usize,
    /// Routes that wait for their publisher.
    pub waiting: usize,
}

/// The relay's decisions. The module's documentation states how it is driven.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    attachments: HashMap<AttachmentId, Attachment>,
    links: HashMap<LinkId, LinkEntry>,
    /// Attachments that publish a service, in the order in which they said so.
    publishers: HashMap<ServiceId, Vec<AttachmentId>>,
    routes: BTreeMap<RouteId, Route>,
    /// Routes that wait for their publisher, in the order in which they came.
    waiting: HashMap<ServiceId, VecDeque<RouteId>>,
    waiting_count: usize,
    checks: HashMap<CheckId, RouteId>,
    /// Who wishes to meet whom.
    rendezvous: Rendezvous,
    /// Sessions that had a route here.
    sessions: Sessions,
    /// Sessions that were ended for good, and why.
    ended: HashMap<SessionId, Refusal>,
    by_source: HashMap<Source, Census>,
    users: Users,
    strangers: usize,
    alarms: BTreeSet<(Time, Wake)>,
    commands: VecDeque<Command>,
    next_number: u64,
}

/// Attachments of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Census {
    all: usize,
    strangers: usize,
}

impl Hub {
    /// A hub that knows nobody.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            attachments: HashMap::new(),
            links: HashMap::new(),
            publishers: HashMap::new(),
            routes: BTreeMap::new(),
            waiting: HashMap::new(),
            waiting_count: 0,
            checks: HashMap::new(),
            rendezvous: Rendezvous::default(),
            sessions: Sessions::default(),
            ended: HashMap::new(),
            by_source: HashMap::new(),
            users: Users::default(),
            strangers: 0,
            alarms: BTreeSet::new(),
            commands: VecDeque::new(),
            next_number: 0,
        }
    }

    /// The next thing that the driver is to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Hub::handle_timeout`] wants to be called next, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Time, Wake)> {
        self.alarms.first().copied()
    }

    /// Ends what has waited for too long.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((at, wake)) = self.alarms.first().copied() {
            if at > now {
                return;
            }
            self.alarms.remove(&(at, wake));
            match wake {
                Wake::Enrol(attachment) => self.enrolment_expired(attachment),
                Wake::Route { route } => self.route_expired(RouteId(route)),
            }
        }
    }

    /// How much the hub keeps.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            attachments: self.attachments.len(),
            strangers: self.strangers,
            links: self.links.len(),
            services: self.publishers.len(),
            routes: self.routes.len(),
            waiting: self.waiting_count,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
