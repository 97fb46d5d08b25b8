//! The listeners on pseudo addresses, each opened when somebody wants to connect there for the first time.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::net::{TcpListener, TcpStream};
use underpass_endpoint::splice::{end_by_reset, reset};
use underpass_hook::address::{Address, Target};
use underpass_hook::message::Mark;

use super::announced::Announced;
use super::origin::Kernel;
use super::{ACCEPT_PAUSE, Shared};
use crate::connect::Opened;

/// All of them, who is awaited, and who is there.
pub(super) struct Doors {
    kernel: Mutex<Kernel>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ports: HashMap<Address, u16>,
    /// With a channel where the service has answered already.
    awaited: Announced<Option<Opened>>,
    /// The ports that programs named for their connections.
    inside: HashMap<Mark, u16>,
}

/// A connection that is carried, until dropped.
struct Inside<'a> {
    doors: &'a Doors,
    mark: Mark,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.doors.state().inside.remove(&self.mark);
    }
}

impl Doors {
    /// None is open yet.
    ///
    /// # Errors
    /// The kernel cannot be asked whose a connection is.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            kernel: Mutex::new(Kernel::open()?),
            state: Mutex::default(),
        })
    }

    /// The port of the listener on a pseudo address.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn open(&self, shared: &Arc<Shared>, address: Address) -> io::Result<u16> {
        let mut state = self.state();
        if let Some(port) = state.ports.get(&address) {
            return Ok(*port);
        }
        let listener = underpass_carrier::listen(SocketAddr::from((address, 0)))?;
        let port = listener.local_addr()?.port();
        state.ports.insert(address, port);
        tokio::spawn(serve(Arc::downgrade(shared), listener, address));
        Ok(port)
    }

    /// Awaits a connection; whether there was room.
    pub(super) fn announce(&self, mark: Mark, target: Target, opened: Option<Opened>) -> bool {
        let now = Instant::now();
        self.state().awaited.announce(mark, target, opened, now)
    }

    /// Forgets whom it awaited in vain.
    pub(super) fn forget_late(&self) {
        self.state().awaited.forget_late(Instant::now());
    }

    /// The port that a program named for a connection.
    pub(super) fn port(&self, mark: Mark) -> Option<u16> {
        let state = self.state();
        let inside = state.inside.get(&mark).copied();
        inside.or_else(|| Some(state.awaited.target(mark)?.port))
    }

    /// Takes the announcement of the connection that came from `from` to `to`, which must be of this user.
    fn admit(
        &self,
        from: SocketAddrV4,
        to: SocketAddrV4,
        user: u32,
    ) -> io::Result<Option<(Inside<'_>, Option<Opened>)>> {
        let origin = {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            kernel.origin(from, to)?
        };
        let Some(origin) = origin.filter(|origin| origin.user == user) else {
            return Ok(None);
        };
        let (address, now) = (to.ip().octets(), Instant::now());
        let mut state = self.state();
        for mark in [Mark::Cookie(origin.cookie), Mark::Source(from.port())] {
            if let Some((target, opened)) = state.awaited.take(mark, address, now) {
                state.inside.insert(mark, target.port);
                return Ok(Some((Inside { doors: self, mark }, opened)));
            }
        }
        Ok(None)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes connections to one pseudo address until the redirector is gone.
async fn serve(shared: Weak<Shared>, listener: TcpListener, address: Address) {
    loop {
        let accepted = listener.accept().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match accepted {
            Ok((tcp, from)) => {
                tokio::spawn(async move { carry(&shared, tcp, from, address).await });
            }
            Err(error) => {
                tracing::warn!("cannot take a connection to {address:?}: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection. Who was not announced, or is refused at the far side, is reset.
async fn carry(shared: &Arc<Shared>, tcp: TcpStream, from: SocketAddr, address: Address) {
    end_by_reset(&tcp);
    let _used = shared.usage.begin();
    let (SocketAddr::V4(from), Ok(SocketAddr::V4(to))) = (from, tcp.local_addr()) else {
        return;
    };
    let (inside, opened) = match shared.doors.admit(from, to, shared.user) {
        Ok(Some(admitted)) => admitted,
        Ok(None) => {
            tracing::info!(%from, %to, "a connection that no program of this user announced is reset");
            return;
        }
        Err(error) => {
            tracing::warn!(%from, %to, "a connection is reset, since the kernel does not say whose it is: {error}");
            return;
        }
    };
    let named = shared.doors.port(inside.mark);
    let (Some(service), Some(port)) = (shared.service_at(address), named) else {
        return;
    };
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%from, "{service}: {error}");
    }
    let opened = match opened {
        Some(opened) => opened,
        None => match shared.dial(&service, port).await {
            Ok(opened) => opened,
            Err(_) => return reset(tcp),
        },
    };
    opened.carry(tcp, from.into()).await;
}
