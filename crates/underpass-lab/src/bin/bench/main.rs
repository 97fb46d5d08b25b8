//! The figures of `docs/benchmarks.md`: Underpass beside a raw connection and beside rathole, in one run.
//!
//! Everything runs in one network namespace over its loopback interface. All ways are measured one after the other, in
//! several rounds, so that what the machine does meanwhile meets all of them. `RATHOLE_BIN` names the rathole to compare
//! with, `BENCH_MIB` the size of a transfer, `BENCH_ROUNDS` the number of rounds.

mod load;
mod table;
mod ways;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use underpass_lab::{Cable, Host, Lab};

use table::{Figures, Row};
use ways::Way;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let mebibytes = setting("BENCH_MIB", 256)?;
    ensure!(rounds > 0 && mebibytes > 0, "there is nothing to measure");
    let mut lab = Lab::new()?;
    let host = lab.public_host("bench", Cable::Plain)?;
    let service = load::serve(&host)?;
    let ways = ways::all();
    let mut rows: Vec<Row> = ways.iter().map(|way| Row::of(way.name())).collect();
    for round in 1..=rounds {
        for (kind, row) in ways.iter().zip(&mut rows) {
            eprintln!("round {round} of {rounds}: {}", row.name);
            let way = kind.make(&host)?;
            let figures = measure(&host, &way, &service, mebibytes);
            row.rounds.push(figures.with_context(|| row.name.clone())?);
        }
    }
    table::print(&rows, rounds, mebibytes)
}

/// A whole number from the environment.
fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

fn measure(
    host: &Host,
    way: &Way,
    service: &underpass_lab::traffic::Service,
    mebibytes: u64,
) -> Result<Figures> {
    let noise = load::noise();
    let rate = |streams, up| load::throughput(host, way, streams, up, mebibytes, &noise);
    Ok(Figures {
        down: [rate(1, false)?, rate(8, false)?],
        up: [rate(1, true)?, rate(8, true)?],
        latencies: load::round_trips(host, way)?,
        connections_per_second: load::connections(host, way)?,
        idle_memory: load::idle_memory(host, way, service)?,
    })
}
