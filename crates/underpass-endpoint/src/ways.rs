//! Where a session finds its next path: the one relay there is, or the best of several.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use underpass_proto::packet::SessionId;

use crate::attachment::{AttachError, Attachment};
use crate::fleet::Fleet;
use crate::link::Link;
use crate::session::Session;

/// A relay through which a session was not carried is left alone for so long at first, where there are
/// others; then twice as long each time.
const FIRST_DETOUR: Duration = Duration::from_secs(5);
/// The longest time for which it is.
const LONGEST_DETOUR: Duration = Duration::from_secs(300);

/// A link to a relay, on which a path can be opened.
#[derive(Clone)]
pub(crate) struct Way {
    /// The relay's number among all of them.
    pub(crate) relay: usize,
    pub(crate) attachment: Attachment,
    pub(crate) link: Arc<Link>,
}

/// All ways that an agent has.
#[derive(Clone)]
pub(crate) enum Ways {
    /// By one relay.
    One(Attachment),
    /// By several; for which session, once there is one.
    Fleet(Fleet, Option<SessionId>),
}

/// Tells that ways may have come or gone.
pub(crate) enum Changes {
    One(
        watch::Receiver<Option<Arc<Link>>>,
        watch::Receiver<Option<AttachError>>,
    ),
    Fleet(watch::Receiver<u64>),
}

impl Changes {
    /// What has changed until now is known.
    pub(crate) fn mark_seen(&mut self) {
        match self {
            Changes::One(links, ends) => {
                links.mark_unchanged();
                ends.mark_unchanged();
            }
            Changes::Fleet(changes) => changes.mark_unchanged(),
        }
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        let left = match self {
            Changes::One(links, ends) => tokio::select! {
                changed = links.changed() => changed,
                changed = ends.changed() => changed,
            },
            Changes::Fleet(changes) => changes.changed().await,
        };
        if left.is_err() {
            // Nobody is left who could change anything.
            std::future::pending::<()>().await;
        }
    }
}

impl Ways {
    /// The same ways for a session that there is by now: what is best for it depends on its peer too.
    pub(crate) fn follow(&self, session: &Session, label: &str) -> Self {
        match self {
            Ways::One(attachment) => Ways::One(attachment.clone()),
            Ways::Fleet(fleet, _) => {
                fleet.follow(session, label.to_owned());
                Ways::Fleet(fleet.clone(), Some(session.id()))
            }
        }
    }

    /// Those that can be used now, the best first.
    pub(crate) fn usable(&self) -> Vec<Way> {
        let way = |relay: usize, attachment: Attachment| {
            let link = attachment.present_link()?;
            Some(Way {
                relay,
                attachment,
                link,
            })
        };
        match self {
            Ways::One(attachment) => way(0, attachment.clone()).into_iter().collect(),
            Ways::Fleet(fleet, session) => {
                let members = fleet.in_order(*session).into_iter();
                members
                    .filter_map(|(relay, attachment)| way(relay, attachment))
                    .collect()
            }
        }
    }

    fn end(&self) -> Option<AttachError> {
        match self {
            Ways::One(attachment) => attachment.end(),
            Ways::Fleet(fleet, _) => fleet.end(),
        }
    }

    pub(crate) fn changes(&self) -> Changes {
        match self {
            Ways::One(attachment) => Changes::One(attachment.links(), attachment.ends()),
            Ways::Fleet(fleet, _) => Changes::Fleet(fleet.changes()),
        }
    }

    /// Waits until `look` finds what it looks for among the usable ways. Cancel safe.
    ///
    /// # Errors
    /// There will be no way any more.
    pub(crate) async fn wait<T>(
        &self,
        mut look: impl FnMut(&[Way]) -> Option<T>,
    ) -> Result<T, AttachError> {
        let mut changes = self.changes();
        loop {
            changes.mark_seen();
            if let Some(end) = self.end() {
                return Err(end);
            }
            if let Some(found) = look(&self.usable()) {
                return Ok(found);
            }
            changes.next().await;
        }
    }

    /// The way to try next, waiting for one if there is none.
    ///
    /// # Errors
    /// There will be no way any more.
    pub(crate) async fn next(&self, detours: &Detours) -> Result<Way, AttachError> {
        self.wait(|ways| detours.pick(ways, Instant::now()).cloned())
            .await
    }

