//! A proxy written for the tests, with bad manners of every kind that can be switched on and off while it runs.
//!
//! What it decides is pure (`conversation`, `rules`); this file moves bytes, one thread for each connection.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use underpass_lab::TwoFirewalls;
//! use underpass_lab::boxes::{Manners, Stubborn};
//! let net = TwoFirewalls::new()?;
//! let proxy = Stubborn::start(&net.b, 3128, Manners::without_tunnels(), 1)?;
//! // In the middle of a transfer:
//! proxy.change(|manners| manners.holds_answers = true);
//! # Ok(())
//! # }
//! ```

mod body;
mod conversation;
mod head;
mod line;
mod manners;
mod ntlm;
mod passage;
mod rules;
mod store;
mod text;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::event::{EventfdFlags, eventfd};

use crate::firewall::Firewall;
use crate::host::Host;
use crate::middlebox::Diversion;
use conversation::Shared;
pub use head::COMMON;
pub use manners::{Connects, Login, Manners, Tally, Unusual};
use store::Store;

/// A running proxy. It and its connections end when the last handle is dropped; clones are handles of the same one.
#[derive(Clone)]
pub struct Stubborn {
    owner: Arc<Owner>,
}

struct Owner {
    inner: Arc<Inner>,
    listener: TcpListener,
    address: SocketAddr,
    /// What leads clients here that do not know of the box.
    _diversion: Option<Diversion>,
}

/// What the connections' threads share.
struct Inner {
    shared: Mutex<Shared>,
    /// Where requests go that name no server.
    onward: Option<String>,
    begin: Instant,
    chance: Mutex<ChaCha8Rng>,
    open: Mutex<HashMap<u64, Arc<Handle>>>,
    numbers: AtomicU64,
    ended: AtomicBool,
}

/// What others may do to a connection.
struct Handle {
    /// Written to when the thread is to look around.
    wake: OwnedFd,
    cut: AtomicBool,
}

impl Handle {
    fn wake(&self) {
        // It fails only when 2^64 - 1 wake-ups wait to be seen.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Stubborn {
    /// Starts a forward proxy on `host`: for clients that are told of it. Port 0 takes a free one. `seed` makes the
    /// challenges of NTLM.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(host: &Host, port: u16, manners: Manners, seed: u64) -> Result<Self> {
        Self::launch(host, port, None, manners, seed, None)
    }

    /// Puts the box before `port` of `host` for whatever comes from behind `firewall`, as a transparent proxy: clients
    /// do not know that it is there. Connections that exist are not touched.
    ///
    /// # Errors
    /// The kernel cannot redirect.
    pub fn before(
        host: &Host,
        port: u16,
        firewall: &Firewall,
        manners: Manners,
        seed: u64,
    ) -> Result<Self> {
        let onward = SocketAddr::from((host.address(), port)).to_string();
        Self::launch(host, 0, Some(onward), manners, seed, Some((firewall, port)))
    }

    fn launch(
        host: &Host,
        port: u16,
        onward: Option<String>,
        manners: Manners,
        seed: u64,
        diverted: Option<(&Firewall, u16)>,
    ) -> Result<Self> {
        let bind = || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            rustix::net::listen(&listener, 1024)?;
            Ok::<_, std::io::Error>(listener)
        };
        let listener = host
            .inside(bind)?
            .with_context(|| format!("listen on port {port}"))?;
        let own = listener.local_addr()?.port();
        let diverted = diverted.map(|(firewall, port)| Diversion::new(host, port, firewall, own));
        let inner = Arc::new(Inner {
            shared: Mutex::new(Shared {
                manners,
                store: Store::default(),
                tally: Tally::default(),
            }),
            onward,
            begin: Instant::now(),
            chance: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            open: Mutex::default(),
            numbers: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let (accepting, accepts) = (Arc::clone(&inner), listener.try_clone()?);
        // The thread stays in the host's namespace, and so do the connections that it makes.
        host.thread(move || accept_all(&accepts, &accepting));
        Ok(Self {
            owner: Arc::new(Owner {
                inner,
                listener,
                address: SocketAddr::from((host.address(), own)),
                _diversion: diverted.transpose()?,
            }),
        })
    }

    /// Where clients that know of it reach it.
    pub fn address(&self) -> SocketAddr {
        self.owner.address
    }

    /// Changes its manners, for the connections that are open too.
    pub fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.owner.inner.shared().manners);
        self.owner
            .inner
            .open()
            .values()
            .for_each(|open| open.wake());
    }

    /// What it has done so far.
    pub fn tally(&self) -> Tally {
        self.owner.inner.shared().tally
    }

    /// How many connections from clients are open.
    pub fn open(&self) -> usize {
        self.owner.inner.open().len()
    }

    /// Closes every connection on both sides at once, wherever in a message they are. Gives their number.
    pub fn close_all(&self) -> usize {
        self.owner.inner.close_all()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        // Ends the accepting thread's wait (accept(2) gives EINVAL then).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.inner.close_all();
    }
}

impl Inner {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Handle>>> {
        self.open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn close_all(&self) -> usize {
        let open = std::mem::take(&mut *self.open());
        for handle in open.values() {
            handle.cut.store(true, Ordering::Relaxed);
            handle.wake();
        }
        open.len()
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn challenge(&self) -> [u8; 8] {
        let mut chance = self
            .chance
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        chance.next_u64().to_ne_bytes()
    }
}

fn accept_all(listener: &TcpListener, inner: &Arc<Inner>) {
    while let Ok((client, _)) = listener.accept() {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let Ok(wake) = eventfd(0, flags) else {
            continue;
        };
        let handle = Arc::new(Handle {
            wake,
            cut: AtomicBool::new(false),
        });
        let number = inner.numbers.fetch_add(1, Ordering::Relaxed);
        inner.shared().tally.connections += 1;
        inner.open().insert(number, Arc::clone(&handle));
        if inner.ended.load(Ordering::Relaxed) {
            return;
        }
        let inner = Arc::clone(inner);
        start(move || {
            // Whatever ends a connection ends it on both sides.
            let _ = line::carry(client, &inner, &handle);
            inner.open().remove(&number);
        });
    }
}

fn start(body: impl FnOnce() + Send + 'static) {
    let started = std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(body);
    started.expect("a machine that runs tests can start a thread");
}

/// Reaches `server`, a host and a port.
fn dial(server: &str) -> Result<TcpStream> {
    use std::net::ToSocketAddrs as _;
    let to = server
        .to_socket_addrs()?
        .next()
        .with_context(|| format!("{server} has no address"))?;
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
