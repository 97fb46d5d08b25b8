//! A keystroke does not wait behind a bulk transfer.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rustix::net::sockopt::set_socket_linger;
use underpass_lab::traffic::{self, Latencies, Pattern, Service};
use underpass_lab::{Host, Options, Scene, TwoFirewalls, each_carrier, tests, wait_until};

fn main() -> ExitCode {
    tests!(a_keystroke_does_not_wait_behind_bulk)
}

const STALL: Duration = Duration::from_secs(60);
/// The link's rate, in bits per second.
const RATE: u64 = 20_000_000;
/// Bytes of a keystroke-sized exchange.
const KEYSTROKE: usize = 64;
/// Exchanges of one round.
const EXCHANGES: usize = 150;
/// Rounds of each way, each with a transfer of its own. All exchanges of a carrier count together: one in a hundred may be
/// late, whatever the way.
const ROUNDS: usize = 2;
/// Between two exchanges; a fast typist is ten times slower.
const GAP: Duration = Duration::from_millis(10);
/// What must have arrived of the bulk before the exchanges begin: it is under way at its full rate by then.
const WARM: u64 = 1 << 20;

/// service - publisher - firewall a - relay - firewall b - client. The cable of one firewall, then of the other, carries
/// 20 Mbit/s each way; a bulk transfer in the same session fills it, up and then down.
fn a_keystroke_does_not_wait_behind_bulk() -> Result<()> {
    each_carrier(2, |carrier| {
        let scene = Scene::start(TwoFirewalls::new()?, &Options::by(carrier))?;
        let host = &scene.net.b;
        let echo = Service::echo(&scene.net.a, 0)?;
        let sink = Service::count(&scene.net.a, 0)?;
        let source = Service::source(&scene.net.a, 0, 4, 1 << 40)?;
        let _published = scene.publish(&[
            ("echo", echo.address()),
            ("sink", sink.address()),
            ("source", source.address()),
        ])?;
        let ways = scene.client.connect_all(&["echo", "sink", "source"])?;
        let keys = traffic::connect(host, ways.addresses[0], STALL)?;
        let mut all = Vec::new();
        for (place, link) in [
            ("client", scene.net.firewall_b.link()),
            ("publisher", scene.net.firewall_a.link()),
        ] {
            link.limit_rate(RATE)?;
            for (direction, service, to) in [
                (Direction::Up, &sink, ways.addresses[1]),
                (Direction::Down, &source, ways.addresses[2]),
            ] {
                let rounds = (0..ROUNDS)
                    .map(|_| Round::measure(&keys, || Bulk::start(host, to, direction, service)))
                    .collect::<Result<Vec<_>>>()?;
                let figures = Figures::of(&rounds);
                println!("{carrier}, {direction:?}, link at the {place} limited: {figures}");
                // Beside an empty link it would prove nothing.
                let rate = figures.rate;
                ensure!(
                    rate >= 0.5 * RATE as f64,
                    "the link was not filled: {rate} bit/s"
                );
                all.extend(rounds);
            }
            link.unlimit_rate()?;
        }
        Figures::of(&all).hold_the_bound()
    })
}

/// Exchanges on an idle link and, at once, beside a bulk transfer: whatever else this machine does weighs on both.
struct Round {
    idle: Vec<Duration>,
    beside: Beside,
}

/// Exchanges beside a bulk transfer.
struct Beside {
    /// The time of each, and the bytes of the bulk that arrived meanwhile.
    turns: Vec<(Duration, u64)>,
    /// Of the bulk transfer, in bytes per second.
    rate: f64,
}

impl Beside {
    fn times(&self) -> impl Iterator<Item = Duration> {
        self.turns.iter().map(|(time, _)| *time)
    }

    /// For how long each exchange gave way to bulk: as long as the bulk that arrived meanwhile takes at its rate. An
    /// exchange that took longer stood still together with the bulk, because the machine did something else.
    fn waits(&self) -> impl Iterator<Item = Duration> {
        let waited = |bytes: u64| Duration::from_secs_f64(bytes as f64 / self.rate);
        self.turns
            .iter()
            .map(move |(time, bytes)| waited(*bytes).min(*time))
    }
}

