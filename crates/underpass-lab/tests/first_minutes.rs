//! The first five minutes, as the README prints them.
//!
//! Topology: the README's `relay` in public, `office` behind firewall A, `home` behind firewall B. On `office` a real
//! PostgreSQL listens on 127.0.0.1:5432.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::server::Postgres;
use underpass_lab::{Host, Process, TwoFirewalls, built, exec, tests};

fn main() -> ExitCode {
    tests!(the_readme_works_as_printed)
}

/// How long a command may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(60);
/// Commands that keep running.
const LASTING: [&str; 3] = ["relay", "publish", "connect"];

/// A line of the block: where it is typed, and what.
#[derive(Debug, PartialEq)]
struct Line {
    machine: String,
    command: String,
}

fn readme() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    Ok(fs::read_to_string(
        root.context("crates/NAME")?.join("README.md"),
    )?)
}

/// The commands of the first fenced block under the heading.
fn lines(readme: &str) -> Result<Vec<Line>> {
    let section = readme.split("\n## The first five minutes\n").nth(1);
    let block = section.and_then(|text| text.split("\n```").nth(1));
    let block = block.context("the README has no block of the first five minutes")?;
    // What follows the fence on its own line is the block's language.
    let commands = block.lines().skip(1).map(|line| {
        let (machine, command) = line.split_once('$').with_context(|| line.to_owned())?;
        // A comment, as a shell takes it.
        let command = command.split(" #").next().unwrap_or(command).trim();
        Ok(Line {
            machine: machine.to_owned(),
            command: command.to_owned(),
        })
    });
    commands.collect()
}

/// A machine of the README: a host with a home folder of its own.
struct Machine {
    host: Host,
    home: tempfile::TempDir,
}

impl Machine {
    fn shell(&self, line: &str) -> Result<Command> {
        let program: PathBuf = built::underpass()?;
        let folder = program.parent().context("a program lies in a folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.host.command("sh");
        // `exec`, so that the process is the program and not a shell before it.
        command.args(["-c", &format!("exec {line}")]);
        command
            .env("PATH", format!("{}:{path}", folder.display()))
            .env("HOME", self.home.path())
            .current_dir(self.home.path());
        for variable in [
            "UNDERPASS_HOME",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(variable);
        }
        Ok(command)
    }
}

fn the_readme_works_as_printed() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let postgres = Postgres::start(&net.a, [127, 0, 0, 1], 5432)?;
    let mut machines = HashMap::new();
    for (name, host) in [("relay", &net.relay), ("office", &net.a), ("home", &net.b)] {
        host.knows(&[("relay", net.relay.address())])?;
        let (home, host) = (tempfile::tempdir()?, host.clone());
        machines.insert(name, Machine { host, home });
    }

    let mut running: Vec<Process> = Vec::new();
    let (mut code, mut last) = (String::new(), String::new());
    let lines = lines(&readme()?)?;
    for Line { machine, command } in &lines {
        let machine = machines
            .get(machine.as_str())
            .with_context(|| machine.clone())?;
        let command = command.replace("CODE", &code);
        let shell = machine.shell(&command)?;
        let name = command.split(' ').nth(1).unwrap_or_default();
        if LASTING.contains(&name) {
            let process = machine.host.spawn(name, shell)?;
            process.line(LIMIT)?;
            if name == "relay" {
                code = setup_code(&process)?;
            }
            running.push(process);
        } else {
            let mut shell = shell;
            let done = exec::output(&mut shell, LIMIT)?.success();
            last = done.with_context(|| command.clone())?.text();
            if command.contains(" invite ") {
                code = last.trim().to_owned();
            }
        }
    }
    ensure!(lines.len() == 8, "{lines:?}");
    ensure!(
        last.contains("PostgreSQL") && last.contains("(1 row)"),
        "{last}"
    );
    for process in &running {
        if let Some(status) = process.exited()? {
            bail!("{} ended with {status}", process.label());
        }
    }
    drop(postgres);
    Ok(())
}

/// The code that a person would copy from the relay's terminal.
fn setup_code(relay: &Process) -> Result<String> {
    let line = relay.logged(" --setup ", LIMIT)?;
    let word = line.split_ascii_whitespace().last();
    Ok(word.context("a line with a code has words")?.to_owned())
}
