//! What the environment says about handed sockets. Pure.

use std::os::fd::RawFd;

/// The first descriptor that is handed over (SD_LISTEN_FDS_START in sd_listen_fds(3)).
const FIRST: RawFd = 3;
/// More than this is a mistake, not a relay.
const MOST: usize = 64;

/// Why the variables make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnnounced {
    /// A number was expected.
    #[error("{variable} is {text:?}, which is not a number of handed sockets that makes sense")]
    Number {
        /// The variable.
        variable: &'static str,
        /// Its content.
        text: String,
    },
    /// There are not as many names as sockets.
    #[error("LISTEN_FDNAMES has {names} names for {sockets} sockets")]
    Names {
        /// The names.
        names: usize,
        /// The sockets.
        sockets: usize,
    },
    /// A socket's name does not say what it is for, or says what it cannot be.
    #[error(
        "a handed socket is called {name:?} and is {shape}; name it http, https (both TCP) or quic (UDP) with \
         FileDescriptorName= in the .socket unit"
    )]
    Name {
        /// The name.
        name: String,
        /// What it is.
        shape: Shape,
    },
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// TCP that listens.
    Listener,
    /// UDP.
    Datagrams,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Shape::Listener => "a listening TCP socket",
            Shape::Datagrams => "a UDP socket",
        })
    }
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Plain HTTP.
    Http,
    /// HTTPS.
    Https,
    /// QUIC.
    Quic,
}

impl Part {
    /// What the socket of this name is for. One that its unit gave no name has the unit's, or none.
    ///
    /// # Errors
    /// The name says nothing, or something else than what the socket is.
    pub fn of(name: &str, shape: Shape) -> Result<Self, NotAnnounced> {
        let unnamed = matches!(name, "" | "unknown") || name.ends_with(".socket");
        match (name, shape) {
            ("http", Shape::Listener) => Ok(Part::Http),
            ("https", Shape::Listener) => Ok(Part::Https),
            ("quic", Shape::Datagrams) => Ok(Part::Quic),
            (_, Shape::Listener) if unnamed => Ok(Part::Http),
            (_, Shape::Datagrams) if unnamed => Ok(Part::Quic),
            _ => Err(NotAnnounced::Name {
                name: name.to_owned(),
                shape,
            }),
        }
    }
}

/// The descriptors that were announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    names: Vec<String>,
}

impl Announced {
    /// Reads what `variable` says to the process `own`. What is meant for another process, such as the
    /// parent that passed its environment on, is nothing.
    ///
    /// # Errors
    /// See [`NotAnnounced`].
    pub fn read(own: u32, variable: impl Fn(&str) -> Option<String>) -> Result<Self, NotAnnounced> {
        let (Some(for_whom), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
            return Ok(Self::default());
        };
        if number("LISTEN_PID", &for_whom)? != own {
            return Ok(Self::default());
        }
        let sockets = number("LISTEN_FDS", &count)? as usize;
        if sockets > MOST {
            return Err(NotAnnounced::Number {
                variable: "LISTEN_FDS",
                text: count,
            });
        }
        let names: Vec<String> = match variable("LISTEN_FDNAMES") {
            Some(names) => names.split(':').map(str::to_owned).collect(),
            None => vec![String::new(); sockets],
        };
        match (names.len(), sockets) {
            (_, 0) => Ok(Self::default()),
            (named, sockets) if named == sockets => Ok(Self { names }),
            (names, sockets) => Err(NotAnnounced::Names { names, sockets }),
        }
    }

    /// Number and name of each.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, String)> + '_ {
        (FIRST..).zip(self.names.iter().cloned())
    }
}

fn number(variable: &'static str, text: &str) -> Result<u32, NotAnnounced> {
    text.parse().map_err(|_| NotAnnounced::Number {
        variable,
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Vec<(RawFd, String)>, NotAnnounced> {
        let look = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        Announced::read(77, look).map(|it| it.descriptors().collect())
    }

    #[test]
    fn descriptors_are_counted_from_three_and_named_in_order() {
        let set = [
            ("LISTEN_PID", "77"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "http:quic"),
        ];
        let found = read(&set).unwrap();
        assert_eq!(found, [(3, "http".to_owned()), (4, "quic".to_owned())]);
        let found = read(&set[..2]).unwrap();
        assert_eq!(found, [(3, String::new()), (4, String::new())]);
    }

    #[test]
    fn what_is_for_another_process_or_missing_is_nothing() {
        for set in [
            &[("LISTEN_PID", "78"), ("LISTEN_FDS", "2")][..],
            &[("LISTEN_FDS", "2")],
            &[("LISTEN_PID", "77")],
            &[
                ("LISTEN_PID", "77"),
                ("LISTEN_FDS", "0"),
                ("LISTEN_FDNAMES", ""),
            ],
            &[],
        ] {
            assert_eq!(read(set), Ok(vec![]), "{set:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (pid, count, names) in [
            ("me", "1", "http"),
            ("77", "-1", "http"),
            ("77", "4000000000", "http"),
            ("77", "65", "http"),
            ("77", "2", "http"),
            ("77", "1", "http:https"),
        ] {
            let set = [
                ("LISTEN_PID", pid),
                ("LISTEN_FDS", count),
                ("LISTEN_FDNAMES", names),
            ];
            assert!(read(&set).is_err(), "{set:?}");
        }
    }

    #[test]
    fn names_say_what_a_socket_is_for() {
        use Shape::{Datagrams, Listener};
        for (name, shape, part) in [
            ("http", Listener, Some(Part::Http)),
            ("https", Listener, Some(Part::Https)),
            ("quic", Datagrams, Some(Part::Quic)),
            ("underpass-relay.socket", Listener, Some(Part::Http)),
            ("unknown", Datagrams, Some(Part::Quic)),
            ("", Listener, Some(Part::Http)),
            ("quic", Listener, None),
            ("http", Datagrams, None),
            ("web", Listener, None),
        ] {
            assert_eq!(Part::of(name, shape).ok(), part, "{name} {shape}");
        }
    }
}
