//! What is kept in mind of the network that this machine is on, from one start to the next.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use underpass_carrier::ladder::{Held, HeldAgainst, Remembered};
use underpass_carrier::{Kind, PathBounds};

use crate::network::Notebook;

/// Bodies are never kept smaller than this, in bytes, because of what was remembered.
const SMALLEST_BODY: usize = 1024;
/// Requests are never held shorter than this because of what was remembered.
const SHORTEST_HOLD: Duration = Duration::from_secs(1);

/// The page of the notebook that is open, and the notebook.
pub(crate) struct Recall {
    notebook: Notebook,
    network: String,
    known: Remembered,
    /// What of it was read, or written down, last.
    noted: Remembered,
}

impl Recall {
    pub(crate) fn new(memory: Option<PathBuf>) -> Self {
        Recall {
            notebook: Notebook::new(memory),
            network: String::new(),
            known: Remembered::default(),
            noted: Remembered::default(),
        }
    }

    /// Whether this is the network of which `known` tells.
    pub(crate) fn is_on(&self, network: &str) -> bool {
        self.network == network
    }

    /// Turns to what is remembered of this network.
    pub(crate) fn enter(&mut self, network: String) {
        self.known = self.notebook.recall(&network).unwrap_or_default();
        self.noted = self.known.clone();
        self.network = network;
    }

    /// What is known of it.
    pub(crate) fn known(&self) -> &Remembered {
        &self.known
    }

    /// The bounds of the path that are known of it.
    pub(crate) fn bounds(&self) -> PathBounds {
        PathBounds {
            largest_body: self.known.largest_body.map(|it| it.max(SMALLEST_BODY)),
            longest_hold: self.known.longest_hold.map(|it| it.max(SHORTEST_HOLD)),
        }
    }

    /// What is still held against these carriers.
    pub(crate) fn held(&self, carriers: &[&'static Kind]) -> Vec<Held> {
        let held = |(held, retry_in): (&HeldAgainst, Duration)| {
            let rung = carriers.iter().position(|it| it.name == held.carrier)?;
            Some(Held {
                rung,
                failures: held.failures,
                retry_in,
            })
        };
        self.known.held_at(unix_now()).filter_map(held).collect()
    }

    /// Something carries here.
    pub(crate) fn carries(&mut self, carrier: &str) {
        self.change(|known| known.best = carrier.to_owned());
    }

    /// Bodies of this size were seen to pass, and larger ones not.
    pub(crate) fn passes(&mut self, largest_body: usize) {
        self.change(|known| known.largest_body = Some(largest_body));
    }

    /// Takes up what the carriers have run into, what is held against them, and how often something
    /// must be said.
    pub(crate) fn learn(
        &mut self,
        bounds: PathBounds,
        held: &[Held],
        carriers: &[&'static Kind],
        keepalive: Option<Duration>,
    ) {
        self.change(|known| {
            known.largest_body = bounds.largest_body.or(known.largest_body);
            let whole = |hold: Duration| Duration::from_secs(hold.as_secs());
            known.longest_hold = bounds.longest_hold.map(whole).or(known.longest_hold);
            known.keepalive = keepalive;
            known.held = merged(&known.held, held, carriers, unix_now());
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut Remembered)) {
        change(&mut self.known);
        // Where nothing ever carried there is nothing to come back to.
        let news = self.known != self.noted && !self.known.best.is_empty();
        if news && self.notebook.note(&self.network, &self.noted, &self.known) {
            self.noted = self.known.clone();
        }
    }
}

/// What is held against carriers now. What was noted before stays as it is, so that the file is
/// written when something has happened, and not with every second that has passed.
fn merged(
    noted: &[HeldAgainst],
    held: &[Held],
    carriers: &[&'static Kind],
    now: u64,
) -> Vec<HeldAgainst> {
    let note = |held: &Held| {
        let name = carriers.get(held.rung)?.name;
        let same = |it: &&HeldAgainst| it.carrier == name && it.failures == held.failures;
        let known = noted.iter().find(same).filter(|it| it.until > now);
        Some(known.cloned().unwrap_or_else(|| HeldAgainst {
            carrier: name.to_owned(),
            failures: held.failures,
            until: now + held.retry_in.as_secs() + 1,
        }))
    };
    held.iter().filter_map(note).collect()
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use underpass_carrier::KINDS;

    use super::*;

    fn carriers() -> Vec<&'static Kind> {
        KINDS.iter().collect()
    }

    fn held(rung: usize, failures: u32, seconds: u64) -> Held {
        Held {
            rung,
            failures,
            retry_in: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn the_passing_of_time_is_no_news() {
        let now = 1_800_000_000;
        let first = merged(&[], &[held(0, 1, 60), held(2, 3, 240)], &carriers(), now);
        let untils: Vec<_> = first.iter().map(|it| it.until - now).collect();
        assert_eq!(untils, [61, 241]);
        let later = [held(0, 1, 30), held(2, 3, 210)];
        assert_eq!(merged(&first, &later, &carriers(), now + 30), first);
        let again = merged(&first, &[held(0, 2, 120)], &carriers(), now + 61);
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].failures, again[0].until), (2, now + 61 + 121));
    }

    #[test]
    fn two_agents_of_one_home_keep_what_the_other_has_learnt() {
        let folder = std::env::temp_dir().join(format!("underpass-{:x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("networks");
        let mut agents = [(); 2].map(|()| Recall::new(Some(path.clone())));
        for agent in &mut agents {
            agent.enter("home".into());
            agent.carries("posts");
        }
        let [one, other] = &mut agents;
        one.learn(PathBounds::default(), &[held(0, 1, 100)], &carriers(), None);
        let keepalive = Some(Duration::from_millis(2500));
        let refused = [held(2, 2, 100)];
        other.learn(PathBounds::default(), &refused, &carriers(), keepalive);
        one.passes(64_000);

        let mut again = Recall::new(Some(path));
        again.enter("home".into());
        let rungs: Vec<usize> = again.held(&carriers()).iter().map(|it| it.rung).collect();
        assert_eq!(rungs, [0, 2]);
        assert_eq!(again.known().keepalive, keepalive);
        assert_eq!(again.known().largest_body, Some(64_000));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_was_learnt_is_there_after_a_restart() {
        let folder = std::env::temp_dir().join(format!("underpass-{:x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("networks");
        let mut recall = Recall::new(Some(path.clone()));
        recall.enter("home".into());
        let bounds = PathBounds {
            largest_body: Some(250_000),
            longest_hold: Some(Duration::from_millis(9500)),
        };
        let keepalive = Some(Duration::from_millis(2500));
        let refused = [held(1, 2, 100)];
        recall.learn(bounds, &refused, &carriers(), keepalive);
        assert!(!path.exists(), "nothing has carried here");
        recall.carries("posts");
        recall.learn(bounds, &refused, &carriers(), keepalive);

        let mut again = Recall::new(Some(path));
        again.enter("elsewhere".into());
        assert_eq!(again.known(), &Remembered::default());
        again.enter("home".into());
        assert_eq!(again.known(), recall.known());
        assert_eq!(again.bounds().largest_body, Some(250_000));
        assert_eq!(again.bounds().longest_hold, Some(Duration::from_secs(9)));
        let remembered = again.held(&carriers());
        assert_eq!((remembered[0].rung, remembered[0].failures), (1, 2));
        assert!(remembered[0].retry_in > Duration::from_secs(60));
        assert_eq!(again.held(&[]), [], "no such carrier is allowed now");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
