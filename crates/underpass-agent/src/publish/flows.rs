//! The host side of services that take datagrams: each channel has a socket of its own.

use std::io;

use underpass_endpoint::Incoming;
use underpass_endpoint::flow::{Flow, FlowEnd};
use underpass_endpoint::splice::HostSide as _;
use underpass_proto::Code;

use super::serve::Host;

/// Carries the datagrams of one channel until nothing has passed for a while, or its peer may not any more.
pub(super) async fn channel(incoming: Incoming, host: &Host) {
    let service = incoming.service().to_owned();
    let (catalogue, user) = (&host.catalogue, &host.peer.user);
    let Some(_place) = catalogue.flow_place() else {
        tracing::warn!(user, "{service}: too many flows of datagrams at once");
        return incoming.refuse(Code::Busy);
    };
    let mut socket = match host.dial_udp(false).await {
        Ok(socket) => socket,
        Err(code) => return incoming.refuse(code),
    };
    let mut flow = Flow::new(incoming.accept(), catalogue.flow_settings());
    let end = loop {
        tokio::select! {
            end = flow.carry(&mut socket) => break end,
            () = host.cut() => {}
        }
        // The service leads elsewhere by now, and the flow goes on there; or the peer is refused.
        match host.dial_udp(true).await {
            Ok(new) => socket = new,
            Err(code) => {
                let error = io::Error::new(code.io_kind(), code.up());
                break FlowEnd::Unreachable(error);
            }
        }
    };
    let report = flow.end(&end);
    match end {
        FlowEnd::Over => tracing::debug!(user, %report, "{service}: done"),
        FlowEnd::Unreachable(error) => {
            tracing::info!(user, %report, "{service}: its host: {error}")
        }
        FlowEnd::Channel(error) => tracing::debug!(user, %report, "{service}: {error}"),
    }
}
