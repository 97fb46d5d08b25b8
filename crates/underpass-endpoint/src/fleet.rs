//! An agent's standing with several relays of one group at once: whichever of them is best carries its
//! sessions, and when one dies they go on through the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use underpass_proto::code::Code;

use crate::attachment::{AttachError, AttachStatus, Attachment};
use crate::choice::{Choice, ChoiceSettings, Measured, Ranked, Side};
use crate::clock;
use crate::connect::{ConnectError, PeerTrust};
use crate::session::Session;
use crate::sessions::Sessions;
use crate::ways::Ways;

/// How often the path to each relay is looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// A path on which nothing has passed is measured once in so many looks.
const ASK_AT: u32 = 5;
/// The longest that an end waits until the peers of all sessions know of it.
const PART_LIMIT: Duration = Duration::from_secs(2);

struct Member {
    name: String,
    attachment: Option<Attachment>,
    /// Why it ended, if it did.
    ended: Option<AttachError>,
}

struct Inner {
    sessions: Sessions,
    members: Mutex<Vec<Member>>,
    choice: Mutex<Choice>,
    /// Counts what happened to members and their order.
    changes: watch::Sender<u64>,
}

/// Attachments of one agent to several relays; clones are the same ones.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// One relay of a [`Fleet`], and its place.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// What the relay is called.
    pub name: String,
    /// Its place and the reason.
    pub ranked: Ranked,
    /// How its attachment is, where there is one.
    pub attachment: Option<AttachStatus>,
    /// Why there will be none any more.
    pub ended: Option<AttachError>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members = self.members();
        let names = members.iter().map(|member| &member.name);
        f.debug_list().entries(names).finish()
    }
}

