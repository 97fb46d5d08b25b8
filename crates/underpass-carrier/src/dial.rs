//! Making connections: the one place where TCP and TLS begin. What proxies add is in
//! [`crate::proxy`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::error::CarrierError;
use crate::tls::{self, TlsInfo};

/// The most bytes the kernel may hold unsent below a carrier (design: keep little unsent data below
/// the session, so that its priorities mean something).
const NOT_SENT_LOW_WATER: u32 = 64 * 1024;

/// The reading half of a connection.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a connection.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection that HTTP can be spoken on.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Parts it in two, in the way that costs this kind of connection least.
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf);
}

/// Any connection.
pub(crate) type BoxedConnection = Box<dyn Connection>;

impl Connection for TcpStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let shared = Arc::new(*self);
        (
            Box::new(TcpHalf(Arc::clone(&shared))),
            Box::new(TcpHalf(shared)),
        )
    }
}

/// One half of a TCP connection, without a lock. Unlike tokio's own, dropping it sends no FIN: a
/// proxy may take one half's FIN as the end of both.
struct TcpHalf(Arc<TcpStream>);

impl AsyncRead for TcpHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TcpHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

impl<S: Connection> Connection for tokio_rustls::client::TlsStream<S> {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}

impl Connection for tokio_rustls::server::TlsStream<TcpStream> {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}

impl Connection for BoxedConnection {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        (*self).halves()
    }
}

/// What is spoken on a connection, and named in TLS (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, for carriers that need it; without TLS by prior knowledge (RFC 9113 section 3.3).
    Http2,
}

impl Speech {
    /// The name in ALPN.
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => crate::http2::ALPN,
        }
    }
}

/// Sets what every TCP connection of a carrier wants: no Nagle, little unsent data in the kernel.
///
/// # Errors
/// The system refused the first; that the second is missing (it is Linux's and Apple's) is no error.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER) {
        tracing::debug!(%error, "no limit on unsent data");
    }
    Ok(())
}

/// The addresses of a host.
///
/// # Errors
/// The name does not resolve, or has no address.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, CarrierError> {
    match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => {
            let addresses: Vec<_> = addresses.collect();
            match addresses.is_empty() {
                true => Err(no_address(host)),
                false => Ok(addresses),
            }
        }
        Err(error) => Err(CarrierError::Resolve {
            host: host.to_owned(),
            reason: error.to_string(),
        }),
    }
}

fn no_address(host: &str) -> CarrierError {
    CarrierError::Resolve {
        host: host.to_owned(),
        reason: "the name has no address".to_owned(),
    }
}

/// Connects to one address within `limit`.
///
/// # Errors
/// The system's answer; `TimedOut` where there was none.
pub(crate) async fn connect_to(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects to one address after the other, within `limit` in all.
///
/// # Errors
/// The name does not resolve, or no address answers in time.
pub(crate) async fn connect_tcp(
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<TcpStream, CarrierError> {
    let address = format!("{host}:{port}");
    let addresses = resolve(host, port).await?;
    let mut last = no_address(host);
    // A dead first address must leave time for the next, and the last one for saying that it was TCP that did not
    // come about.
    let each = (limit - limit / 10) / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(1);
    for candidate in addresses {
        let error = match connect_to(candidate, each).await {
            Ok(stream) => {
                tune(&stream)?;
                return Ok(stream);
            }
            Err(error) => error,
        };
        last = CarrierError::Connect {
            address: address.clone(),
            kind: error.kind(),
            reason: error.to_string(),
        };
    }
    Err(last)
}

/// TLS with `host` over a connection.
///
/// # Errors
/// The handshake fails, or the certificate is not accepted.
pub(crate) async fn start_tls<S: Connection>(
    host: &str,
    config: &Arc<rustls::ClientConfig>,
    stream: S,
) -> Result<(tokio_rustls::client::TlsStream<S>, TlsInfo), CarrierError> {
    let failed = |reason: String| CarrierError::Tls {
        address: host.to_owned(),
        reason,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::clone(config))
        .connect(name, stream)
        .await
        .map_err(|error| tls::untrusted(&error).unwrap_or_else(|| failed(error.to_string())))?;
    let (_, session) = stream.get_ref();
    if config.alpn_protocols == [Speech::Http2.alpn()]
        && session.alpn_protocol() != Some(Speech::Http2.alpn())
    {
        return Err(failed("the other side does not speak HTTP/2".to_owned()));
    }
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let version = tls::version_name(session.protocol_version());
    let info = TlsInfo::new(version, certificate);
    Ok((stream, info))
}
