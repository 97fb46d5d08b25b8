//! Whether processes grow while the same thing happens to them again and again.
//!
//! Memory goes up and down with what is under way, so one look at the beginning and one at the end say
//! little. [`Watch`] looks all the time and compares the most that was held in an early part of the work,
//! after everything has been met once, with the most in a late part of the same length.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// The parts of the work that are compared, of 1.
const EARLY: Range<f64> = 0.1..0.4;
const LATE: Range<f64> = 0.7..1.0;
/// Between looks.
const LOOK: Duration = Duration::from_millis(100);

/// What a process held at one moment, or the most of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// File descriptors.
    pub files: usize,
}

impl Held {
    /// What `process` holds now.
    ///
    /// # Errors
    /// It has ended.
    pub fn by(process: &Process) -> Result<Self> {
        Ok(Self {
            resident: process.memory()?.resident,
            files: process.open_files()?,
        })
    }

    fn most(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            files: self.files.max(other.files),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.resident * 10 / (1 << 20);
        write!(
            f,
            "{}.{} MiB, {} files",
            tenths / 10,
            tenths % 10,
            self.files
        )
    }
}

/// How one process fared.
#[derive(Clone, Debug)]
pub struct Growth {
    /// What it is called in logs.
    pub label: String,
    /// The most in the early part.
    pub early: Held,
    /// The most in the late part.
    pub late: Held,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, early, late } = self;
        write!(f, "{label}: {early}, later {late}")
    }
}

impl Growth {
    fn of(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            early: Held::default(),
            late: Held::default(),
        }
    }

    /// Takes what was held when so much of 1 was done.
    fn saw(&mut self, done: f64, held: Held) {
        if EARLY.contains(&done) {
            self.early = self.early.most(held);
        } else if LATE.contains(&done) {
            self.late = self.late.most(held);
        }
    }

    /// That both parts were looked at.
    fn seen(&self) -> Result<()> {
        let both = self.early != Held::default() && self.late != Held::default();
        ensure!(both, "the work was over too soon: {self}");
        Ok(())
    }

    /// That it did not grow by more than `allowed`.
    ///
    /// # Errors
    /// It did.
    pub fn within(&self, allowed: Held) -> Result<()> {
        let Self { early, late, .. } = self;
        ensure!(
            late.resident <= early.resident + allowed.resident,
            "memory grew: {self}"
        );
        ensure!(
            late.files <= early.files + allowed.files,
            "descriptors were left behind: {self}"
        );
        Ok(())
    }
}

/// Looks at processes while some work goes on.
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Growth>>>>,
}

impl Watch {
    /// Begins to look. The work is done when `progress` has come to `length`; no process may be started
    /// anew meanwhile.
    pub fn start(processes: &[&Process], progress: &Arc<AtomicU64>, length: u64) -> Self {
        let processes: Vec<Process> = processes.iter().map(|it| (*it).clone()).collect();
        let (over, progress) = (Arc::new(AtomicBool::new(false)), Arc::clone(progress));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let growth = |process: &Process| Growth::of(process.label());
            let mut all: Vec<Growth> = processes.iter().map(growth).collect();
            while !stop.load(Ordering::Relaxed) {
                let done = progress.load(Ordering::Relaxed) as f64 / length as f64;
                for (process, growth) in processes.iter().zip(&mut all) {
                    growth.saw(done, Held::by(process)?);
                }
                std::thread::sleep(LOOK);
            }
            Ok(all)
        });
        Self {
            over,
            thread: Some(thread),
        }
    }

    /// Stops, and tells how each fared, in the order in which they were given.
    ///
    /// # Errors
    /// A process has ended, or there was no look at one of the two parts.
    pub fn stop(mut self) -> Result<Vec<Growth>> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a watch is stopped once")?;
        let all = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        all.iter().try_for_each(Growth::seen)?;
        Ok(all)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever did not ask does not want to know.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(resident: u64, files: usize) -> Held {
        Held { resident, files }
    }

    #[test]
    fn growth_is_what_comes_on_top() {
        let growth = |late| Growth {
            label: "relay".into(),
            early: held(100, 10),
            late,
        };
        let allowed = held(20, 2);
        growth(held(120, 12)).within(allowed).unwrap();
        growth(held(1, 1)).within(allowed).unwrap();
        let memory = growth(held(121, 10)).within(allowed).unwrap_err();
        assert!(memory.to_string().contains("memory grew: relay"));
        let files = growth(held(100, 13)).within(allowed).unwrap_err();
        assert!(files.to_string().contains("descriptors"));
    }

    #[test]
    fn the_most_of_each_part_counts_and_both_must_be_seen() {
        let mut growth = Growth::of("relay");
        for (done, found) in [(0.0, 9), (0.2, 3), (0.3, 2), (0.5, 9)] {
            growth.saw(done, held(found, 1));
            assert!(growth.seen().is_err());
        }
        growth.saw(0.8, held(4, 1));
        growth.saw(0.9, held(3, 2));
        growth.saw(1.0, held(9, 9));
        growth.seen().unwrap();
        assert_eq!((growth.early, growth.late), (held(3, 1), held(4, 2)));
    }
}
