//! What it costs to connect, side by side with connecting as it is.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::Service;
use underpass_lab::{Skip, exec};

use crate::{LIMIT, Way, rows, run, scene};

/// How often the ways take turns, and how many rounds each has then.
const TURNS: usize = 3;
const ROUNDS: &str = "4";
/// What a connect to a service may take longer than one to a listener on the same machine, in nanoseconds.
const MOST: i64 = 150_000;

/// The medians of one round, in nanoseconds.
struct Round {
    plain: i64,
    passing: i64,
    led: i64,
}

pub(crate) fn what_it_costs_to_connect() -> Result<()> {
    if !rows::installed("gcc") {
        return Err(Skip::because("gcc is not installed"));
    }
    let scene = scene()?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("echo", echo.address())])?;
    let program = scene.net.b.logs().join("cost");
    let program = program.to_str().context("temporary folders are UTF-8")?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unmodified/cost.c");
    let mut build = Command::new("gcc");
    build.args(["-O1", "-w", "-o", program, source]);
    exec::output(&mut build, LIMIT)?.success()?;

    let words = [program, "echo.underpass.internal", ROUNDS];
    let mut rounds = [Vec::new(), Vec::new()];
    let mut alone = Vec::new();
    for _ in 0..TURNS {
        for (way, rounds) in [Way::Preload, Way::Seccomp].into_iter().zip(&mut rounds) {
            rounds.extend(read(&run(&scene, way, &words)?.success()?.text())?);
        }
        let done = scene.net.b.run(program, &words[1..], LIMIT)?;
        alone.extend(read(&done.success()?.text())?);
    }
    // The least of several medians: what else the machine does makes them larger, and nothing smaller.
    let least = |rounds: &[Round], of: fn(&Round) -> i64| {
        rounds.iter().map(of).min().context("there was a round")
    };
    let plain = least(&alone, |round| round.plain)?;
    println!("a connect, in µs: {:.1} alone", plain as f64 / 1e3);
    for (way, rounds) in ["preload", "seccomp"].iter().zip(&rounds) {
        let passing = least(rounds, |round| round.passing)?;
        let led = least(rounds, |round| round.led)?;
        println!(
            "{way}: {:.1} passing, {:.1} to a service",
            passing as f64 / 1e3,
            led as f64 / 1e3
        );
        ensure!(
            led > 0 && led - plain <= MOST,
            "{way}: {led} ns, alone {plain} ns"
        );
    }
    // Both took turns within each round, so that load made both slower.
    let mut ratios: Vec<f64> = rounds[0]
        .iter()
        .map(|round| round.passing as f64 / round.plain as f64)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!("preload, passing to alone: {ratio:.3}");
    ensure!(
        ratio <= 1.1,
        "what passes the library takes {ratio} times as long"
    );
    Ok(())
}

fn read(text: &str) -> Result<Vec<Round>> {
    let round = |line: &str| {
        let numbers: Vec<i64> = line
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| line.to_owned())?;
        let [plain, passing, led] = numbers[..] else {
            anyhow::bail!("{line:?}");
        };
        Ok(Round {
            plain,
            passing,
            led,
        })
    };
    text.lines().map(round).collect()
}
