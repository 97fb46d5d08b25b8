//! What users pass through this relay: counted for the table of usage, and no faster than each of them may.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use underpass_proto::Time;
use underpass_store::{Used, UserId};

use crate::clock;
use crate::rate::Bucket;

/// Where something goes, seen from the user on whose account it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the user's machine.
    Sent,
    /// To it.
    Received,
}

/// Bytes per second for each user; 0 for as fast as it goes.
#[derive(Debug, Default)]
struct Rates {
    usual: u64,
    exceptions: HashMap<UserId, u64>,
}

impl Rates {
    fn of(&self, user: UserId) -> u64 {
        self.exceptions.get(&user).copied().unwrap_or(self.usual)
    }
}

/// The meters of all users; clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rates: RwLock<Rates>,
    users: Mutex<HashMap<UserId, Arc<Pace>>>,
    meters: Mutex<HashMap<(UserId, String), Arc<Meter>>>,
}

/// How fast one user is, in all sessions together.
#[derive(Debug, Default)]
struct Pace {
    /// Bytes per second; 0 for as fast as it goes.
    rate: AtomicU64,
    sent: Mutex<Bucket>,
    received: Mutex<Bucket>,
    /// Something had to wait since the last sweep.
    held: AtomicBool,
}

impl Pace {
    fn bucket(&self, direction: Direction) -> MutexGuard<'_, Bucket> {
        lock(match direction {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        })
    }
}

/// What one user passes to and from one service.
#[derive(Debug)]
pub(crate) struct Meter {
    pace: Arc<Pace>,
    sessions: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// A session begins.
    pub(crate) fn begin(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether something may pass now.
    ///
    /// # Errors
    /// When it may.
    pub(crate) fn ready(&self, direction: Direction) -> Result<(), Time> {
        if self.pace.rate.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let ready = self.pace.bucket(direction).ready(clock::now());
        if ready.is_err() {
            self.pace.held.store(true, Ordering::Relaxed);
        }
        ready
    }

    /// So many bytes pass.
    pub(crate) fn pass(&self, direction: Direction, bytes: usize) {
        let count = match direction {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        };
        count.fetch_add(bytes as u64, Ordering::Relaxed);
        let rate = self.pace.rate.load(Ordering::Relaxed);
        if rate > 0 {
            let now = clock::now();
            self.pace.bucket(direction).spend(bytes, rate, now);
        }
    }

    /// As [`Meter::pass`], once they may.
    pub(crate) async fn pass_in_time(&self, direction: Direction, bytes: usize) {
        while let Err(at) = self.ready(direction) {
            tokio::time::sleep_until(clock::instant(at)).await;
        }
        self.pass(direction, bytes);
    }

    fn take(&self) -> Used {
        Used {
            sessions: self.sessions.swap(0, Ordering::Relaxed),
            sent: self.sent.swap(0, Ordering::Relaxed),
            received: self.received.swap(0, Ordering::Relaxed),
        }
    }
}

impl Meters {
    /// Says how fast users may be: each of them `usual` bytes per second, but for the exceptions; 0 for as fast as it
    /// goes. What passes already goes by that from now on.
    pub(crate) fn set_rates(&self, usual: u64, exceptions: HashMap<UserId, u64>) {
        let mut rates = self.0.rates.write().unwrap_or_else(PoisonError::into_inner);
        *rates = Rates { usual, exceptions };
        for (user, pace) in lock(&self.0.users).iter() {
            pace.rate.store(rates.of(*user), Ordering::Relaxed);
        }
    }

    /// The meter of a user and a service, `NAME.OWNER`.
    pub(crate) fn meter(&self, user: UserId, service: &str) -> Arc<Meter> {
        // Held until the pace is in its table, or a change would pass it by.
        let rates = self.0.rates.read().unwrap_or_else(PoisonError::into_inner);
        let mut meters = lock(&self.0.meters);
        let entry = meters.entry((user, service.to_owned()));
        let meter = entry.or_insert_with(|| {
            let mut users = lock(&self.0.users);
            let pace = users.entry(user).or_insert_with(|| {
                let rate = AtomicU64::new(rates.of(user));
                Arc::new(Pace {
                    rate,
                    ..Pace::default()
                })
            });
            Arc::new(Meter {
                pace: Arc::clone(pace),
                sessions: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
            })
        });
        Arc::clone(meter)
    }

    /// What has passed since the last time, and forgets meters that nobody uses any more.
    pub(crate) fn sweep(&self) -> Vec<(UserId, String, Used)> {
        let mut swept = Vec::new();
        lock(&self.0.meters).retain(|(user, service), meter| {
            // Looked at before what it counted is taken: who lets go of it meanwhile is found the next time.
            let in_use = Arc::strong_count(meter) > 1;
            let used = meter.take();
            if !used.is_none() {
                swept.push((*user, service.clone(), used));
            }
            in_use
        });
        swept
    }

    /// The users who had to wait since the last time because they were too fast, and how fast they may be.
    pub(crate) fn take_held(&self) -> Vec<(UserId, u64)> {
        let mut held = Vec::new();
        lock(&self.0.users).retain(|user, pace| {
            if pace.held.swap(false, Ordering::Relaxed) {
                held.push((*user, pace.rate.load(Ordering::Relaxed)));
            }
            Arc::strong_count(pace) > 1
        });
        held
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserId = UserId(1);

    #[test]
    fn what_passes_is_told_once_and_meters_are_forgotten() {
        let meters = Meters::default();
        let meter = meters.meter(ALICE, "db.bob");
        meter.begin();
        meter.pass(Direction::Sent, 7);
        meters.meter(ALICE, "db.bob").pass(Direction::Received, 9);
        let used = Used {
            sessions: 1,
            sent: 7,
            received: 9,
        };
        assert_eq!(meters.sweep(), [(ALICE, "db.bob".to_owned(), used)]);
        assert_eq!(meters.sweep(), []);
        meter.pass(Direction::Sent, 1);
        drop(meter);
        assert_eq!(meters.sweep().len(), 1);
        assert!(lock(&meters.0.meters).is_empty());
        meters.take_held();
        assert!(lock(&meters.0.users).is_empty());
    }

    #[test]
    fn a_rate_is_of_the_user_and_changes_at_once() {
        let meters = Meters::default();
        let [one, other] = ["db.bob", "web.bob"].map(|service| meters.meter(ALICE, service));
        let flood = |meter: &Meter| meter.pass(Direction::Sent, 100 << 20);
        flood(&one);
        assert_eq!(one.ready(Direction::Sent), Ok(()));
        meters.set_rates(0, HashMap::from([(ALICE, 1000)]));
        flood(&one);
        assert!(other.ready(Direction::Sent).is_err(), "of all together");
        assert_eq!(other.ready(Direction::Received), Ok(()), "each way");
        assert_eq!(meters.take_held(), [(ALICE, 1000)]);
        assert_eq!(meters.take_held(), []);
        let bob = meters.meter(UserId(2), "db.bob");
        flood(&bob);
        assert_eq!(bob.ready(Direction::Sent), Ok(()));
        meters.set_rates(0, HashMap::new());
        assert_eq!(one.ready(Direction::Sent), Ok(()));
    }
}
