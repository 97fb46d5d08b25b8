//! Local listeners: programs connect here, or send datagrams, and reach the service.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use underpass_endpoint::dial::keep_bursts;
use underpass_endpoint::splice::{end_by_reset, reset};
use underpass_proto::frame::ChannelKind;

use super::datagrams::{self, FlowLimits};
use super::{Connector, Local, Sources, with_code};

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

/// A listener for one service.
#[derive(Debug)]
pub struct Listener {
    service: String,
    local: Local,
    sources: Sources,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Stream(TcpListener),
    Datagram(UdpSocket, FlowLimits),
}

impl Listener {
    /// Listens, for whoever is among `sources`; port 0 lets the system choose. `limits` are for datagrams.
    ///
    /// # Errors
    /// The system refuses the address.
    pub async fn bind(
        service: &str,
        local: Local,
        sources: Sources,
        limits: FlowLimits,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError { local, source };
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
        Ok(Self {
            service: service.to_owned(),
            local: Local {
                kind: local.kind,
                address: address.map_err(failed)?,
            },
            sources,
            socket,
        })
    }

    /// The service that it leads to.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The address it got.
    #[must_use]
    pub fn local(&self) -> Local {
        self.local
    }

    /// Takes connections for ever, each to a channel of its own; or datagrams, those of each client to one.
    pub async fn serve(self, connector: Connector) {
        let Self {
            service,
            local: _,
            sources,
            socket,
        } = self;
        match socket {
            Socket::Stream(listener) => {
                take_connections(&listener, &service, &sources, connector).await
            }
            Socket::Datagram(socket, limits) => {
                datagrams::serve(socket, service, &sources, limits, connector).await;
            }
        }
    }
}

async fn take_connections(
    listener: &TcpListener,
    service: &str,
    sources: &Sources,
    connector: Connector,
) {
    loop {
        match listener.accept().await {
            Ok((tcp, from)) if sources.admit(from.ip()) => {
                let (connector, service) = (connector.clone(), service.to_owned());
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
