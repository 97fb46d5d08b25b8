//! Through every proxy: what stands between the client and the relay, and what comes of it without the client being told.
//!
//! service - publisher - firewall a - relay - (50 ms) - firewall b with the box - client. Firewall b lets out nothing but
//! through the box. The table is kept in `docs/proxies.md`; `UNDERPASS_BLESS=1` writes it anew.

mod measure;
mod rows;
mod table;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::{Skip, side_by_side, tests};

use measure::{Figures, Subject};
use rows::{Row, rows};

fn main() -> ExitCode {
    tests!(every_box_is_passed, the_table_is_as_documented)
}

/// What is the same in all rows: the round trip between the client's firewall and everything else.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Rows that begin at a time; most of them wait.
const AT_ONCE: usize = 6;
/// Rows whose path is cut at a time.
const CUT_AT_ONCE: usize = 12;
/// The limit for the first byte, and for the first login of all from behind the box.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Whoever measures rates does so alone.
static MACHINE: Mutex<()> = Mutex::new(());
/// The rows that have been measured, in whatever order.
static MEASURED: Mutex<Vec<(&'static str, Figures)>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each row in a lab of its own: first all are measured, then the paths of all are cut, side by side.
/// `UNDERPASS_ROWS` restricts it to those whose name contains the given text.
fn every_box_is_passed() -> Result<()> {
    let wanted = std::env::var("UNDERPASS_ROWS").unwrap_or_default();
    let rows = rows();
    let chosen = rows
        .iter()
        .map(|row| row.name)
        .filter(|name| name.contains(&wanted));
    let chosen: Vec<&'static str> = chosen.collect();
    let subjects = Mutex::new(HashMap::new());
    let measured = side_by_side(&chosen, AT_ONCE, |name| {
        let row = rows
            .iter()
            .find(|row| row.name == name)
            .context("it was chosen")?;
        let (subject, figures) = measure(row)?;
        lock(&subjects).insert(name, (subject, figures));
        Ok(())
    });
    let names: Vec<&'static str> = lock(&subjects).keys().copied().collect();
    let cut = side_by_side(&names, CUT_AT_ONCE, |name| {
        let (subject, mut figures) = lock(&subjects).remove(name).context("it was measured")?;
        figures.lost = subject.lost_over_cuts()?;
        println!("{}", table::line(name, &figures));
        lock(&MEASURED).push((name, figures));
        Ok(())
    });
    match (measured, cut) {
        (Err(one), Err(two)) if !one.is::<Skip>() && !two.is::<Skip>() => {
            bail!("{one:#}\nand {two:#}")
        }
        (one, two) => one.and(two),
    }
}

fn measure(row: &Row) -> Result<(Subject, Figures)> {
    let subject = Subject::start(row, ROUND_TRIP)?;
    let first_byte = subject.first_byte(FIRST_BYTE)?;
    let carrier = subject.settled(row.settles)?;
    let _alone = lock(&MACHINE);
    let figures = Figures {
        first_byte,
        carrier,
        round_trip: subject.round_trip()?,
        down: subject.down()?,
        up: subject.up()?,
        lost: 0,
    };
    if let Some(least) = row.at_least {
        for (way, rate) in [("down", figures.down), ("up", figures.up)] {
            ensure!(rate >= least as f64, "only {:.1} MB/s {way}", rate / 1e6);
        }
    }
    Ok((subject, figures))
}

/// The same rows with the same carriers as in the page; written anew when blessed.
fn the_table_is_as_documented() -> Result<()> {
    let measured = lock(&MEASURED);
    let names: Vec<&str> = rows().iter().map(|row| row.name).collect();
    let ordered: Vec<_> = names
        .iter()
        .filter_map(|name| measured.iter().find(|(own, _)| own == name))
        .collect();
    if ordered.len() != names.len() {
        let why = format!(
            "only {} of {} rows were measured",
            ordered.len(),
            names.len()
        );
        return Err(Skip::because(why));
    }
    table::check(&ordered)
}
