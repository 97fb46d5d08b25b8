//! A box on the way that ends every TCP connection and makes its own onward, as transparent proxies do.
//!
//! It can read far more than it has passed on, close connections in the middle of anything, and change bytes. What
//! clients sent is kept, to be sent again by somebody who should not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::answers::{Answers, asks_for_upgrade};
use crate::firewall::Firewall;
use crate::host::Host;

/// Bytes read at once.
const CHUNK: usize = 32 * 1024;
/// Bytes of each connection's beginning that are kept.
const KEPT: usize = 64 * 1024;
/// Connections whose beginnings are kept.
const KEPT_CONNECTIONS: usize = 256;
/// How long the box tries to reach the server.
const DIAL: Duration = Duration::from_secs(5);

/// What the box says to a client that asks for what it does not allow.
const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What the box makes of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Temper {
    /// It passes on what comes as it comes.
    #[default]
    Friendly,
    /// It refuses new connections that ask for an upgrade.
    NoUpgrades,
    /// It holds every answer until it is complete, also on the connections that exist.
    HoldsAnswers,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the server.
    Up,
    /// From the server to clients.
    Down,
}

/// A box before one port of a host. Clients do not know that it is there. It and its connections end when the last
/// handle is dropped; clones are handles of the same one.
#[derive(Clone)]
pub struct Middlebox {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    listener: TcpListener,
    _diversion: Diversion,
}

/// What leads clients to a box that they do not know of. Ends when dropped.
pub(crate) struct Diversion {
    host: Host,
    /// The packet filter's table.
    table: String,
}

impl Diversion {
    /// Leads what comes from behind `firewall` for `port` of `host` to port `own` there. Connections that exist are not
    /// touched.
    pub(crate) fn new(host: &Host, port: u16, firewall: &Firewall, own: u16) -> Result<Self> {
        let source = firewall.address();
        // A table for each box: several may stand before one host. Only what begins with a SYN is redirected: a
        // connection that was there before is new to connection tracking, which begins with this table.
        let table = format!("middlebox{own}");
        host.namespace().nft(&format!(
            "table ip {table} {{\nchain before {{\ntype nat hook prerouting priority dstnat;\n\
             ip saddr {source} tcp dport {port} tcp flags & (syn | ack) == syn redirect to :{own}\n}}\n}}\n"
        ))?;
        Ok(Self {
            host: host.clone(),
            table,
        })
    }
}

impl Drop for Diversion {
    fn drop(&mut self) {
        // New connections go to the server itself again. Nothing depends on it when the lab ends too.
        let rules = format!("delete table ip {}\n", self.table);
        let _ = self.host.namespace().nft(&rules);
    }
}

struct Shared {
    name: String,
    onward: SocketAddr,
    /// Bytes that may wait in the box, per connection and direction.
    holds: AtomicUsize,
    /// A [`Temper`].
    temper: AtomicU8,
    /// Bits still to be changed, for each direction.
    flips: [AtomicU64; 2],
    flipped: AtomicU64,
    chance: Mutex<ChaCha8Rng>,
    open: Mutex<Vec<Arc<Pair>>>,
    seen: Mutex<Vec<Vec<u8>>>,
    ended: AtomicBool,
}

/// One connection: the client's half and the server's half.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Middlebox {
    /// Puts a box before `port` of `host` for whatever comes from behind `firewall`. Connections that exist are not
    /// touched. `seed` decides which bits change.
    ///
    /// # Errors
    /// The kernel cannot redirect.
    pub fn before(host: &Host, port: u16, firewall: &Firewall, seed: u64) -> Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
        let listener = host.inside(bind)??;
        let own = listener.local_addr()?.port();
        let diversion = Diversion::new(host, port, firewall, own)?;
        let shared = Arc::new(Shared {
            name: format!("the box between {} and {}", firewall.name(), host.name()),
            onward: SocketAddr::from((host.address(), port)),
            holds: AtomicUsize::new(CHUNK),
            temper: AtomicU8::new(Temper::Friendly as u8),
            flips: [AtomicU64::new(0), AtomicU64::new(0)],
            flipped: AtomicU64::new(0),
            chance: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            open: Mutex::default(),
            seen: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let (accepting, accepts) = (Arc::clone(&shared), listener.try_clone()?);
        // The thread stays in the host's namespace, and so do the connections that it makes.
        host.thread(move || accept_all(&accepts, &accepting));
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                listener,
                _diversion: diversion,
            }),
        })
    }

    /// What it is called in reports.
    pub fn name(&self) -> &str {
        &self.owner.shared.name
    }

    /// From now on the box takes up to `bytes` per connection and direction that nobody has read at the other end.
    /// Holds for new connections.
    pub fn swallow(&self, bytes: usize) {
        self.owner.shared.holds.store(bytes, Ordering::Relaxed);
    }

    /// From now on the box treats HTTP like this.
    pub fn set_temper(&self, temper: Temper) {
        self.owner
            .shared
            .temper
            .store(temper as u8, Ordering::Relaxed);
    }

    /// Closes every connection on both sides at once, in order as TCP sees it, wherever in a frame they are. What the
    /// box holds is thrown away. Gives their number.
    pub fn close_all(&self) -> usize {
        let open = std::mem::take(&mut *self.owner.shared.open());
        open.iter().for_each(|pair| pair.end());
        open.len()
    }

    /// Changes one bit in the next bytes that go in `direction`, on whatever connection.
    pub fn flip(&self, direction: Direction) {
        self.owner.shared.flips[direction as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many bits were changed.
    pub fn flipped(&self) -> u64 {
        self.owner.shared.flipped.load(Ordering::Relaxed)
    }

    /// What clients sent at the beginning of each connection, in the order in which the connections came.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.owner.shared.seen().clone()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.owner.shared.open().len()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Ends the accepting thread's wait (accept(2) gives EINVAL then).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.shared.open().drain(..).for_each(|pair| pair.end());
    }
}

