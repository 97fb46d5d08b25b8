//! What is at this side of a meeting: a local address where programs connect, a host that channels of the other side lead to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use underpass_endpoint::dial::dial;
use underpass_endpoint::splice::{end_by_reset, reset, splice};
use underpass_endpoint::{Channel, ChannelError, Incoming};
use underpass_proto::Code;
use underpass_proto::frame::Class;
use underpass_proto::session::Closed;

use super::Encounter;
use crate::connect::Sources;

/// A program that connects while the other side is away waits for it so long.
const WAIT_FOR_PEER: Duration = Duration::from_secs(20);
/// Pause after the system refused a connection: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A local address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct DoorsError {
    /// The address.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: std::io::Error,
}

/// What is at this side.
#[derive(Debug)]
pub struct Doors {
    local: Option<SocketAddr>,
    target: Option<String>,
    dial: Duration,
    class: Class,
    /// Whom programs are led to that connect.
    met: watch::Sender<Option<Arc<Encounter>>>,
    /// Takes them; ends with this.
    _listening: JoinSet<()>,
}

impl Doors {
    /// With a local address for those among `sources` (port 0 lets the system choose), and `HOST:PORT`, which is
    /// tried to be reached for `dial`. Must be called on a runtime.
    ///
    /// # Errors
    /// The system refuses the address.
    pub fn new(
        listen: Option<(SocketAddr, Sources)>,
        target: Option<String>,
        dial: Duration,
        class: Class,
    ) -> Result<Self, DoorsError> {
        let met = watch::Sender::new(None);
        let mut listening = JoinSet::new();
        let mut local = None;
        if let Some((address, sources)) = listen {
            let failed = |source| DoorsError { address, source };
            let listener = underpass_carrier::listen(address).map_err(failed)?;
            local = Some(listener.local_addr().map_err(failed)?);
            listening.spawn(take_connections(listener, sources, met.subscribe(), class));
        }
        Ok(Self {
            local,
            target,
            dial,
            class,
            met,
            _listening: listening,
        })
    }

    /// The local address it got.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The host that channels of the other side lead to.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// The priority of channels that are opened here.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Leads programs to the other side, and its channels to the host, until the session ends.
    pub async fn serve(&self, met: Encounter) -> Closed {
        let met = Arc::new(met);
        self.met.send_replace(Some(Arc::clone(&met)));
        while let Some(incoming) = met.session.accept().await {
            match &self.target {
                Some(target) if met.is_meant(&incoming) => {
                    let (target, dial) = (target.clone(), self.dial);
                    tokio::spawn(lead(incoming, target, dial, met.user.clone()));
                }
                _ => incoming.refuse(Code::NoService),
            }
        }
        let closed = met.session.closed().await;
        self.met.send_if_modified(|now| {
            let is_this = now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &met));
            is_this && now.take().is_some()
        });
        closed
    }
}

/// A channel of the other side.
async fn lead(incoming: Incoming, target: String, limit: Duration, user: String) {
    match dial(&target, limit).await {
        Ok(tcp) => {
            let report = splice(incoming.accept(), tcp).await;
            if let Some(error) = report.error {
                tracing::info!(user, "{target}: broken off: {error}");
            }
        }
        Err(error) => {
            tracing::warn!(user, "{target}: {error}");
            incoming.refuse(error.code());
        }
    }
}

type Met = watch::Receiver<Option<Arc<Encounter>>>;

async fn take_connections(listener: TcpListener, sources: Sources, met: Met, class: Class) {
    loop {
        match listener.accept().await {
            Ok((tcp, from)) if sources.admit(from.ip()) => {
                tokio::spawn(carry(tcp, met.clone(), class));
            }
            Ok((tcp, from)) => {
                tracing::warn!(%from, "a connection from there is reset: only {sources} may");
                reset(tcp);
            }
            Err(error) => {
                // None of accept(2)'s errors is about the listener itself.
                tracing::warn!("cannot take a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection of a program. What the other side refuses is reset here.
async fn carry(tcp: TcpStream, met: Met, class: Class) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!("{error}");
    }
    end_by_reset(&tcp);
    match tokio::time::timeout(WAIT_FOR_PEER, reach(met, class)).await {
        Ok(Ok(channel)) => {
            let report = splice(channel, tcp).await;
            if let Some(error) = report.error {
                tracing::info!("a connection was broken off: {error}");
            }
        }
        Ok(Err(error)) => {
            tracing::warn!("the other side: {error} [{}]", error.code().up());
            reset(tcp);
        }
        Err(_) => {
            tracing::warn!("the other side is not there [{}]", Code::PeerWaiting.up());
            reset(tcp);
        }
    }
}

/// A channel to the other side, once it is there.
async fn reach(mut met: Met, class: Class) -> Result<Channel, ChannelError> {
    loop {
        let now = met.wait_for(Option::is_some).await;
        let Some(now) = now.ok().and_then(|now| now.clone()) else {
            // Nobody will be met any more.
            return std::future::pending().await;
        };
        match now.open(class).await {
            Err(ChannelError::SessionClosed(_)) => {
                // Another session may follow.
                let gone = |next: &Option<Arc<Encounter>>| {
                    next.as_ref().is_none_or(|next| !Arc::ptr_eq(next, &now))
                };
                if met.wait_for(gone).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            opened => return opened,
        }
    }
}