impl Fleet {
    /// With relays of these names, none of them attached to yet. `sessions` are what the attachments
    /// will share.
    #[must_use]
    pub fn new(names: &[String], sessions: Sessions, settings: ChoiceSettings) -> Self {
        let mut choice = Choice::new(settings);
        let members = names.iter().map(|name| {
            choice.add();
            Member {
                name: name.clone(),
                attachment: None,
                ended: None,
            }
        });
        Self {
            inner: Arc::new(Inner {
                members: Mutex::new(members.collect()),
                choice: Mutex::new(choice),
                sessions,
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// What its attachments share.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.inner.sessions.clone()
    }

    /// The relay of this number is attached to, with the sessions of this fleet. Must be called on a
    /// runtime.
    pub fn put(&self, relay: usize, attachment: Attachment) {
        {
            let mut members = self.members();
            if members.len() > 1 {
                attachment
                    .inner
                    .routes
                    .name_relay(members[relay].name.clone());
            }
            members[relay].attachment = Some(attachment.clone());
            members[relay].ended = None;
        }
        self.set_alive(relay, attachment.present_link().is_some());
        tokio::spawn(watch_member(self.clone(), relay, attachment));
    }

    /// The relay of this number will not be attached to.
    pub fn give_up(&self, relay: usize, why: AttachError) {
        self.members()[relay].ended = Some(why);
        self.changed();
    }

    /// The attachment of this number, once there is one.
    #[must_use]
    pub fn attachment(&self, relay: usize) -> Option<Attachment> {
        self.members()[relay].attachment.clone()
    }

    /// Makes an end-to-end session with the publisher of a service, through the best relay where it is
    /// found. It keeps itself alive, by whichever relay there is.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        service: &str,
        trust: &dyn PeerTrust,
    ) -> Result<Session, ConnectError> {
        crate::connect::connect(&Ways::Fleet(self.clone()), service, trust).await
    }

    /// All relays, the one in use first, those that cannot be used last.
    #[must_use]
    pub fn status(&self) -> Vec<MemberStatus> {
        let ranking = self.choice().ranking(clock::now());
        let members = self.members();
        let status = ranking.into_iter().map(|ranked| {
            let Member {
                name,
                attachment,
                ended,
            } = &members[ranked.relay];
            MemberStatus {
                name: name.clone(),
                attachment: attachment.as_ref().map(Attachment::status),
                ended: ended.clone(),
                ranked,
            }
        });
        status.collect()
    }

    /// Why the last attachment ended, once all have.
    pub async fn ended(&self) -> AttachError {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(end) = self.end() {
                return end;
            }
            // The sender lives as long as this fleet.
            let _ = changes.changed().await;
        }
    }

    /// Ends all attachments in order, and all sessions: their peers are told, then the relays. Takes a
    /// few seconds at the most.
    pub async fn detach(&self) {
        // While all relays are there, so that every peer hears of it.
        let parting = self
            .inner
            .sessions
            .part(Code::GoingAway, "the agent stopped");
        let _ = tokio::time::timeout(PART_LIMIT, parting).await;
        let attachments: Vec<Attachment> = {
            let members = self.members();
            let attached = members
                .iter()
                .filter_map(|member| member.attachment.clone());
            attached.collect()
        };
        futures_util::future::join_all(attachments.iter().map(Attachment::leave)).await;
    }

    /// Attachments that have not ended, by the numbers of their relays, the best first.
    #[must_use]
    pub fn in_order(&self) -> Vec<(usize, Attachment)> {
        let ranking = self.choice().ranking(clock::now());
        let members = self.members();
        let attached = ranking.into_iter().filter_map(|ranked| {
            let member = &members[ranked.relay];
            let attachment = member
                .attachment
                .as_ref()
                .filter(|_| member.ended.is_none())?;
            Some((ranked.relay, attachment.clone()))
        });
        attached.collect()
    }

    /// Something was tried through a relay.
    pub(crate) fn outcome(&self, relay: usize, worked: bool) {
        self.decide(|choice| choice.outcome(clock::now(), relay, worked));
    }

    /// Why there will be no way any more, if so: no relay is left that may be attached to.
    pub(crate) fn end(&self) -> Option<AttachError> {
        let members = self.members();
        let is_attached = |member: &Member| member.attachment.is_some();
        let goes_on = |member: &Member| member.ended.is_none();
        // Whoever was shut out at one relay is out at all of the group: what was never reached is not
        // waited for then.
        let any_attached = members.iter().any(is_attached);
        if members
            .iter()
            .any(|it| goes_on(it) && (is_attached(it) || !any_attached))
        {
            return None;
        }
        members.iter().rev().find_map(|member| member.ended.clone())
    }

    /// Tells that members, or their order, may be others.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.inner
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.inner
            .choice
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|changes| *changes += 1);
    }

    /// Changes the choice, and says so where it chose another one.
    fn decide(&self, change: impl FnOnce(&mut Choice)) {
        let (before, after) = {
            let mut choice = self.choice();
            let before = choice.chosen();
            change(&mut choice);
            (before, choice.chosen())
        };
        if before == after {
            return;
        }
        if let Some(chosen) = after {
            tracing::info!("the relay to use is {}", self.members()[chosen].name);
        }
        self.changed();
    }

    fn set_alive(&self, relay: usize, alive: bool) {
        self.decide(|choice| choice.set_alive(clock::now(), relay, alive));
        self.changed();
    }

    /// Takes in what the attachment's own session has measured.
    fn measure(&self, relay: usize, attachment: &Attachment) {
        let now = clock::now();
        let round_trip = attachment.session().status().rtt;
        self.decide(|choice| match round_trip {
            Some(round_trip) => {
                // The hop carries next to nothing of its own, and so tells nothing of the rate.
                let measured = Measured {
                    round_trip,
                    rate: 0,
                };
                choice.measured(now, relay, Side::Near, measured);
            }
            None => choice.handle_timeout(now),
        });
    }
}

/// Tells the fleet how one of its attachments is, until that ends.
async fn watch_member(fleet: Fleet, relay: usize, attachment: Attachment) {
    let mut links = attachment.links();
    let mut looking = tokio::time::interval(LOOK_AFTER);
    looking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0;
    let mut was_alive = None;
    loop {
        let alive = attachment.present_link().is_some();
        if was_alive.replace(alive) != Some(alive) {
            fleet.set_alive(relay, alive);
        }
        tokio::select! {
            biased;
            ended = attachment.ended() => {
                fleet.members()[relay].ended = Some(ended);
                return fleet.set_alive(relay, false);
            }
            // Also where one link took the place of another: sessions go over to it.
            _ = links.changed() => fleet.changed(),
            _ = looking.tick() => {
                looks += 1;
                match attachment.present_link() {
                    Some(link) => {
                        if looks % ASK_AT == 0 {
                            link.ask();
                        }
                        fleet.measure(relay, &attachment);
                    }
                    None => fleet.decide(|choice| choice.handle_timeout(clock::now())),
                }
            }
        }
    }
}
