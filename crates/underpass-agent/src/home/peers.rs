//! The keys that publishers showed, pinned for each service and relay.
//!
//! One line each: `SERVICE RELAY KEY # remark`, RELAY and KEY being fingerprints; the relay's own key
//! is used and not its address, so that another address of the same relay changes nothing. A line for
//! `user:NAME` names a machine of a user who uses services published from here; there may be several of one user.

use std::path::{Path, PathBuf};

use thiserror::Error;
use underpass_seal::Fingerprint;

use super::HomeError;

const INTRODUCTION: &str = "\
# Keys of the machines that publish services: SERVICE RELAY KEY, the latter two as fingerprints.
# A service whose publisher shows another key than here is refused.
";

/// What stands before a user's name where a service's full name would stand: no service has a colon in its name.
const USER: &str = "user:";

/// What the publisher of a service, or a machine of a user, is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedPeer {
    /// The service's full name; or a user's name, as [`user_pin`] writes it.
    pub service: String,
    /// Fingerprint of the relay's key.
    pub relay: Fingerprint,
    /// Fingerprint of the publisher's key, or the machine's.
    pub key: Fingerprint,
}

/// How the machines of a user are named among the peers.
#[must_use]
pub fn user_pin(user: &str) -> String {
    format!("{USER}{user}")
}

impl PinnedPeer {
    /// The user, where it is a machine of one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.service.strip_prefix(USER)
    }

    /// Whether the other one has to give way to it: a service has one key, a user any number.
    fn takes_the_place_of(&self, other: &PinnedPeer) -> bool {
        let same = self.service == other.service && self.relay == other.relay;
        same && (self.user().is_none() || self.key == other.key)
    }
}

/// A user comes from a machine with another key than those that were given for this user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{user} comes from a machine with the key {shown}, and {} expected ({file})",
    expected(known), file = file.display()
)]
pub struct UserKeyUnknown {
    /// The user, as the relay says.
    pub user: String,
    /// The keys that were given.
    pub known: Vec<Fingerprint>,
    /// What the machine showed.
    pub shown: Fingerprint,
    /// Where the expectation stands.
    pub file: PathBuf,
}

fn expected(known: &[Fingerprint]) -> String {
    let known: Vec<String> = known.iter().map(Fingerprint::to_string).collect();
    match &known[..] {
        [one] => format!("{one} is"),
        several => format!("one of {} is", several.join(", ")),
    }
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

    /// All of them with what is remarked about each: since when it is known, and how.
    #[must_use]
    pub fn with_remarks(&self) -> Vec<(&PinnedPeer, &str)> {
        let remark = |line: &Line| line.text.find('#').map(|at| at + 1);
        let lines = self.lines.iter();
        lines
            .filter_map(|line| {
                let remark = remark(line).map_or("", |at| line.text[at..].trim());
                Some((line.peer.as_ref()?, remark))
            })
            .collect()
    }

    /// Whether the machine of `user` may have this key: any may, unless some were given.
    pub(super) fn check_user(
        &self,
        user: &str,
        relay: Fingerprint,
        key: Fingerprint,
        file: &Path,
    ) -> Result<(), UserKeyUnknown> {
        let name = user_pin(user);
        let of_user = self.list().into_iter();
        let of_user = of_user.filter(|peer| peer.service == name && peer.relay == relay);
        let known: Vec<Fingerprint> = of_user.map(|peer| peer.key).collect();
        if known.is_empty() || known.contains(&key) {
            return Ok(());
        }
        Err(UserKeyUnknown {
            user: user.to_owned(),
            known,
            shown: key,
            file: file.to_owned(),
        })
    }

    /// Takes away the lines for these peers.
    pub(super) fn remove(&mut self, peers: &[PinnedPeer]) {
        let goes = |line: &Line| line.peer.as_ref().is_some_and(|peer| peers.contains(peer));
        self.lines.retain(|line| !goes(line));
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
            let known = line.peer.as_ref();
            known.is_some_and(|known| peer.takes_the_place_of(known))
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
    fn a_user_has_any_number_of_machines_and_no_other_once_one_was_given() {
        let mut peers = parse("").unwrap();
        let [relay, one, two, three] = [9, 1, 2, 3].map(|n| Fingerprint::from_bytes([n; 32]));
        let check =
            |peers: &KnownPeers, key| peers.check_user("bob", relay, key, Path::new("file"));
        assert_eq!(check(&peers, one), Ok(()));
        for key in [1, 2, 1] {
            peers.put(&peer("user:bob", 9, key), "given today");
        }
        let mut peers = parse(&peers.text()).unwrap();
        assert_eq!(peers.list().len(), 2);
        assert_eq!(peers.list()[0].user(), Some("bob"));
        assert_eq!((check(&peers, one), check(&peers, two)), (Ok(()), Ok(())));
        let refused = check(&peers, three).unwrap_err().to_string();
        for key in [one, two, three] {
            assert!(refused.contains(&key.to_string()), "{refused}");
        }
        // Another user, and the same name behind another relay, are somebody else.
        assert_eq!(peers.check_user("bo", relay, three, Path::new("")), Ok(()));
        assert_eq!(peers.check_user("bob", one, three, Path::new("")), Ok(()));
        assert_eq!(peers.with_remarks()[1].1, "given today");
        peers.remove(&[peer("user:bob", 9, 1), peer("user:bob", 9, 2)]);
        assert_eq!(check(&peers, three), Ok(()));
        assert!(peers.text().starts_with('#'));
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
