//! Local listeners: programs connect here and reach the service.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use underpass_endpoint::splice::{end_by_reset, reset, splice};

use super::Connector;

/// Pause after the system refused a connection: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A local address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

/// A listener for one service.
#[derive(Debug)]
pub struct Listener {
    service: String,
    address: SocketAddr,
    listener: TcpListener,
}

impl Listener {
    /// Listens; port 0 lets the system choose.
    ///
    /// # Errors
    /// The system refuses the address.
    pub async fn bind(service: &str, address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = underpass_carrier::listen(address).map_err(failed)?;
        Ok(Self {
            service: service.to_owned(),
            address: listener.local_addr().map_err(failed)?,
            listener,
        })
    }

    /// The service that it leads to.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The address it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes connections for ever, each to a channel of its own.
    pub async fn serve(self, connector: Connector) {
        loop {
            match self.listener.accept().await {
                Ok((tcp, from)) => {
                    let (connector, service) = (connector.clone(), self.service.clone());
                    tokio::spawn(async move { carry(&connector, &service, tcp, from).await });
                }
                Err(error) => {
                    // None of accept(2)'s errors is about the listener itself.
                    tracing::warn!("cannot take a connection for {}: {error}", self.service);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
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
    match connector.open(service).await {
        Ok(channel) => {
            let report = splice(channel, tcp).await;
            match report.error {
                None => {
                    tracing::debug!(%from, sent = report.sent, received = report.received, "{service}: done")
                }
                Some(error) => {
                    tracing::info!(%from, sent = report.sent, received = report.received, "{service}: broken off: {error}")
                }
            }
        }
        Err(error) => {
            tracing::warn!(%from, "{service}: {error} [{}]", error.code().up());
            reset(tcp);
        }
    }
}
