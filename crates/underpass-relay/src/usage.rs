//! Brings what [meters](crate::meter) have counted into the store, from time to time.
//!
//! A sweep is one transaction, whatever has passed, and at most one entry for each user, service and day. What was
//! counted since the last one is lost when the process is killed; what the store could not take waits for the next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use underpass_proto::limit::LimitKind;
use underpass_store::{Day, Fault, NewUsage, Store, UnixMillis, Used, UserId};

use crate::clock;
use crate::limits::UserLimits;
use crate::log::{Kind, Log, Note};
use crate::meter::Meters;
use crate::switch::Switch;

/// How often old usage is forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What waits for the store: at most one entry for each user, service and day.
#[derive(Debug, Default)]
struct Waiting(HashMap<(Day, UserId, String), Used>);

impl Waiting {
    fn add(&mut self, day: Day, swept: Vec<(UserId, String, Used)>) {
        for (user, service, used) in swept {
            self.0.entry((day, user, service)).or_default().add(used);
        }
    }

    fn entries(&self) -> Vec<NewUsage> {
        let entry = |((day, user, service), used): (&(Day, UserId, String), &Used)| NewUsage {
            day: *day,
            user: *user,
            service: service.clone(),
            used: *used,
        };
        self.0.iter().map(entry).collect()
    }
}

/// Sweeps meters into the table of usage, and has the limits of a month hold.
pub(crate) struct Sweeper {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) meters: Meters,
    pub(crate) limits: UserLimits,
    pub(crate) log: Log,
    /// Between two sweeps.
    pub(crate) every: Duration,
    /// For how long usage is kept.
    pub(crate) keep: Duration,
}

/// What a sweeper remembers from one sweep to the next.
#[derive(Debug, Default)]
struct Course {
    waiting: Waiting,
    /// The month that `warned` is about, by its first day.
    month: Option<Day>,
    /// Who was told in this month that it is nearly used up.
    warned: HashSet<UserId>,
    /// Who was found to have used it up.
    exhausted: HashSet<UserId>,
    failing: bool,
}

impl Sweeper {
    /// Sweeps until `stop`, and once more then.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut course = Course::default();
        let mut prune_after = clock::now();
        loop {
            let stopped = stop
                .run_until_cancelled(tokio::time::sleep(self.every))
                .await;
            let now = clock::calendar();
            self.sweep(&mut course, now).await;
            if stopped.is_none() {
                return;
            }
            if clock::now() >= prune_after {
                prune_after = clock::now() + PRUNE_EVERY;
                let before = Day::of(now.saturating_sub(self.keep));
                if let Err(fault) = self.store.prune_usage(before).await {
                    tracing::warn!("old usage was not forgotten: {fault}");
                }
            }
        }
    }

    async fn sweep(&self, course: &mut Course, now: UnixMillis) {
        course.waiting.add(Day::of(now), self.meters.sweep());
        let swept = match self.store.add_usage(&course.waiting.entries()).await {
            Ok(()) => {
                course.waiting = Waiting::default();
                self.keep_months(course, now).await
            }
            Err(fault) => Err(fault),
        };
        match swept {
            Ok(()) => course.failing = false,
            Err(fault) => {
                if !std::mem::replace(&mut course.failing, true) {
                    tracing::warn!("usage cannot be written: {fault}");
                }
            }
        }
        for (user, rate) in self.meters.take_held() {
            let limit = format!("{rate} {}", LimitKind::BytesPerSecond.what());
            let note = Note::new(Kind::Limit).with("limit", limit);
            self.log.write(note.by(&self.name_of(user).await));
        }
    }

    /// Looks who has used up a month, all relays on the store together.
    async fn keep_months(&self, course: &mut Course, now: UnixMillis) -> Result<(), Fault> {
        let kind = LimitKind::BytesPerMonth;
        let used = match self.limits.any(kind) {
            true => {
                let month = Day::of(now).first_of_month();
                if course.month.replace(month) != Some(month) {
                    course.warned.clear();
                }
                self.store.used_since(month).await?
            }
            false => Vec::new(),
        };
        for (user, used) in &used {
            if let Some(most) = self.limits.is_near(*user, *used)
                && course.warned.insert(*user)
            {
                self.warn(*user, *used, most).await;
            }
        }
        let found = self.limits.find_exhausted(&used);
        for (user, why) in &found {
            if !course.exhausted.contains(user) {
                let note = Note::of_refusal(Kind::Limit, why);
                self.log.write(note.by(&self.name_of(*user).await));
            }
        }
        course.exhausted = found.keys().copied().collect();
        self.switch.set_exhausted(found);
        Ok(())
    }

    async fn warn(&self, user: UserId, used: u64, most: u64) {
        let note = Note::new(Kind::LimitNear)
            .with("limit", LimitKind::BytesPerMonth.word())
            .with("used", used)
            .with("value", most);
        self.log.write(note.by(&self.name_of(user).await));
        let text = format!(
            "{used} of the {most} bytes of this month are used; when all are, connections end until the next month \
             (UTC), or until a manager raises the limit: underpass users limit USER --bytes-per-month SIZE"
        );
        self.switch.notify(user, &text);
    }

    /// For the log. Where the store cannot be asked now, the number has to do.
    async fn name_of(&self, user: UserId) -> String {
        match self.store.user(user).await {
            Ok(Some(user)) => user.name.to_string(),
            Ok(None) | Err(_) => format!("#{}", user.0),
        }
    }
}
