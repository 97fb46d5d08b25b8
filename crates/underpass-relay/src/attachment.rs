//! One attachment as its tasks use it: what can be told to its agent, and how it is ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use underpass_endpoint::Session;
use underpass_proto::Time;
use underpass_proto::control::{
    Control, Going, GroupChanged, MeetingsChanged, Notice, RightsChanged,
};

use crate::clock;
use crate::desk::Origin;
use crate::hub::AttachmentId;
use crate::refusal::Refusal;

/// Control channels that an agent may have open at once; it needs one.
pub(crate) const MOST_CONTROLS: usize = 4;
/// Messages said unasked that may wait for an agent to read them; more are left out.
pub(crate) const UNASKED: usize = 16;

/// What is said unasked on one control channel.
#[derive(Debug)]
pub(crate) struct Unasked {
    messages: mpsc::Receiver<Control>,
    told: Arc<Told>,
}

/// What an agent must not miss however slowly it reads.
#[derive(Debug, Default)]
struct Told {
    /// That rights have changed.
    rights: Mark,
    /// That whom it can meet has changed.
    meetings: Mark,
}

/// Something that is said as often as one likes, and at least once after the last time that there was a reason to.
#[derive(Debug, Default)]
struct Mark {
    /// It was left out for want of room, and is to be said once there is room again.
    missed: AtomicBool,
    said: AtomicU64,
}

impl Mark {
    fn next(&self) -> u64 {
        self.said.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn was_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }
}

impl Told {
    fn rights_changed(&self) -> Control {
        let change = self.rights.next();
        RightsChanged { change }.into()
    }

    fn meetings_changed(&self) -> Control {
        let change = self.meetings.next();
        MeetingsChanged { change }.into()
    }
}

impl Unasked {
    /// The next thing to say: one message, or with it what was left out. None once nobody says anything any more.
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Vec<Control> {
        let mut said: Vec<Control> = self.messages.recv().await.into_iter().collect();
        if self.told.rights.was_missed() {
            said.push(self.told.rights_changed());
        }
        if self.told.meetings.was_missed() {
            said.push(self.told.meetings_changed());
        }
        said
    }
}

/// One control channel, as those see it who have something to say there.
#[derive(Debug, Clone)]
struct Speaking {
    messages: mpsc::Sender<Control>,
    told: Arc<Told>,
}

impl Speaking {
    /// Both ends of what is said unasked on one control channel.
    fn new() -> (Self, Unasked) {
        let (sender, messages) = mpsc::channel(UNASKED);
        let told = Arc::new(Told::default());
        let speaking = Self {
            messages: sender,
            told: Arc::clone(&told),
        };
        (speaking, Unasked { messages, told })
    }

    /// Says that rights have changed: now, or once there is room again.
    fn rights_changed(&self) {
        self.say_surely(&self.told.rights, || self.told.rights_changed());
    }

    /// Says that whom the agent can meet has changed: now, or once there is room again.
    fn meetings_changed(&self) {
        self.say_surely(&self.told.meetings, || self.told.meetings_changed());
    }

    fn say_surely(&self, mark: &Mark, message: impl Fn() -> Control) {
        let say = || self.messages.try_send(message()).is_ok();
        if !say() {
            mark.missed.store(true, Ordering::Release);
            // Room that came between is used, so that somebody comes to see the mark.
            say();
        }
    }
}

/// An attached agent.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Its number in the hub.
    pub(crate) id: AttachmentId,
    /// The key of its machine, proven.
    pub(crate) key: [u8; 32],
    /// Who attached it.
    pub(crate) origin: Origin,
    /// Its hop session.
    pub(crate) session: Session,
    /// Where it came from first.
    pub(crate) address: Option<SocketAddr>,
    /// When it attached.
    pub(crate) since: Time,
    /// Open control channels: what is said unasked goes to each.
    controls: Mutex<Vec<Speaking>>,
    /// Whether the hub knows it, so that its links can be reported.
    ready: watch::Sender<bool>,
    failed_codes: AtomicU32,
}

impl Attached {
    /// An agent that has just attached.
    pub(crate) fn new(
        id: AttachmentId,
        key: [u8; 32],
        origin: Origin,
        session: Session,
        address: Option<SocketAddr>,
    ) -> Self {
        Self {
            id,
            key,
            origin,
            session,
            address,
            since: clock::now(),
            controls: Mutex::default(),
            ready: watch::Sender::new(false),
            failed_codes: AtomicU32::new(0),
        }
    }

