//! Serving the sessions that come in: each channel to the host of the service it names.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use underpass_endpoint::dial::dial;
use underpass_endpoint::splice::splice_far;
use underpass_endpoint::{Incoming, PeerInfo, Session};
use underpass_proto::Code;
use underpass_proto::frame::ChannelKind;

use super::access::Access;
use super::{Listing, Offer};
use crate::standing::Standing;
use crate::status::{Board, SessionEntry};

/// What is published here, and how it is reached.
#[derive(Debug)]
pub(super) struct Catalogue {
    listings: Mutex<Vec<Listing>>,
    access: Access,
    dial_limit: Duration,
    board: Board,
}

impl Catalogue {
    pub(super) fn new(
        standing: Standing,
        offers: &[Offer],
        dial_limit: Duration,
        board: Board,
    ) -> Self {
        let listings = offers.iter().map(|offer| Listing {
            name: offer.name.clone(),
            full_name: String::new(),
            target: offer.target.clone(),
        });
        Self {
            listings: Mutex::new(listings.collect()),
            access: Access::new(standing),
            dial_limit,
            board,
        }
    }

    pub(super) fn listings(&self) -> Vec<Listing> {
        self.listings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The relay has told the full name.
    pub(super) fn named(&self, name: &str, full_name: &str) {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        for listing in listings.iter_mut().filter(|it| it.name == name) {
            full_name.clone_into(&mut listing.full_name);
        }
    }

    fn find(&self, service: &str) -> Option<Listing> {
        find(&self.listings(), service).cloned()
    }

    /// Connects to the host of `service` for somebody whom the relay let through to `peer.service`.
    async fn reach(&self, service: &str, peer: &PeerInfo) -> Result<TcpStream, Code> {
        let listing = self.find(service).ok_or(Code::NoService)?;
        let let_through = self.find(&peer.service);
        if let_through.is_none_or(|known| known.name != listing.name) {
            self.check(&listing, peer).await?;
        }
        dial(&listing.target, self.dial_limit)
            .await
            .map_err(|error| {
                tracing::warn!(user = peer.user, "{}: {error}", listing.name);
                error.code()
            })
    }

    async fn check(&self, listing: &Listing, peer: &PeerInfo) -> Result<(), Code> {
        match self.access.allows(&peer.user, &listing.full_name).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::warn!(user = peer.user, "{}: not allowed", listing.name);
                Err(Code::Denied)
            }
            Err(error) => {
                tracing::warn!("{}: cannot ask who is allowed: {error}", listing.name);
                Err(Code::Denied)
            }
        }
    }
}

/// By the full name, or by the name alone: all services of one publisher have one owner.
fn find<'a>(listings: &'a [Listing], service: &str) -> Option<&'a Listing> {
    // A full name is empty until the relay has told it.
    listings
        .iter()
        .filter(|_| !service.is_empty())
        .find(|listing| listing.full_name == service || listing.name == service)
}

/// Serves all channels of a session until it ends.
pub(super) async fn session(catalogue: Arc<Catalogue>, session: Session, peer: PeerInfo) {
    tracing::info!("{} uses {}", peer.user, peer.service);
    let entry = SessionEntry::inbound(&peer, session.clone());
    let _shown = catalogue.board.show_session(entry);
    let peer = Arc::new(peer);
    while let Some(incoming) = session.accept().await {
        tokio::spawn(channel(Arc::clone(&catalogue), incoming, Arc::clone(&peer)));
    }
    let closed = session.closed().await;
    tracing::info!(
        "{} is done with {} ({})",
        peer.user,
        peer.service,
        closed.reason
    );
}

async fn channel(catalogue: Arc<Catalogue>, incoming: Incoming, peer: Arc<PeerInfo>) {
    if incoming.kind() != ChannelKind::Stream {
        tracing::warn!(
            user = peer.user,
            "{}: datagrams are not served",
            incoming.service()
        );
        incoming.refuse(Code::Refused);
        return;
    }
    let service = incoming.service().to_owned();
    let tcp = match catalogue.reach(&service, &peer).await {
        Ok(tcp) => tcp,
        Err(code) => return incoming.refuse(code),
    };
    let user = peer.user.clone();
    let report = splice_far(incoming.accept(), tcp, move |service: String| {
        let (catalogue, peer) = (Arc::clone(&catalogue), Arc::clone(&peer));
        async move {
            tracing::info!(user = peer.user, "a connection goes on with {service}");
            catalogue.reach(&service, &peer).await
        }
    });
    let report = report.await;
    match report.error {
        None => tracing::debug!(user, "{service}: done"),
        Some(error) => tracing::info!(user, "{service}: broken off: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_either_name() {
        let listing = |name: &str| Listing {
            name: name.into(),
            full_name: format!("{name}.bob.underpass.internal"),
            target: "localhost:1".into(),
        };
        let listings = [listing("db"), listing("web")];
        for (asked, found) in [
            ("web", Some("web")),
            ("db.bob.underpass.internal", Some("db")),
            ("db.carol.underpass.internal", None),
            ("", None),
        ] {
            assert_eq!(find(&listings, asked).map(|it| &it.name[..]), found);
        }
    }

    /// Before the relay has answered there is no full name, and an empty one must find nothing.
    #[test]
    fn a_service_without_its_full_name_is_not_found_by_nothing() {
        let listing = Listing {
            name: "db".into(),
            full_name: String::new(),
            target: String::new(),
        };
        assert_eq!(find(&[listing], ""), None);
    }
}
