//! One row: its scene, and what is measured in it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use underpass_lab::boxes::Enclosed;
use underpass_lab::traffic::{self, Checker, Service};
use underpass_lab::{
    Cut, Cutter, Entrances, Options, Pace, Plan, Process, RelayOptions, wait_until,
};

use crate::rows::Row;

/// No byte for so long, and a transfer has failed.
const STALL: Duration = Duration::from_secs(120);
/// How long the choice of a carrier may take on a busy machine.
const SETTLE: Duration = Duration::from_secs(120);
const MEBIBYTE: u64 = 1 << 20;
/// What passes each way, byte-exact.
const LENGTH: u64 = 64 * MEBIBYTE;
/// How often the path is cut.
const CUTS: usize = 20;

/// What a row of the table tells.
pub(crate) struct Figures {
    /// From the start of `underpass connect` until the first byte of the service.
    pub(crate) first_byte: Duration,
    /// The carrier that is in use in the end.
    pub(crate) carrier: String,
    /// From end to end, the median.
    pub(crate) round_trip: Duration,
    /// Bytes per second to the client.
    pub(crate) down: f64,
    /// Bytes per second from the client.
    pub(crate) up: f64,
    /// Bytes lost over the cuts.
    pub(crate) lost: u64,
}

/// A scene with the box of a row, and three services.
pub(crate) struct Subject {
    entrances: Entrances,
    _published: Process,
    _services: [Service; 3],
    enclosed: Enclosed,
}

const NAMES: [&str; 3] = ["echo", "source", "judge"];
const SEED: u64 = 7;

impl Subject {
    pub(crate) fn start(row: &Row, round_trip: Duration) -> Result<Self> {
        let options = Options {
            relay: RelayOptions {
                tls: row.tls,
                arguments: ["--quic-listen", "0.0.0.0:443"].map(str::to_owned).into(),
                ..RelayOptions::default()
            },
            ..Options::default()
        };
        let enclosed = Enclosed::start(&row.place, round_trip, options)?;
        let scene = &enclosed.scene;
        let services = [
            Service::echo(&scene.net.a, 0)?,
            Service::source(&scene.net.a, 0, SEED, LENGTH)?,
            Service::judge(&scene.net.a, 0, SEED)?,
        ];
        let [echo, source, judge] = &services;
        let pairs = [echo, source, judge].map(Service::address);
        let pairs: Vec<(&str, SocketAddr)> = NAMES.into_iter().zip(pairs).collect();
        let published = scene.publish(&pairs)?;
        let entrances = scene.client.connect_all(&NAMES)?;
        Ok(Self {
            entrances,
            _published: published,
            _services: services,
            enclosed,
        })
    }

    fn stream(&self, service: usize) -> Result<std::net::TcpStream> {
        let at = self.entrances.addresses[service];
        traffic::connect(&self.enclosed.scene.net.b, at, STALL)
    }

    /// From the start of a command to the first byte of a service, within `limit`. A busy machine may spoil one try:
    /// the middle one of three counts then.
    pub(crate) fn first_byte(&self, limit: Duration) -> Result<Duration> {
        let contact = self.enclosed.scene.first_contact;
        let mut tries = vec![self.one_first_byte()?];
        if tries[0] > limit {
            tries.extend([self.one_first_byte()?, self.one_first_byte()?]);
            tries.sort();
        }
        let middle = tries[tries.len() / 2];
        ensure!(middle <= limit, "the first byte took {tries:?}");
        ensure!(contact <= limit, "the login took {contact:?}");
        Ok(middle)
    }

    fn one_first_byte(&self) -> Result<Duration> {
        let scene = &self.enclosed.scene;
        let begin = Instant::now();
        let entrance = scene.client.connect("echo")?;
        let mut stream = traffic::connect(&scene.net.b, entrance.address, STALL)?;
        stream.write_all(b"1")?;
        stream.read_exact(&mut [0])?;
        Ok(begin.elapsed())
    }

