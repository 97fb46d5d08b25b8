//! Services for tests: what they did to each connection is known.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;

use super::CHUNK;
use super::pattern::{Checker, Pattern};
use crate::host::Host;

/// What a service has seen so far.
#[derive(Debug, Default)]
pub struct Tally {
    connections: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    errors: AtomicU64,
}

impl Tally {
    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes read from all connections.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes written to all connections.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Connections that ended with an error, such as a reset.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// A TCP service on a host, with a thread for each connection. It and its connections end when it is dropped.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: TcpListener,
}

struct Shared {
    tally: Tally,
    /// The connections that are open; `None` once the service has ended.
    open: Mutex<Option<HashMap<u64, TcpStream>>>,
}

impl Service {
    /// Starts a service on all of `host`'s addresses that does `serve` with each connection. Port 0 takes a free one.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(
        host: &Host,
        port: u16,
        serve: impl Fn(&TcpStream, &Tally) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let bind = || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            // The standard library's queue of 128 loses part of a burst of a thousand connections.
            rustix::net::listen(&listener, 4096)?;
            Ok::<_, io::Error>(listener)
        };
        let listener = host
            .inside(bind)?
            .with_context(|| format!("listen on port {port}"))?;
        let address = SocketAddr::from((host.address(), listener.local_addr()?.port()));
        let open = Mutex::new(Some(HashMap::new()));
        let shared = Arc::new(Shared {
            tally: Tally::default(),
            open,
        });
        let (accepting, accepts) = (Arc::clone(&shared), listener.try_clone()?);
        std::thread::spawn(move || accept_all(&accepts, &accepting, Arc::new(serve)));
        Ok(Self {
            address,
            shared,
            listener,
        })
    }

    /// Sends back what it receives; half-close included.
    ///
    /// # Errors
    /// As [`Service::start`]; the same holds for the services below.
    pub fn echo(host: &Host, port: u16) -> Result<Self> {
        Self::start(host, port, |mut stream, tally| {
            let mut buffer = vec![0; CHUNK];
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return stream.shutdown(Shutdown::Write);
                }
                tally.received.fetch_add(length as u64, Ordering::Relaxed);
                stream.write_all(&buffer[..length])?;
                tally.sent.fetch_add(length as u64, Ordering::Relaxed);
            }
        })
    }

    /// Reads to the end, then answers with the count of what it received, in decimal with a line end, and closes.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn count(host: &Host, port: u16) -> Result<Self> {
        Self::start(host, port, |mut stream, tally| {
            let mut buffer = vec![0; CHUNK];
            let mut count = 0;
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return writeln!(stream, "{count}");
                }
                count += length as u64;
                tally.received.fetch_add(length as u64, Ordering::Relaxed);
            }
        })
    }

    /// Reads to the end, compares with the [`Pattern`] of `seed`, answers with its [`Findings`](super::Findings) in a
    /// line, as they are shown, and closes.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn judge(host: &Host, port: u16, seed: u64) -> Result<Self> {
        Self::start(host, port, move |mut stream, tally| {
            let mut buffer = vec![0; CHUNK];
            let mut checker = Checker::new(seed);
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return writeln!(stream, "{}", checker.finish());
                }
                checker.take(&buffer[..length]);
                tally.received.fetch_add(length as u64, Ordering::Relaxed);
            }
        })
    }

    /// Sends the first `length` bytes of the [`Pattern`] of `seed` and closes.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn source(host: &Host, port: u16, seed: u64, length: u64) -> Result<Self> {
        Self::start(host, port, move |stream, tally| {
            send(stream, tally, seed, length)
        })
    }

    /// Sends `length` bytes as [`Service::source`] does, then aborts the connection with a reset.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn abort(host: &Host, port: u16, seed: u64, length: u64) -> Result<Self> {
        Self::start(host, port, move |mut stream, tally| {
            send(stream, tally, seed, length)?;
            // A reset throws away what is still on its way, so the client first says that it has everything.
            stream.read_exact(&mut [0])?;
            // Closing with a linger time of zero sends a reset (socket(7), RFC 9293 section 3.10.4).
            Ok(set_socket_linger(stream, Some(Duration::ZERO))?)
        })
    }

    /// Reads at most `bytes_per_second` and answers nothing.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn slow_reader(host: &Host, port: u16, bytes_per_second: u64) -> Result<Self> {
        Self::start(host, port, move |mut stream, tally| {
            let mut buffer = vec![0; CHUNK.min(bytes_per_second as usize / 10 + 1)];
            let (begin, mut read) = (Instant::now(), 0);
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                read += length as u64;
                tally.received.fetch_add(length as u64, Ordering::Relaxed);
                let due = Duration::from_secs_f64(read as f64 / bytes_per_second as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        })
    }

    /// Where it listens, as others on the network see it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it has seen so far.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open().as_ref().map_or(0, HashMap::len)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let open = self.shared.open().take();
        // Ends the accepting thread's wait (accept(2) gives EINVAL then).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for stream in open.into_iter().flat_map(HashMap::into_values) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Option<HashMap<u64, TcpStream>>> {
        self.open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn accept_all<F>(listener: &TcpListener, shared: &Arc<Shared>, serve: Arc<F>)
where
    F: Fn(&TcpStream, &Tally) -> io::Result<()> + Send + Sync + 'static,
{
    while let Ok((stream, _)) = listener.accept() {
        let number = shared.tally.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(copy) = stream.try_clone() else {
            continue;
        };
        match shared.open().as_mut() {
            Some(open) => open.insert(number, copy),
            None => return,
        };
        let (shared, serve) = (Arc::clone(shared), Arc::clone(&serve));
        let body = move || {
            if serve(&stream, &shared.tally).is_err() {
                shared.tally.errors.fetch_add(1, Ordering::Relaxed);
            }
            // The last descriptor of the connection goes here, and with it the connection.
            drop(stream);
            if let Some(open) = shared.open().as_mut() {
                open.remove(&number);
            }
        };
        // A thousand of these must fit.
        let started = std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(body);
        started.expect("a machine that runs tests can start a thread");
    }
}

fn send(mut stream: &TcpStream, tally: &Tally, seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; CHUNK];
    while pattern.position() < length {
        let piece = (length - pattern.position()).min(CHUNK as u64) as usize;
        pattern.fill(&mut buffer[..piece]);
        stream.write_all(&buffer[..piece])?;
        tally.sent.fetch_add(piece as u64, Ordering::Relaxed);
    }
    Ok(())
}
