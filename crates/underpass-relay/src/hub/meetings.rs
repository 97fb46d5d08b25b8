//! Those who meet without a published service: the [rendezvous](crate::rendezvous) decides who meets whom, and routes lead
//! to whoever waits as they lead to a publisher.

use std::collections::{BTreeSet, HashMap};

use underpass_proto::meeting::Place;
use underpass_proto::{Code, Time};
use underpass_store::{ServiceId, UserId};

use super::attachments::Attachment;
use super::{AttachmentId, Command, Grant, Hub, Publication};
use crate::refusal::Refusal;
use crate::rendezvous::{Meeting, Waiting, Wish, is_place, number_of};

impl Hub {
    /// An agent wishes to meet somebody, or asks again. Whom it has met, if anybody.
    ///
    /// # Errors
    /// Another agent of the machine has the same wish, or this one has too many.
    pub fn meet(&mut self, wish: Wish, now: Time) -> Result<Option<Meeting>, Refusal> {
        let attachment = wish.attachment;
        let name = wish.place().to_string();
        let place = number_of(&wish.place());
        self.check_room_to_publish(attachment, place)?;
        let taken = self.rendezvous.wish(wish, &present(&self.attachments))?;
        self.tell_meetings(taken.tell);
        if let Some(before) = taken.replaced {
            self.unpublish(before, place);
        }
        let description = String::new();
        self.offer(attachment, place, Publication { name, description });
        self.serve_waiting(place, now);
        Ok(self.rendezvous.answer(place))
    }

    /// An agent takes back what it wished. Routes to where its machine waited are ended.
    pub fn part(&mut self, place: &Place, holder: [u8; 16]) {
        let parted = self
            .rendezvous
            .part(place, holder, &present(&self.attachments));
        if let Some((attachment, tell)) = parted {
            self.tell_meetings(tell);
            let place = number_of(place);
            self.unpublish(attachment, place);
            let why = Refusal::new(Code::ServiceAway, "the other side waits no more");
            self.drop_routes_to(place, &why);
        }
    }

    /// Whether a machine of a user may open a route to a place where somebody waits.
    ///
    /// # Errors
    /// See [`Rendezvous::admits`](crate::rendezvous::Rendezvous::admits).
    pub fn admits(
        &self,
        place: ServiceId,
        user: UserId,
        machine: [u8; 32],
    ) -> Result<Grant, Refusal> {
        let Waiting { name, user } = self.rendezvous.admits(place, user, machine)?;
        Ok(Grant {
            service: place,
            name,
            owner: user,
        })
    }

    /// An attachment can be reached again: its wishes may meet others.
    pub(super) fn meet_again(&mut self, attachment: AttachmentId) {
        let tell = self
            .rendezvous
            .returned(attachment, &present(&self.attachments));
        self.tell_meetings(tell);
    }

    /// An attachment is no more.
    pub(super) fn forget_wishes(&mut self, attachment: AttachmentId) {
        let tell = self
            .rendezvous
            .detached(attachment, &present(&self.attachments));
        self.tell_meetings(tell);
    }

    /// Who waits for the publisher of a service, by the names of both, is to ask again: it is there, or who may use it
    /// has changed.
    pub(super) fn tell_wishers(&mut self, service: ServiceId) {
        if is_place(service) {
            return;
        }
        let publisher = self.publishers.get(&service).and_then(|all| all.last());
        let known = publisher.and_then(|publisher| self.attachments.get(publisher));
        let Some(known) = known else {
            return;
        };
        let name = known.published.get(&service).map(|it| it.name.as_str());
        let owner = known.member.as_ref().map(|member| member.user);
        if let (Some(name), Some(owner)) = (name, owner) {
            let tell = self.rendezvous.alone_for(name, owner);
            self.tell_meetings(tell);
        }
    }

    fn tell_meetings(&mut self, tell: Vec<AttachmentId>) {
        let tell: BTreeSet<AttachmentId> = tell.into_iter().collect();
        let tell = tell.into_iter();
        let tell = tell.filter(|it| self.attachments.contains_key(it));
        let tell = tell.map(|attachment| Command::TellMeetings { attachment });
        self.commands.extend(tell);
    }
}

/// Which attachments can be reached at the moment.
fn present(known: &HashMap<AttachmentId, Attachment>) -> impl Fn(AttachmentId) -> bool + '_ {
    |id| known.get(&id).is_some_and(|it| !it.links.is_empty())
}
