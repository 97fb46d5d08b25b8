//! Attachments and their links.

use std::collections::{BTreeMap, BTreeSet};

use underpass_proto::limit::LimitKind;
use underpass_proto::{Code, Time};
use underpass_store::{MachineId, ServiceId, UserId};

use super::ids::RouteId;
use super::presence::Publication;
use super::{AttachmentId, Command, Hub, LinkEntry, LinkId, Member, Source, Wake};
use crate::refusal::Refusal;

/// What the hub knows of one attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) source: Option<Source>,
    pub(super) member: Option<Member>,
    /// When a stranger's time is up.
    pub(super) enrol_by: Option<Time>,
    /// Oldest first.
    pub(super) links: Vec<LinkId>,
    /// It has had a link.
    pub(super) was_up: bool,
    pub(super) published: BTreeMap<ServiceId, Publication>,
    /// Routes with an end here; a route from an attachment to itself counts twice.
    pub(super) route_ends: usize,
    /// Routes opened here that are not joined.
    pub(super) unjoined: usize,
}

impl Hub {
    /// Takes up an attachment. `member` is whom the store knows its key as, if anybody.
    ///
    /// # Errors
    /// A limit is reached: nothing is kept, and the session is to be ended with that reason.
    pub fn attach(
        &mut self,
        attachment: AttachmentId,
        source: Option<Source>,
        member: Option<Member>,
        now: Time,
    ) -> Result<(), Refusal> {
        self.check_room(source, member.as_ref())?;
        let enrol_by = member.is_none().then(|| now + self.limits.enrol_within);
        if let Some(at) = enrol_by {
            self.alarms.insert((at, Wake::Enrol(attachment)));
        }
        self.count_in(source, member.as_ref());
        let known = Attachment {
            source,
            member,
            enrol_by,
            links: Vec::new(),
            was_up: false,
            published: BTreeMap::new(),
            route_ends: 0,
            unjoined: 0,
        };
        let replaced = self.attachments.insert(attachment, known);
        debug_assert!(replaced.is_none(), "numbers of attachments are used once");
        Ok(())
    }

    fn check_room(&self, source: Option<Source>, member: Option<&Member>) -> Result<(), Refusal> {
        let limits = &self.limits;
        if self.attachments.len() >= limits.attachments {
            return Err(Refusal::busy("attachments"));
        }
        let census = source.and_then(|source| self.by_source.get(&source).copied());
        let census = census.unwrap_or_default();
        if census.all >= limits.attachments_per_source {
            return Err(Refusal::busy("attachments from one address"));
        }
        match member {
            Some(member) => self.check_room_of_user(member.user),
            None if self.strangers >= limits.strangers => {
                Err(Refusal::busy("machines that are not enrolled"))
            }
            None if census.strangers >= limits.strangers_per_source => Err(Refusal::busy(
                "machines from one address that are not enrolled",
            )),
            None => Ok(()),
        }
    }

    fn check_room_of_user(&self, user: UserId) -> Result<(), Refusal> {
        let count = self.users.attached.get(&user).copied().unwrap_or(0);
        let usual = self.limits.attachments_per_user;
        self.users.check(user, LimitKind::Attachments, usual, count)
    }

    fn count_in(&mut self, source: Option<Source>, member: Option<&Member>) {
        if let Some(source) = source {
            let census = self.by_source.entry(source).or_default();
            census.all += 1;
            census.strangers += usize::from(member.is_none());
        }
        match member {
            Some(member) => *self.users.attached.entry(member.user).or_default() += 1,
            None => self.strangers += 1,
        }
    }

    fn count_out(&mut self, source: Option<Source>, member: Option<&Member>) {
        if let Some(source) = source
            && let Some(census) = self.by_source.get_mut(&source)
        {
            census.all -= 1;
            census.strangers -= usize::from(member.is_none());
            if census.all == 0 {
                self.by_source.remove(&source);
            }
        }
        let Some(member) = member else {
            self.strangers -= 1;
            return;
        };
        if let Some(count) = self.users.attached.get_mut(&member.user) {
            *count -= 1;
            if *count == 0 {
                self.users.attached.remove(&member.user);
            }
        }
    }

    /// Notes whom an attachment belongs to: its machine has just enrolled. A key stands for one
    /// machine for ever, so this happens once.
    ///
    /// # Errors
    /// A limit of the user is reached; the attachment stays as it was.
    pub fn enrolled(&mut self, attachment: AttachmentId, member: Member) -> Result<(), Refusal> {
        let Some(known) = self.attachments.get(&attachment) else {
            return Ok(());
        };
        if known.member.is_some() {
            return Ok(());
        }
        let (source, enrol_by) = (known.source, known.enrol_by);
        self.check_room_of_user(member.user)?;
        self.count_out(source, None);
        self.count_in(source, Some(&member));
        if let Some(at) = enrol_by {
            self.alarms.remove(&(at, Wake::Enrol(attachment)));
        }
        if let Some(known) = self.attachments.get_mut(&attachment) {
            known.member = Some(member);
            known.enrol_by = None;
        }
        Ok(())
    }

