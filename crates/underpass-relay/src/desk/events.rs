//! What was written down, and writing down what was refused.

use underpass_proto::Code;
use underpass_proto::control::{Control, ControlType, EventRow, Events, MAX_EVENTS};
use underpass_store::{Enrolled, Event, EventFilter, EventId, NewEvent, UnixMillis};

use super::{Asked, Caller, Desk};
use crate::log::{Kind, Note};
use crate::policy::Reach;
use crate::refusal::Refusal;

impl Desk {
    pub(super) async fn list_events(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        events: Events,
    ) -> Result<Vec<Control>, Refusal> {
        let me = me.user.name.as_str();
        let own = asked.reach != Reach::All;
        if own && !events.user.is_empty() && events.user != me {
            let text = "you may only see events of your own; managers see all";
            return Err(Refusal::new(Code::Denied, text));
        }
        let user = if own { me.to_owned() } else { events.user };
        let filter = EventFilter {
            since: nonzero(events.since_ms).map(UnixMillis),
            user: Some(user).filter(|user| !user.is_empty()),
            kind: Some(events.kind).filter(|kind| !kind.is_empty()),
            before: nonzero(events.before).map(EventId),
            after: nonzero(events.after).map(EventId),
            limit: u32::try_from(events.limit.min(MAX_EVENTS)).unwrap_or(0),
        };
        let listed = self.store.events(&filter).await?;
        let viewer = own.then_some(me);
        let rows = listed.into_iter().map(|event| row(event, viewer));
        Ok(Control::of_events(events.request, rows.collect()))
    }

    /// Writes down that a request was refused, unless that is done elsewhere: of what was asked to log in, and
    /// of strangers, who can do nothing else.
    pub(super) fn note_refused_request(
        &self,
        caller: &Caller,
        request: ControlType,
        why: &Refusal,
    ) {
        let member = self
            .switch
            .with_hub(|hub, _| hub.member(caller.attachment).cloned());
        if !why.is_limit() && (why.code != Code::Denied || member.is_none()) {
            return;
        }
        let mut note = Note::of_refusal(Kind::RequestRefused, why)
            .from(caller.address.as_deref())
            .with("request", request.name());
        if let Some(member) = member {
            note = note.by(&member.user_name);
        }
        self.log.write(note);
    }
}

fn nonzero(number: u64) -> Option<i64> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    (number != 0).then_some(number)
}

/// An event as it is told. A user learns no addresses but of what they did themselves.
fn row(event: Event, viewer: Option<&str>) -> EventRow {
    let Event {
        id: EventId(id),
        event,
    } = event;
    let NewEvent {
        at: UnixMillis(at),
        kind,
        actor,
        peer,
        address,
        details,
    } = event;
    let actor = actor.unwrap_or_default();
    let told = viewer.is_none_or(|viewer| viewer == actor);
    EventRow {
        id: u64::try_from(id).unwrap_or(0),
        at_ms: u64::try_from(at).unwrap_or(0),
        kind,
        actor,
        peer: peer.unwrap_or_default(),
        address: address.filter(|_| told).unwrap_or_default(),
        details,
    }
}
