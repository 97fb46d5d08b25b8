//! Routes: from the `Open` of one agent to the end.

use std::time::Duration;

use underpass_proto::limit::LimitKind;
use underpass_proto::meeting::Place;
use underpass_proto::packet::SessionId;
use underpass_proto::route::{Gone, Incoming, picked_by};
use underpass_proto::ticket::{Claim, Handle, Ticket};
use underpass_proto::{Code, Grade, Speaker, Time};
use underpass_store::{ServiceId, UserId};

use super::ids::RouteId;
use super::{
    Account, Asked, AttachmentId, Check, CheckId, Command, Ended, EndedBy, Given, Grant, Hub,
    LinkId, Member, Opened, Question, RouteEnd, RouteEvent, RouteNews, Wake, Wanted,
};
use crate::refusal::Refusal;
use crate::rendezvous::is_place;

/// An agent's wish for a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The number that the agent picked.
    pub route: u32,
    /// Where it leads.
    pub path: Path,
    /// The session that its first packet is of, where that can be read: without one there is no
    /// ticket, and none is good.
    pub session: Option<SessionId>,
    /// Whether that packet resumes the session, and does not begin it.
    pub resumes: bool,
    /// How much others can read of the session, as far as that packet says.
    pub grade: Grade,
    /// The key of the agent's machine.
    pub key: [u8; 32],
}

/// Where a route leads, in the words of the agent that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// To whoever publishes a service.
    Named {
        /// The service, as the user named it.
        service: String,
        /// How long the agent keeps the session without a path.
        keep: Duration,
    },
    /// Where this ticket leads.
    Ticketed(Ticket),
}

/// A route between two links, or on the way there.
#[derive(Debug)]
pub(super) struct Route {
    near: RouteEnd,
    opener: AttachmentId,
    /// Who opened it, for the publisher and for the log.
    by: Member,
    /// The key of the opening machine, as its hop session has proved it.
    key: [u8; 32],
    /// The service as the user named it.
    asked: String,
    /// The service that was found, once it was.
    grant: Option<Grant>,
    /// Its session, where that is known.
    session: Option<SessionId>,
    /// It goes on with a session that was there before.
    resumes: bool,
    /// How long its session is kept.
    keep: Duration,
    /// The handle of its ticket, once it has one.
    ticket: Option<Handle>,
    /// The ticket is the first of its session: if the publisher never answers, nobody needs it.
    issued: bool,
    stage: Stage,
    /// When its stage has lasted for too long.
    alarm: Option<Time>,
}

/// How far a route has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The store was asked.
    Checking,
    /// The ticket authority was asked.
    Authorizing,
    /// The publisher is not there.
    Waiting,
    /// Packets pass.
    Joined {
        far: RouteEnd,
        publisher: AttachmentId,
    },
}

impl Hub {
    /// An agent opens a route. The driver has made room for what comes in at that end already; it is
    /// told to let go of it if the route is refused. False when the hub does not know the link (any
    /// more), and so has nothing to say.
    pub fn open(&mut self, link: LinkId, opening: Opening) -> bool {
        let route = opening.route;
        let near = RouteEnd { link, route };
        let Some(entry) = self.links.get(&link) else {
            return false;
        };
        let opener = entry.attachment;
        if picked_by(route) != Speaker::Agent || entry.routes.contains_key(&route) {
            let text = format!("route {route} is in use, or not the agent's to pick");
            let why = Refusal::new(Code::ProtocolViolation, text);
            self.commands.push_back(Command::CloseLink { link, why });
            return true;
        }
        let checked = self.check_grade(opening.grade);
        match checked.and_then(|()| self.check_room_for_route(opener)) {
            Ok(by) => self.begin_route(near, opener, by, opening),
            Err(why) => self.finish(near, why),
        }
        true
    }

    fn check_room_for_route(&self, opener: AttachmentId) -> Result<Member, Refusal> {
        let not_enrolled = || Refusal::of(Code::NotEnrolled);
        let known = self.attachments.get(&opener).ok_or_else(not_enrolled)?;
        let member = known.member.clone().ok_or_else(not_enrolled)?;
        if known.unjoined >= self.limits.waiting_per_attachment {
            return Err(Refusal::busy("routes of one agent that wait"));
        }
        if known.route_ends >= self.limits.routes_per_attachment {
            return Err(Refusal::busy("routes of one agent"));
        }
        if self.routes.len() >= self.limits.routes {
            return Err(Refusal::busy("routes"));
        }
        Ok(member)
    }

