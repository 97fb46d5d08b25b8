//! What the hub wants done.

use std::time::Duration;

use underpass_proto::packet::SessionId;
use underpass_proto::route::{Gone, Incoming};
use underpass_proto::ticket::{Claim, Handle, Ticket};
use underpass_store::{MachineId, ServiceId, UserId};

use super::{AttachmentId, CheckId, LinkId, Member, RouteEnd};
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
        /// On whose account it passes.
        account: Account,
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
    /// Tell the agent that what it knows of who may use its services is out of date.
    TellRights {
        /// Whose agent.
        attachment: AttachmentId,
    },
    /// Tell the agent to ask again whom it can meet.
    TellMeetings {
        /// Whose agent.
        attachment: AttachmentId,
    },
    /// Write down what became of a route. Comes before what lets go of it.
    Record(RouteEvent),
    /// Write down that an attachment that had no link any more has one again.
    Returned {
        /// The attachment.
        attachment: AttachmentId,
        /// The new link.
        link: LinkId,
        /// Whose it is.
        member: Member,
    },
}

/// On whose account packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user whose agent has begun the session.
    pub user: UserId,
    /// The service, as `NAME.OWNER`.
    pub service: String,
    /// Whether the session begins with it.
    pub begins: bool,
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
    /// Whose agent opened the route.
    pub opener: AttachmentId,
    /// Who opened the route.
    pub user: String,
    /// From which machine.
    pub machine: String,
    /// To which service.
    pub service: String,
    /// Whose service, where it was found.
    pub owner: Option<String>,
    /// The session, where it is known.
    pub session: Option<SessionId>,
    /// What is to be written down.
    pub news: RouteNews,
}

/// What is to be written down about a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteNews {
    /// It leads to its publisher.
    Opened(Opened),
    /// There will be none.
    Refused(Refusal),
    /// It led to its publisher, and has ended.
    Ended(Ended),
}

/// What a route that leads to its publisher is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The first one.
    New,
    /// A further one of a session that this relay knows.
    Again {
        /// Another one is still there.
        beside: bool,
    },
    /// One of a session that went on by another relay until now, or by this one before its start.
    FromElsewhere,
}

/// How a route ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The end of the agent that opened it. What the driver keeps for that end, or for the other one if its link is
    /// down, is still there when it is told this.
    pub near: RouteEnd,
    /// The end of the publisher.
    pub far: RouteEnd,
    /// Why: a number from the table of codes, perhaps one that this version does not know.
    pub code: u64,
    /// Who ended it.
    pub by: EndedBy,
}

/// Who ended a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The agent that opened it.
    User,
    /// The publisher.
    Publisher,
    /// The relay.
    Relay,
    /// Nobody: one of its links broke.
    Path,
}

impl EndedBy {
    /// The word for it in the log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Publisher => "publisher",
            Self::Relay => "relay",
            Self::Path => "path",
        }
    }
}
