//! Sockets that a service manager has opened for the relay and hands to one process after the other, so
//! that no client ever finds them closed: socket activation, as sd_listen_fds(3) describes it.

mod announced;
#[allow(
    unsafe_code,
    reason = "a number in the environment says which descriptors are ours"
)]
mod descriptors;

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::RawFd;

pub use announced::{Announced, NotAnnounced, Part, Shape};

/// Why handed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// The variables make no sense.
    #[error(transparent)]
    Announced(#[from] NotAnnounced),
    /// A descriptor is not what it should be.
    #[error(
        "descriptor {fd} ({name}), handed over by the service manager, cannot be used: {source}"
    )]
    Descriptor {
        /// Its number.
        fd: RawFd,
        /// Its name.
        name: String,
        /// What is wrong.
        source: io::Error,
    },
}

/// Sockets that were handed to this process. They take the place of the addresses in the settings.
#[derive(Debug, Default)]
pub struct Handed {
    /// For plain HTTP.
    pub http: Vec<TcpListener>,
    /// For HTTPS.
    pub https: Vec<TcpListener>,
    /// For QUIC.
    pub quic: Vec<UdpSocket>,
}

impl Handed {
    /// The sockets that the environment announces: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`. None
    /// where it announces none, and from the second call on.
    ///
    /// # Errors
    /// See [`HandedError`].
    pub fn from_environment() -> Result<Self, HandedError> {
        let variable = |name: &str| std::env::var(name).ok();
        let announced = Announced::read(std::process::id(), variable)?;
        let mut handed = Self::default();
        for (fd, name) in announced.descriptors() {
            let failed = |source| HandedError::Descriptor {
                fd,
                name: name.clone(),
                source,
            };
            let Some(socket) = descriptors::take(fd).map_err(failed)? else {
                return Ok(Self::default());
            };
            let shape = descriptors::shape(&socket).map_err(failed)?;
            match Part::of(&name, shape)? {
                Part::Http => handed.http.push(socket.into()),
                Part::Https => handed.https.push(socket.into()),
                Part::Quic => handed.quic.push(socket.into()),
            }
        }
        Ok(handed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.https.is_empty() && self.quic.is_empty()
    }
}
