//! A test runner that counts skipped tests as skipped.
//!
//! The standard runner knows only passed and failed at run time. A test of this crate that cannot run here (no root, a
//! server not installed) returns [`Skip`] instead, and the closing line says how many did. A test file uses it with
//! `harness = false` in its manifest entry:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     underpass_lab::tests!(downloads_survive_a_reset)
//! }
//!
//! fn downloads_survive_a_reset() -> anyhow::Result<()> {
//!     let lab = underpass_lab::TwoFirewalls::new()?; // skips the test where namespaces cannot be made
//!     # drop(lab);
//!     Ok(())
//! }
//! ```
//!
//! It understands what `cargo test` users type: filters, `--exact`, `--skip`, `--list`, `--test-threads`, and the
//! variable `UNDERPASS_TEST_LIMIT` (seconds one test may take, 900 unless set).

use std::collections::VecDeque;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Resource, getrlimit, setrlimit};

/// The reason why a test cannot run here. Returned as an error it makes the test count as skipped.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(String);

impl Skip {
    /// An error that makes the test count as skipped.
    pub fn because(reason: impl Into<String>) -> anyhow::Error {
        Self(reason.into()).into()
    }
}

/// A test: its name and what it does.
pub type Test = (&'static str, fn() -> Result<()>);

/// Runs the named functions as tests, as the arguments of the process ask, and gives the exit code.
#[macro_export]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        $crate::harness::run(&[$((stringify!($test), $test)),+])
    };
}

/// Lines of each log that a failed test shows.
const TAIL: usize = 25;

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    threads: usize,
    limit: Duration,
}

