//! The main job, shown: a download through two firewalls whose path is cut ten times.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::server::Nginx;
use underpass_lab::traffic::Pattern;
use underpass_lab::{
    Agent, Cut, Cutter, Done, Entrance, Pace, Plan, Process, Relay, Skip, TwoFirewalls, exec,
};

const MEBIBYTE: u64 = 1 << 20;
/// Length of the file.
const LENGTH: u64 = 256 * MEBIBYTE;
/// How often the path is cut on the way.
const CUTS: usize = 10;
/// A download that takes longer has failed. Without cuts it is a matter of seconds.
const LIMIT: Duration = Duration::from_secs(180);
/// How long small commands may take.
const SHORT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match show() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Skip>() => {
            eprintln!("The demo cannot run here: {error}.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("The demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that runs while the file is fetched.
struct Stage {
    net: TwoFirewalls,
    nginx: Nginx,
    relay: Relay,
    entrance: Entrance,
    published: Process,
    _agents: [Agent; 2],
}

fn show() -> Result<bool> {
    let begin = Instant::now();
    let stage = set_up()?;
    println!(
        "Ready after {:.1} s. The download begins.\n",
        begin.elapsed().as_secs_f32()
    );
    let got = stage.net.lab.logs().join("download");
    let same = download(&stage, &got);
    // A quarter of a gigabyte that nobody needs afterwards.
    let _ = fs::remove_file(&got);
    let same = same?;
    println!(
        "Everything together took {:.0} s.",
        begin.elapsed().as_secs_f32()
    );
    Ok(same)
}

fn set_up() -> Result<Stage> {
    println!("Two private networks, each behind a firewall that lets nothing out but TCP to ports");
    println!("80, 443 and 8080, and nothing in. Between them a relay that speaks plain HTTP:\n");
    println!("  curl - agent - firewall b ===== relay ===== firewall a - agent - nginx\n");
    let net = TwoFirewalls::new()?;
    let nginx = Nginx::start(&net.a, [127, 0, 0, 1], 80)?;
    write_file(&nginx.files().join("file"))?;
    let relay = Relay::start(&net.relay)?;
    println!(
        "$ underpass relay                              on {}",
        net.relay.address()
    );
    let publisher = Agent::first(&net.a, &relay)?;
    println!(
        "$ underpass login {} --setup CODE    behind firewall a",
        relay.url()
    );
    let published = publisher.publish(&[("files", "127.0.0.1:80")])?;
    println!("$ underpass publish files 127.0.0.1:80         behind firewall a");
    let client = Agent::invited(&net.b, &relay, "client", &publisher)?;
    println!(
        "$ underpass login {} --invite CODE   behind firewall b",
        relay.url()
    );
    publisher.allow("client", "files")?;
    println!("$ underpass services allow client files        behind firewall a");
    let entrance = client.connect("files")?;
    println!(
        "$ underpass connect files                      behind firewall b: {}\n",
        entrance.address
    );
    let agents = [publisher, client];
    Ok(Stage {
        net,
        nginx,
        relay,
        entrance,
        published,
        _agents: agents,
    })
}

/// A file of bytes that no compression and no repetition can make easier.
fn write_file(path: &Path) -> Result<()> {
    let mut pattern = Pattern::new(2026);
    let mut piece = vec![0; MEBIBYTE as usize];
    let mut file = fs::File::create(path)?;
    for _ in 0..LENGTH / MEBIBYTE {
        pattern.fill(&mut piece);
        std::io::Write::write_all(&mut file, &piece)?;
    }
    Ok(())
}

/// Fetches the file into `got` while the path is cut, and says whether it is the same.
fn download(stage: &Stage, got: &Path) -> Result<bool> {
    let begin = Instant::now();
    let mut curl = stage.net.b.command("curl");
    let url = format!("http://{}/file", stage.entrance.address);
    curl.args(["--silent", "--show-error", "--fail", "--output"])
        .arg(got)
        .arg(url);
    let curl = stage.net.b.spawn("curl", curl)?;

    let progress = Arc::new(AtomicU64::new(0));
    let cutter = Cutter::start(plan(stage, &progress));
    let mut told = 0;
    let status = exec::wait_until("the download ends", LIMIT, || {
        let length = fs::metadata(got).map_or(0, |file| file.len());
        progress.store(length, Ordering::Relaxed);
        for done in cutter.done().iter().skip(told) {
            tell(done, length);
            told += 1;
        }
        curl.exited()
    })
    .with_context(|| stage.published.log_tail())?;
    let took = begin.elapsed();
    let done = cutter.stop()?;
    println!("\ncurl ended after {:.1} s: {status}.", took.as_secs_f32());
    ensure!(status.success(), "{}", curl.log_tail());

    compare(stage, got, done.len())
}

/// Says whether what arrived is what was published, and whether the path was cut as often as promised.
fn compare(stage: &Stage, got: &Path, cuts: usize) -> Result<bool> {
    let (sent, got) = (checksum(&stage.nginx.files().join("file"))?, checksum(got)?);
    println!("SHA-256 of what was published: {sent}\nSHA-256 of what arrived:       {got}");
    for process in [
        stage.relay.process(),
        &stage.published,
        &stage.entrance.process,
    ] {
        let peak = process.memory()?.peak / MEBIBYTE;
        println!("{} used at most {peak} MiB of memory.", process.label());
    }
    let same = sent == got;
    let verdict = if same {
        "the same, byte for byte"
    } else {
        "NOT THE SAME"
    };
    println!(
        "\n{} MiB through {} cuts: {verdict}.",
        LENGTH / MEBIBYTE,
        cuts
    );
    if cuts < CUTS {
        println!("Only {} of {CUTS} cuts fell into the download.", cuts);
    }
    Ok(same && cuts == CUTS)
}

fn plan(stage: &Stage, progress: &Arc<AtomicU64>) -> Plan {
    let (a, b) = (stage.net.firewall_a.clone(), stage.net.firewall_b.clone());
    Plan {
        seed: 7,
        cuts: vec![
            Cut::Reset(a.clone()),
            Cut::Reset(b.clone()),
            Cut::Forget(b.clone()),
            Cut::BlackHole(a),
            Cut::Unplug(b.link().clone()),
            Cut::Freeze(stage.relay.process().clone()),
        ],
        // Ten of these fit into the file even when each is the longest.
        pace: Pace::Progress(Arc::clone(progress), 12 * MEBIBYTE..24 * MEBIBYTE),
        outage: Duration::from_millis(300)..Duration::from_millis(1500),
        count: CUTS,
    }
}

fn tell(done: &Done, length: u64) {
    let share = length * 100 / LENGTH;
    let lasted = match done.lasted.as_secs_f32() {
        0.0 => String::new(),
        seconds => format!(" for {seconds:.1} s"),
    };
    println!(
        "{:5.1} s  {share:3} %  {}{lasted}",
        done.at.as_secs_f32(),
        done.what
    );
}

fn checksum(path: &Path) -> Result<String> {
    let done = exec::output(Command::new("sha256sum").arg(path), SHORT)?.success()?;
    let text = done.text();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