    /// Whether the user may have this session at all.
    fn check_session(&self, user: UserId, opening: &Opening) -> Result<(), Refusal> {
        let ended = opening.session.and_then(|session| self.ended.get(&session));
        if let Some(why) = ended.or_else(|| self.users.exhausted(user)) {
            return Err(why.clone());
        }
        let known = opening.session.is_some_and(|it| self.users.has(user, it));
        // What a ticket shows to have been let in elsewhere is not turned away here: its relay may be gone.
        let ticketed = matches!(opening.path, Path::Ticketed(_));
        if known || (opening.resumes && ticketed) {
            return Ok(());
        }
        let (usual, count) = (self.limits.sessions_per_user, self.users.sessions(user));
        self.users.check(user, LimitKind::Sessions, usual, count)
    }

    fn begin_route(&mut self, near: RouteEnd, opener: AttachmentId, by: Member, opening: Opening) {
        let id = RouteId(self.number());
        let may = self.check_session(by.user, &opening);
        if let Some(entry) = self.links.get_mut(&near.link) {
            entry.routes.insert(near.route, id);
        }
        if let Some(known) = self.attachments.get_mut(&opener) {
            known.route_ends += 1;
            known.unjoined += 1;
        }
        let Opening {
            path,
            session,
            resumes,
            ..
        } = opening;
        let (asked, keep) = match &path {
            Path::Named { service, keep } => (service.clone(), *keep),
            Path::Ticketed(_) => ("by ticket".to_owned(), Duration::ZERO),
        };
        let route = Route {
            near,
            opener,
            by,
            key: opening.key,
            asked: asked.clone(),
            grant: None,
            session,
            resumes,
            keep,
            ticket: None,
            issued: false,
            stage: Stage::Checking,
            alarm: None,
        };
        if let Some(session) = route.session {
            self.users.add(route.by.user, session);
        }
        self.routes.insert(id, route);
        // After that, so that it is written down who wanted what.
        if let Err(why) = may {
            return self.refuse(id, why);
        }
        match path {
            Path::Named { .. } => self.ask(id, Asked::Name(asked)),
            Path::Ticketed(ticket) => self.authorize(id, Wanted::Check { ticket }),
        }
    }

    /// Asks the ticket authority; a route whose session nobody knows gets no ticket by it.
    fn authorize(&mut self, id: RouteId, wanted: Wanted) {
        let check = CheckId(self.number());
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        let Some(session) = route.session else {
            return self.refuse(id, Refusal::of(Code::TicketUnknown));
        };
        route.stage = Stage::Authorizing;
        let holder = route.key;
        self.checks.insert(check, id);
        self.commands.push_back(Command::Authorize(Question {
            check,
            claim: Claim { holder, session },
            wanted,
        }));
    }

    /// The ticket authority's answer to a [`Question`].
    pub fn authorized(&mut self, check: CheckId, answer: Result<Given, Refusal>, now: Time) {
        let route = self.checks.remove(&check);
        let found = route.and_then(|id| Some((id, self.routes.get_mut(&id)?)));
        let (id, route, given) = match (found, answer) {
            (Some((id, route)), Ok(given)) => (id, route, given),
            (Some((id, _)), Err(why)) => return self.refuse(id, why),
            (
                None,
                Ok(Given {
                    handle,
                    issued: true,
                    ..
                }),
            ) => {
                // The agent has given up, and will not hear of its ticket.
                return self.commands.push_back(Command::Discard { handle });
            }
            (None, _) => return,
        };
        route.ticket = Some(given.handle);
        let (end, service, issued) = (route.near, given.service, given.issued);
        route.issued = issued;
        self.commands.push_back(Command::Give { end, given });
        if issued {
            self.place(id, service, now);
        } else {
            // The ticket told where to; whether the user may go there is asked each time.
            self.set_stage(id, Stage::Checking, None);
            self.ask(id, Asked::Id(service));
        }
    }

    /// The handles of the tickets of all routes that are open.
    #[must_use]
    pub fn tickets(&self) -> Vec<Handle> {
        self.routes.values().filter_map(|it| it.ticket).collect()
    }

    /// Leads a route to its publisher, or has it wait for one.
    fn place(&mut self, id: RouteId, service: ServiceId, now: Time) {
        match self.link_to(service) {
            Some((publisher, link)) => self.join(id, publisher, link, now),
            None => self.wait(id, service, now),
        }
    }

    fn ask(&mut self, id: RouteId, service: Asked) {
        let check = CheckId(self.number());
        let Some(route) = self.routes.get(&id) else {
            return;
        };
        let (user, machine) = (route.by.user, route.by.machine);
        self.checks.insert(check, id);
        self.commands.push_back(Command::Check(Check {
            check,
            user,
            machine,
            service,
        }));
    }

