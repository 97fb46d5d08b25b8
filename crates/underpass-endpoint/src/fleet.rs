//! An agent's standing with several relays of one group at once: whichever of them is best carries its
//! sessions, and when one dies they go on through the next.

mod follow;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch::{Receiver, Sender};
use underpass_proto::code::Code;
use underpass_proto::packet::SessionId;
use underpass_proto::{Grade, Time};

use crate::attachment::{AttachError, AttachStatus, Attachment};
use crate::choice::{Choice, ChoiceSettings, Presence, Ranked, Roster, RosterSettings};
use crate::clock;
use crate::connect::{ConnectError, PeerTrust};
use crate::session::Session;
use crate::sessions::Sessions;
use crate::ways::Ways;
use follow::Followed;

/// The longest that an end waits until the peers of all sessions know of it.
const PART_LIMIT: Duration = Duration::from_secs(2);

/// How relays are used.
#[derive(Clone, Debug, Default)]
pub struct FleetSettings {
    /// When one is left for another.
    pub choice: ChoiceSettings,
    /// To which of them there are attachments; to all where it is not given, as publishers need it.
    pub roster: Option<RosterSettings>,
    /// A session goes over to another relay that is as good after this time on average; never for that
    /// reason alone where it is not given.
    pub vary: Option<Duration>,
    /// So many legs, each by another relay, carry a session at once that this agent begins, as far as there are relays
    /// and its peer allows; at least 1, at most [`MAX_LEGS`](crate::MAX_LEGS).
    pub legs: usize,
}

struct Member {
    name: String,
    /// The fingerprint of its key, once it was attached to.
    key: Option<[u8; 32]>,
    attachment: Option<Attachment>,
    /// Why it ended, if it did.
    ended: Option<AttachError>,
    /// Whether it can be used, whether or not it is to be.
    presence: Presence,
    /// It is to be left once sessions have others to go on through.
    retired: bool,
}

impl Member {
    /// Whether this is its attachment now.
    fn is_by(&self, attachment: &Attachment) -> bool {
        let now = self.attachment.as_ref();
        now.is_some_and(|now| now.is(attachment))
    }

    /// There are several relays: stories tell of each by its name.
    fn name_routes(&self) {
        if let Some(attachment) = &self.attachment {
            attachment.inner.routes.name_relay(self.name.clone());
        }
    }

    fn is_other(&self) -> bool {
        !self.retired && self.presence == Presence::Alive
    }
}

struct State {
    members: Vec<Member>,
    /// What is best without regard to any peer.
    choice: Choice,
    roster: Option<Roster>,
    /// The sessions that this agent began, with what is best for each.
    followed: HashMap<SessionId, Followed>,
}

impl State {
    /// Does the same to the choice of the agent and to that of each session.
    fn for_each_choice(&mut self, change: impl Fn(&mut Choice)) {
        change(&mut self.choice);
        for followed in self.followed.values_mut() {
            change(&mut followed.choice);
        }
    }

    /// Whether a relay can do without those that are to be left.
    fn has_others(&self) -> bool {
        self.members.iter().any(Member::is_other)
    }

    /// Whether it is to be attached to.
    fn is_wanted(&self, relay: usize) -> bool {
        let member = &self.members[relay];
        let stays = !member.retired || (member.attachment.is_some() && !self.has_others());
        let roster = self.roster.as_ref();
        stays && roster.is_none_or(|roster| roster.is_wanted(relay))
    }

    /// Tells the choices which relays can be used: one that is to be left, only where there is no other.
    fn show_presence(&mut self, now: Time) {
        let has_others = self.has_others();
        // First those that take over.
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|relay| self.members[*relay].retired);
        for relay in order {
            let member = &self.members[relay];
            let presence = match member.retired && has_others {
                true => Presence::Resting,
                false => member.presence,
            };
            let differs = |choice: &Choice| choice.presence(relay) != presence;
            let mut followed = self.followed.values();
            if differs(&self.choice) || followed.any(|it| differs(&it.choice)) {
                self.for_each_choice(|choice| choice.set_presence(now, relay, presence));
            }
        }
    }

    fn choice_of(&self, session: Option<SessionId>) -> &Choice {
        let followed = session.and_then(|id| self.followed.get(&id));
        followed.map_or(&self.choice, |followed| &followed.choice)
    }

    /// What is chosen for whom.
    fn chosen(&self) -> Vec<(Option<SessionId>, Option<usize>)> {
        let sessions = self.followed.iter();
        let sessions = sessions.map(|(id, followed)| (Some(*id), followed.choice.chosen()));
        let mut chosen: Vec<_> = sessions.collect();
        chosen.push((None, self.choice.chosen()));
        chosen
    }
}

