//! Connecting to a host service, with the reason for a failure as a program on that network gets it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UdpSocket};
use underpass_proto::code::Code;
use underpass_proto::frame::ChannelKind;

/// What stands before the host of a service that takes datagrams.
const UDP: &str = "udp:";
/// What the system may keep of datagrams that were not read yet, in bytes: a burst of some hundred.
const UDP_BUFFER: usize = 1 << 20;

/// Why a host service could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {target}: {source}")]
    Resolve {
        /// Host and port as configured.
        target: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address could be connected to.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Host and port as configured.
        target: String,
        /// What the last address gave.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("{target} did not answer within {after:?}")]
    TimedOut {
        /// Host and port as configured.
        target: String,
        /// How long it was waited for.
        after: Duration,
    },
}

impl DialError {
    /// The reason as it travels to the other side.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            DialError::Resolve { .. } => Code::Unreachable,
            DialError::Connect { source, .. } => Code::of_io(source.kind()),
            DialError::TimedOut { .. } => Code::TimedOut,
        }
    }
}

/// What a target takes, and the `HOST:PORT` of it: datagrams where `udp:` stands before that. A host may
/// be called udp all the same: `udp:53` is its port 53.
#[must_use]
pub fn transport(target: &str) -> (ChannelKind, &str) {
    match target.strip_prefix(UDP) {
        Some(rest) if rest.contains(':') => (ChannelKind::Datagram, rest),
        _ => (ChannelKind::Stream, target),
    }
}

/// Connects to `HOST:PORT`, trying every address of the name within `limit`.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(target: &str, limit: Duration) -> Result<TcpStream, DialError> {
    within(target, limit, |address| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
    .await
}

/// A socket that sends datagrams to `HOST:PORT`, and takes them from there alone. Whether somebody is
/// there is not known before it was sent something.
///
/// # Errors
/// See [`DialError`].
pub async fn dial_udp(target: &str, limit: Duration) -> Result<UdpSocket, DialError> {
    within(target, limit, |address| async move {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        keep_bursts(&socket);
        Ok(socket)
    })
    .await
}

/// Has the system keep more datagrams than it usually does, as far as it may.
pub fn keep_bursts(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    for outcome in [
        socket.set_recv_buffer_size(UDP_BUFFER),
        socket.set_send_buffer_size(UDP_BUFFER),
    ] {
        if let Err(error) = outcome {
            tracing::debug!("a socket keeps its usual buffer: {error}");
        }
    }
}

/// What `connect` makes of the first address of a name that it can use.
async fn within<T, F>(
    target: &str,
    limit: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = io::Result<T>>,
{
    let target = || target.to_owned();
    let connecting = async {
        let found = tokio::net::lookup_host(target()).await;
        let addresses = found.map_err(|source| DialError::Resolve {
            target: target(),
            source,
        })?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match connect(address).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(DialError::Connect {
            target: target(),
            source: last,
        })
    };
    let outcome = tokio::time::timeout(limit, connecting).await;
    outcome.unwrap_or_else(|_| {
        Err(DialError::TimedOut {
            target: target(),
            after: limit,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_host_tells_what_it_takes() {
        for (target, kind, rest) in [
            ("10.0.0.1:53", ChannelKind::Stream, "10.0.0.1:53"),
            ("udp:10.0.0.1:53", ChannelKind::Datagram, "10.0.0.1:53"),
            ("udp:[::1]:53", ChannelKind::Datagram, "[::1]:53"),
            ("udp:53", ChannelKind::Stream, "udp:53"),
        ] {
            assert_eq!(transport(target), (kind, rest));
        }
    }
}