    /// The store's answer to a [`Check`].
    pub fn verdict(&mut self, check: CheckId, verdict: Result<Grant, Refusal>, now: Time) {
        let Some(id) = self.checks.remove(&check) else {
            return;
        };
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        match (verdict, route.stage) {
            (Ok(grant), Stage::Checking) => {
                let service = grant.service;
                route.grant = Some(grant);
                let (known, ticketed) = (route.session.is_some(), route.ticket.is_some());
                if ticketed || !known {
                    return self.place(id, service, now);
                }
                let keep = route.keep;
                self.authorize(id, Wanted::Issue { service, keep });
            }
            (Ok(_), Stage::Authorizing | Stage::Waiting | Stage::Joined { .. }) => {}
            (Err(why), _) => self.refuse(id, why),
        }
    }

    /// What users may do has changed: every route to the service is checked again, and its publishers are told.
    pub fn recheck(&mut self, service: ServiceId) {
        self.tell_rights(service);
        self.tell_wishers(service);
        for id in self.routes_to(service) {
            self.ask(id, Asked::Id(service));
        }
    }

    /// What users may do may have changed: every route is checked again, and all publishers are told.
    pub fn recheck_all(&mut self) {
        self.tell_all_rights();
        let granted = |(id, route): (&RouteId, &Route)| Some((*id, route.grant.as_ref()?.service));
        let all: Vec<_> = self.routes.iter().filter_map(granted).collect();
        for (id, service) in all {
            self.ask(id, Asked::Id(service));
        }
    }

    fn routes_to(&self, service: ServiceId) -> Vec<RouteId> {
        let to = |route: &Route| route.grant.as_ref().is_some_and(|it| it.service == service);
        let found = self.routes.iter().filter(|(_, route)| to(route));
        found.map(|(id, _)| *id).collect()
    }

    pub(super) fn drop_routes_to(&mut self, service: ServiceId, why: &Refusal) {
        for id in self.routes_to(service) {
            self.refuse(id, why.clone());
        }
    }

    fn wait(&mut self, id: RouteId, service: ServiceId, now: Time) {
        if is_place(service) && !self.publishers.contains_key(&service) {
            // Who takes a wish back comes back to it with another.
            let why = Refusal::new(Code::ServiceAway, "the other side waits no more");
            return self.refuse(id, why);
        }
        if self.waiting_count >= self.limits.waiting {
            return self.refuse(id, Refusal::busy("routes that wait for their publisher"));
        }
        let until = now + self.limits.wait_for_publisher;
        self.waiting.entry(service).or_default().push_back(id);
        self.waiting_count += 1;
        self.set_stage(id, Stage::Waiting, Some(until));
        if let Some(route) = self.routes.get(&id) {
            let end = route.near;
            self.commands.push_back(Command::Absent { end });
        }
    }

    /// Joins the routes that have waited for a service, if its publisher is there now.
    pub(super) fn serve_waiting(&mut self, service: ServiceId, now: Time) {
        if let Some((publisher, link)) = self.link_to(service) {
            let waiting = self.waiting.remove(&service).unwrap_or_default();
            self.waiting_count -= waiting.len();
            for id in waiting {
                self.join(id, publisher, link, now);
            }
        }
    }

    fn join(&mut self, id: RouteId, publisher: AttachmentId, link: LinkId, now: Time) {
        let most = self.limits.routes_per_attachment;
        let room = self
            .attachments
            .get(&publisher)
            .is_some_and(|known| known.route_ends < most);
        let picked = room.then(|| self.pick_number(link)).flatten();
        let Some(number) = picked else {
            return self.refuse(id, Refusal::busy("routes to one publisher"));
        };
        let far = RouteEnd {
            link,
            route: number,
        };
        let Some(route) = self.routes.get(&id) else {
            return;
        };
        let incoming = Incoming {
            route: number,
            service: route
                .grant
                .as_ref()
                .map_or_else(String::new, |it| it.name.clone()),
            user: route.by.user_name.clone(),
            machine: route.key,
        };
        let (near, opener) = (route.near, route.opener);
        let service = route.grant.as_ref();
        let service = service.map(|it| format!("{}.{}", shown(it.name.clone()), it.owner));
        let user = route.by.user;
        let opened = match route.session {
            Some(session) => self.sessions.opened(session, route.resumes, now),
            None => Opened::New,
        };
        self.record(id, RouteNews::Opened(opened));
        if let Some(entry) = self.links.get_mut(&link) {
            entry.routes.insert(number, id);
        }
        if let Some(known) = self.attachments.get_mut(&publisher) {
            known.route_ends += 1;
        }
        if let Some(known) = self.attachments.get_mut(&opener) {
            known.unjoined -= 1;
        }
        let answer_by = now + self.limits.answer_within;
        self.set_stage(id, Stage::Joined { far, publisher }, Some(answer_by));
        let account = Account {
            user,
            service: service.unwrap_or_default(),
            begins: opened == Opened::New,
        };
        self.commands.push_back(Command::Join {
            near,
            far,
            incoming,
            account,
        });
    }