impl Round {
    fn measure<'a>(keys: &TcpStream, bulk: impl FnOnce() -> Result<Bulk<'a>>) -> Result<Self> {
        let idle = traffic::exchange_beside(keys, KEYSTROKE, EXCHANGES, GAP, || 0)?;
        let bulk = bulk()?;
        let beside = bulk.beside(keys)?;
        bulk.end()?;
        Ok(Self {
            idle: idle.into_iter().map(|(time, _)| time).collect(),
            beside,
        })
    }
}

/// What several rounds say together.
struct Figures {
    idle: Latencies,
    loaded: Latencies,
    waits: Latencies,
    /// Of the bulk transfer, in bits per second.
    rate: f64,
}

impl Figures {
    fn of(rounds: &[Round]) -> Self {
        let beside = || rounds.iter().map(|round| &round.beside);
        let rates = beside().map(|beside| beside.rate);
        Self {
            idle: rounds.iter().flat_map(|round| round.idle.clone()).collect(),
            loaded: beside().flat_map(Beside::times).collect(),
            waits: beside().flat_map(Beside::waits).collect(),
            rate: rates.sum::<f64>() / rounds.len() as f64 * 8.0,
        }
    }

    /// The 99th percentile is at most three times its idle value and 30 ms.
    fn hold_the_bound(&self) -> Result<()> {
        let p99 = |of: &Latencies| of.percentile(99.0).as_secs_f64() * 1000.0;
        let (idle, waits) = (p99(&self.idle), p99(&self.waits));
        let bound = idle * 3.0 + 30.0;
        ensure!(
            waits <= bound,
            "p99 behind bulk {waits:.1} ms, idle {idle:.1} ms: above {bound:.1} ms"
        );
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p99 = self.waits.percentile(99.0).as_secs_f64() * 1000.0;
        write!(
            f,
            "idle {}; beside {:.1} Mbit/s {}, p99 behind bulk {p99:.2} ms",
            self.idle,
            self.rate / 1e6,
            self.loaded
        )
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    /// From the client to the service.
    Up,
    Down,
}

/// A transfer that goes on until it is told to end.
struct Bulk<'a> {
    service: &'a Service,
    /// Connections of the service that had ended with an error before.
    errors: u64,
    /// What arrived at the far end of the tunnel; what its near end has taken says little.
    arrived: Box<dyn Fn() -> u64 + 'a>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl<'a> Bulk<'a> {
    fn start(
        host: &Host,
        to: SocketAddr,
        direction: Direction,
        service: &'a Service,
    ) -> Result<Self> {
        let mut stream = traffic::connect(host, to, STALL)?;
        // Ended by a reset: what is still in buffers must not fill the link beside the next transfer.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        let stop = Arc::new(AtomicBool::new(false));
        let read = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&read));
        let thread = std::thread::spawn(move || {
            let mut pattern = Pattern::new(4);
            let mut buffer = vec![0; 64 * 1024];
            while !stopped.load(Ordering::Relaxed) {
                match direction {
                    Direction::Up => {
                        pattern.fill(&mut buffer);
                        stream.write_all(&buffer)?;
                    }
                    Direction::Down => {
                        let length = stream.read(&mut buffer)? as u64;
                        count.fetch_add(length, Ordering::Relaxed);
                    }
                }
            }
            Ok(())
        });
        let arrived: Box<dyn Fn() -> u64> = match direction {
            Direction::Up => Box::new(|| service.tally().received()),
            Direction::Down => Box::new(move || read.load(Ordering::Relaxed)),
        };
        Ok(Self {
            service,
            errors: service.tally().errors(),
            arrived,
            stop,
            thread,
        })
    }

    /// Exchanges beside it, once it is under way.
    fn beside(&self, keys: &TcpStream) -> Result<Beside> {
        let before = (self.arrived)();
        wait_until("the bulk transfer is under way", STALL, || {
            Ok(((self.arrived)() >= before + WARM).then_some(()))
        })?;
        let (begin, count) = (Instant::now(), (self.arrived)());
        let turns = traffic::exchange_beside(keys, KEYSTROKE, EXCHANGES, GAP, || (self.arrived)())?;
        let rate = ((self.arrived)() - count) as f64 / begin.elapsed().as_secs_f64();
        Ok(Beside { turns, rate })
    }

    /// Breaks it off and waits until the service has seen that.
    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.thread.join();
        done.map_err(|_| anyhow!("the bulk transfer panicked"))??;
        wait_until("the service sees the end", STALL, || {
            Ok((self.service.tally().errors() > self.errors).then_some(()))
        })
    }
}
