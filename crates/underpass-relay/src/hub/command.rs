//! What the hub wants done.

use underpass_proto::route::{Gone, Incoming};
use underpass_store::{MachineId, ServiceId, UserId};

use super::{AttachmentId, CheckId, LinkId, RouteEnd};
use crate::refusal::Refusal;

/// Something that the driver is to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the store whether somebody may use a service; the answer goes to
    /// [`Hub::verdict`](super::Hub::verdict), whatever it is.
    Check(Check),
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
