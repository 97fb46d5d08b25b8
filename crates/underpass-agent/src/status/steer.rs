//! Telling the publishing agents of a home to lead a service elsewhere, over one socket each.
//!
//! Whoever connects sends one JSON object, an [`Order`], and the end; the answer is one JSON object. The
//! folder keeps other users out: who may write to the socket may also stop the agent and start another.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::ask::{ACCEPT_PAUSE, in_folder};
use crate::home::{Home, HomeError};
use crate::publish::{RetargetError, Retargeted, Steering};

/// The longest time for an order to be carried out, the dial of a new host included.
const LIMIT: Duration = Duration::from_secs(90);
/// The longest order or answer, in bytes.
const LONGEST: u64 = 64 << 10;
const PREFIX: &str = "publish-";
const SUFFIX: &str = ".sock";

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
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl OrderServer {
    /// Starts to take orders. Must be called on a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(home: &Home, steering: Steering) -> Result<Self, HomeError> {
        let folder = home.run_folder()?;
        let path = folder.join(format!("{PREFIX}{}{SUFFIX}", std::process::id()));
        let listener = in_folder(folder, &path, |short| {
            // A process with our number that has died may have left its own.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            UnixListener::bind(short)
        });
        let listener = listener.map_err(|source| HomeError::Io {
            action: "listen on",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            serving: tokio::spawn(serve(listener, steering)),
        })
    }
}

impl Drop for OrderServer {
    fn drop(&mut self) {
        self.serving.abort();
        // A leftover answers nobody, and is passed over.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, steering: Steering) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let steering = steering.clone();
                tokio::spawn(async move {
                    let taken = tokio::time::timeout(LIMIT, take(stream, &steering)).await;
                    if let Ok(Err(error)) = taken {
                        tracing::debug!("an order was not carried out: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::debug!("cannot take an order: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
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
    let folder = home.run_folder()?;
    let failed = |source| HomeError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(PREFIX) || !name.ends_with(SUFFIX) {
            continue;
        }
        match tokio::time::timeout(LIMIT, give(folder, &folder.join(name), order)).await {
            Ok(Ok(Err(RetargetError::NotHere(_)))) => {}
            Ok(Ok(answer)) => return Ok(answer),
            // A dead one's leftover, most likely.
            Ok(Err(error)) => tracing::debug!("{name}: {error}"),
            Err(_) => tracing::warn!("{name}: no answer"),
        }
    }
    Ok(Err(RetargetError::NotHere(order.service.clone())))
}

async fn give(folder: &Path, path: &Path, order: &Order) -> io::Result<Answer> {
    let stream = in_folder(folder, path, |short| {
        std::os::unix::net::UnixStream::connect(short)
    })?;
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    stream.write_all(&serde_json::to_vec(order)?).await?;
    stream.shutdown().await?;
    let mut text = Vec::new();
    stream.take(LONGEST).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}
