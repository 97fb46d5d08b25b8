//! A session that this agent began, kept alive: whatever its legs need, by whichever relay there is.

use std::time::{Duration, Instant};

use underpass_proto::code::Code;
use underpass_proto::session::LegId;

use crate::attachment::Backoff;
use crate::clock;
use crate::connect::{ABSENT, ask_meanwhile};
use crate::plan::{Carrying, Offered, Plan, plan, wanted};
use crate::routes::{RouteLeg, Tickets};
use crate::session::{Joining, Session};
use crate::story::WaitsFor;
use crate::ways::{Detours, Way, Ways};

/// A further leg must carry the session within this.
const RESUME_LIMIT: Duration = Duration::from_secs(25);
/// Where there are several relays, the first one that is tried may take this long.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// The ticket of a session that has ended is deleted if there is a link within this.
const DISCARD_LIMIT: Duration = Duration::from_secs(1);
/// So many refusals in a row, each saying that the session is unknown, end it: one may come from a
/// publisher that is just being replaced.
const MAX_UNKNOWN: u32 = 3;

/// How long a relay may take until another one is asked: longer each time, so that a slow path comes to
/// its end as well.
pub(crate) struct Patience(Duration);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(FIRST_PATIENCE)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(RESUME_LIMIT);
        now
    }
}

/// A session that this agent began.
pub(crate) struct Kept {
    pub(crate) ways: Ways,
    pub(crate) session: Session,
    pub(crate) service: String,
    pub(crate) tickets: Tickets,
}

/// What a further path came to.
enum Attempt {
    /// This leg carries the session.
    Carries(LegId),
    /// Another one may, at once.
    Again,
    /// Nothing carries at the moment; and why, as far as that was said.
    Failed(Option<(u64, String)>),
    /// The session is over.
    Over,
}

/// A leg that carries the session.
struct Taken {
    leg: LegId,
    way: Way,
    /// It does not answer, which has been held against its relay.
    doubted: bool,
}

impl Taken {
    fn new(leg: LegId, way: Way) -> Self {
        let doubted = false;
        Self { leg, way, doubted }
    }
}

/// What has been tried, and what carries the session.
struct Course {
    legs: Vec<Taken>,
    wait: Backoff,
    patience: Patience,
    detours: Detours,
    /// Refusals in a row that say that nobody knows the session.
    unknown: u32,
}

impl Course {
    fn new(leg: LegId, way: Way) -> Self {
        Self {
            legs: vec![Taken::new(leg, way)],
            wait: Backoff::new(),
            patience: Patience::new(),
            detours: Detours::default(),
            unknown: 0,
        }
    }

    fn worked(&mut self, leg: LegId, way: Way, joining: Joining) {
        self.detours.worked(way.relay);
        match joining {
            Joining::Alone => self.legs.clear(),
            Joining::Beside(instead) => self.legs.retain(|old| Some(old.leg) != instead),
        }
        self.legs.push(Taken::new(leg, way));
        (self.unknown, self.patience) = (0, Patience::new());
        self.wait.reset();
    }
}

impl Kept {
    /// Makes new legs for the session whenever it needs some, and has its ticket deleted when it has
    /// ended. Its first one is by `way`.
    pub(crate) async fn alive(self, leg: LegId, way: Way) {
        self.keep_path(Course::new(leg, way)).await;
        // A ticket that stays expires by itself, so nobody waits long for this.
        let first = self.ways.wait(|ways| ways.first().cloned());
        if let Ok(Ok(way)) = tokio::time::timeout(DISCARD_LIMIT, first).await {
            self.tickets.discard(&way.link);
        }
    }

