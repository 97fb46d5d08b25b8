//! Services that have answered, and what carries a program's connection to them.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use underpass_endpoint::Channel;
use underpass_endpoint::splice::{SpliceReport, splice};
use underpass_proto::Code;

use super::{Connector, OpenError};
use crate::ftp::{Asked, Door};

/// A channel to a service, and the help that its protocol needs on this side.
#[derive(Debug)]
pub(crate) struct Opened {
    channel: Channel,
    service: String,
    /// The control connection of FTP, with what opens the data connections.
    ftp: Option<Connector>,
}

impl Connector {
    /// As [`Connector::open`], for a whole connection of a program: where the publisher says that the service needs help on
    /// this side as well, it gets that.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn open_helped(&self, service: &str) -> Result<Opened, OpenError> {
        let (channel, ftp) = match self.open(service).await {
            Err(error) if error.code() == Code::FtpNeedsHelp => {
                let control = |service| Asked::Control { service };
                (self.open_ftp(service, control).await?, Some(self.clone()))
            }
            opened => (opened?, None),
        };
        Ok(Opened {
            channel,
            service: service.to_owned(),
            ftp,
        })
    }
}

impl Opened {
    /// Carries the connection of a program that came from `from`, until both sides have ended it.
    pub(crate) async fn carry(self, tcp: TcpStream, from: SocketAddr) {
        let service = self.service.clone();
        let SpliceReport {
            sent,
            received,
            redials: _,
            error,
        } = self.join(tcp).await;
        match error {
            None => tracing::debug!(%from, sent, received, "{service}: done"),
            Some(error) => {
                tracing::info!(%from, sent, received, "{service}: broken off: {error}");
            }
        }
    }

    async fn join(self, tcp: TcpStream) -> SpliceReport {
        let Some(connector) = self.ftp else {
            return splice(self.channel, tcp).await;
        };
        match Door::new(connector, &self.service, &tcp) {
            Ok(door) => door.carry(self.channel, tcp).await,
            // The program is gone; the channel is dropped, which resets it.
            Err(error) => SpliceReport {
                error: Some(error.to_string()),
                ..SpliceReport::default()
            },
        }
    }
}
