//! One attachment as its tasks use it: what can be told to its agent, and how it is ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use underpass_endpoint::Session;
use underpass_proto::Time;
use underpass_proto::control::{Control, Going, GroupChanged, Notice};

use crate::clock;
use crate::desk::Origin;
use crate::hub::AttachmentId;
use crate::refusal::Refusal;

/// Control channels that an agent may have open at once; it needs one.
pub(crate) const MOST_CONTROLS: usize = 4;
/// Messages said unasked that may wait for an agent to read them; more are left out.
pub(crate) const UNASKED: usize = 16;

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
    controls: Mutex<Vec<mpsc::Sender<Control>>>,
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
    pub(crate) fn add_control(&self) -> Option<mpsc::Receiver<Control>> {
        let mut controls = self.controls();
        controls.retain(|control| !control.is_closed());
        if controls.len() >= MOST_CONTROLS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(UNASKED);
        controls.push(sender);
        Some(receiver)
    }

    fn controls(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Control>>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something unasked; an agent that does not read misses it. Whether it was said to anybody.
    fn say(&self, message: &Control) -> bool {
        let controls = self.controls();
        let said = controls
            .iter()
            .filter(|control| control.try_send(message.clone()).is_ok());
        said.count() > 0
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
        let read = join_all(controls.iter().map(mpsc::Sender::closed));
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
