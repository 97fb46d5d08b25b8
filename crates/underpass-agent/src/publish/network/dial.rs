//! Connecting to a host of a published network: looked up once, each address checked, the checked ones dialled.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use underpass_endpoint::dial::DialError;
use underpass_endpoint::splice::reset;
use underpass_proto::Code;
use underpass_proto::far_host::{FarHost, FarPort};

use super::{Network, Refusal, never};

/// Any port: nothing is sent there.
const PROBED: u16 = 9;

/// Why a host of a network was not reached.
#[derive(Debug, Error)]
pub(in super::super) enum NetworkDialError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] DialError),
}

impl NetworkDialError {
    /// The reason as it travels to the other side.
    pub(in super::super) fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Failed(error) => error.code(),
        }
    }
}

/// Connects to a host of `network` within `limit`, if it is one that may be reached.
///
/// # Errors
/// It may not, or it cannot be reached.
pub(in super::super) async fn dial(
    network: &Network,
    to: &FarPort,
    limit: Duration,
) -> Result<TcpStream, NetworkDialError> {
    network.admit(to)?;
    let dialling = async {
        let found = look_up(to).await;
        let chosen = network.choose(to, &found, is_own)?;
        connect(to, &chosen).await
    };
    let outcome = tokio::time::timeout(limit, dialling).await;
    outcome.unwrap_or_else(|_| {
        let target = to.to_string();
        let after = limit;
        Err(DialError::TimedOut { target, after }.into())
    })
}

/// The addresses of a host; none where there are none.
async fn look_up(to: &FarPort) -> Vec<IpAddr> {
    let name = match &to.host {
        FarHost::Address(address) => return vec![*address],
        FarHost::Name(name) => name,
    };
    match tokio::net::lookup_host((name.as_str(), to.port)).await {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => {
            tracing::debug!("{name}: {error}");
            Vec::new()
        }
    }
}

async fn connect(to: &FarPort, addresses: &[IpAddr]) -> Result<TcpStream, NetworkDialError> {
    let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
    for address in addresses {
        match connect_to(SocketAddr::new(*address, to.port)).await {
            Ok(Some(stream)) => return Ok(stream),
            // It became this machine's in this moment.
            Ok(None) => return Err(Refusal::Never(*address, never::OWN).into()),
            Err(error) => last = error,
        }
    }
    let (target, source) = (to.to_string(), last);
    Err(DialError::Connect { target, source }.into())
}

/// A connection; none where both ends of it are this machine.
async fn connect_to(address: SocketAddr) -> io::Result<Option<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    if stream.local_addr()?.ip() == address.ip() {
        reset(stream);
        return Ok(None);
    }
    stream.set_nodelay(true)?;
    Ok(Some(stream))
}

/// Whether an address is one of this machine's: the system then sends from the address itself, or from a loopback one.
/// Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, PROBED))?;
        Ok(socket.local_addr()?.ip())
    };
    // Where there is no way at all, there is none to this machine either.
    from().is_ok_and(|from| from == address || from.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_its_own_addresses() {
        for own in ["127.0.0.1", "127.9.9.9"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        assert!(!is_own("192.0.2.1".parse().unwrap()));
    }
}
