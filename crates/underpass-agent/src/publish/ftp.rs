//! Serving FTP: control connections that are read, and the data connections that they announce.

use std::sync::Arc;

use tokio::net::TcpStream;
use underpass_endpoint::Incoming;
use underpass_endpoint::splice::{HostSide, splice_host};
use underpass_proto::Code;

use super::serve::Host;
use super::target::Speech;
use crate::ftp::{self, Announced, Asked};

/// Carries one channel of FTP.
pub(super) async fn channel(
    incoming: Incoming,
    asked: Asked,
    host: Host,
    announced: Arc<Announced>,
) {
    let user = host.peer.user.clone();
    let (catalogue, peer) = (&host.catalogue, &host.peer);
    let listing = match catalogue
        .permitted(asked.service(), peer, incoming.kind())
        .await
    {
        Ok(listing) if listing.target().speech == Speech::Ftp => listing,
        Ok(_) => return incoming.refuse(Code::NoService),
        Err(code) => return incoming.refuse(code),
    };
    let service = &listing.name;
    let report = match &asked {
        Asked::Control { .. } => {
            let tcp = match catalogue.reach(asked.service(), None, peer).await {
                Ok(tcp) => tcp,
                Err(code) => return incoming.refuse(code),
            };
            ftp::control(incoming.accept(), tcp, service, &announced, host.cut()).await
        }
        Asked::Passive { .. } | Asked::Active { .. } => {
            let limit = catalogue.dial_limit();
            match ftp::data(&announced, &asked, service, limit).await {
                Ok(tcp) => splice_host(incoming.accept(), tcp, Data(&host)).await,
                Err(code) => {
                    tracing::warn!(user, "{service}: a data connection: {code}");
                    return incoming.refuse(code);
                }
            }
        }
    };
    match report.error {
        None => tracing::debug!(user, "{asked}: done"),
        Some(error) => tracing::info!(user, "{asked}: broken off: {error}"),
    }
}

/// The host side of a data connection: it can be made once only.
struct Data<'a>(&'a Host);

impl HostSide for Data<'_> {
    async fn dial(&self, _: Option<String>) -> Result<TcpStream, Code> {
        Err(Code::NoRedial)
    }

    async fn cut(&self) {
        self.0.forbidden().await;
    }
}
