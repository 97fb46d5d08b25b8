//! The stage of these tests: a session in use that must not notice anything, a stranger, and the relay under attack.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Cable, Host, Options, Scene, Story, TwoFirewalls, Way, wait_until};

use crate::wire;

/// Longer than any time that the relay leaves a peer (10 s for a head, for a first byte, for a handshake), on a busy
/// machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// What all of a test's attacks may add to the relay's memory.
pub(crate) const GROWTH: u64 = 128 << 20;

/// service - publisher - firewall a - relay - firewall b - client, in use all the time, and a stranger beside the relay.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    _way: Way,
    pub(crate) stranger: Host,
    pub(crate) relay: SocketAddr,
    _service: Service,
    witness: Witness,
    before: (Story, Story),
    memory: u64,
}

/// How an attack ended.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Everything that the relay said.
    pub(crate) said: Vec<u8>,
    /// Whether it closed the connection in time.
    pub(crate) closed: bool,
}

impl Stage {
    /// With everybody on the carrier `upgrade`.
    pub(crate) fn set() -> Result<Self> {
        let mut net = TwoFirewalls::new()?;
        let stranger = net.lab.public_host("stranger", Cable::Plain)?;
        let relay = SocketAddr::from((net.relay.address(), 8080));
        let mut options = Options::by("upgrade");
        options.relay.arguments = vec!["--log".into(), "debug".into()];
        let scene = Scene::start(net, &options)?;
        let service = Service::echo(&scene.net.a, 0)?;
        let way = scene.way("echo", service.address())?;
        let witness = Witness::start(&scene.net.b, way.address())?;
        let before = (Story::of(&scene.client)?, Story::of(&scene.publisher)?);
        let memory = scene.relay.process().memory()?.resident;
        Ok(Self {
            scene,
            _way: way,
            stranger,
            relay,
            _service: service,
            witness,
            before,
            memory,
        })
    }

    /// A connection of the stranger to the relay.
    pub(crate) fn call(&self) -> Result<TcpStream> {
        traffic::connect(&self.stranger, self.relay, LIMIT)
    }

    /// Says `bytes` to the relay and waits until it closes the connection. With `end`, shuts the sending side after that.
    pub(crate) fn say(&self, bytes: &[u8], end: bool) -> Result<Answer> {
        let mut stream = self.call()?;
        // The relay may close before it has read all of it.
        let _ = stream.write_all(bytes);
        if end {
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(listen(&mut stream))
    }

    /// As [`Stage::say`], and the relay must close and give a reason: a REFUSED, an HTTP status, or a line in its log.
    pub(crate) fn is_refused(&self, what: &str, bytes: &[u8], end: bool) -> Result<String> {
        let logged = self.log_length()?;
        let answer = self.say(bytes, end)?;
        ensure!(answer.closed, "{what}: not closed within {LIMIT:?}");
        let reason = self.reason(&answer.said, logged)?;
        let reason = reason.with_context(|| format!("{what}: closed without a reason"))?;
        println!("{what}: {reason}");
        self.is_untouched().context(what.to_owned())?;
        Ok(reason)
    }

    fn reason(&self, said: &[u8], logged: u64) -> Result<Option<String>> {
        if let Some((code, words)) = wire::refusal(said) {
            return Ok(Some(format!("refused with code {code:#x}: {words}")));
        }
        if let Some(status @ 400..) = wire::status(said) {
            return Ok(Some(format!("HTTP status {status}")));
        }
        // It is written just before or just after the connection is closed.
        let log = self.scene.relay.process().log().to_owned();
        let line = wait_until("a line in the relay's log", Duration::from_secs(5), || {
            let log = std::fs::read(&log)?;
            let new = String::from_utf8_lossy(log.get(logged as usize..).unwrap_or_default());
            Ok(new
                .lines()
                .next_back()
                .map(|line| format!("log: {}", line.trim())))
        });
        Ok(line.ok())
    }

    fn log_length(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.scene.relay.process().log())?.len())
    }

    /// The relay lives, the session that is in use goes on, and nobody's path was lost meanwhile.
    pub(crate) fn is_untouched(&self) -> Result<()> {
        ensure!(
            self.scene.relay.process().exited()?.is_none(),
            "the relay has ended"
        );
        self.witness.goes_on()?;
        let now = (
            Story::of(&self.scene.client)?,
            Story::of(&self.scene.publisher)?,
        );
        // Others may have sessions with the publisher as well; the path of none of its own may have been lost. What the
        // witness has just got and not yet taken says nothing.
        let path = |story: &Story| Story {
            unread: 0,
            ..*story
        };
        let same = path(&now.0) == path(&self.before.0) && now.1.drops == self.before.1.drops;
        ensure!(same, "{now:?}, it was {:?}", self.before);
        Ok(())
    }

    /// Ends the test: as [`Stage::is_untouched`], and the relay's memory has not grown beyond the bound.
    pub(crate) fn close(self) -> Result<()> {
        self.is_untouched()?;
        self.has_bounded_memory()?;
        let rounds = self.witness.stop()?;
        println!("{rounds} exchanges beside all that");
        Ok(())
    }

    pub(crate) fn has_bounded_memory(&self) -> Result<()> {
        let peak = self.scene.relay.process().memory()?.peak;
        let growth = peak.saturating_sub(self.memory);
        println!(
            "the relay's memory: {} MiB before, {} MiB at most, which is {} more; the bound is {}",
            self.memory >> 20,
            peak >> 20,
            growth >> 20,
            GROWTH >> 20
        );
        ensure!(growth <= GROWTH);
        Ok(())
    }
}

/// Reads until the relay closes the connection.
pub(crate) fn listen(stream: &mut TcpStream) -> Answer {
    let mut said = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Answer { said, closed: true },
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let closed = error.kind() != ErrorKind::WouldBlock;
                return Answer { said, closed };
            }
        }
    }
}

/// Exchanges 64 bytes with the service all the time, and checks what comes back.
struct Witness {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Witness {
    fn start(host: &Host, to: SocketAddr) -> Result<Self> {
        let stream = traffic::connect(host, to, LIMIT)?;
        let (rounds, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                traffic::exchange(&stream, 64, 1, Duration::from_millis(10))?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let witness = Self {
            rounds,
            stop,
            thread,
        };
        witness.goes_on()?;
        Ok(witness)
    }

    fn goes_on(&self) -> Result<()> {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_until("the witness goes on", LIMIT, || {
            let on = self.rounds.load(Ordering::Relaxed) > before;
            ensure!(on || !self.thread.is_finished(), "its session was touched");
            Ok(on.then_some(()))
        })
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(self.rounds.load(Ordering::Relaxed))
    }
}

/// Waits until all of `streams` are closed by the relay, and gives the longest time that took.
pub(crate) fn all_closed(streams: Vec<TcpStream>) -> Result<Duration> {
    let begin = Instant::now();
    for (number, mut stream) in streams.into_iter().enumerate() {
        let left = LIMIT.saturating_sub(begin.elapsed());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(10))))?;
        ensure!(
            listen(&mut stream).closed,
            "connection {number} was not closed within {LIMIT:?}"
        );
    }
    Ok(begin.elapsed())
}
