//! Telling the publishing agents of a home to lead a service elsewhere, over one socket each.
//!
//! Whoever connects sends one JSON object, an [`Order`], and the end; the answer is one JSON object. Who
//! may write to the socket may also stop the agent and start another.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::socket::{self, AgentSocket};
use crate::home::{Home, HomeError};
use crate::publish::{RetargetError, Retargeted, Steering};

/// The longest time for an order to be carried out, the dial of a new host included.
const LIMIT: Duration = Duration::from_secs(90);
/// The longest order or answer, in bytes.
const LONGEST: u64 = 64 << 10;
const PURPOSE: &str = "publish";

/// Where a service is to lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The service, by its name or full name.
    pub service: String,
    /// `HOST:PORT` as reached from the publishing machine.
    pub target: String,
    /// Whether the connections that there are follow.
    pub now: bool,
}

type Answer = Result<Retargeted, RetargetError>;

/// Takes orders until it is dropped.
#[derive(Debug)]
pub struct OrderServer {
    _socket: AgentSocket,
}

impl OrderServer {
    /// Starts to take orders. Must be called on a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(home: &Home, steering: Steering) -> Result<Self, HomeError> {
        let socket = AgentSocket::serve(home, PURPOSE, move |stream| {
            let steering = steering.clone();
            async move {
                let taken = tokio::time::timeout(LIMIT, take(stream, &steering)).await;
                if let Ok(Err(error)) = taken {
                    tracing::debug!("an order was not carried out: {error}");
                }
            }
        })?;
        Ok(Self { _socket: socket })
    }
}

async fn take(mut stream: UnixStream, steering: &Steering) -> io::Result<()> {
    let mut text = Vec::new();
    (&mut stream).take(LONGEST).read_to_end(&mut text).await?;
    let Order {
        service,
        target,
        now,
    } = serde_json::from_slice(&text)?;
    let answer: Answer = steering.retarget(&service, &target, now).await;
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

/// Gives `order` to the agent of `home` that publishes the service.
///
/// # Errors
/// None does, or it refuses; the folder cannot be read.
pub async fn retarget(home: &Home, order: &Order) -> Result<Answer, HomeError> {
    for path in socket::all(home, PURPOSE)? {
        match tokio::time::timeout(LIMIT, give(&path, order)).await {
            Ok(Ok(Err(RetargetError::NotHere(_)))) => {}
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => tracing::debug!("{}: {error}", path.display()),
            Err(_) => tracing::warn!("{}: no answer", path.display()),
        }
    }
    Ok(Err(RetargetError::NotHere(order.service.clone())))
}

async fn give(path: &Path, order: &Order) -> io::Result<Answer> {
    let mut stream = socket::connect(path)?;
    stream.write_all(&serde_json::to_vec(order)?).await?;
    stream.shutdown().await?;
    let mut text = Vec::new();
    stream.take(LONGEST).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}