    /// Whom an attachment belongs to, as of the last word of the store.
    #[must_use]
    pub fn member(&self, attachment: AttachmentId) -> Option<&Member> {
        self.attachments.get(&attachment)?.member.as_ref()
    }

    /// The newest link of an attachment.
    #[must_use]
    pub fn newest_link(&self, attachment: AttachmentId) -> Option<LinkId> {
        self.attachments.get(&attachment)?.links.last().copied()
    }

    /// Whether a machine is attached, with a link or waiting for one.
    #[must_use]
    pub fn is_machine_attached(&self, machine: MachineId) -> bool {
        self.attachments_of(machine).next().is_some()
    }

    fn attachments_of(&self, machine: MachineId) -> impl Iterator<Item = AttachmentId> + '_ {
        self.attachments
            .iter()
            .filter(move |(_, known)| {
                known
                    .member
                    .as_ref()
                    .is_some_and(|member| member.machine == machine)
            })
            .map(|(id, _)| *id)
    }

    /// Shuts a machine out: ends its attachments, whatever they are doing.
    pub fn shut_out(&mut self, machine: MachineId, why: &Refusal) {
        let ids: BTreeSet<AttachmentId> = self.attachments_of(machine).collect();
        for attachment in ids {
            self.end(attachment, why.clone());
        }
    }

    /// Ends an attachment for a reason that its agent is told.
    pub fn end(&mut self, attachment: AttachmentId, why: Refusal) {
        if self.attachments.contains_key(&attachment) {
            self.detached(attachment);
            self.commands.push_back(Command::End { attachment, why });
        }
    }

    pub(super) fn enrolment_expired(&mut self, attachment: AttachmentId) {
        let why = Refusal::new(
            Code::NotEnrolled,
            "the machine did not enrol in time; get an invitation, then: underpass login RELAY --invite CODE",
        );
        self.end(attachment, why);
    }

    /// Forgets an attachment: its hop session is no more, and neither are its links.
    pub fn detached(&mut self, attachment: AttachmentId) {
        let Some(known) = self.attachments.get(&attachment) else {
            return;
        };
        let links = known.links.clone();
        let services: Vec<ServiceId> = known.published.keys().copied().collect();
        for service in services {
            self.unpublish(attachment, service);
        }
        self.drop_links(&links);
        let Some(known) = self.attachments.remove(&attachment) else {
            return;
        };
        if let Some(at) = known.enrol_by {
            self.alarms.remove(&(at, Wake::Enrol(attachment)));
        }
        self.count_out(known.source, known.member.as_ref());
        self.forget_wishes(attachment);
    }

    /// A link of an attachment is ready to carry routed packets.
    pub fn link_up(&mut self, attachment: AttachmentId, link: LinkId, now: Time) {
        let Some(known) = self.attachments.get_mut(&attachment) else {
            return;
        };
        let without = known.links.is_empty();
        let returns = without && std::mem::replace(&mut known.was_up, true);
        if let (true, Some(member)) = (returns, known.member.clone()) {
            self.commands.push_back(Command::Returned {
                attachment,
                link,
                member,
            });
        }
        known.links.push(link);
        let services: Vec<ServiceId> = known.published.keys().copied().collect();
        let entry = LinkEntry {
            attachment,
            next_route: 1,
            routes: BTreeMap::new(),
        };
        self.links.insert(link, entry);
        for service in services {
            self.serve_waiting(service, now);
            if without {
                self.tell_wishers(service);
            }
        }
        if without {
            self.meet_again(attachment);
        }
    }

    /// A link is gone, and with it all its routes.
    pub fn link_down(&mut self, link: LinkId) {
        if let Some(entry) = self.links.get(&link) {
            let attachment = entry.attachment;
            if let Some(known) = self.attachments.get_mut(&attachment) {
                known.links.retain(|other| *other != link);
            }
            self.drop_links(&[link]);
        }
    }

    /// Forgets links, then ends their routes: nothing is said any more on any of them.
    fn drop_links(&mut self, links: &[LinkId]) {
        let mut routes: BTreeSet<RouteId> = BTreeSet::new();
        for link in links {
            if let Some(entry) = self.links.remove(link) {
                routes.extend(entry.routes.into_values());
            }
        }
        for route in routes {
            self.route_lost_link(route);
        }
    }
}
