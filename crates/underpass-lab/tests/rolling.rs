//! One relay process takes the place of another on the same sockets, and nobody notices.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Agent, Options, Process, RelayOptions, Scene, Story, TwoFirewalls, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(three_rolling_restarts_break_nothing)
}

/// No byte for so long, and an echo has failed.
const STALL: Duration = Duration::from_secs(60);
/// What comes back between two restarts, at least.
const STEP: u64 = 1 << 20;
const RESTARTS: u64 = 3;
const IDLE: usize = 30;
const NEIGHBOUR: &str = "neighbour";

/// echo service - publisher - firewall a - relay - firewall b - client, by `upgrade`, with an echo that goes on and
/// connections that are idle; and a neighbour of the relay that uses the service by `quic`. The relay's sockets are
/// handed to one process after the other: each is started beside the one before, which is then told to stop (SIGTERM).
fn three_rolling_restarts_break_nothing() -> Result<()> {
    let options = Options {
        relay: RelayOptions {
            handed: true,
            ..RelayOptions::default()
        },
        ..Options::by("upgrade")
    };
    let scene = Scene::start(TwoFirewalls::new()?, &options)?;
    let service = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", service.address())?;
    let code = scene.publisher.invite(NEIGHBOUR)?;
    let neighbour = Agent::unknown(&scene.net.relay)?;
    neighbour.log_in(&scene.relay, &code)?;
    scene.publisher.allow(NEIGHBOUR, "echo")?;
    let neighbour = neighbour.by("quic");
    let nearby = neighbour.connect("echo")?;

    let idle = traffic::open_many(&scene.net.b, way.address(), IDLE, STALL)?;
    let streams = [
        traffic::connect(&scene.net.b, way.address(), STALL)?,
        traffic::connect(&scene.net.relay, nearby.address, STALL)?,
    ];
    let (over, progress) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    let mut pauses = Vec::new();
    let _last = std::thread::scope(|scope| -> Result<Process> {
        let echoes: Vec<_> = (streams.iter().zip(&progress).zip(1..))
            .map(|((stream, progress), seed)| {
                let over = &over;
                scope.spawn(move || traffic::echo_until(stream, seed, over, progress))
            })
            .collect();
        let rolled = restart_each_after_the_other(&scene, &progress, &mut pauses);
        over.store(true, Ordering::Relaxed);
        for echo in echoes {
            let echoed = echo
                .join()
                .map_err(|_| anyhow::anyhow!("an echo panicked"))?;
            let length = echoed.context("an echo across the restarts")?;
            ensure!(length > RESTARTS * STEP);
        }
        rolled
    })?;
    idle.echo_all(10_000)?;
    let connections = service.tally().connections();
    ensure!(connections == IDLE as u64 + 2, "{connections} connections");

    let (client, publisher) = (Story::of(&scene.client)?, Story::of(&scene.publisher)?);
    let neighbour = Story::of(&neighbour)?;
    println!(
        "{RESTARTS} rolling restarts: the client counts {} drops and {} resumes, the publisher {} drops, the neighbour \
         (quic) {} drops; longest silence of an echo around each: {pauses:.0?}",
        client.drops, client.resumes, publisher.drops, neighbour.drops
    );
    // They attach to the next process while they still have the one before.
    ensure!(
        client.drops == 0 && publisher.drops == 0,
        "{client:?} {publisher:?}"
    );
    ensure!(
        client.resumes == RESTARTS && client.sessions == 1,
        "{client:?}"
    );
    // Its connections share a socket with the next process, and end before that begins to read from it.
    ensure!(
        neighbour.drops <= RESTARTS && neighbour.sessions == 1,
        "{neighbour:?}"
    );
    Ok(())
}

/// Gives the last process, which would end if it were dropped, and the longest silence around each restart.
fn restart_each_after_the_other(
    scene: &Scene,
    progress: &[AtomicU64; 2],
    pauses: &mut Vec<Duration>,
) -> Result<Process> {
    let mut running = scene.relay.process().clone();
    for number in 1..=RESTARTS {
        go_on(progress)?;
        let next = scene.relay.successor(&format!("relay-{number}"))?;
        let watch = Arc::new(AtomicBool::new(false));
        let silence = std::thread::scope(|scope| -> Result<Duration> {
            let watching = scope.spawn(|| longest_silence(&progress[0], &watch));
            let restarted = running.terminate(STALL).and_then(|status| {
                ensure!(status.success(), "the relay ended with {status}");
                go_on(progress)
            });
            watch.store(true, Ordering::Relaxed);
            let silence = watching
                .join()
                .map_err(|_| anyhow::anyhow!("the watch panicked"))?;
            restarted.map(|()| silence)
        })?;
        pauses.push(silence);
        running = next;
    }
    Ok(running)
}

/// Waits until all echoes have come further.
fn go_on(progress: &[AtomicU64; 2]) -> Result<()> {
    for progress in progress {
        let due = progress.load(Ordering::Relaxed) + STEP;
        wait_until("the echo goes on", STALL, || {
            Ok((progress.load(Ordering::Relaxed) >= due).then_some(()))
        })?;
    }
    Ok(())
}

fn longest_silence(progress: &AtomicU64, over: &AtomicBool) -> Duration {
    let (mut last, mut heard, mut longest) = (0, Instant::now(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let now = progress.load(Ordering::Relaxed);
        if now != last {
            (last, heard) = (now, Instant::now());
        }
        longest = longest.max(heard.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    longest
}