    /// A number for a route that the relay opens on a link.
    fn pick_number(&mut self, link: LinkId) -> Option<u32> {
        let entry = self.links.get_mut(&link)?;
        // One more try than there are routes is enough to find a free one.
        for _ in 0..=entry.routes.len() {
            let number = entry.next_route;
            entry.next_route = number.wrapping_add(2);
            if !entry.routes.contains_key(&number) {
                return Some(number);
            }
        }
        None
    }

    /// The publisher has sent its first packet on a route.
    pub fn answered(&mut self, far: RouteEnd) {
        let Some(id) = self.route_at(far) else {
            return;
        };
        if self.routes.get(&id).and_then(Route::far) == Some(far) {
            self.set_alarm(id, None);
        }
    }

    /// An agent has ended a route at its end.
    pub fn gone(&mut self, link: LinkId, gone: Gone) {
        let Gone { route, code, text } = gone;
        let end = RouteEnd { link, route };
        let Some(id) = self.route_at(end) else {
            return;
        };
        let by = match self.routes.get(&id) {
            Some(route) if route.near == end => EndedBy::User,
            _ => EndedBy::Publisher,
        };
        self.record_end(id, code, by);
        let Some(route) = self.remove_route(id) else {
            return;
        };
        self.commands.push_back(Command::Forget { end });
        if let Some(other) = route.other_end(end) {
            let gone = Gone {
                route: other.route,
                code,
                text,
            };
            self.commands
                .push_back(Command::Finish { end: other, gone });
        }
    }

    /// A link of a route is no more, perhaps both: whoever is left is told.
    pub(super) fn route_lost_link(&mut self, id: RouteId) {
        self.record_end(id, Code::Aborted.number(), EndedBy::Path);
        let Some(route) = self.remove_route(id) else {
            return;
        };
        if self.links.contains_key(&route.near.link) {
            let why = Refusal::new(Code::ServiceAway, "the path to the publisher broke");
            self.finish(route.near, why);
        }
        if let Some(far) = route.far().filter(|far| self.links.contains_key(&far.link)) {
            let why = Refusal::new(Code::Aborted, "the path to the other side broke");
            self.finish(far, why);
        }
    }