    /// The hub knows it now.
    pub(crate) fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Waits until the hub knows it. False if the session ended before.
    pub(crate) async fn ready(&self) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::select! {
            ready = ready.wait_for(|ready| *ready) => ready.is_ok(),
            _ = self.session.closed() => false,
        }
    }

    /// A place for one more control channel, if there may be one.
    pub(crate) fn add_control(&self) -> Option<Unasked> {
        let mut controls = self.controls();
        controls.retain(|control| !control.messages.is_closed());
        if controls.len() >= MOST_CONTROLS {
            return None;
        }
        let (speaking, unasked) = Speaking::new();
        controls.push(speaking);
        Some(unasked)
    }

    fn controls(&self) -> MutexGuard<'_, Vec<Speaking>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something unasked; an agent that does not read misses it. Whether it was said to anybody.
    fn say(&self, message: &Control) -> bool {
        let controls = self.controls();
        let said = controls
            .iter()
            .filter(|control| control.messages.try_send(message.clone()).is_ok());
        said.count() > 0
    }

    /// Tells the agent that who may use its services may have changed. It hears of it, if late: what it
    /// did not hear it would go on believing.
    pub(crate) fn rights_changed(&self) {
        for control in self.controls().iter() {
            control.rights_changed();
        }
    }

    /// Tells the agent to ask again whom it can meet. It hears of it, if late: what it did not hear it would wait for.
    pub(crate) fn meetings_changed(&self) {
        for control in self.controls().iter() {
            control.meetings_changed();
        }
    }

    /// Asks the agent to attach to whoever listens in this relay's place. Whether it was there to be asked.
    pub(crate) fn ask_to_move(&self, going: Going) -> bool {
        self.say(&going.into())
    }

    /// Tells the agent's user something.
    pub(crate) fn notify(&self, text: String) {
        self.say(&Notice { text }.into());
    }

    /// Tells the agent that the relays of the group are others now.
    pub(crate) fn tell_group(&self, changed: GroupChanged) {
        self.say(&changed.into());
    }

    /// Tells the agent that the relay is shutting down, and waits until it has read that. An agent
    /// that is slow to do so misses it, and learns the same by the end of its session.
    pub(crate) async fn tell_going(&self, going: Going) {
        const LIMIT: Duration = Duration::from_secs(2);
        self.say(&going.into());
        let controls = self.controls().clone();
        let read = join_all(controls.iter().map(|control| control.messages.closed()));
        let _ = tokio::time::timeout(LIMIT, read).await;
    }

    /// Ends it: the agent reads why in the end of its session.
    pub(crate) fn end(&self, why: &Refusal) {
        tracing::info!(attachment = self.id.0, "attachment ended: {why}");
        self.session.close(why.code, &why.text);
    }

    /// Counts a one-time code that was not good. How many there were on this attachment.
    pub(crate) fn count_failed_code(&self) -> u32 {
        self.failed_codes.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said until nothing more waits to be said.
    async fn said(unasked: &mut Unasked) -> Vec<Control> {
        let mut all = Vec::new();
        while !unasked.messages.is_empty() {
            all.extend(unasked.next().await);
        }
        all
    }

    #[tokio::test]
    async fn who_reads_slowly_misses_notices_but_no_change_of_rights_or_meetings() {
        let is_right = |message: &&Control| matches!(message, Control::RightsChanged(_));
        let is_meeting = |message: &&Control| matches!(message, Control::MeetingsChanged(_));
        let notice = || Control::from(Notice { text: "hi".into() });
        let (speaking, mut unasked) = Speaking::new();
        speaking.rights_changed();
        assert!(said(&mut unasked).await.iter().all(|it| is_right(&it)));
        for full in [UNASKED - 2, UNASKED - 1, UNASKED, 2 * UNASKED] {
            for _ in 0..full {
                let _ = speaking.messages.try_send(notice());
            }
            for _ in 0..5 {
                speaking.rights_changed();
                speaking.meetings_changed();
            }
            let said = said(&mut unasked).await;
            let rights = said.iter().filter(is_right).count();
            let meetings = said.iter().filter(is_meeting).count();
            assert!((1..=2).contains(&rights), "{full}: {said:?}");
            assert!((1..=2).contains(&meetings), "{full}: {said:?}");
        }
    }
}
