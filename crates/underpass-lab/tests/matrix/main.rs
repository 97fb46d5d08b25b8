//! Clients and servers that people have, from Debian's packages, through both firewalls; and some of them while the path is
//! cut again and again.
//!
//! Topology of both: servers and publisher on `a` behind firewall A, clients on `b` behind firewall B, the relay in public
//! between them.

mod cuts;
mod desktop;
mod files;
mod ftp;
mod picture;
mod place;
mod small;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use cuts::four_programs_go_on_through_fifty_cuts;
use place::Place;
use underpass_lab::{page, tests};

fn main() -> ExitCode {
    tests!(
        every_program_finds_its_server,
        four_programs_go_on_through_fifty_cuts
    )
}

/// A program, a server, and what is done with them.
struct Row {
    client: &'static str,
    server: &'static str,
    /// As `underpass publish` takes it.
    published: &'static str,
    shown: &'static str,
    /// Programs without which the row is skipped.
    needs: &'static [&'static str],
    work: fn(&Place) -> Result<()>,
}

fn rows() -> Vec<Row> {
    [ftp::rows(), small::rows(), files::rows(), desktop::rows()].concat()
}

impl Clone for Row {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

/// Each program does its work through one publisher and one client's agent; the table of it stands in `docs/programs.md`.
fn every_program_finds_its_server() -> Result<()> {
    let place = Place::new()?;
    let rows = rows();
    let begin = Instant::now();
    let mut wrong = Vec::new();
    let mut missing = 0;
    for row in &rows {
        if let Some(needed) = row.needs.iter().find(|name| !place::installed(name)) {
            println!("{:28} skipped: {needed} is not installed", row.client);
            missing += 1;
            continue;
        }
        let start = Instant::now();
        let done = (row.work)(&place);
        let seconds = start.elapsed().as_secs_f32();
        match done {
            Ok(()) => println!(
                "{:28} {:24} {seconds:5.1} s  {}",
                row.client, row.server, row.shown
            ),
            Err(error) => {
                println!(
                    "{:28} {:24} {seconds:5.1} s  FAILED",
                    row.client, row.server
                );
                wrong.push(format!("{}: {error:#}", row.client));
            }
        }
    }
    println!(
        "{} programs, {missing} skipped, in {:.0} s",
        rows.len() - missing,
        begin.elapsed().as_secs_f64()
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut table = String::from("| client | server | published as | shown |\n|---|---|---|---|\n");
    for Row {
        client,
        server,
        published,
        shown,
        ..
    } in &rows
    {
        table += &format!("| {client} | {server} | `{published}` | {shown} |\n");
    }
    page::compare("programs.md", "matrix", &table)
}