struct Inner {
    sessions: Sessions,
    settings: FleetSettings,
    state: Mutex<State>,
    /// Counts what happened to members and their order.
    changes: Sender<u64>,
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
    /// Whether it is being left.
    pub retired: bool,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        let names = state.members.iter().map(|member| &member.name);
        f.debug_list().entries(names).finish()
    }
}

impl Fleet {
    /// With relays of these names, none of them attached to yet. `sessions` are what the attachments
    /// will share. Must be called on a runtime.
    #[must_use]
    pub fn new(names: &[String], sessions: Sessions, settings: FleetSettings) -> Self {
        let state = State {
            members: Vec::new(),
            choice: Choice::new(settings.choice.clone()),
            roster: settings.roster.clone().map(Roster::new),
            followed: HashMap::new(),
        };
        let fleet = Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                settings,
                sessions,
                changes: Sender::new(0),
            }),
        };
        for name in names {
            fleet.add(name);
        }
        tokio::spawn(watch::review(Arc::downgrade(&fleet.inner)));
        fleet
    }

    /// One more relay; gives its number.
    pub fn add(&self, name: &str) -> usize {
        let now = clock::now();
        let mut state = self.lock();
        state.members.push(Member {
            name: name.to_owned(),
            key: None,
            attachment: None,
            ended: None,
            presence: Presence::Away,
            retired: false,
        });
        let several = state.members.len() > 1;
        for member in state.members.iter().filter(|_| several) {
            member.name_routes();
        }
        if let Some(roster) = &mut state.roster {
            roster.add(now);
        }
        state.for_each_choice(|choice| {
            choice.add();
        });
        let relay = state.members.len() - 1;
        drop(state);
        self.changed();
        relay
    }

    /// How many legs are to carry a session.
    pub(crate) fn legs(&self) -> usize {
        self.inner.settings.legs.max(1)
    }

    /// What its attachments share.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.inner.sessions.clone()
    }

    /// Waits until the relay of this number is to be attached to, or to be left alone. Cancel safe.
    pub async fn wanted(&self, relay: usize, wanted: bool) {
        let is = || self.lock().is_wanted(relay);
        let mut changes = self.changes();
        while {
            changes.mark_unchanged();
            is() != wanted
        } {
            // The sender lives as long as this fleet.
            let _ = changes.changed().await;
        }
    }

    /// The relay of this number is attached to, with the sessions of this fleet. Must be called on a
    /// runtime.
    pub fn put(&self, relay: usize, attachment: Attachment) {
        {
            let mut state = self.lock();
            let several = state.members.len() > 1;
            let member = &mut state.members[relay];
            member.key = Some(*attachment.relay_key().fingerprint().as_bytes());
            member.attachment = Some(attachment.clone());
            member.ended = None;
            if several {
                member.name_routes();
            }
        }
        self.set_presence(relay, watch::presence(&attachment));
        tokio::spawn(watch::member(self.clone(), relay, attachment));
    }

    /// Has the relay of this number left, or used again. It is left calmly: what passes through it goes on through
    /// another one first, and where there is no other it stays.
    pub fn retire(&self, relay: usize, retired: bool) {
        let was = std::mem::replace(&mut self.lock().members[relay].retired, retired);
        if was != retired {
            self.decide(State::show_presence);
            self.changed();
        }
    }

    /// The relay of this number will not be attached to.
    pub fn give_up(&self, relay: usize, why: AttachError) {
        self.lock().members[relay].ended = Some(why);
        self.changed();
    }

    /// Ends the attachment of this number for a while, if nothing passes through it; `before` is called before
    /// it ends. False if something does.
    pub async fn rest(&self, relay: usize, before: impl FnOnce()) -> bool {
        let attachment = {
            let mut state = self.lock();
            let member = &mut state.members[relay];
            if member.attachment.as_ref().is_some_and(Attachment::is_used) {
                return false;
            }
            member.attachment.take()
        };
        before();
        self.set_presence(relay, Presence::Resting);
        if let Some(attachment) = attachment {
            attachment.leave().await;
        }
        true
    }

    /// The attachment of this number, once there is one.
    #[must_use]
    pub fn attachment(&self, relay: usize) -> Option<Attachment> {
        self.lock().members[relay].attachment.clone()
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
        self.connect_graded(service, trust, Grade::Blind).await
    }

    /// The same with a grade of secrecy, which the relay and the publisher must allow.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect_graded(
        &self,
        service: &str,
        trust: &dyn PeerTrust,
        grade: Grade,
    ) -> Result<Session, ConnectError> {
        crate::connect::connect(&Ways::Fleet(self.clone(), None), service, trust, grade).await
    }

    /// All relays, the one in use first, those that cannot be used last: without regard to any peer, or for a
    /// session that this agent began.
    #[must_use]
    pub fn status(&self, session: Option<SessionId>) -> Vec<MemberStatus> {
        let state = self.lock();
        let ranking = state.choice_of(session).ranking(clock::now());
        let status = ranking.into_iter().filter_map(|ranked| {
            let Member {
                name,
                key: _,
                attachment,
                ended,
                presence: _,
                retired,
            } = &state.members[ranked.relay];
            // One that was left is none of ours any more.
            (!retired || attachment.is_some()).then(|| MemberStatus {
                name: name.clone(),
                attachment: attachment.as_ref().map(Attachment::status),
                ended: ended.clone(),
                retired: *retired,
                ranked,
            })
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
        let sessions = &self.inner.sessions;
        let parting = sessions.part(Code::GoingAway, "the agent stopped");
        let _ = tokio::time::timeout(PART_LIMIT, parting).await;
        let attachments: Vec<Attachment> = {
            let state = self.lock();
            let members = state.members.iter();
            members
                .filter_map(|member| member.attachment.clone())
                .collect()
        };
        futures_util::future::join_all(attachments.iter().map(Attachment::leave)).await;
    }

    /// Attachments that have not ended, by the numbers of their relays, the best first: without regard to any
    /// peer, or for a session that this agent began.
    #[must_use]
    pub fn in_order(&self, session: Option<SessionId>) -> Vec<(usize, Attachment)> {
        let state = self.lock();
        let ranking = state.choice_of(session).ranking(clock::now());
        let attached = ranking.into_iter().filter_map(|ranked| {
            let member = &state.members[ranked.relay];
            let attachment = member.attachment.as_ref();
            let attachment = attachment.filter(|_| member.ended.is_none())?;
            Some((ranked.relay, attachment.clone()))
        });
        attached.collect()
    }

    /// Something was tried through a relay.
    pub(crate) fn outcome(&self, relay: usize, worked: bool) {
        self.decide(|state, now| {
            state.for_each_choice(|choice| choice.outcome(now, relay, worked));
        });
    }

    /// A leg of a session that passed through a relay died, or does not answer.
    pub(crate) fn leg_failed(&self, session: SessionId, relay: usize) {
        self.decide(|state, now| {
            if let Some(followed) = state.followed.get_mut(&session) {
                followed.choice.leg_failed(now, relay);
            }
        });
    }

    /// Why there will be no way any more, if so: no relay is left that may be attached to.
    pub(crate) fn end(&self) -> Option<AttachError> {
        let members = &self.lock().members;
        let is_attached = |member: &Member| member.attachment.is_some();
        let goes_on = |it: &Member| it.ended.is_none() && (!it.retired || is_attached(it));
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
    pub(crate) fn changes(&self) -> Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|changes| *changes += 1);
    }

    /// Changes what is known, and says so where that changes what is chosen.
    fn decide<T>(&self, change: impl FnOnce(&mut State, Time) -> T) -> T {
        let mut state = self.lock();
        let before = state.chosen();
        let outcome = change(&mut state, clock::now());
        let after = state.chosen();
        for (session, chosen) in &after {
            if !before.contains(&(*session, *chosen))
                && let Some(chosen) = *chosen
            {
                state.log_choice(*session, chosen);
            }
        }
        drop(state);
        if before != after {
            self.changed();
        }
        outcome
    }

    fn set_presence(&self, relay: usize, presence: Presence) {
        self.decide(|state, now| {
            state.members[relay].presence = presence;
            state.show_presence(now);
        });
        self.changed();
    }
}

impl State {
    fn log_choice(&self, session: Option<SessionId>, chosen: usize) {
        let name = &self.members[chosen].name;
        match session.and_then(|id| self.followed.get(&id)) {
            Some(followed) => tracing::info!("the relay for {} is {name}", followed.label),
            None => tracing::debug!("the best relay without regard to any peer is {name}"),
        }
    }
}
