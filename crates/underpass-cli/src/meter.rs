//! How far something is: a line on a terminal, with rate and time left.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use underpass_agent::files::Progress;

use crate::output::Output;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// The rate is that of this long.
const RECENT: Duration = Duration::from_secs(8);
/// Columns of the bar itself.
const BAR: usize = 24;

/// Knows how fast it goes; pure.
#[derive(Debug, Default)]
pub struct Meter {
    /// When, since some beginning, and how many bytes there were.
    seen: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// At this time there were so many bytes.
    pub fn note(&mut self, now: Duration, done: u64) {
        if self.seen.back().is_some_and(|(_, before)| *before > done) {
            // It began anew.
            self.seen.clear();
        }
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && self.seen[1].0 + RECENT < now {
            self.seen.pop_front();
        }
    }

    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.seen.front(), self.seen.back()) else {
            return 0.0;
        };
        let time = last.0.saturating_sub(first.0).as_secs_f64();
        match time > 0.0 {
            true => (last.1 - first.1) as f64 / time,
            false => 0.0,
        }
    }

    /// The line, for so many bytes of so many, where that is known.
    pub fn line(&self, done: u64, total: Option<u64>) -> String {
        let rate = self.rate();
        let speed = format!("{}/s", bytes_text(rate));
        let Some(total) = total else {
            return format!("{}  {speed}", bytes_text(done as f64));
        };
        let share = match total {
            0 => 1.0,
            total => (done as f64 / total as f64).min(1.0),
        };
        let full = (share * BAR as f64) as usize;
        let bar = "#".repeat(full) + &"-".repeat(BAR - full);
        let left = total.saturating_sub(done) as f64 / rate;
        let left = match rate > 0.0 && left < 1e6 {
            true => time_text(left),
            false => "--:--".to_owned(),
        };
        format!(
            "[{bar}] {:3.0} %  {} of {}  {speed}  {left}",
            (share * 100.0).floor(),
            bytes_text(done as f64),
            bytes_text(total as f64),
        )
    }
}

fn bytes_text(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    match unit {
        0 => format!("{value:.0} B"),
        unit => format!("{value:.1} {}", units[unit]),
    }
}

fn time_text(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes:02}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A line at the bottom of a terminal, under what is printed meanwhile. Nowhere else is anything drawn.
#[derive(Debug)]
pub struct Bar {
    shown: bool,
    begun: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    progress: Arc<Progress>,
    meter: Meter,
    drawn: bool,
}

impl Bar {
    /// For whoever looks at standard error.
    pub fn new(output: Output, progress: Arc<Progress>) -> Self {
        let (meter, drawn) = (Meter::default(), false);
        Self {
            shown: !output.json && !output.quiet && io::stderr().is_terminal(),
            begun: Instant::now(),
            inner: Mutex::new(Inner {
                progress,
                meter,
                drawn,
            }),
        }
    }

    /// What it shows.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.lock().progress)
    }

    /// Shows something else from now on.
    pub fn follow(&self, progress: Arc<Progress>) {
        self.lock().progress = progress;
    }

    /// Prints something above it.
    pub fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        let mut inner = self.lock();
        wipe(&mut inner);
        print()
    }

    /// Takes it away.
    pub fn clear(&self) {
        wipe(&mut self.lock());
    }

    /// Draws it again and again.
    pub async fn keep_drawn(self: Arc<Self>) {
        if !self.shown {
            return;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            self.draw();
        }
    }

    fn draw(&self) {
        let mut inner = self.lock();
        let (done, total) = inner.progress.so_far();
        if (done, total) == (0, Some(0)) {
            return wipe(&mut inner);
        }
        inner.meter.note(self.begun.elapsed(), done);
        let line = inner.meter.line(done, total);
        inner.drawn = true;
        // Where nobody looks any more, nothing is missing.
        let _ = write!(io::stderr().lock(), "\r\u{1b}[K{line}");
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wipe(inner: &mut Inner) {
    if std::mem::take(&mut inner.drawn) {
        let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(seen: &[(u64, u64)]) -> Meter {
        let mut meter = Meter::default();
        for (second, done) in seen {
            meter.note(Duration::from_secs(*second), *done);
        }
        meter
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mib = 1 << 20;
        assert_eq!(noted(&[]).rate(), 0.0);
        assert_eq!(noted(&[(1, 5)]).rate(), 0.0);
        assert_eq!(noted(&[(0, 0), (2, 4 * mib)]).rate(), 2.0 * mib as f64);
        let slower: Vec<_> = (0..40).map(|at| (at, at.min(20) * mib)).collect();
        assert_eq!(noted(&slower).rate(), 0.0);
        assert_eq!(noted(&[(0, 9 * mib), (1, 0), (2, mib)]).rate(), mib as f64);
    }

    #[test]
    fn the_line_tells_rate_and_time_left() {
        let mib = 1 << 20;
        let meter = noted(&[(0, 0), (10, 50 * mib)]);
        assert_eq!(
            meter.line(50 * mib, Some(100 * mib)),
            "[############------------]  50 %  50.0 MiB of 100.0 MiB  5.0 MiB/s  00:10"
        );
        assert_eq!(meter.line(50 * mib, None), "50.0 MiB  5.0 MiB/s");
        let still = noted(&[(0, 0)]);
        assert!(still.line(0, Some(7)).ends_with("0 B of 7 B  0 B/s  --:--"));
        assert!(still.line(0, Some(0)).contains("100 %"));
        assert_eq!(time_text(3725.0), "1:02:05");
    }
}
