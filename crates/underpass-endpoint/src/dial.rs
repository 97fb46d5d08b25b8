//! Connecting to a host service, with the reason for a failure as a program on that network gets it.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use underpass_proto::code::Code;

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

/// Connects to `HOST:PORT`, trying every address of the name within `limit`.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(target: &str, limit: Duration) -> Result<TcpStream, DialError> {
    let connecting = async {
        let addresses: Vec<_> = tokio::net::lookup_host(target)
            .await
            .map_err(|source| DialError::Resolve {
                target: target.to_owned(),
                source,
            })?
            .collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream
                        .set_nodelay(true)
                        .map_err(|source| DialError::Connect {
                            target: target.to_owned(),
                            source,
                        })?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(DialError::Connect {
            target: target.to_owned(),
            source: last,
        })
    };
    tokio::time::timeout(limit, connecting)
        .await
        .unwrap_or_else(|_| {
            Err(DialError::TimedOut {
                target: target.to_owned(),
                after: limit,
            })
        })
}
