//! What comes before the first answer, step by step.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::dial;
use crate::error::CarrierError;

/// The addresses of a host, in the order in which they are tried.
///
/// # Errors
/// The name cannot be resolved, or has no address.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, CarrierError> {
    dial::resolve(host, port).await
}

/// Makes a TCP connection to one address and closes it. How long that took.
///
/// # Errors
/// [`CarrierError::Connect`], whose kind is `TimedOut` where nothing answered within `limit`.
pub async fn knock(address: SocketAddr, limit: Duration) -> Result<Duration, CarrierError> {
    let begin = Instant::now();
    let connected = dial::connect_to(address, limit).await;
    match connected {
        Ok(_) => Ok(begin.elapsed()),
        Err(error) => Err(CarrierError::Connect {
            address: address.to_string(),
            kind: error.kind(),
            reason: error.to_string(),
        }),
    }
}
