//! The `underpass` command.

#![allow(
    unreachable_pub,
    reason = "a program exports nothing; pub means for the other modules"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod cli;
mod commands;
mod failure;
mod logging;
#[cfg(test)]
mod manual;
mod meter;
mod output;
mod ready;
mod settings;
mod standard;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use cli::Cli;
use commands::Context;
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    if let Some(code) = commands::path::serve_as_pac_worker() {
        return code;
    }
    // Before there is another thread.
    if let Some(code) = commands::via::serve_under_another_name() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure.
            let _ = error.print();
            return exit_code(error.exit_code().try_into().unwrap_or(2));
        }
    };
    if !cli.command.becomes_another() {
        raise_open_files();
    }
    let as_asked = Output::new(cli.wants_json(), false);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            as_asked.failure(&failure);
            exit_code(failure.exit)
        }
    }
}

/// Every connection is an open file. Shells and service managers begin with 1024 for the sake of
/// select(2), which nothing here uses, and leave it to the program to ask for what it may have.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is refused, it goes on with what it has.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Ends the process at once: a thread that waits for standard input must not keep it.
fn exit_code(code: u8) -> ExitCode {
    std::process::exit(code.into())
}

fn run(cli: Cli) -> Result<(), Failure> {
    let home = underpass_agent::Home::locate(|name| std::env::var_os(name))?;
    let context = Context::new(&cli, home, |name| {
        std::env::var_os(name)
            .map(OsString::into_string)
            .transpose()
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::file(format!("cannot start threads: {error}")))?;
    let command = cli.command.with_config(cli.config);
    let outcome = runtime.block_on(command.run(context));
    // Not waited for: standard input may be read by a thread that nothing can interrupt.
    runtime.shutdown_background();
    outcome
}