    /// The carrier that is in use when there is nothing better left to try.
    pub(crate) fn settled(&self, wanted: &[&str]) -> Result<String> {
        let client = &self.enclosed.scene.client;
        let mut last = Value::Null;
        let carrier = wait_until("nothing better is left to try", SETTLE, || {
            let told = client.status_of(&self.entrances.process)?;
            last = told["relay"].clone();
            let carriers = last["carriers"].as_array().context("no carriers")?;
            let best = carriers.iter().find(|it| it["state"] != "failed");
            let best = best.filter(|it| it["state"] == "in use");
            Ok(best.and_then(|it| Some(it["name"].as_str()?.to_owned())))
        });
        let carrier = carrier.with_context(|| format!("{last:#}"))?;
        if !wanted.contains(&&*carrier) {
            bail!(
                "settled on {carrier}, not on {}: {last:#}",
                wanted.join(" or ")
            );
        }
        Ok(carrier)
    }

    pub(crate) fn round_trip(&self) -> Result<Duration> {
        let stream = self.stream(0)?;
        traffic::exchange(&stream, 32, 3, Duration::ZERO)?;
        Ok(traffic::exchange(&stream, 32, 20, Duration::from_millis(20))?.median())
    }

    /// The rate to the client over the whole transfer, from the connection on.
    pub(crate) fn down(&self) -> Result<f64> {
        let mut stream = self.stream(1)?;
        let begin = Instant::now();
        let mut checker = Checker::new(SEED);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = stream.read(&mut buffer).context("down")?;
            if length == 0 {
                break;
            }
            checker.take(&buffer[..length]);
        }
        let rate = rate_since(begin);
        checker.finish().exact(LENGTH).context("down")?;
        Ok(rate)
    }

    /// The same from the client, until the service has told that all of it has come.
    pub(crate) fn up(&self) -> Result<f64> {
        let stream = self.stream(2)?;
        let begin = Instant::now();
        traffic::upload_exactly(&stream, SEED, LENGTH).context("up")?;
        Ok(rate_since(begin))
    }

    /// An echo while the path is cut. The number of bytes that did not come as they were sent: none, or an error.
    pub(crate) fn lost_over_cuts(&self) -> Result<u64> {
        let net = &self.enclosed.scene.net;
        let (firewall, link) = (&net.firewall_b, net.firewall_b.link());
        let mut cuts = vec![
            Cut::Reset(firewall.clone()),
            Cut::Forget(firewall.clone()),
            Cut::BlackHole(firewall.clone()),
            Cut::Unplug(link.clone()),
        ];
        cuts.extend(self.enclosed.stubborn.clone().map(Cut::Sever));
        let ms = Duration::from_millis;
        let progress = Arc::new(AtomicU64::new(0));
        let stream = self.stream(0)?;
        let cutter = Cutter::start(Plan {
            seed: SEED,
            cuts,
            pace: Pace::Progress(Arc::clone(&progress), 64 << 10..448 << 10),
            outage: ms(20)..ms(1000),
            count: CUTS,
        });
        let over = AtomicBool::new(false);
        let echoed = std::thread::scope(|scope| {
            let echo = scope.spawn(|| traffic::echo_until(&stream, SEED, &over, &progress));
            // Once the last cut is healed the echo may end.
            let cut = wait_until("the path is cut", STALL * 3, || {
                let done = cutter.done().len() == CUTS || echo.is_finished();
                Ok(done.then_some(()))
            });
            over.store(true, Ordering::Relaxed);
            let echoed = echo
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            cut.and(echoed)
        });
        let done = cutter.stop()?;
        echoed.with_context(|| format!("after {} cuts: {done:?}", done.len()))?;
        ensure!(done.len() == CUTS, "only {} cuts", done.len());
        // Whatever is lost, doubled or changed is an error of the echo.
        Ok(0)
    }
}

/// Bytes per second of a whole transfer.
fn rate_since(begin: Instant) -> f64 {
    LENGTH as f64 / begin.elapsed().as_secs_f64()
}
