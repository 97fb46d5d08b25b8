//! Local listeners: programs connect here, or send datagrams, and reach the service.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use underpass_endpoint::dial::keep_bursts;
use underpass_endpoint::splice::{end_by_reset, reset};
use underpass_proto::frame::ChannelKind;

use super::datagrams::{self, FlowLimits};
use super::{Connector, Local, Wanted, with_code};
use crate::x11::Door;

/// Pause after the system refused a connection: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A local address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {local}: {source}")]
pub struct ListenError {
    /// The address.
    pub local: Local,
    /// The system's answer.
    pub source: io::Error,
}

impl ListenError {
    /// The same once more.
    pub(super) fn again(&self) -> Self {
        let source = match self.source.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => self.source.kind().into(),
        };
        Self {
            local: self.local,
            source,
        }
    }
}

/// A listener for one service.
#[derive(Debug)]
pub struct Listener {
    wanted: Wanted,
    socket: Socket,
}

/// What a listener is for at this moment, as somebody says who may change it; nothing once it is to go.
pub(super) type Told = watch::Receiver<Option<Arc<Wanted>>>;

#[derive(Debug)]
enum Socket {
    Stream(TcpListener),
    Datagram(UdpSocket, FlowLimits),
    Display(Door),
}

impl Listener {
    /// Listens as is `wanted`; port 0 lets the system choose. `limits` are for datagrams; a file with the cookie of a display
    /// goes into `folder`.
    ///
    /// # Errors
    /// The system refuses the address.
    pub async fn bind(
        wanted: Wanted,
        limits: FlowLimits,
        folder: &Path,
    ) -> Result<Self, ListenError> {
        let local = wanted.local;
        let failed = |source| ListenError { local, source };
        if let Some(number) = local.display {
            let door = Door::open(number, folder).map_err(failed)?;
            return Ok(Self {
                wanted,
                socket: Socket::Display(door),
            });
        }
        let (address, socket) = match local.kind {
            ChannelKind::Stream => {
                let listener = underpass_carrier::listen(local.address).map_err(failed)?;
                (listener.local_addr(), Socket::Stream(listener))
            }
            ChannelKind::Datagram => {
                let socket = UdpSocket::bind(local.address).await.map_err(failed)?;
                keep_bursts(&socket);
                (socket.local_addr(), Socket::Datagram(socket, limits))
            }
        };
        let address = address.map_err(failed)?;
        let local = Local { address, ..local };
        Ok(Self {
            wanted: Wanted { local, ..wanted },
            socket,
        })
    }

    /// What it is for, with the address it got.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The file with the cookie that programs must show, where it is a display.
    #[must_use]
    pub fn xauthority(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Display(door) => Some(door.xauthority()),
            Socket::Stream(_) | Socket::Datagram(..) => None,
        }
    }

    /// Takes connections for ever, each to a channel of its own; or datagrams, those of each client to one.
    pub async fn serve(self, connector: Connector) {
        let (_terms, told) = watch::channel(Some(Arc::new(self.wanted.clone())));
        self.serve_by(told, connector).await;
    }

    /// The same, for what it is `told` at each moment, until it is to go.
    pub(super) async fn serve_by(self, told: Told, connector: Connector) {
        match self.socket {
            Socket::Stream(listener) => take_connections(listener, told, connector).await,
            Socket::Datagram(socket, limits) => {
                datagrams::serve(socket, told, limits, connector).await;
            }
            Socket::Display(door) => door.serve(self.wanted.service, connector).await,
        }
    }
}

async fn take_connections(listener: TcpListener, mut told: Told, connector: Connector) {
    loop {
        let Some(wanted) = told.borrow_and_update().clone() else {
            return;
        };
        tokio::select! {
            accepted = listener.accept() => take(accepted, &wanted, &connector).await,
            changed = told.changed() => if changed.is_err() { return },
        }
    }
}

async fn take(
    accepted: io::Result<(TcpStream, SocketAddr)>,
    wanted: &Wanted,
    connector: &Connector,
) {
    let Wanted {
        service, sources, ..
    } = wanted;
    match accepted {
        Ok((tcp, from)) if sources.admit(from.ip()) => {
            let (connector, service) = (connector.clone(), service.clone());
            tokio::spawn(async move { carry(&connector, &service, tcp, from).await });
        }
        Ok((tcp, from)) => {
            tracing::warn!(%from, "{service}: a connection from there is reset: only {sources} may");
            reset(tcp);
        }
        Err(error) => {
            // None of accept(2)'s errors is about the listener itself.
            tracing::warn!("cannot take a connection for {service}: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// One connection. What the far side refuses is reset here: the program sees an error, not an end.
async fn carry(connector: &Connector, service: &str, tcp: TcpStream, from: SocketAddr) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%from, "{service}: {error}");
    }
    end_by_reset(&tcp);
    match connector.open_helped(service).await {
        Ok(opened) => opened.carry(tcp, from).await,
        Err(error) => {
            tracing::warn!(%from, "{service}: {}", with_code(&error, error.code()));
            reset(tcp);
        }
    }
}