    pub(super) fn route_expired(&mut self, id: RouteId) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        route.alarm = None;
        let why = match route.stage {
            Stage::Joined { .. } => {
                Refusal::new(Code::TimedOut, "the service's publisher does not answer")
            }
            Stage::Checking | Stage::Authorizing | Stage::Waiting => Refusal::of(Code::ServiceAway),
        };
        self.refuse(id, why);
    }

    /// Ends a route for a reason that lies with the relay; both sides are told.
    pub(super) fn refuse(&mut self, id: RouteId, why: Refusal) {
        match self.routes.get(&id).and_then(Route::far) {
            Some(_) => self.record_end(id, why.code.number(), EndedBy::Relay),
            None => self.record(id, RouteNews::Refused(why.clone())),
        }
        let Some(route) = self.remove_route(id) else {
            return;
        };
        self.finish(route.near, why.clone());
        if let Some(far) = route.far() {
            self.finish(far, for_publisher(why));
        }
    }

    fn finish(&mut self, end: RouteEnd, why: Refusal) {
        let gone = Gone {
            route: end.route,
            code: why.code.number(),
            text: why.text,
        };
        self.commands.push_back(Command::Finish { end, gone });
    }

    fn record(&mut self, id: RouteId, news: RouteNews) {
        let Some(route) = self.routes.get(&id) else {
            return;
        };
        let service = route.grant.as_ref().map(|grant| grant.name.clone());
        let service = shown(service.unwrap_or_else(|| route.asked.clone()));
        self.commands.push_back(Command::Record(RouteEvent {
            opener: route.opener,
            user: route.by.user_name.clone(),
            machine: route.by.machine_name.clone(),
            service,
            owner: route.grant.as_ref().map(|grant| grant.owner.clone()),
            session: route.session,
            news,
        }));
    }

    /// Of a route that never led anywhere there is no end to tell.
    fn record_end(&mut self, id: RouteId, code: u64, by: EndedBy) {
        let Some(route) = self.routes.get(&id) else {
            return;
        };
        if let (near, Some(far)) = (route.near, route.far()) {
            let ended = Ended {
                near,
                far,
                code,
                by,
            };
            self.record(id, RouteNews::Ended(ended));
        }
    }

    pub(super) fn route_at(&self, end: RouteEnd) -> Option<RouteId> {
        self.links.get(&end.link)?.routes.get(&end.route).copied()
    }

    fn set_stage(&mut self, id: RouteId, stage: Stage, alarm: Option<Time>) {
        if let Some(route) = self.routes.get_mut(&id) {
            route.stage = stage;
        }
        self.set_alarm(id, alarm);
    }

    fn set_alarm(&mut self, id: RouteId, at: Option<Time>) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        let wake = Wake::Route { route: id.0 };
        if let Some(before) = std::mem::replace(&mut route.alarm, at) {
            self.alarms.remove(&(before, wake));
        }
        if let Some(at) = at {
            self.alarms.insert((at, wake));
        }
    }

    /// Takes a route out of every table. Links that are down have left theirs already.
    fn remove_route(&mut self, id: RouteId) -> Option<Route> {
        // A publisher that has not said anything has no session either.
        let unused =
            |route: &Route| route.issued && (route.alarm.is_some() || route.far().is_none());
        let unused = self.routes.get(&id).filter(|route| unused(route));
        if let Some(handle) = unused.and_then(|route| route.ticket) {
            self.commands.push_back(Command::Discard { handle });
        }
        self.set_alarm(id, None);
        let route = self.routes.remove(&id)?;
        if let Some(session) = route.session {
            self.users.remove(route.by.user, session);
        }
        for end in [Some(route.near), route.far()].into_iter().flatten() {
            if let Some(entry) = self.links.get_mut(&end.link) {
                entry.routes.remove(&end.route);
            }
        }
        if let Some(known) = self.attachments.get_mut(&route.opener) {
            known.route_ends -= 1;
            known.unjoined -= usize::from(route.far().is_none());
        }
        if let Stage::Joined { publisher, .. } = route.stage {
            if let Some(known) = self.attachments.get_mut(&publisher) {
                known.route_ends -= 1;
            }
            if let Some(session) = route.session {
                self.sessions.closed(session);
            }
        }
        if route.stage == Stage::Waiting {
            self.stop_waiting(id, route.grant.as_ref());
        }
        Some(route)
    }

    fn stop_waiting(&mut self, id: RouteId, grant: Option<&Grant>) {
        let Some(service) = grant.map(|grant| grant.service) else {
            return;
        };
        let Some(queue) = self.waiting.get_mut(&service) else {
            return;
        };
        let before = queue.len();
        queue.retain(|other| *other != id);
        self.waiting_count -= before - queue.len();
        if queue.is_empty() {
            self.waiting.remove(&service);
        }
    }
}

/// A service as it is shown: of a place where two meet the application is what says something.
pub(super) fn shown(service: String) -> String {
    match service.parse::<Place>() {
        Ok(place) => place.application,
        Err(_) => service,
    }
}

/// What the publisher is told of a route that the relay has ended: the reason where it is the end of the session, else
/// that it is not the user who ended it.
fn for_publisher(why: Refusal) -> Refusal {
    match why.code {
        Code::Ended | Code::MonthLimit => why,
        _ => Refusal::new(Code::Aborted, "the relay ended the route"),
    }
}

impl Route {
    pub(super) fn user(&self) -> UserId {
        self.by.user
    }

    pub(super) fn by(&self) -> &Member {
        &self.by
    }

    pub(super) fn opener(&self) -> AttachmentId {
        self.opener
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        self.session
    }

    pub(super) fn ticket(&self) -> Option<Handle> {
        self.ticket
    }

    /// Its session, its ends and its publisher, once it leads there.
    pub(super) fn joined(&self) -> Option<(SessionId, RouteEnd, RouteEnd, AttachmentId)> {
        match self.stage {
            Stage::Joined { far, publisher } => Some((self.session?, self.near, far, publisher)),
            Stage::Checking | Stage::Authorizing | Stage::Waiting => None,
        }
    }

    fn far(&self) -> Option<RouteEnd> {
        match self.stage {
            Stage::Joined { far, .. } => Some(far),
            Stage::Checking | Stage::Authorizing | Stage::Waiting => None,
        }
    }

    fn other_end(&self, end: RouteEnd) -> Option<RouteEnd> {
        if end == self.near {
            self.far()
        } else {
            Some(self.near)
        }
    }
}
