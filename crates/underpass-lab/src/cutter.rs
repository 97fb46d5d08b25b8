//! Breaks a path again and again, in ways and at moments that a seed decides.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::boxes::Stubborn;
use crate::firewall::Firewall;
use crate::link::Link;
use crate::middlebox::Middlebox;
use crate::process::Process;

/// One way to break a path. Those that last are undone after an outage of random length.
#[derive(Clone)]
pub enum Cut {
    /// The firewall resets the TCP flows that exist, wherever in a frame they are.
    Reset(Firewall),
    /// The firewall forgets the flows that exist and drops their packets silently.
    Forget(Firewall),
    /// Everything vanishes at the firewall for a while.
    BlackHole(Firewall),
    /// The cable is out for a while.
    Unplug(Link),
    /// The box in the cable holds everything for a while, then lets it go.
    Hold(Link),
    /// The box in the cable puts resets into all flows.
    Inject(Link),
    /// A box that stands between closes the TCP connections through it, wherever in a frame they are.
    Close(Middlebox),
    /// A stubborn proxy does the same.
    Sever(Stubborn),
    /// The process is frozen for a while.
    Freeze(Process),
    /// The process is killed and started again.
    Restart(Process),
}

/// When the next cut comes.
#[derive(Clone)]
pub enum Pace {
    /// After a random time within the range.
    Time(Range<Duration>),
    /// When the counter has grown by a random amount within the range: as many cuts fall into a slow run as into a fast
    /// one.
    Progress(Arc<AtomicU64>, Range<u64>),
}

/// What a [`Cutter`] is to do.
#[derive(Clone)]
pub struct Plan {
    /// Decides which cuts come when; the same seed makes the same choices.
    pub seed: u64,
    /// The ways to choose from.
    pub cuts: Vec<Cut>,
    /// When they come.
    pub pace: Pace,
    /// How long those that last do.
    pub outage: Range<Duration>,
    /// How many at most.
    pub count: usize,
}

/// A cut that was made.
#[derive(Clone, Debug)]
pub struct Done {
    /// Time since the cutter was started.
    pub at: Duration,
    /// What was done, to what.
    pub what: String,
    /// How long it was kept up; zero for what has no duration.
    pub lasted: Duration,
}

/// A running cutter. Dropped without [`Cutter::stop`], it stops too.
pub struct Cutter {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Done>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Cutter {
    /// Starts to cut.
    pub fn start(plan: Plan) -> Self {
        assert!(
            !plan.cuts.is_empty(),
            "a cutter needs at least one way to cut"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let run = Run::new(plan, Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || run.all());
        Self {
            stop,
            done,
            thread: Some(thread),
        }
    }

    /// What was done so far.
    pub fn done(&self) -> Vec<Done> {
        self.done
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// Undoes what is cut at present, stops, and tells what was done.
    ///
    /// # Errors
    /// A cut could not be made or undone; no more were made after that.
    pub fn stop(mut self) -> Result<Vec<Done>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a cutter is stopped once")?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(self.done())
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Run {
    plan: Plan,
    chance: ChaCha8Rng,
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Done>>>,
    begin: Instant,
}

impl Run {
    fn new(plan: Plan, stop: Arc<AtomicBool>, done: Arc<Mutex<Vec<Done>>>) -> Self {
        let chance = ChaCha8Rng::seed_from_u64(plan.seed);
        Self {
            plan,
            chance,
            stop,
            done,
            begin: Instant::now(),
        }
    }

    fn all(mut self) -> Result<()> {
        for _ in 0..self.plan.count {
            let choice = self.between(&(0..self.plan.cuts.len() as u64)) as usize;
            let outage = self.time_between(&self.plan.outage.clone());
            if !self.wait_for_turn() {
                break;
            }
            let cut = self.plan.cuts[choice].clone();
            let at = self.begin.elapsed();
            cut.make().with_context(|| cut.name())?;
            if cut.lasts() {
                self.pause(outage);
            }
            cut.undo()
                .with_context(|| format!("undo: {}", cut.name()))?;
            let lasted = if cut.lasts() {
                self.begin.elapsed() - at
            } else {
                Duration::ZERO
            };
            let done = Done {
                at,
                what: cut.name(),
                lasted,
            };
            self.done
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .push(done);
        }
        Ok(())
    }

    /// Waits until the next cut is due; false when it was stopped before.
    fn wait_for_turn(&mut self) -> bool {
        match self.plan.pace.clone() {
            Pace::Time(range) => {
                let pause = self.time_between(&range);
                self.pause(pause);
            }
            Pace::Progress(counter, step) => {
                let until = counter.load(Ordering::Relaxed) + self.between(&step);
                while counter.load(Ordering::Relaxed) < until && !self.stopped() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        !self.stopped()
    }

    fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while Instant::now() < end && !self.stopped() {
            let left = end.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn between(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.chance.next_u64() % (range.end - range.start).max(1)
    }

    fn time_between(&mut self, range: &Range<Duration>) -> Duration {
        let micros = |time: Duration| time.as_micros() as u64;
        Duration::from_micros(self.between(&(micros(range.start)..micros(range.end))))
    }
}

impl Cut {
    fn name(&self) -> String {
        match self {
            Self::Reset(firewall) => format!("{} resets all flows", firewall.name()),
            Self::Forget(firewall) => format!("{} forgets all flows", firewall.name()),
            Self::BlackHole(firewall) => format!("{} swallows everything", firewall.name()),
            Self::Unplug(link) => format!("the cable of {} is out", link.owner()),
            Self::Hold(link) => format!("the box at {} holds everything", link.owner()),
            Self::Inject(link) => format!("the box at {} resets all flows", link.owner()),
            Self::Close(middlebox) => format!("{} closes all connections", middlebox.name()),
            Self::Sever(_) => "the proxy closes all connections".into(),
            Self::Freeze(process) => format!("{} is frozen", process.label()),
            Self::Restart(process) => format!("{} is killed and started again", process.label()),
        }
    }

    fn lasts(&self) -> bool {
        matches!(
            self,
            Self::BlackHole(_) | Self::Unplug(_) | Self::Hold(_) | Self::Freeze(_)
        )
    }

    fn make(&self) -> Result<()> {
        match self {
            Self::Reset(firewall) => firewall.reset_flows(),
            Self::Forget(firewall) => firewall.forget_flows(),
            Self::BlackHole(firewall) => firewall.black_hole(),
            Self::Unplug(link) => link.cut(),
            Self::Hold(link) => {
                impair(link)?.both(|line| line.hold = true);
                Ok(())
            }
            Self::Inject(link) => {
                impair(link)?.reset_flows();
                Ok(())
            }
            Self::Close(middlebox) => {
                middlebox.close_all();
                Ok(())
            }
            Self::Sever(proxy) => {
                proxy.close_all();
                Ok(())
            }
            Self::Freeze(process) => process.freeze(),
            Self::Restart(process) => process.restart(),
        }
    }

    fn undo(&self) -> Result<()> {
        match self {
            Self::Reset(_)
            | Self::Forget(_)
            | Self::Inject(_)
            | Self::Close(_)
            | Self::Sever(_)
            | Self::Restart(_) => Ok(()),
            Self::BlackHole(firewall) => firewall.open(),
            Self::Unplug(link) => link.restore(),
            Self::Hold(link) => {
                impair(link)?.both(|line| line.hold = false);
                Ok(())
            }
            Self::Freeze(process) => process.thaw(),
        }
    }
}

fn impair(link: &Link) -> Result<&crate::impair::ImpairBox> {
    link.impair()
        .with_context(|| format!("the cable of {} has no box", link.owner()))
}