impl Options {
    fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            filters: Vec::new(),
            skips: Vec::new(),
            exact: false,
            list: false,
            threads: 1,
            limit: Duration::from_secs(900),
        };
        if let Some(limit) = std::env::var("UNDERPASS_TEST_LIMIT")
            .ok()
            .and_then(|s| s.parse().ok())
        {
            options.limit = Duration::from_secs(limit);
        }
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let (name, mut value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut wanted = || {
                value
                    .take()
                    .or_else(|| arguments.next())
                    .ok_or(format!("{name} wants a value"))
            };
            match name.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--skip" => options.skips.push(wanted()?),
                "--test-threads" => {
                    options.threads = wanted()?
                        .parse()
                        .map_err(|_| "--test-threads wants a number")?;
                }
                // Options of the standard runner that change nothing here.
                "--nocapture" | "--no-capture" | "--include-ignored" | "--show-output" | "-q"
                | "--quiet" => {}
                "--color" | "--format" => drop(wanted()?),
                other if other.starts_with('-') => return Err(format!("unknown option {other}")),
                _ => options.filters.push(name),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        let hit = |pattern: &String| {
            if self.exact {
                name == pattern
            } else {
                name.contains(pattern.as_str())
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skips.iter().any(hit)
    }
}

/// Runs `tests`; what the macro [`tests!`](crate::tests) expands to.
pub fn run(tests: &[Test]) -> ExitCode {
    let options = match Options::from_arguments(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let chosen: VecDeque<Test> = tests
        .iter()
        .filter(|(name, _)| options.wants(name))
        .copied()
        .collect();
    if options.list {
        for (name, _) in &chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    raise_open_files();
    let left_out = tests.len() - chosen.len();
    println!("\nrunning {} tests", chosen.len());
    let begin = Instant::now();
    let outcomes = run_chosen(chosen, &options);
    report(&outcomes, left_out, begin.elapsed())
}

/// Services and clients of a test are threads of this process: a thousand connections need some thousands of files.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not allowed, the tests that need it say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn run_chosen(mut waiting: VecDeque<Test>, options: &Options) -> Vec<(&'static str, Outcome)> {
    let (sender, receiver) = channel();
    let mut running: Vec<(&'static str, Instant)> = Vec::new();
    let mut outcomes = Vec::new();
    loop {
        while running.len() < options.threads.max(1) {
            let Some(test) = waiting.pop_front() else {
                break;
            };
            running.push((test.0, Instant::now()));
            start(test, sender.clone());
        }
        if running.is_empty() {
            return outcomes;
        }
        let (name, outcome) = next_outcome(&receiver, &running, options.limit);
        let place = running.iter().position(|(running, _)| *running == name);
        let begin = place.map_or_else(Instant::now, |place| running.swap_remove(place).1);
        announce(name, &outcome, begin.elapsed());
        outcomes.push((name, outcome));
    }
}

fn start((name, test): Test, sender: Sender<(&'static str, Outcome)>) {
    let body = move || {
        let outcome = match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(error)) => match error.downcast::<Skip>() {
                Ok(skip) => Outcome::Skipped(skip.0),
                Err(error) => {
                    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
                    Outcome::Failed(format!("    {}", causes.join("\n    because: ")))
                }
            },
            // The panic hook has already printed what and where.
            Err(_) => Outcome::Failed("panicked (see above)".into()),
        };
        // The receiver is gone only when the runner itself is ending.
        let _ = sender.send((name, outcome));
    };
    let started = std::thread::Builder::new().name(name.into()).spawn(body);
    started.expect("a machine that runs tests can start a thread");
}

fn next_outcome(
    receiver: &Receiver<(&'static str, Outcome)>,
    running: &[(&'static str, Instant)],
    limit: Duration,
) -> (&'static str, Outcome) {
    loop {
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the runner holds a sender"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((name, _)) = running.iter().find(|(_, begin)| begin.elapsed() > limit) {
            // A thread cannot be stopped from outside, and what it holds would disturb the tests after it.
            println!("test {name} ... FAILED: still running after {limit:?}");
            print_logs(name);
            println!("\ntest result: FAILED. the run was given up in {name}");
            std::process::exit(101);
        }
    }
}

fn announce(name: &str, outcome: &Outcome, took: Duration) {
    let seconds = took.as_secs_f32();
    match outcome {
        Outcome::Passed => println!("test {name} ... ok ({seconds:.1} s)"),
        Outcome::Skipped(why) => println!("test {name} ... skipped: {why}"),
        Outcome::Failed(why) => {
            println!("test {name} ... FAILED ({seconds:.1} s)\n{why}");
            print_logs(name);
        }
    }
}

fn report(outcomes: &[(&str, Outcome)], left_out: usize, took: Duration) -> ExitCode {
    let count = |kind: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, o)| kind(o)).count();
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let failed = outcomes.len() - passed - skipped;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {skipped} skipped; {left_out} filtered out; \
         finished in {:.2}s",
        took.as_secs_f64()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

/// Whether tests are to run at full length, as `make soak` asks with `UNDERPASS_SOAK=1`.
pub fn soak() -> bool {
    std::env::var_os("UNDERPASS_SOAK").is_some_and(|value| value == "1")
}

/// Where the processes of one test write: `target/lab-logs/TEST`, emptied when the test first asks.
pub fn log_folder() -> Result<PathBuf> {
    static SEEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let folder = folder_of(std::thread::current().name().unwrap_or("main"));
    let mut seen = SEEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !seen.contains(&folder) {
        let _ = fs::remove_dir_all(&folder);
        seen.push(folder.clone());
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn folder_of(test: &str) -> PathBuf {
    crate::built::target_folder()
        .join("lab-logs")
        .join(test.replace("::", "-"))
}

/// The logs in a folder and, where a test has parts, in theirs.
fn find_logs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_logs(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "log") {
            found.push(path);
        }
    }
}

fn print_logs(test: &str) {
    let mut files = Vec::new();
    find_logs(&folder_of(test), &mut files);
    files.sort();
    for file in files {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        println!("--- end of {} ({} lines)", file.display(), lines.len());
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            println!("    {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        Options::from_arguments(arguments.iter().map(|s| (*s).to_owned())).unwrap()
    }

    #[test]
    fn filters_choose_by_part_or_by_whole_name() {
        let part = options(&["echo"]);
        assert!(part.wants("echo_on_ws") && !part.wants("half_close"));
        let whole = options(&["echo", "--exact"]);
        assert!(whole.wants("echo") && !whole.wants("echo_on_ws"));
        let without = options(&["--skip=echo", "--test-threads", "2"]);
        assert!(!without.wants("echo_on_ws") && without.wants("half_close"));
        assert_eq!(without.threads, 2);
    }

    /// Cargo's own harness would find no test in such a program, and pass.
    #[test]
    fn every_program_of_these_tests_is_one_of_its_own() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = fs::read_to_string(here.join("Cargo.toml")).unwrap();
        let mut seen = 0;
        for entry in fs::read_dir(here.join("tests")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let file = if path.is_dir() {
                path.join("main.rs")
            } else {
                path
            };
            if !fs::read_to_string(file).unwrap().contains("tests!(") {
                continue;
            }
            let mut targets = manifest.split("[[test]]").skip(1);
            let ours = targets.any(|target| {
                target.contains(&format!("name = \"{name}\"")) && target.contains("harness = false")
            });
            assert!(ours, "{name} has no target of its own in Cargo.toml");
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn a_wrong_option_is_refused() {
        let parse = |s: &str| Options::from_arguments(std::iter::once(s.to_owned())).is_err();
        assert!(parse("--test-threads=many"));
        assert!(parse("--shuffle"));
    }
}
