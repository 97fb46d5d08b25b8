//! `quic`: one two-way stream of a QUIC connection (RFC 9000) on UDP.
//!
//! The best one where packets get lost: nothing waits for what the loss held up on other paths, and a
//! change of address does not break it. The bytes are spans, as on `upgrade`, so that the end of each
//! direction is told apart from a broken connection. No proxy for HTTP passes it on.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, ServerConfig,
    TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;

use crate::client::{Client, ClientSettings};
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply};
use crate::kind::{Abilities, Kind};
use crate::proxy::Route;
use crate::quic_stream::halves;
use crate::span::{SpanBuf, empty_fill};
use crate::tls::{self, TlsIdentity, TlsInfo, TlsTrust, UntrustedCertificate};
use crate::url::Scheme;
use crate::{Carrier, CarrierInfo, Sink as _};

/// The name in ALPN.
pub(crate) const ALPN: &[u8] = b"underpass";
/// Where a relay listens that says nothing else.
pub(crate) const DEFAULT_PORT: u16 = 443;
/// A connection on which nothing comes for so long is over.
const IDLE: Duration = Duration::from_secs(30);
/// How often the client shows that it is there: half the shortest time after which the usual NATs
/// forget who talks over UDP (30 s; RFC 4787 section 4.3 asks for more).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What may come before it is read: enough for 80 MB/s at a round trip of 100 ms.
const WINDOW: u32 = 8 * 1024 * 1024;
/// The same as long as nobody knows whether a carrier comes of it.
const FIRST_WINDOW: u32 = 64 * 1024;
/// Connections that wait to be looked at, and what they may have sent by then, in bytes.
const MAX_INCOMING: usize = 1024;
const MAX_INCOMING_BYTES: u64 = 16 * 1024 * 1024;
/// What the system may hold of packets that we have not looked at, in bytes, if it lets us.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "quic",
    abilities: Abilities {
        two_way_streaming: true,
        needs_udp: true,
        connections: 1,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange)),
};

/// Nobody asks for it over HTTP.
async fn serve(_: Exchange) -> Reply {
    Err(Refusal::NotFound)
}

async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    let ClientSettings { proxies, roots, .. } = &client.settings;
    let routes = proxies.routes(&client.url, roots).await?;
    if routes.first() != Some(&Route::Direct) {
        // Whoever set a proxy does not want packets that go past it.
        let reason = "a proxy is set, and none for HTTP passes QUIC on";
        return Err(CarrierError::setting(reason));
    }
    let (host, port) = (client.url.host(), client.settings.quic_port);
    let addresses: Vec<SocketAddr> = match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            return Err(CarrierError::Resolve {
                host: host.to_owned(),
                reason: error.to_string(),
            });
        }
    };
    let limit = client
        .settings
        .quic_timeout
        .min(client.settings.connect_timeout);
    // A dead first address must leave time for the next.
    let each = limit / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(1);
    let mut last = CarrierError::Resolve {
        host: host.to_owned(),
        reason: "the name has no address".to_owned(),
    };
    for address in addresses {
        let attempt = tokio::time::timeout(each, connect_to(&client, address));
        match attempt.await {
            Ok(Ok(carrier)) => return Ok(carrier),
            Ok(Err(error)) => last = error,
            Err(_) => last = timed_out(each),
        }
    }
    Err(last)
}

fn timed_out(after: Duration) -> CarrierError {
    CarrierError::TimedOut {
        what: "connecting over QUIC (does UDP pass, and does the relay listen there?)",
        after,
    }
}

async fn connect_to(client: &Client, address: SocketAddr) -> Result<Carrier, CarrierError> {
    let ours: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = endpoint(ours, None)?;
    let (config, refused) = client_config(client)?;
    let connecting = endpoint
        .connect_with(config, address, client.url.host())
        .map_err(CarrierError::setting)?;
    let connection = connecting.await.map_err(|error| match refused.get() {
        Some(certificate) => CarrierError::Certificate(Box::new(certificate.clone())),
        None => failed(client, error),
    })?;
    let local_ip = connection.local_ip();
    let info = CarrierInfo {
        carrier: KIND.name,
        scheme: client.url.scheme(),
        proxy: None,
        peer: Some(connection.remote_address()),
        local: endpoint.local_addr().ok().map(|mut address| {
            address.set_ip(local_ip.unwrap_or(address.ip()));
            address
        }),
        tls: Some(tls_info(&connection)),
    };
    let stream = connection.open_bi().await;
    let stream = stream.map_err(|error| failed(client, error))?;
    // The relay learns of the stream by its first byte.
    let (mut sink, mut source) = halves(connection, stream, SpanBuf::header_only(empty_fill()));
    std::future::poll_fn(|cx| sink.poll_flush(cx)).await?;
    source.opening().await?;
    Ok(Carrier {
        sink: Box::new(sink),
        source: Box::new(source),
        info,
    })
}

/// What may come before it is read, once there is a carrier.
pub(crate) fn full_window() -> VarInt {
    VarInt::from_u32(WINDOW)
}

/// How both sides use a connection.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE).expect("30 s fit into a variable-length integer");
    transport
        .max_idle_timeout(Some(idle))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(full_window())
        .receive_window(full_window());
    transport
}

/// What a client offers and checks. For a relay at `http` any certificate does, as it would need none
/// there: the relay proves itself inside.
fn client_config(
    client: &Client,
) -> Result<(ClientConfig, Arc<OnceLock<UntrustedCertificate>>), CarrierError> {
    let trust = match client.url.scheme() {
        Scheme::Http => &TlsTrust::AcceptAndReport,
        Scheme::Https => &client.settings.tls,
    };
    let (tls, refused) = tls::client_config_that_tells(trust, &client.settings.roots, ALPN)?;
    let crypto = QuicClientConfig::try_from(tls).map_err(CarrierError::setting)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    Ok((config, refused))
}

/// How a server treats its clients.
pub(crate) fn server_config(identity: &TlsIdentity) -> Result<ServerConfig, rustls::Error> {
    let mut tls = identity.config();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls)
        .map_err(|_| rustls::Error::General("no cipher suite that QUIC needs".to_owned()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(FIRST_WINDOW));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(u64::from(FIRST_WINDOW))
        .incoming_buffer_size_total(MAX_INCOMING_BYTES);
    Ok(config)
}

/// A UDP socket that QUIC is spoken on.
pub(crate) fn endpoint(address: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    // The system may give less, which is no error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    endpoint_on(socket.into(), server)
}

/// QUIC on a socket that is bound already.
pub(crate) fn endpoint_on(socket: UdpSocket, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(EndpointConfig::default(), server, socket, runtime)
}

fn tls_info(connection: &quinn::Connection) -> TlsInfo {
    let chain = connection
        .peer_identity()
        .and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let shown = chain.as_ref().and_then(|chain| chain.first());
    TlsInfo::new("TLS 1.3", shown)
}

/// Errors of TLS have codes of their own (RFC 9001 section 4.8).
fn failed(client: &Client, error: ConnectionError) -> CarrierError {
    match error {
        ConnectionError::TransportError(error)
            if (0x100..0x200).contains(&u64::from(error.code)) =>
        {
            CarrierError::Tls {
                address: format!("{}:{}", client.url.host(), client.settings.quic_port),
                reason: error.to_string(),
            }
        }
        ConnectionError::TimedOut => timed_out(IDLE),
        error => CarrierError::broken(error),
    }
}
