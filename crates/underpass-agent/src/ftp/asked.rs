//! What a channel is opened to: the names of channels of FTP in a session. Pure.

use std::fmt;
use std::net::SocketAddr;

/// What a channel of FTP is for. No service can have a name of this form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A control connection, which the opener reads too.
    Control {
        /// The service.
        service: String,
    },
    /// A data connection to a port that the server named.
    Passive {
        /// The service.
        service: String,
        /// The port.
        port: u16,
    },
    /// A data connection from the server, to where the client listens.
    Active {
        /// The service.
        service: String,
        /// Where, as the client named it.
        at: SocketAddr,
    },
}

impl Asked {
    /// Reads the name of a channel; nothing where it is a service's, or none that is known.
    pub(crate) fn read(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '/');
        let (kind, next, last) = (parts.next()?, parts.next()?, parts.next());
        match (kind, last) {
            ("@ftp", None) => Some(Self::Control {
                service: next.to_owned(),
            }),
            ("@ftp-passive", Some(service)) => Some(Self::Passive {
                service: service.to_owned(),
                port: next.parse().ok()?,
            }),
            ("@ftp-active", Some(service)) => Some(Self::Active {
                service: service.to_owned(),
                at: next.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// The service.
    pub(crate) fn service(&self) -> &str {
        match self {
            Self::Control { service }
            | Self::Passive { service, .. }
            | Self::Active { service, .. } => service,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control { service } => write!(f, "@ftp/{service}"),
            Self::Passive { service, port } => write!(f, "@ftp-passive/{port}/{service}"),
            Self::Active { service, at } => write!(f, "@ftp-active/{at}/{service}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let service = || "files.bob.underpass.internal".to_owned();
        for asked in [
            Asked::Control { service: service() },
            Asked::Passive {
                service: service(),
                port: 50000,
            },
            Asked::Active {
                service: service(),
                at: "[::1]:50000".parse().unwrap(),
            },
        ] {
            assert_eq!(Asked::read(&asked.to_string()), Some(asked));
        }
    }

    #[test]
    fn other_names_are_no_channels_of_ftp() {
        for name in [
            "files.bob",
            "@ftp",
            "@ftp/a/b",
            "@ftp-passive/files",
            "@ftp-passive/70000/files",
            "@ftp-active/nowhere/files",
            "@steer",
            "",
        ] {
            assert_eq!(Asked::read(name), None, "{name}");
        }
    }
}
