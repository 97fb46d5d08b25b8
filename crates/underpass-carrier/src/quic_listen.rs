//! The server's side of `quic`: connections, each of which is one carrier.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::front::Front;
use crate::quic::KIND;
use crate::quic_stream::halves;
use crate::span::{SpanBuf, empty_fill};
use crate::tls::TlsInfo;
use crate::url::Scheme;
use crate::{Carrier, CarrierInfo};

/// What a connection is closed with that does not become a carrier, or that the server's end ends.
const REFUSED: VarInt = VarInt::from_u32(2);

/// One UDP address.
pub(crate) struct QuicListening {
    pub(crate) front: Arc<Front>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) closing: CancellationToken,
    /// Another process goes on with the address.
    pub(crate) closed: CancellationToken,
}

impl QuicListening {
    /// Takes connections until the server is closed, and waits until they have ended. Where another
    /// process goes on with the socket they end at once: two cannot read their packets from it.
    pub(crate) async fn run(self, endpoint: Endpoint) {
        let unfinished = Arc::new(AtomicUsize::new(0));
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = self.closing.cancelled() => None,
                () = self.closed.cancelled() => None,
            };
            let Some(incoming) = incoming else {
                break;
            };
            self.consider(incoming, &unfinished);
        }
        endpoint.set_server_config(None);
        tokio::select! {
            () = endpoint.wait_idle() => return,
            () = self.front.stop.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
        endpoint.close(REFUSED, b"");
        // The other side should learn of it; who is not there is not waited for long.
        let last = endpoint.wait_idle();
        let _ = tokio::time::timeout(Duration::from_millis(200), last).await;
    }

    /// Begins a handshake, unless the client has to prove its address first or there is no room.
    fn consider(&self, incoming: Incoming, unfinished: &Arc<AtomicUsize>) {
        let busy = unfinished.load(Ordering::Relaxed) >= self.front.settings.quic_unvalidated;
        if busy && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            return;
        }
        let Ok(counted) = Arc::clone(&self.connections).try_acquire_owned() else {
            tracing::debug!(peer = %incoming.remote_address(), "too many connections");
            return incoming.refuse();
        };
        let handshake = Unfinished::new(unfinished);
        let front = Arc::clone(&self.front);
        self.front
            .spawn(async move { serve(front, incoming, handshake, counted).await });
    }
}

/// Counts handshakes under way.
struct Unfinished(Arc<AtomicUsize>);

impl Unfinished {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection, from its handshake to its end.
async fn serve(
    front: Arc<Front>,
    incoming: Incoming,
    handshake: Unfinished,
    counted: OwnedSemaphorePermit,
) {
    let peer = incoming.remote_address();
    let limit = front.settings.header_timeout;
    let connection = match tokio::time::timeout(limit, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no connection"),
        Err(_) => return tracing::debug!(%peer, "the QUIC handshake took too long"),
    };
    drop(handshake);
    if !make_carrier(&front, &connection).await {
        connection.close(REFUSED, b"");
    }
    // The carrier's halves close it when they are dropped.
    connection.closed().await;
    drop(counted);
}

/// Waits for the connection's stream and hands its carrier out. False if that comes to nothing.
async fn make_carrier(front: &Arc<Front>, connection: &Connection) -> bool {
    let Ok(half_made) = front.begin(Some(connection.remote_address())) else {
        return false;
    };
    let limit = front.settings.first_byte_timeout;
    let Ok(Ok(stream)) = tokio::time::timeout(limit, connection.accept_bi()).await else {
        return false;
    };
    let info = CarrierInfo {
        carrier: KIND.name,
        scheme: Scheme::Https,
        peer: Some(connection.remote_address()),
        local: None,
        tls: Some(TlsInfo::new("TLS 1.3", None)),
        proxy: None,
    };
    let first = SpanBuf::header_only(empty_fill());
    let (sink, source) = halves(connection.clone(), stream, first);
    let carrier = Carrier {
        sink: Box::new(sink),
        source: Box::new(source),
        info,
    };
    half_made.introduce(carrier).await
}
