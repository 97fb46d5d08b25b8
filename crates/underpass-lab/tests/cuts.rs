//! Nothing is lost while the path breaks, in whatever way and however often; and nothing is left behind.
//!
//! `UNDERPASS_SOAK=1` makes 1,250 cuts on each carrier instead of 200, 10,000 in all, and 250 more on QUIC.

use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::growth::{Held, Watch};
use underpass_lab::server::SshServer;
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Cut, Cutter, Done, Middlebox, Pace, Plan, QUIC, Scene, Story, Way, each_carrier,
    each_carrier_and_quic, side_by_side, soak, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        an_echo_is_exact_through_every_kind_of_cut,
        what_lasts_goes_on_after_long_outages,
    )
}

/// No byte for so long, and an echo has failed: longer than any outage here and what follows from it.
const STALL: Duration = Duration::from_secs(120);
const MEBIBYTE: u64 = 1 << 20;
/// What a process may hold more of late in an echo than early: the channel's windows may grow to 16 MiB in either
/// direction in the middle of it, and connections may be on their way out. What every cut left behind would add up.
const GROWTH: Held = Held {
    resident: 32 * MEBIBYTE,
    files: 16,
};

/// How much is echoed, how often the path is cut meanwhile, and when.
struct Size {
    length: u64,
    cuts: usize,
    /// Bytes that come back between the end of a cut and the next one. Twice the mean times the number of cuts stays well
    /// below the length, so that all of them fall into the echo.
    step: std::ops::Range<u64>,
    outage: std::ops::Range<Duration>,
}

fn size(carrier: &str) -> Size {
    let ms = Duration::from_millis;
    if soak() {
        // Every cut of a flow of UDP is nothing but silence, which takes seconds to be noticed.
        let share = if carrier == QUIC { 5 } else { 1 };
        // About 2 MiB more pass at each cut, before it is felt and while it heals.
        return Size {
            length: (5 << 30) / share,
            cuts: 1_250 / share as usize,
            step: MEBIBYTE / 16..MEBIBYTE / 2,
            outage: ms(20)..ms(1500),
        };
    }
    Size {
        length: 1 << 30,
        cuts: 200,
        step: MEBIBYTE / 2..3 * MEBIBYTE,
        // From what TCP heals by itself to what makes a leg suspect (2 s without an answer).
        outage: ms(20)..ms(2500),
    }
}

/// service - publisher - firewall a - box - relay - box - firewall b - client - echo, on each carrier in a lab of its
/// own. Both firewalls reset, forget and swallow, both cables are pulled, both boxes close connections in mid-frame, the
/// relay is frozen.
/// QUIC too at full length: without boxes, which know TCP only.
fn an_echo_is_exact_through_every_kind_of_cut() -> Result<()> {
    let each = if soak() {
        each_carrier_and_quic
    } else {
        each_carrier
    };
    each(8, |carrier: &'static str| {
        let seed = u64::from(carrier.bytes().map(u32::from).sum::<u32>());
        let Size {
            length,
            cuts,
            step,
            outage,
        } = size(carrier);
        let (scene, way, _service) = echo_scene(carrier)?;
        let boxes = match carrier {
            QUIC => Vec::new(),
            _ => between(&scene, seed)?.into(),
        };
        let progress = Arc::new(AtomicU64::new(0));
        let stream = traffic::connect(&scene.net.b, way.address(), STALL)?;
        let begin = Instant::now();
        let watch = Watch::start(&scene.processes(&way), &progress, length);
        let cutter = Cutter::start(Plan {
            seed,
            cuts: every_cut(&scene, &boxes),
            pace: Pace::Progress(Arc::clone(&progress), step),
            outage,
            count: cuts,
        });
        let echoed = traffic::echo(&stream, seed, length, &progress);
        let done = cutter.stop()?;
        let held = watch.stop();
        let told = |error: anyhow::Error| {
            let at = progress.load(Ordering::Relaxed);
            error.context(format!("seed {seed}, at {at}, after {}", summary(&done)))
        };
        echoed.and_then(|found| found.exact(length)).map_err(told)?;
        let held = held?;
        let (client, publisher) = (Story::of(&scene.client)?, Story::of(&scene.publisher)?);
        for growth in &held {
            println!("{carrier}: {growth}");
        }
        println!(
            "{carrier}: {} MiB exact in {:.0} s, seed {seed}, through {}; the client counts {} drops and {} resumes, \
             the publisher {} drops",
            length / MEBIBYTE,
            begin.elapsed().as_secs_f32(),
            summary(&done),
            client.drops,
            client.resumes,
            publisher.drops,
        );
        ensure!(
            done.len() == cuts,
            "only {} cuts: {}",
            done.len(),
            summary(&done)
        );
        ensure!(client.drops > 0 && publisher.drops > 0 && client.resumes > 0);
        ensure!(client.sessions == 1, "{client:?}");
        held.iter().try_for_each(|growth| growth.within(GROWTH))
    })
}

/// What waits long, side by side, each in a lab of its own.
fn what_lasts_goes_on_after_long_outages() -> Result<()> {
    side_by_side(&["relay killed", "ssh"], 2, |part| match part {
        "ssh" => a_hung_ssh_session_goes_on(),
        _ => a_session_outlives_its_relay(),
    })
}

