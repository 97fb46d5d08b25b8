//! The keys that publishers showed, pinned for each service and relay.
//!
//! One line each: `SERVICE RELAY KEY # remark`, RELAY and KEY being fingerprints; the relay's own key
//! is used and not its address, so that another address of the same relay changes nothing.

use std::path::{Path, PathBuf};

use thiserror::Error;
use underpass_seal::Fingerprint;

use super::HomeError;

const INTRODUCTION: &str = "\
# Keys of the machines that publish services: SERVICE RELAY KEY, the latter two as fingerprints.
# A service whose publisher shows another key than here is refused.
";

/// What the publisher of a service is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedPeer {
    /// The service's full name.
    pub service: String,
    /// Fingerprint of the relay's key.
    pub relay: Fingerprint,
    /// Fingerprint of the publisher's key.
    pub key: Fingerprint,
}

/// Why a publisher is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinOrigin {
    /// It showed the key that was pinned before.
    Known,
    /// Nothing was pinned, and now this key is.
    FirstUse,
}

/// A publisher shows another key than the pinned one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{service} is published by a machine with another key than before: expected {pinned} ({file}, \
     line {line}), it shows {shown}", file = file.display()
)]
pub struct PeerChanged {
    /// The service's full name.
    pub service: String,
    /// What was expected.
    pub pinned: Fingerprint,
    /// What it showed.
    pub shown: Fingerprint,
    /// Where the expectation stands.
    pub file: PathBuf,
    /// The line there, counted from 1.
    pub line: usize,
}

/// The file, understood, with its lines.
#[derive(Debug, Clone)]
pub struct KnownPeers {
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
struct Line {
    text: String,
    peer: Option<PinnedPeer>,
}

impl KnownPeers {
    /// Reads the text of the file at `path`, which is only named in errors.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, HomeError> {
        let lines = text.lines().zip(1..).map(|(text, line)| {
            let peer = parse_line(text).map_err(|reason| HomeError::Content {
                path: path.to_owned(),
                line,
                reason,
            })?;
            Ok(Line {
                text: text.to_owned(),
                peer,
            })
        });
        Ok(Self {
            lines: lines.collect::<Result<_, _>>()?,
        })
    }

    /// All of them, in the order of the file.
    #[must_use]
    pub fn list(&self) -> Vec<&PinnedPeer> {
        self.lines.iter().filter_map(|l| l.peer.as_ref()).collect()
    }

    /// The text to be written.
    pub(super) fn text(&self) -> String {
        self.lines
            .iter()
            .fold(String::new(), |text, line| text + &line.text + "\n")
    }

    /// Compares with what is pinned.
    pub(super) fn check(&self, peer: &PinnedPeer, file: &Path) -> Result<PinOrigin, PeerChanged> {
        match self.position(peer) {
            None => Ok(PinOrigin::FirstUse),
            Some((_, pinned)) if pinned.key == peer.key => Ok(PinOrigin::Known),
            Some((at, pinned)) => Err(PeerChanged {
                service: peer.service.clone(),
                pinned: pinned.key,
                shown: peer.key,
                file: file.to_owned(),
                line: at + 1,
            }),
        }
    }

    /// Puts a line in the place of the one for the same service and relay, or at the end.
    pub(super) fn put(&mut self, peer: &PinnedPeer, remark: &str) {
        let PinnedPeer {
            service,
            relay,
            key,
        } = peer;
        let line = Line {
            text: format!("{service} {relay} {key} # {remark}"),
            peer: Some(peer.clone()),
        };
        match self.position(peer).map(|(at, _)| at) {
            Some(at) => self.lines[at] = line,
            None => {
                if self.lines.is_empty() {
                    self.lines.extend(INTRODUCTION.lines().map(|text| Line {
                        text: text.to_owned(),
                        peer: None,
                    }));
                }
                self.lines.push(line);
            }
        }
    }

    fn position(&self, peer: &PinnedPeer) -> Option<(usize, &PinnedPeer)> {
        let of = |line: &Line| {
            line.peer
                .as_ref()
                .is_some_and(|known| known.service == peer.service && known.relay == peer.relay)
        };
        let at = self.lines.iter().position(of)?;
        Some((at, self.lines[at].peer.as_ref()?))
    }
}

fn parse_line(text: &str) -> Result<Option<PinnedPeer>, String> {
    let content = text.split_once('#').map_or(text, |(content, _)| content);
    let words: Vec<&str> = content.split_whitespace().collect();
    let fingerprint = |word: &str| {
        word.parse::<Fingerprint>()
            .map_err(|error| format!("{word}: {error}"))
    };
    match words[..] {
        [] => Ok(None),
        [service, relay, key] => Ok(Some(PinnedPeer {
            service: service.to_owned(),
            relay: fingerprint(relay)?,
            key: fingerprint(key)?,
        })),
        _ => Err("a line holds SERVICE RELAY KEY, or a comment after #".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(service: &str, relay: u8, key: u8) -> PinnedPeer {
        PinnedPeer {
            service: service.to_owned(),
            relay: Fingerprint::from_bytes([relay; 32]),
            key: Fingerprint::from_bytes([key; 32]),
        }
    }

    fn parse(text: &str) -> Result<KnownPeers, HomeError> {
        KnownPeers::parse(text, Path::new("known_peers"))
    }

    #[test]
    fn service_and_relay_together_name_a_pin() {
        let mut peers = parse("").unwrap();
        peers.put(&peer("db", 1, 1), "x");
        peers.put(&peer("db", 2, 2), "x");
        peers.put(&peer("web", 1, 3), "x");
        let peers = parse(&peers.text()).unwrap();
        let check = |peer| peers.check(&peer, Path::new("f"));
        assert_eq!(check(peer("db", 1, 1)), Ok(PinOrigin::Known));
        assert_eq!(check(peer("db", 2, 2)), Ok(PinOrigin::Known));
        assert_eq!(check(peer("db", 3, 1)), Ok(PinOrigin::FirstUse));
        assert_eq!(check(peer("x", 1, 1)), Ok(PinOrigin::FirstUse));
        let changed = check(peer("db", 1, 2)).unwrap_err();
        let (old, new) = (peer("", 0, 1).key, peer("", 0, 2).key);
        let text = changed.to_string();
        assert!(text.contains(&old.to_string()) && text.contains(&new.to_string()));
        assert!(text.contains("(f, line 3)"), "{text}");
    }

    #[test]
    fn comments_and_lines_of_others_stay() {
        let line = parse("").map(|mut peers| {
            peers.put(&peer("db", 1, 1), "x");
            peers.text()
        });
        let line = line.unwrap().lines().last().unwrap().to_owned();
        let text = format!("# mine\n\n{line} and mine\n");
        let mut peers = parse(&text).unwrap();
        peers.put(&peer("web", 1, 2), "first used today");
        assert!(peers.text().starts_with(&text));
        peers.put(&peer("db", 1, 3), "given today");
        assert_eq!(peers.text().lines().count(), 4);
        assert_eq!(peers.list(), [&peer("db", 1, 3), &peer("web", 1, 2)]);
    }

    #[test]
    fn mistakes_are_found_with_their_line() {
        for (text, word) in [
            ("# ok\ndb", "SERVICE RELAY KEY"),
            ("\ndb a b", "52 characters"),
            ("\na b c d", "SERVICE RELAY KEY"),
        ] {
            match parse(text) {
                Err(HomeError::Content { line, reason, .. }) => {
                    assert_eq!(line, 2);
                    assert!(reason.contains(word), "{reason}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