    async fn keep_path(&self, mut course: Course) {
        while let Some((way, joining)) = self.next_leg(&mut course).await {
            let attempt = self.attempt(&way, joining, &mut course).await;
            let reason = match attempt {
                Attempt::Carries(leg) => {
                    self.ways.outcome(&way, true);
                    course.worked(leg, way, joining);
                    continue;
                }
                Attempt::Again => continue,
                Attempt::Failed(reason) => reason,
                Attempt::Over => return,
            };
            // That somebody else is away is not the relay's fault; that nothing comes back may be.
            if reason.is_none() {
                self.ways.outcome(&way, false);
            }
            course.detours.failed(&way, Instant::now());
            let free = || course.detours.any_free(&self.ways.usable(), Instant::now());
            if joining != Joining::Alone || free() {
                continue;
            }
            let pause = course.wait.next();
            if let Some((code, text)) = reason {
                let what = Code::from_number(code).map_or(WaitsFor::FarEnd, WaitsFor::of);
                self.session.waits(what, &text, Some(clock::now() + pause));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until the session needs another leg: the way that it is to take, and how it joins. `None` once the
    /// session is over.
    async fn next_leg(&self, course: &mut Course) -> Option<(Way, Joining)> {
        let mut changes = self.ways.changes();
        loop {
            changes.mark_seen();
            let changed = self.session.next_change();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let carrying = self.carrying(course)?;
            let ways = self.ways.usable();
            match self.plan(&carrying, &ways, &course.detours) {
                Plan::Stay => {}
                Plan::Alone => return self.best(&course.detours).await,
                Plan::Beside { way, instead } => {
                    return Some((ways[way].clone(), Joining::Beside(instead)));
                }
            }
            let over = course.detours.next_over(Instant::now());
            let detour_over = async {
                match over {
                    Some(over) => tokio::time::sleep_until(over.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = changes.next() => {}
                () = detour_over => {}
            }
        }
    }

    /// What carries the session; `None` once it is over. A relay that does not answer is avoided where there is
    /// another one.
    fn carrying(&self, course: &mut Course) -> Option<Vec<Carrying>> {
        let active = self.session.legs()?;
        let of = |leg: LegId| active.iter().find(|info| info.leg == leg);
        let mut carrying = Vec::with_capacity(course.legs.len());
        course.legs.retain_mut(|Taken { leg, way, doubted }| {
            let info = of(*leg);
            let link = way.link.serial();
            let replaced = way.attachment.is_replaced(link);
            // One that was replaced may end as it likes.
            let suspect = info.is_none_or(|info| info.suspect);
            if suspect && !replaced && !std::mem::replace(doubted, suspect) {
                self.ways.leg_failed(way);
            }
            if info.is_none() {
                return false;
            }
            if suspect && !replaced && self.ways.another_relay(way) {
                course.detours.avoid(way, Instant::now());
            }
            *doubted &= suspect;
            carrying.push(Carrying {
                leg: *leg,
                relay: way.relay,
                link,
                suspect,
            });
            true
        });
        Some(carrying)
    }

    fn plan(&self, carrying: &[Carrying], ways: &[Way], detours: &Detours) -> Plan {
        let now = Instant::now();
        let offered = ways.iter().map(|way| Offered {
            relay: way.relay,
            link: way.link.serial(),
            free: !detours.is_on(way, now),
        });
        let offered: Vec<Offered> = offered.collect();
        let session = &self.session;
        // The peer knows the session once it has answered.
        let want = match session.is_established() {
            true => wanted(self.ways.legs(), session.splits_ways(), session.max_legs()),
            false => 1,
        };
        plan(carrying, &offered, want)
    }

    /// The way for a leg that is to take the place of all others, waiting for one if there is none.
    async fn best(&self, detours: &Detours) -> Option<(Way, Joining)> {
        self.session.waits(WaitsFor::Relay, "", None);
        match self.ways.next(detours).await {
            Ok(way) => Some((way, Joining::Alone)),
            Err(error) => {
                self.session.close(error.code(), &error.to_string());
                None
            }
        }
    }

    /// Tries to resume by a way.
    async fn attempt(&self, way: &Way, joining: Joining, course: &mut Course) -> Attempt {
        let Way {
            attachment, link, ..
        } = way;
        let session = &self.session;
        let alone = joining == Joining::Alone;
        if alone {
            session.waits(WaitsFor::FarEnd, "", None);
        }
        let limit = match self.ways.another_relay(way) && alone {
            true => course.patience.next(),
            false => RESUME_LIMIT,
        };
        let (routes, keep_s) = (&attachment.inner.routes, attachment.keep_s());
        let port = routes.resume(link, &self.service, keep_s, session, &self.tickets, joining);
        let leg = port.id();
        let overtaken = async {
            match alone {
                // The best relay can be reached again: nobody waits for another one meanwhile.
                true => self.ways.better_than(way, &course.detours).await,
                // What the session can do without must not keep it from what it needs.
                false => self.in_need().await,
            }
        };
        let active = tokio::select! {
            biased;
            active = tokio::time::timeout(limit, session.leg_active(leg)) => active == Ok(true),
            () = attachment.link_replaced(link.serial()) => false,
            () = overtaken => {
                session.leg_lost(leg);
                return Attempt::Again;
            }
            () = self.absent(&port, way, &course.detours) => {
                session.leg_lost(leg);
                return Attempt::Failed(Some((Code::ServiceAway.number(), ABSENT.to_owned())));
            }
            never = ask_meanwhile(link) => match never {},
        };
        if active {
            return Attempt::Carries(leg);
        }
        session.leg_lost(leg);
        if attachment.is_replaced(link.serial()) {
            return Attempt::Again;
        }
        self.gone(&port, alone, &mut course.unknown)
    }

    /// Waits until the relay has said that the far end is not attached there, and another one may be asked at once.
    async fn absent(&self, port: &RouteLeg, way: &Way, detours: &Detours) {
        let mut changes = self.ways.changes();
        loop {
            changes.mark_seen();
            let changed = self.session.next_change();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if port.is_absent() && self.ways.free_elsewhere(way, detours) {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = changes.next() => {}
            }
        }
    }

    /// Waits until no leg is left that answers.
    async fn in_need(&self) {
        loop {
            let changed = self.session.next_change();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let legs = self.session.legs().unwrap_or_default();
            if legs.iter().all(|leg| leg.suspect) {
                return;
            }
            changed.await;
        }
    }

    /// What is to be made of a leg that never carried the session.
    fn gone(&self, port: &RouteLeg, alone: bool, unknown: &mut u32) -> Attempt {
        let gone = port.gone_because();
        match &gone {
            Some((code, _)) if is_no_ticket(*code) => {
                if let Some(ticket) = port.presented() {
                    // At most two are refused, then a name opens the route.
                    self.tickets.refused(ticket);
                    return Attempt::Again;
                }
            }
            // Where other legs carry the session it is not for this one to end it.
            _ if !alone => {}
            Some((code, text)) if is_unknown(*code) => {
                *unknown += 1;
                if *unknown >= MAX_UNKNOWN {
                    let code = Code::from_number(*code).unwrap_or(Code::UnknownSession);
                    self.session.close(code, text);
                    return Attempt::Over;
                }
            }
            Some((code, text)) if is_final(*code) => {
                let code = Code::from_number(*code).unwrap_or(Code::Internal);
                self.session.close(code, text);
                return Attempt::Over;
            }
            _ => {}
        }
        Attempt::Failed(gone)
    }
}

/// The session is not known any more, or its service: it was withdrawn.
fn is_unknown(code: u64) -> bool {
    let code = Code::from_number(code);
    matches!(code, Some(Code::UnknownSession | Code::NoService))
}

fn is_no_ticket(code: u64) -> bool {
    matches!(Code::from_number(code), Some(Code::TicketUnknown))
}

/// What no further attempt can change.
pub(crate) fn is_final(code: u64) -> bool {
    matches!(
        Code::from_number(code),
        Some(
            Code::Denied
                | Code::Ended
                | Code::KeyMismatch
                | Code::MonthLimit
                | Code::NotEnrolled
                | Code::GradeRefused,
        )
    )
}