    /// Waits until another relay than that of `tried` would be taken: a better one is there again, or `tried` was taken
    /// because there was no other. Cancel safe.
    pub(crate) async fn better_than(&self, tried: &Way, detours: &Detours) {
        let better = |ways: &[Way]| {
            let now = Instant::now();
            let picked = detours.pick(ways, now)?;
            (picked.relay != tried.relay && !detours.is_on(picked, now)).then_some(())
        };
        if self.wait(better).await.is_err() {
            // What is tried may work all the same.
            std::future::pending::<()>().await;
        }
    }

    /// Whether a way by another relay than that of `tried` may be taken at once.
    pub(crate) fn free_elsewhere(&self, tried: &Way, detours: &Detours) -> bool {
        let ways = self.usable().into_iter();
        let others: Vec<Way> = ways.filter(|way| way.relay != tried.relay).collect();
        detours.any_free(&others, Instant::now())
    }

    /// How many legs are to carry a session at once, each by another relay.
    pub(crate) fn legs(&self) -> usize {
        match self {
            Ways::One(_) => 1,
            Ways::Fleet(fleet, _) => fleet.legs(),
        }
    }

    /// Something was tried by a way.
    pub(crate) fn outcome(&self, way: &Way, worked: bool) {
        if let Ways::Fleet(fleet, _) = self {
            fleet.outcome(way.relay, worked);
        }
    }

    /// A leg that took a way died, or does not answer.
    pub(crate) fn leg_failed(&self, way: &Way) {
        if let Ways::Fleet(fleet, Some(session)) = self {
            fleet.leg_failed(*session, way.relay);
        }
    }

    /// Whether there is a way by another relay now.
    pub(crate) fn another_relay(&self, way: &Way) -> bool {
        self.usable().iter().any(|other| other.relay != way.relay)
    }
}

/// The relays that one session does not take for a while, because it was not carried there.
#[derive(Debug, Default)]
pub(crate) struct Detours(HashMap<usize, Detour>);

#[derive(Debug)]
struct Detour {
    until: Instant,
    pause: Duration,
    /// Of the link by which it failed: another link to the same relay is another way.
    serial: u64,
}

impl Detours {
    /// The session was not carried by this way.
    pub(crate) fn failed(&mut self, way: &Way, now: Instant) {
        let known = self.0.get(&way.relay);
        let pause = known.map_or(FIRST_DETOUR, |it| (it.pause * 2).min(LONGEST_DETOUR));
        let until = now + pause;
        let serial = way.link.serial();
        let detour = Detour {
            until,
            pause,
            serial,
        };
        self.0.insert(way.relay, detour);
    }

    /// The session's path by this way is in doubt.
    pub(crate) fn avoid(&mut self, way: &Way, now: Instant) {
        if !self.is_on(way, now) {
            self.failed(way, now);
        }
    }

    /// The session is carried through this relay.
    pub(crate) fn worked(&mut self, relay: usize) {
        self.0.remove(&relay);
    }

    /// Whether it is not taken now.
    pub(crate) fn is_on(&self, way: &Way, now: Instant) -> bool {
        let known = self.0.get(&way.relay);
        known.is_some_and(|it| it.serial == way.link.serial() && now < it.until)
    }

    /// The first of the ways that is not to be left alone; where all are, the one for which that is over
    /// first.
    fn pick<'a>(&self, ways: &'a [Way], now: Instant) -> Option<&'a Way> {
        let free = ways.iter().find(|way| !self.is_on(way, now));
        let until = |way: &&Way| self.0.get(&way.relay).map(|it| it.until);
        free.or_else(|| ways.iter().min_by_key(until))
    }

    /// Whether one of the ways may be taken at once.
    pub(crate) fn any_free(&self, ways: &[Way], now: Instant) -> bool {
        ways.iter().any(|way| !self.is_on(way, now))
    }

    /// When the next detour is over.
    pub(crate) fn next_over(&self, now: Instant) -> Option<Instant> {
        let ahead = self.0.values().map(|it| it.until);
        ahead.filter(|until| now < *until).min()
    }
}
