//! Programs at work beside each other, while the path below them is cut fifty times.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Postgres, SshServer};
use underpass_lab::{Cut, Cutter, Pace, Plan, Skip, Story, wait_until};

use crate::desktop::{Rdp, Screen};
use crate::place::{LIMIT, Place, Talk, installed, random, run, text};

/// How often the path is cut.
const CUTS: usize = 50;
/// How long all of that may take on a busy machine.
const CUTS_LIMIT: Duration = Duration::from_secs(300);
/// What goes through ssh at a time, in bytes, and the pause after it.
const PIECE: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(10);

/// What the programs did while the path was cut.
#[derive(Default)]
struct Work {
    /// Set when the cuts are made.
    over: AtomicBool,
    echoed: AtomicU64,
    statements: AtomicU64,
    trees: AtomicU64,
    pictures: AtomicU64,
}

impl Work {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

/// What one of the programs does while paths are cut.
type Part = fn(&Place, &Work) -> Result<()>;

/// One connection of ssh, of psql and of RDP, and one rsync after the other, all at once.
pub(crate) fn four_programs_go_on_through_fifty_cuts() -> Result<()> {
    for program in [
        "rsync",
        "psql",
        "xfreerdp",
        "xrdp",
        "Xtigervnc",
        "Xvfb",
        "xwd",
        "xwud",
    ] {
        if !installed(program) {
            return Err(Skip::because(format!("{program} is not installed")));
        }
    }
    let place = Place::new()?;
    let work = Work::default();
    let ms = Duration::from_millis;
    std::thread::scope(|scope| -> Result<()> {
        let parts: [(&str, Part); 4] =
            [("ssh", ssh), ("psql", psql), ("rsync", rsync), ("RDP", rdp)];
        let running = parts.map(|(name, part)| {
            let (place, work) = (&place, &work);
            (name, scope.spawn(move || part(place, work)))
        });
        // Each is in the middle of something before the first cut.
        let begun = wait_until("all are at work", LIMIT, || {
            let counts = [&work.echoed, &work.statements, &work.pictures];
            let failed = running.iter().any(|(_, thread)| thread.is_finished());
            let begun = counts.iter().all(|count| count.load(Ordering::Relaxed) > 0);
            Ok((begun || failed).then_some(()))
        });
        let net = &place.scene.net;
        let cutter = Cutter::start(Plan {
            seed: 6,
            cuts: vec![
                Cut::Reset(net.firewall_a.clone()),
                Cut::Reset(net.firewall_b.clone()),
                Cut::Unplug(net.a.link().clone()),
                Cut::Unplug(net.b.link().clone()),
            ],
            pace: Pace::Time(ms(200)..ms(500)),
            outage: ms(20)..ms(200),
            count: CUTS,
        });
        let cut = begun.and_then(|()| {
            wait_until("the cuts are made", CUTS_LIMIT, || {
                Ok((cutter.done().len() == CUTS).then_some(()))
            })
        });
        let done = cutter.stop()?;
        work.over.store(true, Ordering::Relaxed);
        for (name, thread) in running {
            let ended = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.with_context(|| name.to_owned())?;
        }
        cut?;
        ensure!(done.len() == CUTS);
        Ok(())
    })?;
    let story = Story::of(&place.scene.client)?;
    println!(
        "{CUTS} cuts: ssh echoed {} KiB, psql {} statements, rsync {} trees, RDP {} pictures; the client counts {} drops \
         and {} resumes",
        work.echoed.load(Ordering::Relaxed) / 1024,
        work.statements.load(Ordering::Relaxed),
        work.trees.load(Ordering::Relaxed),
        work.pictures.load(Ordering::Relaxed),
        story.drops,
        story.resumes
    );
    ensure!(
        story.drops > 0 && story.resumes > 0 && story.sessions == 1,
        "{story:?}"
    );
    Ok(())
}

/// Everything that goes to the far side comes back, in one connection.
fn ssh(place: &Place, work: &Work) -> Result<()> {
    let sshd = SshServer::start(place.a(), place.a().address(), 22)?;
    let mut command = sshd.ssh(place.b(), place.at("shell"))?;
    command.arg("cat");
    let mut talk = Talk::start(command)?;
    let (mut input, mut output) = (talk.input()?, talk.output()?);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| -> Result<u64> {
            let (mut seed, mut piece) = (0, vec![0; PIECE]);
            while output.read_exact(&mut piece).is_ok() {
                ensure!(
                    piece == random(seed, PIECE),
                    "piece {seed} came back as another"
                );
                seed += 1;
                work.echoed.fetch_add(PIECE as u64, Ordering::Relaxed);
            }
            Ok(seed)
        });
        let mut sent = 0;
        while work.goes_on() {
            input.write_all(&random(sent, PIECE))?;
            sent += 1;
            std::thread::sleep(PAUSE);
        }
        drop(input);
        let back = reading.join().expect("reading does not panic")?;
        ensure!(back == sent, "{back} of {sent} pieces came back");
        Ok(())
    })?;
    wait_until("ssh ends", LIMIT, || Ok((!talk.runs()?).then_some(())))
}

