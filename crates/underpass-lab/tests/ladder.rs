//! The agents find the best carrier by themselves, leave it when a box turns hostile, and come back when it is friendly.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Agent, Middlebox, Options, Scene, Temper, TwoFirewalls, tests, wait_until};

fn main() -> ExitCode {
    tests!(a_box_that_changes_its_mind_costs_no_byte)
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(180);
/// The longest time that a change of carrier may keep an exchange waiting.
const LONGEST_STALL: Duration = Duration::from_secs(5);
/// Sent and waited for, again and again.
const PIECE: usize = 64 * 1024;
/// Carriers that failed are tried again sooner than users would want it.
const SETTINGS: &str = "carrier_retry = \"2s\"\n";

/// service - publisher - firewall a - box - relay - box - firewall b - client - exchanges on one connection. The boxes
/// begin to hold answers, are friendly again, refuse upgrades and close what there is, are friendly again.
fn a_box_that_changes_its_mind_costs_no_byte() -> Result<()> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    for agent in [&scene.client, &scene.publisher] {
        std::fs::write(agent.home().join("config.toml"), SETTINGS)?;
    }
    let service = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", service.address())?;
    let boxes = between(&scene)?;
    let best = settled(&scene, "the first choice", |carrier| carrier == "upgrade")?;
    let stream = traffic::connect(&scene.net.b, way.address(), LIMIT)?;
    traffic::exchange(&stream, PIECE, 1, Duration::ZERO)?;
    let over = AtomicBool::new(false);
    let (changes, exchanged) = std::thread::scope(|scope| {
        let exchanging = scope.spawn(|| exchange_until(&stream, &over));
        let changes = change_minds(&scene, &boxes);
        over.store(true, Ordering::Relaxed);
        let exchanged = exchanging
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (changes, exchanged)
    });
    let (count, longest) = exchanged.context("the exchanges")?;
    let changes = changes?;
    ensure!(
        service.tally().connections() == 1,
        "the channel was made anew"
    );
    ensure!(longest <= LONGEST_STALL, "a stall of {longest:?}");
    println!(
        "{best}, then {}: {count} exchanges of {PIECE} bytes on one connection, the longest took {longest:.1?}",
        changes.join(", ")
    );
    Ok(())
}

/// What the client uses after each change.
fn change_minds(scene: &Scene, boxes: &[Middlebox; 2]) -> Result<Vec<String>> {
    let temper = |temper: Temper| boxes.iter().for_each(|it| it.set_temper(temper));
    let mut used = Vec::new();
    temper(Temper::HoldsAnswers);
    used.push(settled(scene, "what survives holding", |carrier| {
        !["upgrade", "ws", "stream", "posts"].contains(&carrier)
    })?);
    temper(Temper::Friendly);
    used.push(settled(scene, "the first choice again", |carrier| {
        carrier == "upgrade"
    })?);
    temper(Temper::NoUpgrades);
    for middlebox in boxes {
        middlebox.close_all();
    }
    used.push(settled(scene, "no upgrade", |carrier| {
        !["upgrade", "ws"].contains(&carrier)
    })?);
    temper(Temper::Friendly);
    used.push(settled(scene, "the first choice once more", |carrier| {
        carrier == "upgrade"
    })?);
    Ok(used)
}

/// Exchanges pieces until told to stop: how many, and how long the longest took.
fn exchange_until(stream: &std::net::TcpStream, over: &AtomicBool) -> Result<(usize, Duration)> {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        traffic::exchange(stream, PIECE, 1, Duration::from_millis(5))?;
        longest = longest.max(begin.elapsed());
        count += 1;
    }
    Ok((count, longest))
}

/// Waits until both agents use a carrier that `wanted` likes; the client's.
fn settled(scene: &Scene, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    wait_until(what, LIMIT, || {
        let used = [carrier_of(&scene.client)?, carrier_of(&scene.publisher)?];
        let both = used.iter().all(|used| used.as_deref().is_some_and(&wanted));
        let [client, _] = used;
        Ok(client.filter(|_| both))
    })
}

/// The carrier that the running agent of this home uses.
fn carrier_of(agent: &Agent) -> Result<Option<String>> {
    let text = agent.run(&["status", "--offline", "--json"])?;
    let told: serde_json::Value = serde_json::from_str(&text)?;
    let agents = told["agents"].as_array().context("no list of agents")?;
    let [running] = &agents[..] else {
        bail!("not one agent: {text}");
    };
    Ok(running["relay"]["carrier"].as_str().map(str::to_owned))
}

/// Boxes in the paths of both agents. The connections that exist are reset, so that the new ones go through the boxes.
fn between(scene: &Scene) -> Result<[Middlebox; 2]> {
    let net = &scene.net;
    let put = |firewall| Middlebox::before(&net.relay, 8080, firewall, 1);
    let boxes = [put(&net.firewall_a)?, put(&net.firewall_b)?];
    net.firewall_a.reset_flows()?;
    net.firewall_b.reset_flows()?;
    for middlebox in &boxes {
        wait_until("the agents come through the boxes", LIMIT, || {
            Ok((middlebox.open() > 0).then_some(()))
        })?;
    }
    Ok(boxes)
}
