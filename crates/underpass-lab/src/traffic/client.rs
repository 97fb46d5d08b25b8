//! Clients for tests. Each works on a connection that [`connect`] made, and fails rather than wait for ever.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::CHUNK;
use super::latency::Latencies;
use super::pattern::{Checker, Findings, Pattern};
use crate::host::Host;

/// Connects from `host` to `to`. `stall` is how long the connection, and later each read and write, may take before it
/// counts as failed.
///
/// # Errors
/// Those of connect(2).
pub fn connect(host: &Host, to: SocketAddr, stall: Duration) -> Result<TcpStream> {
    let stream = host
        .inside(|| TcpStream::connect_timeout(&to, stall))?
        .with_context(|| format!("connect from {} to {to}", host.name()))?;
    stream.set_read_timeout(Some(stall))?;
    stream.set_write_timeout(Some(stall))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `length` bytes of the [`Pattern`] of `seed` to an echo service while reading them back, with a half-close at
/// the end. `progress` counts what came back.
///
/// # Errors
/// The connection failed before the end. What came until then is judged in the message.
pub fn echo(stream: &TcpStream, seed: u64, length: u64, progress: &AtomicU64) -> Result<Findings> {
    let send = || upload(stream, seed, length);
    there_and_back(stream, seed, progress, send).map(|((), findings)| findings)
}

/// Bytes that [`echo_until`] sends at once, and the time between: some megabytes a second, so that the machine has time
/// for the rest.
const PIECE: usize = 32 * 1024;
const GAP: Duration = Duration::from_millis(8);

/// Sends the [`Pattern`] of `seed` to an echo service, a few megabytes a second, until `over` is set, and reads it back,
/// with a half-close at the end. `progress` counts what came back. Gives the number of bytes.
///
/// # Errors
/// The connection failed before the end, or other bytes came back.
pub fn echo_until(
    stream: &TcpStream,
    seed: u64,
    over: &AtomicBool,
    progress: &AtomicU64,
) -> Result<u64> {
    let send = || upload_until(stream, seed, over);
    let (length, findings) = there_and_back(stream, seed, progress, send)?;
    findings.exact(length)?;
    Ok(length)
}

/// Does `send` on a thread of its own, and reads the [`Pattern`] of `seed` meanwhile until the peer closes.
fn there_and_back<T: Send>(
    stream: &TcpStream,
    seed: u64,
    progress: &AtomicU64,
    send: impl FnOnce() -> io::Result<T> + Send,
) -> Result<(T, Findings)> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(send);
        let findings = read_all(stream, seed, None, progress);
        if findings.is_err() {
            // The writer may wait for a reader that is gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let written = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let findings = findings?;
        let written = written.with_context(|| format!("send: {findings}"))?;
        Ok((written, findings))
    })
}

fn upload_until(mut stream: &TcpStream, seed: u64, over: &AtomicBool) -> io::Result<u64> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; PIECE];
    while !over.load(Ordering::Relaxed) {
        pattern.fill(&mut buffer);
        stream.write_all(&buffer)?;
        std::thread::sleep(GAP);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(pattern.position())
}

/// Sends `length` bytes of the [`Pattern`] of `seed`, then shuts the sending side.
///
/// # Errors
/// Those of write(2).
pub fn upload(mut stream: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; CHUNK];
    while pattern.position() < length {
        let piece = (length - pattern.position()).min(CHUNK as u64) as usize;
        pattern.fill(&mut buffer[..piece]);
        stream.write_all(&buffer[..piece])?;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads the [`Pattern`] of `seed` until the peer closes, at most `bytes_per_second` when given.
///
/// # Errors
/// The connection failed instead of ending. What came until then is judged in the message.
pub fn download(stream: &TcpStream, seed: u64, bytes_per_second: Option<u64>) -> Result<Findings> {
    read_all(stream, seed, bytes_per_second, &AtomicU64::new(0))
}

/// Sends `length` bytes in pieces of `piece` bytes with `gap` between them and keeps the connection open.
///
/// # Errors
/// Those of write(2).
pub fn drip(
    mut stream: &TcpStream,
    seed: u64,
    length: u64,
    piece: usize,
    gap: Duration,
) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; piece];
    while pattern.position() < length {
        let piece = (length - pattern.position()).min(piece as u64) as usize;
        pattern.fill(&mut buffer[..piece]);
        stream.write_all(&buffer[..piece])?;
        std::thread::sleep(gap);
    }
    Ok(())
}

/// Sends `length` bytes, shuts the sending side, and gives the count that the service answers with.
///
/// # Errors
/// The connection failed, or the answer is no number in a line that is the last.
pub fn count_by_half_close(stream: &TcpStream, seed: u64, length: u64) -> Result<u64> {
    let answer = answer_to(stream, seed, length)?;
    let line = answer
        .strip_suffix('\n')
        .with_context(|| format!("cut short: {answer:?}"))?;
    line.parse()
        .with_context(|| format!("no count: {answer:?}"))
}

/// Sends `length` bytes of the [`Pattern`] of `seed` to a [`Service::judge`](super::Service::judge) and fails unless it
/// found exactly those.
///
/// # Errors
/// The connection failed, or what the service found.
pub fn upload_exactly(stream: &TcpStream, seed: u64, length: u64) -> Result<()> {
    let answer = answer_to(stream, seed, length)?;
    let right = Findings {
        received: length,
        ..Findings::default()
    };
    ensure!(
        answer == format!("{right}\n"),
        "{length} bytes were sent: {answer:?}"
    );
    Ok(())
}

/// Everything that a service says to `length` bytes and the end behind them.
fn answer_to(mut stream: &TcpStream, seed: u64, length: u64) -> Result<String> {
    upload(stream, seed, length).context("send")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("after {answer:?}"))?;
    Ok(answer)
}