/// As above, without boxes. The relay is killed (SIGKILL) in the middle of the echo and started again on the same data,
/// three times.
fn a_session_outlives_its_relay() -> Result<()> {
    let length = 256 * MEBIBYTE;
    let (scene, way, service) = echo_scene("upgrade")?;
    let progress = Arc::new(AtomicU64::new(0));
    let stream = traffic::connect(&scene.net.b, way.address(), STALL)?;
    let echoed = std::thread::scope(|scope| {
        let echo = scope.spawn(|| traffic::echo(&stream, 3, length, &progress));
        for time in 1..=3 {
            let due = time * length / 4;
            wait_until("the echo goes on", STALL, || {
                let over = echo.is_finished();
                Ok((over || progress.load(Ordering::Relaxed) >= due).then_some(()))
            })?;
            ensure!(
                !echo.is_finished(),
                "the echo was over before the relay died"
            );
            scene.relay.process().restart()?;
            scene.relay.wait_ready()?;
        }
        echo.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    echoed.exact(length)?;
    ensure!(
        service.tally().connections() == 1,
        "the channel was made anew"
    );
    let client = Story::of(&scene.client)?;
    ensure!(client.drops >= 3 && client.resumes >= 3, "{client:?}");
    println!("a session outlived three relays: {client:?}");
    Ok(())
}

/// ssh - client - firewall b - relay - firewall a - publisher - sshd. The cable of firewall b is out for two minutes
/// while the session is in use: it counts what it is told, and says so, one line for each.
fn a_hung_ssh_session_goes_on() -> Result<()> {
    let outage = Duration::from_secs(120);
    let scene = Scene::by("ws")?;
    let sshd = SshServer::start(&scene.net.a, [127, 0, 0, 1], 22)?;
    let way = scene.way("shell", sshd.address())?;
    let mut command = sshd.ssh(&scene.net.b, way.address())?;
    // A terminal, so that the far side is as interactive as it gets; its echo of what is typed is not wanted.
    command.arg("-tt");
    command.arg("stty -echo; echo ready; while read -r word; do echo \"got $word\"; done");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut typed = child.stdin.take().context("standard input is piped")?;
    let mut shown =
        BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
    let mut next = move || -> Result<String> {
        let line = shown.next().context("ssh ended")??;
        Ok(line.trim_end().to_owned())
    };
    ensure!(next()? == "ready");
    let mut told = 0;
    let mut tell = |typed: &mut dyn Write| -> Result<()> {
        told += 1;
        Ok(writeln!(typed, "{told}")?)
    };
    tell(&mut typed)?;
    ensure!(next()? == "got 1");
    scene.net.firewall_b.link().cut()?;
    let begin = Instant::now();
    // Typed into a terminal that hangs.
    while begin.elapsed() < outage {
        tell(&mut typed)?;
        if let Some(status) = child.try_wait()? {
            bail!("ssh ended in the outage: {status}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    scene.net.firewall_b.link().restore()?;
    tell(&mut typed)?;
    drop(typed);
    let told_all = told;
    for number in 2..=told_all {
        let line = next()?;
        ensure!(
            line == format!("got {number}"),
            "{line:?} came for {number}"
        );
    }
    let client = Story::of(&scene.client)?;
    // With a terminal the end of input is a character, which nobody typed.
    child.kill()?;
    child.wait()?;
    ensure!(client.drops > 0, "{client:?}");
    println!("ssh: {told_all} lines, none lost, through an outage of {outage:?}");
    Ok(())
}

fn echo_scene(carrier: &str) -> Result<(Scene, Way, Service)> {
    let scene = Scene::by(carrier)?;
    let service = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", service.address())?;
    Ok((scene, way, service))
}

/// Boxes in the paths of both agents. The connections that exist are reset, so that the new ones go through the boxes.
fn between(scene: &Scene, seed: u64) -> Result<[Middlebox; 2]> {
    let net = &scene.net;
    let put = |firewall| Middlebox::before(&net.relay, 8080, firewall, seed);
    let boxes = [put(&net.firewall_a)?, put(&net.firewall_b)?];
    net.firewall_a.reset_flows()?;
    net.firewall_b.reset_flows()?;
    for middlebox in &boxes {
        wait_until("the agents come through the boxes", STALL, || {
            Ok((middlebox.open() > 0).then_some(()))
        })?;
    }
    Ok(boxes)
}

fn every_cut(scene: &Scene, boxes: &[Middlebox]) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for firewall in [&scene.net.firewall_a, &scene.net.firewall_b] {
        cuts.extend([
            Cut::Reset(firewall.clone()),
            Cut::Forget(firewall.clone()),
            Cut::BlackHole(firewall.clone()),
            Cut::Unplug(firewall.link().clone()),
        ]);
    }
    cuts.extend(boxes.iter().cloned().map(Cut::Close));
    cuts.extend([(); 2].map(|()| Cut::Freeze(scene.relay.process().clone())));
    cuts
}

/// How many of each kind.
fn summary(done: &[Done]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for cut in done {
        match kinds.iter_mut().find(|(what, _)| *what == cut.what) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&cut.what, 1)),
        }
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(what, count)| format!("{count} x {what}"))
        .collect();
    format!("{} cuts ({})", done.len(), kinds.join(", "))
}