/// One statement after the other in one connection, each answered before the next.
fn psql(place: &Place, work: &Work) -> Result<()> {
    let postgres = Postgres::start(place.a(), place.a().address(), 5432)?;
    let mut setup = Postgres::psql(
        place.a(),
        postgres.address(),
        "create table numbers (n int)",
    )?;
    run(&mut setup)?;
    let at = place.at("db");
    let mut command: Command = place.b().command("psql");
    command.args([
        "-h",
        &at.ip().to_string(),
        "-p",
        &at.port().to_string(),
        "-U",
        "postgres",
    ]);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "postgres"]);
    let mut talk = Talk::start(command)?;
    let (mut input, output) = (talk.input()?, talk.output()?);
    let mut lines = BufReader::new(output).lines();
    let mut ask = |statement: &str| -> Result<String> {
        writeln!(input, "{statement};")?;
        let line = lines.next().context("psql has ended")?;
        Ok(line?)
    };
    let mut count = 0;
    while work.goes_on() {
        count += 1;
        let said = ask(&format!(
            "insert into numbers values ({count}) returning n * 2"
        ))?;
        ensure!(said == (count * 2).to_string(), "{count}: {said}");
        work.statements.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    let said = ask("select count(*), count(distinct n), max(n) from numbers")?;
    ensure!(
        said == format!("{count}|{count}|{count}"),
        "{said} of {count}"
    );
    Ok(())
}

/// Trees that take some seconds each, so that all of them are cut in the middle.
fn rsync(place: &Place, work: &Work) -> Result<()> {
    let folder = place.folder("rsync")?;
    let tree = folder.join("tree");
    std::fs::create_dir(&tree)?;
    for number in 0..40 {
        std::fs::write(tree.join(number.to_string()), random(number, 200_000))?;
    }
    let (config, at) = (folder.join("rsyncd.conf"), place.target("mirror"));
    std::fs::write(
        &config,
        format!(
            "use chroot = no\nport = {}\naddress = {}\npid file = {}\nuid = root\ngid = root\n[tree]\npath = {}\n",
            at.port(),
            at.ip(),
            text(&folder.join("pid")),
            text(&tree)
        ),
    )?;
    let mut command = place.a().command("rsync");
    command.args(["--daemon", "--no-detach", "--config", text(&config)]);
    let _server = place.serve("mirror", command)?;
    let (from, to) = (
        format!("rsync://{}/tree/", place.at("mirror")),
        folder.join("to"),
    );
    loop {
        let mut command = place.b().command("rsync");
        command.args(["-a", "--bwlimit=2m", &from, text(&to)]);
        run(&mut command)?;
        same(&tree, &to)?;
        std::fs::remove_dir_all(&to)?;
        work.trees.fetch_add(1, Ordering::Relaxed);
        if !work.goes_on() {
            return Ok(());
        }
    }
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let mut diff = Command::new("diff");
    run(diff.args(["-r", text(one), text(other)])).map(drop)
}

/// One connection shows one picture after the other.
fn rdp(place: &Place, work: &Work) -> Result<()> {
    let folder = place.folder("rdp")?;
    let (rdp, near) = (Rdp::start(place, &folder)?, Screen::start(place.b())?);
    let viewer = rdp.view(place, &near, &folder)?;
    let mut seed = 0;
    loop {
        let last = !work.goes_on();
        seed += 1;
        let _shown = rdp.far.show(&folder, seed)?;
        near.sees(seed, &viewer)?;
        work.pictures.fetch_add(1, Ordering::Relaxed);
        // One more after the last cut.
        if last {
            return Ok(());
        }
    }
}
