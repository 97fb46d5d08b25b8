//! Many channels in one session: none disturbs another, and memory has a bound whatever the readers do.
//!
//! `UNDERPASS_SOAK=1` pushes 10 GiB past each slow reader instead of 1.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Checker, Findings, Pattern, Service};
use underpass_lab::{
    Middlebox, Options, Process, Scene, Story, TwoFirewalls, Way, each_carrier, side_by_side, soak,
    tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        a_thousand_channels_in_one_session,
        a_reader_that_stops_slows_no_other,
        a_slow_reader_costs_bounded_memory,
    )
}

/// No byte for so long, and a connection has failed.
const STALL: Duration = Duration::from_secs(120);
const MEBIBYTE: u64 = 1 << 20;

/// 1000 connections through one `underpass connect`, all open at once, each echoing a stream of its own; every carrier.
fn a_thousand_channels_in_one_session() -> Result<()> {
    each_carrier(2, |carrier| {
        let scene = Scene::start(TwoFirewalls::new()?, &Options::by(carrier))?;
        let service = Service::echo(&scene.net.a, 0)?;
        let way = scene.way("echo", service.address())?;
        let opened = traffic::open_many(&scene.net.b, way.address(), 1000, STALL)?;
        wait_until("all connections arrive", STALL, || {
            Ok((service.open() == 1000).then_some(()))
        })?;
        let (client, publisher) = (Story::of(&scene.client)?, Story::of(&scene.publisher)?);
        ensure!(
            client.sessions == 1 && client.channels == 1000,
            "{client:?}"
        );
        ensure!(
            publisher.sessions == 1 && publisher.channels == 1000,
            "{publisher:?}"
        );
        opened.echo_all(100_000)?;
        ensure!(service.tally().received() == 1000 * 100_000);
        wait_until("all channels end", STALL, || {
            Ok((Story::of(&scene.client)?.channels == 0).then_some(()))
        })?;
        for process in scene.processes(&way) {
            println!("{carrier}, 1000 channels: {}", memory(process)?);
        }
        Ok(())
    })
}

/// One session. On one channel the service stops reading, on another the client does, while their peers push as much as
/// they can. The echo of four other channels takes at most twice as long as without them.
fn a_reader_that_stops_slows_no_other() -> Result<()> {
    each_carrier(1, |carrier| {
        let scene = Scene::start(TwoFirewalls::new()?, &Options::by(carrier))?;
        let (echo, pushed) = (Service::echo(&scene.net.a, 0)?, 256 * MEBIBYTE);
        let released = Arc::new(AtomicBool::new(false));
        let found = Arc::new(Mutex::new(None));
        let sleeper = sleeper(&scene, &released, &found)?;
        let source = Service::source(&scene.net.a, 0, 8, pushed)?;
        let services = [
            ("echo", echo.address()),
            ("sleeper", sleeper.address()),
            ("source", source.address()),
        ];
        let _published = scene.publish(&services)?;
        let ways = scene.client.connect_all(&["echo", "sleeper", "source"])?;
        let [others, to_sleeper, to_source] = &ways.addresses[..] else {
            anyhow::bail!("three services, {} addresses", ways.addresses.len());
        };
        let host = &scene.net.b;
        let timed = || -> Result<Duration> {
            let opened = traffic::open_many(host, *others, 4, STALL)?;
            let begin = Instant::now();
            opened.echo_all(16 * MEBIBYTE)?;
            Ok(begin.elapsed())
        };
        timed()?; // windows have grown
        let without = timed()?.min(timed()?);

        let unread = traffic::connect(host, *to_source, STALL)?;
        wait_until_still("the source is stopped", || source.tally().sent())?;
        let stuck = traffic::connect(host, *to_sleeper, STALL)?;
        let mut pattern = Pattern::new(9);
        let taken = push_until_stuck(&stuck, &mut pattern)?;
        let client = Story::of(&scene.client)?;
        ensure!(client.sessions == 1 && client.channels == 2, "{client:?}");
        let with = timed()?.min(timed()?);
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!(
            "{carrier}: 4 echoes of 16 MiB take {without:.2?}; beside two stopped readers, for whom {} and {} KiB were \
             taken, {with:.2?} ({ratio:.2} times)",
            taken >> 10,
            source.tally().sent() >> 10,
        );
        ensure!(ratio <= 2.0, "{ratio:.2} times as long");

        // Those who slept find everything there.
        released.store(true, Ordering::Relaxed);
        finish_push(&stuck, pattern, pushed)?;
        wait_until("the sleeper has read", STALL, || {
            let found = found.lock().map_or(None, |found| *found);
            found.map(|found: Findings| found.exact(pushed)).transpose()
        })?;
        traffic::download(&unread, 8, None)?.exact(pushed)
    })
}

