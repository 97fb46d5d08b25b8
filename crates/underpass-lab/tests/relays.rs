//! Several relays: one dies, the sessions go on through another.
//!
//! `UNDERPASS_SOAK=1` makes 50 kills instead of 6.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Latencies, Service};
use underpass_lab::{
    Agent, Process, Relay, RelayOptions, Story, Told, TwoFirewalls, soak, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(the_relay_in_use_dies_again_and_again)
}

/// No byte for so long, and an echo has failed.
const STALL: Duration = Duration::from_secs(60);
/// What comes back between two kills, and after each before it counts as overcome.
const STEP: u64 = 1 << 20;
const IDLE: usize = 100;
/// What the firewalls let out.
const PORTS: [u16; 3] = [8080, 80, 443];

/// echo service - publisher - firewall a - three relays on one database - firewall b - client, with an echo that goes on
/// and connections that are idle. Whichever relay carries them is killed (SIGKILL), and started again once data flows
/// through another one. No connection breaks, no byte is lost.
fn the_relay_in_use_dies_again_and_again() -> Result<()> {
    let kills = if soak() { 50 } else { 6 };
    let net = TwoFirewalls::new()?;
    let folder = tempfile::tempdir()?;
    let (relays, publisher, client) = group(&net, &folder.path().join("group.db"))?;
    let service = Service::echo(&net.a, 0)?;
    let published = publisher.publish(&[("echo", &service.address().to_string())])?;
    publisher.allow("client", "echo")?;
    let entrance = client.connect("echo")?;
    let ends = [(&publisher, &published), (&client, &entrance.process)];
    attached(&ends)?;

    let idle = traffic::open_many(&net.b, entrance.address, IDLE, STALL)?;
    let stream = traffic::connect(&net.b, entrance.address, STALL)?;
    let (over, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut silences = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let echo = scope.spawn(|| traffic::echo_until(&stream, 7, &over, &progress));
        let killed = (0..kills).try_for_each(|_| -> Result<()> {
            come_further(&progress)?;
            let used = in_use(&client, &entrance.process, &relays)?;
            used.process().kill()?;
            silences.push(come_further(&progress)?);
            used.process().restart()?;
            used.wait_ready()?;
            attached(&ends)
        });
        over.store(true, Ordering::Relaxed);
        let echoed = echo
            .join()
            .map_err(|_| anyhow::anyhow!("the echo panicked"))?;
        killed?;
        echoed.map(drop).context("the echo across the kills")
    })?;
    idle.echo_all(10_000)?;
    let connections = service.tally().connections();
    ensure!(connections == IDLE as u64 + 1, "{connections} connections");
    let story = Story::of(&client)?;
    ensure!(story.sessions == 1 && story.resumes >= kills, "{story:?}");
    let silences = Latencies::new(silences);
    println!(
        "{kills} kills of the relay in use: no connection broke; the longest silence of the echo around each: median \
         {:.2?}, worst {:.2?}; {} resumes",
        silences.median(),
        silences.max(),
        story.resumes
    );
    Ok(())
}

/// The relays, and a publisher and a client that were enrolled at the first one and use all of them.
fn group(net: &TwoFirewalls, database: &Path) -> Result<(Vec<Relay>, Agent, Agent)> {
    let database = database.to_str().context("temporary folders are UTF-8")?;
    let start = |port: &u16| {
        let options = RelayOptions {
            port: *port,
            arguments: vec!["--database".to_owned(), database.to_owned()],
            ..RelayOptions::default()
        };
        Relay::start_with(&net.relay, &options)
    };
    let (publisher, client) = (Agent::unknown(&net.a)?, Agent::unknown(&net.b)?);
    let first = start(&PORTS[0])?;
    publisher.log_in_first(&first)?;
    client.log_in(&first, &publisher.invite("client")?)?;
    let mut relays = vec![first];
    for port in &PORTS[1..] {
        let relay = start(port)?;
        // Without any code: the group knows the machine. Its key is taken up for each relay on its own.
        publisher.run(&["login", relay.url()])?;
        client.run(&["login", relay.url()])?;
        relays.push(relay);
    }
    let urls: Vec<&str> = relays.iter().map(Relay::url).collect();
    let told = Told {
        environment: vec![("UNDERPASS_RELAY".to_owned(), urls.join(","))],
        ..Told::default()
    };
    Ok((relays, publisher.told(told.clone()), client.told(told)))
}

/// Waits until two relays are reached by both agents: one that may die, one to go on through.
fn attached(ends: &[(&Agent, &Process); 2]) -> Result<()> {
    let reached = |(agent, process): &(&Agent, &Process)| -> Result<BTreeSet<String>> {
        let report = agent.status_of(process)?;
        let relays = report["relays"]
            .as_array()
            .context("relays in the status")?;
        ensure!(relays.len() == PORTS.len(), "{report}");
        let reached = relays.iter().filter(|relay| relay["reached"] == true);
        let urls = reached.filter_map(|relay| relay["url"].as_str());
        Ok(urls.map(str::to_owned).collect())
    };
    wait_until("two relays are reached by both", STALL, || {
        let [publisher, client] = [reached(&ends[0])?, reached(&ends[1])?];
        let both = publisher.intersection(&client).count();
        Ok((both >= 2).then_some(()))
    })
}

/// The relay that the client's session passes through.
fn in_use<'a>(client: &Agent, process: &Process, relays: &'a [Relay]) -> Result<&'a Relay> {
    let report = client.status_of(process)?;
    let carried = report["sessions"][0]["path"]["carried_by"].as_str();
    let carried = carried.with_context(|| format!("nothing carries it: {report}"))?;
    let (_, url) = carried.split_once(" through ").context("through a relay")?;
    // The port of a scheme is left out.
    let named = |relay: &&Relay| relay.url().trim_end_matches(":80") == url.trim_end_matches(":80");
    relays
        .iter()
        .find(named)
        .with_context(|| format!("{url:?} is no relay"))
}

/// Waits until the echo has come further; the longest time for which nothing came back.
fn come_further(progress: &AtomicU64) -> Result<Duration> {
    let due = progress.load(Ordering::Relaxed) + STEP;
    let (begin, mut last, mut heard) = (Instant::now(), 0, Instant::now());
    let mut longest = Duration::ZERO;
    while last < due {
        let now = progress.load(Ordering::Relaxed);
        if now != last {
            (last, heard) = (now, Instant::now());
        }
        longest = longest.max(heard.elapsed());
        ensure!(begin.elapsed() < STALL, "the echo does not go on");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(longest)
}
