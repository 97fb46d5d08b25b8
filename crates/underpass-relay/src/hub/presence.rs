//! Which services are there to be used.

use underpass_proto::{Code, Time};
use underpass_store::ServiceId;

use super::{AttachmentId, Command, Hub, LinkId};
use crate::refusal::Refusal;

/// What an agent says about a service that it publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The service's name.
    pub name: String,
    /// What it leads to, for people.
    pub description: String,
}

impl Hub {
    /// An agent publishes a service, which the store has allowed. Where several agents of one machine
    /// publish the same, the last one gets the new routes: after a crash the attachment of the
    /// crashed agent may still be there.
    ///
    /// # Errors
    /// The agent publishes too many services.
    pub fn publish(
        &mut self,
        attachment: AttachmentId,
        service: ServiceId,
        publication: Publication,
        now: Time,
    ) -> Result<(), Refusal> {
        self.check_room_to_publish(attachment, service)?;
        let name = publication.name.clone();
        if let Some(attachment) = self.offer(attachment, service, publication) {
            let text = format!(
                "{name} is now published by another agent of this machine; new connections go there"
            );
            self.commands
                .push_back(Command::Notify { attachment, text });
        }
        self.serve_waiting(service, now);
        self.tell_wishers(service);
        Ok(())
    }

    /// Whether an attachment may publish, or wait at, one more.
    pub(super) fn check_room_to_publish(
        &self,
        attachment: AttachmentId,
        service: ServiceId,
    ) -> Result<(), Refusal> {
        let limit = self.limits.services_per_attachment;
        let Some(known) = self.attachments.get(&attachment) else {
            return Err(Refusal::of(Code::UnknownSession));
        };
        if known.published.len() >= limit && !known.published.contains_key(&service) {
            return Err(Refusal::busy("services that one agent publishes"));
        }
        Ok(())
    }

    /// Puts an attachment last on the list of those that publish a service. Another one that was last before.
    pub(super) fn offer(
        &mut self,
        attachment: AttachmentId,
        service: ServiceId,
        publication: Publication,
    ) -> Option<AttachmentId> {
        let known = self.attachments.get_mut(&attachment)?;
        known.published.insert(service, publication);
        let publishers = self.publishers.entry(service).or_default();
        let before = publishers
            .last()
            .copied()
            .filter(|last| *last != attachment);
        publishers.retain(|other| *other != attachment);
        publishers.push(attachment);
        before
    }

    /// A service is withdrawn, whoever publishes it. Its routes are ended.
    pub fn withdraw(&mut self, service: ServiceId) {
        self.tell_rights(service);
        let publishers = self.publishers.get(&service).cloned().unwrap_or_default();
        for attachment in publishers {
            self.unpublish(attachment, service);
        }
        self.drop_routes_to(service, &Refusal::of(Code::NoService));
    }

    /// Who may use a service has changed, or whether anybody may: all that publish it are to ask anew.
    pub(super) fn tell_rights(&mut self, service: ServiceId) {
        let publishers = self.publishers.get(&service).into_iter().flatten();
        let tell = publishers.map(|attachment| Command::TellRights {
            attachment: *attachment,
        });
        self.commands.extend(tell);
    }

    /// The same for all services.
    pub(super) fn tell_all_rights(&mut self) {
        let publishing = self.attachments.iter();
        let publishing = publishing.filter(|(_, known)| !known.published.is_empty());
        let tell = publishing.map(|(attachment, _)| Command::TellRights {
            attachment: *attachment,
        });
        self.commands.extend(tell);
    }

    /// Takes one attachment off the list of those that publish a service.
    pub(super) fn unpublish(&mut self, attachment: AttachmentId, service: ServiceId) {
        if let Some(known) = self.attachments.get_mut(&attachment) {
            known.published.remove(&service);
        }
        if let Some(publishers) = self.publishers.get_mut(&service) {
            publishers.retain(|other| *other != attachment);
            if publishers.is_empty() {
                self.publishers.remove(&service);
            }
        }
    }

    /// Whether a new route to a service would find its publisher.
    #[must_use]
    pub fn is_present(&self, service: ServiceId) -> bool {
        self.link_to(service).is_some()
    }

    /// What the last agent that publishes a service says about it.
    #[must_use]
    pub fn publication(&self, service: ServiceId) -> Option<&Publication> {
        let attachment = self.publishers.get(&service)?.last()?;
        self.attachments.get(attachment)?.published.get(&service)
    }

    /// Where a new route to a service leads: the newest link of the newest publisher that has one.
    pub(super) fn link_to(&self, service: ServiceId) -> Option<(AttachmentId, LinkId)> {
        let publishers = self.publishers.get(&service)?;
        publishers.iter().rev().find_map(|attachment| {
            let link = self.attachments.get(attachment)?.links.last()?;
            Some((*attachment, *link))
        })
    }
}