/// What a slow reader may cost each agent, however much is pushed at it: the window of its channel (at most 16 MiB) lies
/// in the sender's replay queue and again in the receiver's buffer.
const AGENT_BOUND: u64 = 48 * MEBIBYTE;
/// What it may cost the relay: a route's queue (1 MiB) and what its two carriers hold.
const RELAY_BOUND: u64 = 32 * MEBIBYTE;

/// A sender pushes gigabytes at a reader that takes 1 MiB/s for a minute and then as much as it can. The reader is the
/// service (up) or the client (down); once a box stands in each agent's path that reads whatever it can get.
fn a_slow_reader_costs_bounded_memory() -> Result<()> {
    let parts = [
        "upgrade up",
        "upgrade down",
        "poll up",
        "poll down",
        "boxed up",
    ];
    side_by_side(&parts, 5, |part| {
        let (carrier, direction) = part.split_once(' ').context("two words")?;
        let carrier = if carrier == "boxed" {
            "upgrade"
        } else {
            carrier
        };
        let scene = Scene::start(TwoFirewalls::new()?, &Options::by(carrier))?;
        let length = if soak() { 10 << 30 } else { 1 << 30 };
        let pace = Arc::new(Pace::new(Duration::from_secs(60)));
        let found = Arc::new(Mutex::new(None));
        let service = if direction == "up" {
            paced_reader(&scene, &pace, &found)?
        } else {
            Service::source(&scene.net.a, 0, 6, length)?
        };
        let way = scene.way("data", service.address())?;
        let _boxes = if part == "boxed up" {
            Some(swallowing_boxes(&scene)?)
        } else {
            None
        };
        let stream = traffic::connect(&scene.net.b, way.address(), STALL)?;
        let before: Vec<_> = memories(&scene, &way)?;
        pace.start();
        let findings = if direction == "up" {
            traffic::upload(&stream, 6, length)?;
            wait_until("the reader has everything", STALL, || {
                Ok(found.lock().map_or(None, |found| *found))
            })?
        } else {
            pace.read(&stream)?
        };
        findings.exact(length)?;
        let slow = pace.slow.load(Ordering::Relaxed);
        // 60 s at 1 MiB/s, and the last piece.
        ensure!(slow <= 61 * MEBIBYTE, "{slow} bytes were read slowly");
        for (process, before) in scene.processes(&way).into_iter().zip(before) {
            let now = process.memory()?;
            let growth = now.peak.saturating_sub(before);
            let bound = if process.label() == scene.relay.process().label() {
                RELAY_BOUND
            } else {
                AGENT_BOUND
            };
            println!(
                "{part}, {} MiB: {}, grown by at most {} MiB; the bound is {} MiB",
                length / MEBIBYTE,
                memory(process)?,
                growth / MEBIBYTE,
                bound / MEBIBYTE,
            );
            ensure!(
                growth <= bound,
                "{} grew by {growth} bytes",
                process.label()
            );
        }
        Ok(())
    })
}

/// When a reader is slow and when it is not.
struct Pace {
    slow_for: Duration,
    begin: Mutex<Option<Instant>>,
    /// Bytes read while it was slow.
    slow: AtomicU64,
}

impl Pace {
    fn new(slow_for: Duration) -> Self {
        Self {
            slow_for,
            begin: Mutex::new(None),
            slow: AtomicU64::new(0),
        }
    }

    fn start(&self) {
        if let Ok(mut begin) = self.begin.lock() {
            begin.get_or_insert_with(Instant::now);
        }
    }

