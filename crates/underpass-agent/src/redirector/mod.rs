//! Serves programs that run with the preloaded library of `underpass-hook`, or under the supervisor of
//! `underpass-supervisor`: gives names pseudo addresses, and takes their connections to those.
//!
//! A hooked program announces each connection on a socket that only its user can reach, and then makes it to a listener on
//! the pseudo address. What comes there unannounced, or of another user, is reset, and nothing is dialled for it.
//!
//! | file | subject |
//! |---|---|
//! | `names.rs` | which address stands for which name (pure) |
//! | `announced.rs` | connections that are awaited (pure) |
//! | `origin.rs` | whose a connection is |
//! | `socket.rs` | where programs ask |
//! | `present.rs`, `usage.rs` | for whom it stays, and how long |
//! | `answers.rs` | what they are told |
//! | `doors.rs` | the listeners on pseudo addresses |

mod announced;
mod answers;
mod doors;
mod names;
mod origin;
mod present;
mod socket;
mod usage;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::UnixListener;
use underpass_proto::names::Suffix;
use underpass_seal::Fingerprint;

use crate::connect::Connector;
use crate::home::{Home, HomeError};
use doors::Doors;
use names::Names;
use present::Present;
use usage::Usage;

pub use names::pseudo_names;
pub use socket::{fix, place, stay};

/// Pause after the system refused a connection: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no redirector.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RedirectorError {
    /// Another process is it.
    #[error("another redirector of this home serves {0}")]
    Taken(PathBuf),
    /// The path of its socket does not fit into an address.
    #[error("the path {0} is longer than the 107 bytes that a socket's can have")]
    TooLong(PathBuf),
    /// The folder of its socket cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The system refuses.
    #[error("cannot serve {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The redirector of a home for one relay. Dropping it takes its socket away.
pub struct Redirector {
    place: PathBuf,
    listener: UnixListener,
    shared: Arc<Shared>,
    /// Holds others off; ends with the process at the latest.
    _lock: File,
}

/// What all its tasks share.
struct Shared {
    connector: Connector,
    /// What pseudo names end with.
    suffix: Suffix,
    names: Mutex<Names>,
    /// When the relay was last asked for all names.
    listed: tokio::sync::Mutex<Option<Instant>>,
    doors: Doors,
    present: Present,
    usage: Usage,
    /// The user whom it serves.
    user: u32,
}

impl std::fmt::Debug for Redirector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Redirector").field(&self.place).finish()
    }
}

impl Redirector {
    /// Listens for programs of this user, for which names that end with `suffix` are ours. Must be called on a runtime.
    ///
    /// # Errors
    /// There is one already, or the system refuses.
    pub fn start(
        home: &Home,
        relay: &Fingerprint,
        connector: Connector,
        suffix: Suffix,
    ) -> Result<Self, RedirectorError> {
        let place = place(home, relay, &suffix)?;
        let failed = |source| RedirectorError::Io {
            path: place.clone(),
            source,
        };
        let lock = File::create(place.with_extension("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(RedirectorError::Taken(place)),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let listener = socket::listen_at(&place).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidFilename => RedirectorError::TooLong(place.clone()),
            _ => failed(source),
        })?;
        let shared = Shared {
            connector,
            suffix,
            names: Mutex::default(),
            listed: tokio::sync::Mutex::default(),
            doors: Doors::new().map_err(failed)?,
            present: Present::default(),
            usage: Usage::new(),
            user: rustix::process::geteuid().as_raw(),
        };
        Ok(Self {
            listener,
            shared: Arc::new(shared),
            _lock: lock,
            place,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Serves until nobody has needed it for `linger`; for ever where that is not given.
    pub async fn serve(&self, linger: Option<Duration>) {
        let tidy = async {
            loop {
                tokio::time::sleep(announced::LIFE).await;
                self.shared.doors.forget_late();
            }
        };
        let unused = async {
            match linger {
                Some(linger) => self.unused_for(linger).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.accept() => {}
            () = tidy => {}
            () = unused => {}
        }
    }

    async fn accept(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&self.shared);
                    tokio::spawn(async move { shared.converse(stream).await });
                }
                Err(error) => {
                    // None of accept(2)'s errors is about the listener itself.
                    tracing::warn!("cannot take the question of a program: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn unused_for(&self, linger: Duration) {
        loop {
            let over_at = self.shared.usage.over_at(linger);
            tokio::time::sleep_until(over_at.into()).await;
            if !self.shared.present.is_empty() {
                self.shared.usage.touch();
            }
            if self.shared.usage.over_at(linger) <= Instant::now() {
                return;
            }
        }
    }
}

impl Drop for Redirector {
    fn drop(&mut self) {
        // Whoever comes next sweeps a leftover.
        let _ = std::fs::remove_file(&self.place);
    }
}