/// Sends `size` bytes to an echo service and waits for them, `count` times with `gap` between.
///
/// # Errors
/// The connection failed, or something else came back.
pub fn exchange(stream: &TcpStream, size: usize, count: usize, gap: Duration) -> Result<Latencies> {
    let turns = exchange_beside(stream, size, count, gap, || 0)?;
    Ok(turns.into_iter().map(|(time, _)| time).collect())
}

/// As [`exchange`]: the time of each turn, and by how much `others` grew meanwhile, such as what arrived of a transfer
/// beside it.
///
/// # Errors
/// As [`exchange`].
pub fn exchange_beside(
    mut stream: &TcpStream,
    size: usize,
    count: usize,
    gap: Duration,
    others: impl Fn() -> u64,
) -> Result<Vec<(Duration, u64)>> {
    let mut pattern = Pattern::new(size as u64);
    let (mut sent, mut got) = (vec![0; size], vec![0; size]);
    let mut turns = Vec::with_capacity(count);
    for turn in 0..count {
        pattern.fill(&mut sent);
        let (begin, before) = (Instant::now(), others());
        stream.write_all(&sent)?;
        stream
            .read_exact(&mut got)
            .with_context(|| format!("round trip {turn}"))?;
        turns.push((begin.elapsed(), others() - before));
        ensure!(got == sent, "something else came back in round trip {turn}");
        std::thread::sleep(gap);
    }
    Ok(turns)
}

/// Connections that are open at the same time.
pub struct Opened {
    streams: Vec<TcpStream>,
}

/// Opens `count` connections from `host` to an echo service and keeps them all open.
///
/// # Errors
/// One of them could not be opened.
pub fn open_many(host: &Host, to: SocketAddr, count: usize, stall: Duration) -> Result<Opened> {
    host.inside(|| {
        let open = |number| -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&to, stall)
                .with_context(|| format!("connection {number} of {count}"))?;
            stream.set_read_timeout(Some(stall))?;
            stream.set_write_timeout(Some(stall))?;
            Ok(stream)
        };
        Ok(Opened {
            streams: (0..count).map(open).collect::<Result<_>>()?,
        })
    })?
}

impl Opened {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Echoes `length` bytes on every connection, all at once and with a seed of its own for each; closes them all.
    ///
    /// # Errors
    /// The first connection that failed or whose bytes were not exact.
    pub fn echo_all(self, length: u64) -> Result<()> {
        self.on_each(|stream, seed| {
            let piece = |at: u64| (length - at).min(LARGE_PIECE as u64) as usize;
            echo_in_turns(stream, seed, piece)
        })
    }

    /// Echoes a few bytes on every connection now and then until `over` is set, with a seed of its own for each; closes
    /// them all.
    ///
    /// # Errors
    /// As [`Opened::echo_all`].
    pub fn echo_until(self, over: &AtomicBool) -> Result<()> {
        self.on_each(|stream, seed| {
            let piece = |_| {
                std::thread::sleep(PAUSE);
                match over.load(Ordering::Relaxed) {
                    true => 0,
                    false => SMALL_PIECE,
                }
            };
            echo_in_turns(stream, seed, piece)
        })
    }

    fn on_each(self, work: impl Fn(&TcpStream, u64) -> Result<()> + Sync) -> Result<()> {
        let work = &work;
        std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(self.streams.len());
            for (stream, number) in self.streams.into_iter().zip(0..) {
                let body =
                    move || work(&stream, number).with_context(|| format!("connection {number}"));
                let thread = std::thread::Builder::new().stack_size(STACK);
                threads.push(thread.spawn_scoped(scope, body)?);
            }
            let mut result = Ok(());
            for thread in threads {
                let one = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(one);
            }
            result
        })
    }
}

/// What each thread of [`Opened`] needs by far.
const STACK: usize = 256 * 1024;
/// Small enough that no second thread is needed to read what comes back.
const LARGE_PIECE: usize = 16 * 1024;
/// What somebody types now and then,
const SMALL_PIECE: usize = 200;
/// and how long they think before.
const PAUSE: Duration = Duration::from_millis(500);

/// Echoes pieces, each as long as `piece` says of the bytes before it, until that is 0; they must come back exactly.
fn echo_in_turns(
    mut stream: &TcpStream,
    seed: u64,
    mut piece: impl FnMut(u64) -> usize,
) -> Result<()> {
    let (mut pattern, mut checker) = (Pattern::new(seed), Checker::new(seed));
    let mut buffer = vec![0; LARGE_PIECE];
    loop {
        let length = piece(pattern.position());
        if length == 0 {
            break;
        }
        pattern.fill(&mut buffer[..length]);
        stream.write_all(&buffer[..length])?;
        stream.read_exact(&mut buffer[..length])?;
        checker.take(&buffer[..length]);
    }
    stream.shutdown(Shutdown::Write)?;
    let left = stream.read_to_end(&mut Vec::new())?;
    ensure!(left == 0, "{left} bytes came after the end");
    checker.finish().exact(pattern.position())
}

fn read_all(
    mut stream: &TcpStream,
    seed: u64,
    bytes_per_second: Option<u64>,
    progress: &AtomicU64,
) -> Result<Findings> {
    let mut checker = Checker::new(seed);
    let mut buffer = vec![0; CHUNK];
    let (begin, mut read) = (Instant::now(), 0u64);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(checker.finish()),
            Ok(length) => {
                checker.take(&buffer[..length]);
                read += length as u64;
                progress.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("read: {}", checker.finish())),
        }
        if let Some(rate) = bytes_per_second {
            let due = Duration::from_secs_f64(read as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
}