impl Pair {
    fn end(&self) {
        for stream in [&self.client, &self.server] {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Pair>>> {
        self.open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is(&self, temper: Temper) -> bool {
        self.temper.load(Ordering::Relaxed) == temper as u8
    }

    /// A place for the beginning of one more connection, while there is room.
    fn note_connection(&self) -> Option<usize> {
        let mut seen = self.seen();
        if seen.len() >= KEPT_CONNECTIONS {
            return None;
        }
        seen.push(Vec::new());
        Some(seen.len() - 1)
    }

    fn note(&self, place: Option<usize>, bytes: &[u8]) {
        if let Some(place) = place {
            let kept = &mut self.seen()[place];
            let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
        }
    }

    /// Changes a bit of `bytes` when one is to be changed.
    fn spoil(&self, direction: Direction, bytes: &mut [u8]) {
        let wanted = &self.flips[direction as usize];
        let take = |left: u64| left.checked_sub(1);
        if wanted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
        {
            let chance = self
                .chance
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .next_u64();
            let at = (chance >> 3) as usize % bytes.len();
            bytes[at] ^= 1 << (chance & 7);
            self.flipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        let shared = Arc::clone(shared);
        start(move || {
            // A server that cannot be reached closes the client's connection.
            let _ = carry(client, &shared);
        });
    }
}

/// Carries one connection until both directions have ended.
fn carry(client: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let place = shared.note_connection();
    let server = TcpStream::connect_timeout(&shared.onward, DIAL).context("dial onward")?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let pair = Arc::new(Pair { client, server });
    shared.open().push(Arc::clone(&pair));
    if shared.ended.load(Ordering::Relaxed) {
        pair.end();
    }
    if shared.is(Temper::NoUpgrades) && wants_upgrade(&pair.client)? {
        (&pair.client).write_all(FORBIDDEN)?;
        pair.end();
        shared.open().retain(|open| !Arc::ptr_eq(open, &pair));
        return Ok(());
    }
    let chunks = (shared.holds.load(Ordering::Relaxed) / CHUNK).max(1);
    std::thread::scope(|scope| {
        for (direction, place) in [(Direction::Up, place), (Direction::Down, None)] {
            let (from, to) = match direction {
                Direction::Up => (&pair.client, &pair.server),
                Direction::Down => (&pair.server, &pair.client),
            };
            let (sender, receiver) = sync_channel(chunks);
            let mut answers = (direction == Direction::Down).then(Answers::new);
            scope.spawn(move || {
                take_in(from, &sender, |bytes| {
                    shared.note(place, bytes);
                    shared.spoil(direction, bytes);
                    match &mut answers {
                        Some(answers) => answers.take(bytes, shared.is(Temper::HoldsAnswers)),
                        None => bytes.to_vec(),
                    }
                })
            });
            let pair = &pair;
            scope.spawn(move || {
                if pass_on(to, &receiver).is_err() {
                    // Whoever still sends is told.
                    pair.end();
                }
            });
        }
    });
    shared.open().retain(|open| !Arc::ptr_eq(open, &pair));
    Ok(())
}

/// Reads until the end; an error ends it as well.
fn take_in(
    mut from: &TcpStream,
    to: &SyncSender<Vec<u8>>,
    mut pass: impl FnMut(&mut [u8]) -> Vec<u8>,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let passed = pass(&mut buffer[..length]);
        if to.send(passed).is_err() {
            return;
        }
    }
}

/// Looks at what a client says first, without taking it.
fn wants_upgrade(client: &TcpStream) -> Result<bool> {
    let mut buffer = vec![0; CHUNK];
    let length = client.peek(&mut buffer)?;
    Ok(asks_for_upgrade(&buffer[..length]))
}

fn pass_on(mut to: &TcpStream, from: &Receiver<Vec<u8>>) -> std::io::Result<()> {
    for bytes in from {
        to.write_all(&bytes)?;
    }
    to.shutdown(Shutdown::Write)
}

fn start(body: impl FnOnce() + Send + 'static) {
    let started = std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(body);
    started.expect("a machine that runs tests can start a thread");
}
