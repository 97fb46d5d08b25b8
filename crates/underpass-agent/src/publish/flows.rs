//! The host side of services that take datagrams: each channel has a socket of its own.

use std::sync::Arc;

use tokio::net::UdpSocket;
use underpass_endpoint::flow::{Flow, FlowEnd};
use underpass_endpoint::{Incoming, PeerInfo};
use underpass_proto::Code;

use super::serve::{Catalogue, Used};

/// Carries the datagrams of one channel until nothing has passed for a while.
pub(super) async fn channel(
    catalogue: Arc<Catalogue>,
    incoming: Incoming,
    peer: Arc<PeerInfo>,
    mut used: Used,
) {
    let service = incoming.service().to_owned();
    let user = &peer.user;
    let Some(_place) = catalogue.flow_place() else {
        tracing::warn!(user, "{service}: too many flows of datagrams at once");
        return incoming.refuse(Code::Busy);
    };
    let mut socket = match catalogue.reach_udp(&service, &peer).await {
        Ok(socket) => socket,
        Err(code) => return incoming.refuse(code),
    };
    let mut flow = Flow::new(incoming.accept(), catalogue.flow_settings());
    let end = loop {
        tokio::select! {
            end = flow.carry(&mut socket) => break end,
            () = used.cut() => {}
        }
        match again(&catalogue, &service, &peer, &used).await {
            Ok(new) => socket = new,
            Err(end) => break end,
        }
    };
    let report = flow.end(&end);
    let (sent, received, dropped) = (report.sent, report.received, report.dropped);
    match end {
        FlowEnd::Over => tracing::debug!(user, sent, received, dropped, "{service}: done"),
        FlowEnd::Unreachable(error) => {
            tracing::info!(
                user,
                sent,
                received,
                dropped,
                "{service}: its host: {error}"
            );
        }
        FlowEnd::Channel(error) => {
            tracing::debug!(user, sent, received, dropped, "{service}: {error}");
        }
    }
}

/// The service leads elsewhere by now, and the flow goes on there.
async fn again(
    catalogue: &Catalogue,
    service: &str,
    peer: &PeerInfo,
    used: &Used,
) -> Result<UdpSocket, FlowEnd> {
    let reached = catalogue.reach_udp(service, peer).await;
    used.redialled();
    reached.map_err(|code| FlowEnd::Unreachable(std::io::Error::new(code.io_kind(), code.up())))
}