    /// Reads the stream of seed 6 to its end: 1 MiB in a second at first.
    fn read(&self, mut stream: &TcpStream) -> Result<Findings> {
        self.start();
        let begin = self.begin.lock().map_or(None, |begin| *begin);
        let begin = begin.context("it was started")?;
        let mut checker = Checker::new(6);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let is_slow = begin.elapsed() < self.slow_for;
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(checker.finish());
            }
            checker.take(&buffer[..length]);
            if is_slow {
                let read = self.slow.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
                let due = Duration::from_secs_f64(read as f64 / MEBIBYTE as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
    }
}

/// A service that reads as [`Pace`] says and tells what it found.
fn paced_reader(
    scene: &Scene,
    pace: &Arc<Pace>,
    found: &Arc<Mutex<Option<Findings>>>,
) -> Result<Service> {
    let (pace, found) = (Arc::clone(pace), Arc::clone(found));
    Service::start(&scene.net.a, 0, move |stream, _| {
        let findings = pace.read(stream).map_err(std::io::Error::other)?;
        if let Ok(mut found) = found.lock() {
            *found = Some(findings);
        }
        Ok(())
    })
}

/// A service that reads nothing until it is released, then everything (seed 9).
fn sleeper(
    scene: &Scene,
    released: &Arc<AtomicBool>,
    found: &Arc<Mutex<Option<Findings>>>,
) -> Result<Service> {
    let (released, found) = (Arc::clone(released), Arc::clone(found));
    Service::start(&scene.net.a, 0, move |stream, _| {
        while !released.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let findings = traffic::download(stream, 9, None).map_err(std::io::Error::other)?;
        if let Ok(mut found) = found.lock() {
            *found = Some(findings);
        }
        Ok(())
    })
}

/// Writes until nothing is taken any more for two seconds, and gives how much was taken.
fn push_until_stuck(mut stream: &TcpStream, pattern: &mut Pattern) -> Result<u64> {
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let begin = pattern.position();
        pattern.fill(&mut buffer);
        let mut done = 0;
        while done < buffer.len() {
            match stream.write(&buffer[done..]) {
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    pattern.seek(begin + done as u64);
                    stream.set_write_timeout(Some(STALL))?;
                    return Ok(pattern.position());
                }
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(
            pattern.position() < 1 << 30,
            "a reader that stopped holds nothing back"
        );
    }
}

/// Sends what is left of `length` bytes.
fn finish_push(mut stream: &TcpStream, mut pattern: Pattern, length: u64) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while pattern.position() < length {
        let piece = (length - pattern.position()).min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..piece]);
        stream.write_all(&buffer[..piece])?;
    }
    Ok(stream.shutdown(std::net::Shutdown::Write)?)
}

/// Waits until `count` is above zero and has not changed for two seconds.
fn wait_until_still(what: &str, count: impl Fn() -> u64) -> Result<()> {
    let mut last = (count(), Instant::now());
    wait_until(what, STALL, || {
        let now = count();
        if now != last.0 {
            last = (now, Instant::now());
        }
        let still = now > 0 && last.1.elapsed() > Duration::from_secs(2);
        Ok(still.then_some(()))
    })
}

/// Boxes before the relay that take up to 512 MiB that nobody has read.
fn swallowing_boxes(scene: &Scene) -> Result<[Middlebox; 2]> {
    let net = &scene.net;
    let put = |firewall| Middlebox::before(&net.relay, 8080, firewall, 1);
    let boxes = [put(&net.firewall_a)?, put(&net.firewall_b)?];
    boxes
        .iter()
        .for_each(|middlebox| middlebox.swallow(512 << 20));
    net.firewall_a.reset_flows()?;
    net.firewall_b.reset_flows()?;
    for middlebox in &boxes {
        wait_until("the agents come through the boxes", STALL, || {
            Ok((middlebox.open() > 0).then_some(()))
        })?;
    }
    Ok(boxes)
}

fn memories(scene: &Scene, way: &Way) -> Result<Vec<u64>> {
    let processes = scene.processes(way);
    processes
        .iter()
        .map(|process| Ok(process.memory()?.resident))
        .collect()
}

fn memory(process: &Process) -> Result<String> {
    let now = process.memory()?;
    Ok(format!(
        "{} has {} MiB resident, {} MiB at most",
        process.label(),
        now.resident / MEBIBYTE,
        now.peak / MEBIBYTE
    ))
}
