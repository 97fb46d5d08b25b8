//! Through every proxy: what stands between the client and the relay, and what comes of it without the client being told.
//!
//! service - publisher - firewall a - relay - (50 ms) - firewall b with the box - client. Firewall b lets out nothing but
//! through the box. The table is kept in `docs/proxies.md`; `UNDERPASS_BLESS=1` writes it anew.

mod measure;
mod rows;
mod table;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::{Skip, side_by_side, tests};

use measure::{Figures, Subject};
use rows::{Row, rows};

fn main() -> ExitCode {
    tests!(every_box_is_passed, the_table_is_as_documented)
}

/// What is the same in all rows: the round trip between the client's firewall and everything else.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Rows whose labs stand at a time; most of them wait.
const AT_ONCE: usize = 6;
/// The limit for the first byte.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Whoever measures rates has the machine for himself.
static MACHINE: RwLock<()> = RwLock::new(());
/// The rows that have been measured, in whatever order.
static MEASURED: Mutex<Vec<(&'static str, Figures)>> = Mutex::new(Vec::new());

/// Each row in a lab of its own. `UNDERPASS_ROWS` restricts it to those whose name contains the given text.
fn every_box_is_passed() -> Result<()> {
    let wanted = std::env::var("UNDERPASS_ROWS").unwrap_or_default();
    let rows = rows();
    let chosen = rows
        .iter()
        .map(|row| row.name)
        .filter(|name| name.contains(&wanted));
    let chosen: Vec<&'static str> = chosen.collect();
    side_by_side(&chosen, AT_ONCE, |name| {
        let row = rows
            .iter()
            .find(|row| row.name == name)
            .context("it was chosen")?;
        let figures = pass(row)?;
        println!("{}", table::line(name, &figures));
        let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
        measured.push((name, figures));
        Ok(())
    })
}

fn pass(row: &Row) -> Result<Figures> {
    let t = std::time::Instant::now();
    let subject = Subject::start(row, ROUND_TRIP)?;
    eprintln!("{}: started {:?}", row.name, t.elapsed());
    let first_byte = subject.first_byte(FIRST_BYTE)?;
    eprintln!("{}: first byte {:?}", row.name, t.elapsed());
    let carrier = subject.settled(row.settles)?;
    eprintln!("{}: settled {:?}", row.name, t.elapsed());
    let (round_trip, down, up) = {
        let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        (subject.round_trip()?, subject.down()?, subject.up()?)
    };
    let lost = {
        let _beside = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{}: measured {:?}", row.name, t.elapsed());
        subject.lost_over_cuts()?
    };
    eprintln!("{}: cut {:?}", row.name, t.elapsed());
    if let Some(least) = row.at_least {
        for (way, rate) in [("down", down), ("up", up)] {
            ensure!(rate >= least as f64, "only {:.1} MB/s {way}", rate / 1e6);
        }
    }
    Ok(Figures {
        first_byte,
        carrier,
        round_trip,
        down,
        up,
        lost,
    })
}

/// The same rows with the same carriers as in the page; written anew when blessed.
fn the_table_is_as_documented() -> Result<()> {
    let measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
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
