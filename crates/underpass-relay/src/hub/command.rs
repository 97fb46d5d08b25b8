//! What the hub wants done.

use std::time::Duration;

use underpass_proto::route::{Gone, Incoming};
use underpass_proto::ticket::{Claim, Handle, Ticket};
use underpass_store::{MachineId, ServiceId, UserId};

use super::{AttachmentId, CheckId, LinkId, RouteEnd};
use crate::refusal::Refusal;

/// Something that the driver is to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the store whether somebody may use a service; the answer goes to
    /// [`Hub::verdict`](super::Hub::verdict), whatever it is.
    Check(Check),
    /// Ask the ticket authority; the answer goes to [`Hub::authorized`](super::Hub::authorized),
    /// whatever it is.
    Authorize(Question),
    /// Give the agent at this end its next ticket.
    Give {
        /// The end of the agent that opened the route.
        end: RouteEnd,
        /// The ticket.
        given: Given,
    },
    /// A ticket was given out for nothing, or its session has ended.
    Discard {
        /// Its handle.
        handle: Handle,
    },
    /// From now on what comes in at one end goes out at the other. What has come in at `near`
    /// until now goes out first, the very first packet of it under `incoming`.
    Join {
        /// The end of the agent that opened the route.
        near: RouteEnd,
        /// The end of the agent that publishes the service.
        far: RouteEnd,
        /// The header of the first packet to `far`.
        incoming: Incoming,
    },
    /// Tell the agent at this end that its route waits for a publisher that is not there.
    Absent {
        /// The end of the agent that opened the route.
        end: RouteEnd,
    },
    /// The agent at this end has ended the route: let go of what waits to be sent from and to it.
    Forget {
        /// The end.
        end: RouteEnd,
    },
    /// The route has ended, but not by the agent at this end: nothing more is taken from it, what
    /// waits for it goes out, and then `gone`. This is the answer to an `Open` that is refused, too.
    Finish {
        /// The end.
        end: RouteEnd,
        /// Why, for the agent.
        gone: Gone,
    },
    /// Close a link whose agent broke the rules.
    CloseLink {
        /// The link.
        link: LinkId,
        /// Why.
        why: Refusal,
    },
    /// End an attachment and tell the agent why. The hub has forgotten it already.
    End {
        /// The attachment.
        attachment: AttachmentId,
        /// Why.
        why: Refusal,
    },
    /// Tell the agent's user something.
    Notify {
        /// Whose agent.
        attachment: AttachmentId,
        /// In words.
        text: String,
    },
    /// Write down that a user is, or is not, connected to a service.
    Record(RouteEvent),
}

/// A question to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What the answer is to carry.
    pub check: CheckId,
    /// Who wants to use the service.
    pub user: UserId,
    /// From which machine.
    pub machine: MachineId,
    /// Which service.
    pub service: Asked,
}

/// A question to the ticket authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the answer is to carry.
    pub check: CheckId,
    /// Whose ticket it is, and for which session.
    pub claim: Claim,
    /// What is wanted.
    pub wanted: Wanted,
}

/// What is wanted of the ticket authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A first ticket to the publisher of a service.
    Issue {
        /// The service: where the far endpoint is.
        service: ServiceId,
        /// How long the session is kept.
        keep: Duration,
    },
    /// Is this one good?
    Check {
        /// The ticket.
        ticket: Ticket,
    },
}

/// A ticket that the authority gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The service whose publisher it leads to.
    pub service: ServiceId,
    /// The ticket.
    pub ticket: Ticket,
    /// What deletes it.
    pub handle: Handle,
    /// How long it is good for.
    pub lifetime: Duration,
    /// It is the first of its session, and not the one after a ticket that was good.
    pub issued: bool,
}

/// How the service is known that a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By what the user wrote, not checked in any way.
    Name(String),
    /// By what an earlier check has found.
    Id(ServiceId),
}

/// The service that a check found, which the user may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The service.
    pub service: ServiceId,
    /// Its name, as its publisher knows it.
    pub name: String,
    /// The name of its owner.
    pub owner: String,
}

/// Something about a route that belongs in the log of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    /// Who opened the route.
    pub user: String,
    /// From which machine.
    pub machine: String,
    /// To which service.
    pub service: String,
    /// Whose service, where it was found.
    pub owner: Option<String>,
    /// Why there is no route; `None` where there is one now.
    pub refused: Option<Refusal>,
}
