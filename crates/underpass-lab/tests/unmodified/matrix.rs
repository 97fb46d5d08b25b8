//! Every program by every way, and the table of it that stands in `docs/hooking.md`.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Nginx, Postgres, Redis, SshServer};
use underpass_lab::{Finished, Scene, exec, page};

use crate::rows::{self, FAR, NEAR, Row, Seen};
use crate::{LIMIT, scene};

/// The flags of `underpass run` and what stands before the program, in the order of a row's columns.
const COLUMNS: [(&str, &[&str]); 4] = [
    ("--via preload", &["--via", "preload", "--"]),
    ("--via seccomp", &["--via", "seccomp", "--"]),
    ("--via auto", &["--via", "auto", "--"]),
    (
        "let through",
        &["--via", "preload", "--", "env", "UNDERPASS_HOOK=off"],
    ),
];

pub(crate) fn programs_reach_services_by_name_by_every_way() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let files = Nginx::start(a, a.address(), 80)?;
    fill(&files, FAR, "far")?;
    let decoy = Nginx::start(b, Ipv4Addr::LOCALHOST, 80)?;
    fill(&decoy, NEAR, "near")?;
    let postgres = Postgres::start(a, a.address(), 5432)?;
    let redis = Redis::start(a, a.address(), 6379)?;
    let sshd = SshServer::start(a, a.address(), 22)?;
    let _published = scene.publish(&[
        ("files", files.address()),
        ("db", postgres.address()),
        ("cache", redis.address()),
        ("shell", sshd.address()),
    ])?;
    let ssh = sshd.ssh(b, (Ipv4Addr::LOCALHOST, 22).into())?;
    let rows = rows::all(b.logs(), &ssh)?;
    let begin = Instant::now();
    let mut wrong = Vec::new();
    let mut missing = Vec::new();
    for row in &rows {
        if !rows::installed(row.needs) {
            println!("{:46} skipped: {} is not installed", row.name, row.needs);
            missing.push(row.needs);
            continue;
        }
        let mut line = format!("{:46}", row.name);
        for ((way, expected), done) in ways(row).zip(by_every_way(&scene, row)?) {
            let done = done?;
            let said = done.text() + &done.errors();
            let seen = row.seen(&said);
            line += &match seen {
                Some(seen) => format!(" {seen:14}"),
                None => format!(" {:14}", "?"),
            };
            if seen != Some(expected) {
                line += "(WRONG)";
                wrong.push(format!(
                    "{} {way}, not {expected}: {:?} {said}",
                    row.name, done.status
                ));
            }
        }
        println!("{line}");
    }
    println!(
        "{} programs, {} skipped, in {:.0} s",
        rows.len() - missing.len(),
        missing.len(),
        begin.elapsed().as_secs_f64()
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    compare(&rows)
}

/// The ways of a row, and where it is to come out by each.
fn ways(row: &Row) -> impl Iterator<Item = (&'static str, Seen)> {
    let names = COLUMNS.iter().map(|(name, _)| *name);
    names.zip(row.expected)
}

/// Runs a program by every way at once.
fn by_every_way(scene: &Scene, row: &Row) -> Result<Vec<Result<Finished>>> {
    let command = |(_, flags): &(&str, &[&str])| {
        let mut words = vec!["run"];
        words.extend(*flags);
        words.extend(row.words.iter().map(String::as_str));
        scene.client.command(&words)
    };
    let commands = COLUMNS.iter().map(command).collect::<Result<Vec<_>>>()?;
    Ok(std::thread::scope(|scope| {
        let running = commands
            .into_iter()
            .map(|mut command| scope.spawn(move || exec::output(&mut command, LIMIT)));
        let running: Vec<_> = running.collect();
        let joined = running.into_iter().map(|thread| {
            let panicked = |_| Err(anyhow::anyhow!("its thread panicked"));
            thread.join().unwrap_or_else(panicked)
        });
        joined.collect()
    }))
}

/// A page, and a repository of git.
fn fill(server: &Nginx, page: &str, branch: &str) -> Result<()> {
    server.put("who", format!("{page}\n").as_bytes())?;
    if !rows::installed("git") {
        return Ok(());
    }
    let repository = server.files().join("repository");
    let script = format!(
        "git init -q --bare -b {branch} . && tree=$(git mktree < /dev/null) && \
         commit=$(git -c user.name=x -c user.email=x commit-tree -m x $tree) && \
         git update-ref refs/heads/{branch} $commit && git update-server-info && chmod -R a+rX ."
    );
    std::fs::create_dir(&repository)?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).current_dir(&repository);
    exec::output(&mut command, LIMIT)?
        .success()
        .context("make a repository")?;
    Ok(())
}

/// Compares the table with that of the page, or writes it there.
fn compare(rows: &[Row]) -> Result<()> {
    let mut table = String::from("| program |");
    COLUMNS
        .iter()
        .for_each(|(name, _)| table += &format!(" {name} |"));
    table += "\n|---|---|---|---|---|\n";
    for row in rows {
        table += &format!("| {} |", row.name);
        row.expected
            .iter()
            .for_each(|seen| table += &format!(" {seen} |"));
        table.push('\n');
    }
    page::compare("hooking.md", "unmodified", &table)
}
