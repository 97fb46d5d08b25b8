//! The list of relays that a machine has logged in to, with the keys they showed.

use std::path::Path;

use serde::Deserialize;
use underpass_carrier::TlsTrust;
use underpass_proto::control::GroupRelay;
use underpass_proto::group::RelayList;
use underpass_seal::{Fingerprint, ParseFingerprintError, VerifyingKey};

use super::HomeError;

/// The line that begins an entry.
const ENTRY: &str = "[[relay]]";
const INTRODUCTION: &str = "\
# The relays that this machine has logged in to; the first one is used where none is named.
# `underpass login` adds to this list and keeps your comments.
";

/// How the relay's TLS certificate is checked, for `https`. The relay proves itself once more inside,
/// by its own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCheck {
    /// By the roots that the system trusts.
    System,
    /// It must be the one with this SHA-256.
    Pinned([u8; 32]),
}

impl From<TlsCheck> for TlsTrust {
    fn from(check: TlsCheck) -> Self {
        match check {
            TlsCheck::System => Self::System,
            TlsCheck::Pinned(sha256) => Self::PinnedCertificate(sha256),
        }
    }
}

/// One relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRelay {
    /// Its address, without a fingerprint.
    pub url: String,
    /// Of the key with which it proves itself.
    pub key: Fingerprint,
    /// How its certificate is checked.
    pub tls: TlsCheck,
    /// The user that this machine is enrolled under.
    pub user: String,
    /// The name that this machine is enrolled by.
    pub machine: String,
    /// The key of the group that it belongs to, once it announced one: only what this key signed is believed of
    /// the group's relays.
    pub group: Option<VerifyingKey>,
    /// Whose list of relays it was learnt from; none for one that stands in the file, or was named.
    pub announced_by: Option<String>,
}

impl KnownRelay {
    /// A relay that nothing more is known of.
    #[must_use]
    pub fn new(url: &str, key: Fingerprint) -> Self {
        Self {
            url: url.to_owned(),
            key,
            tls: TlsCheck::System,
            user: String::new(),
            machine: String::new(),
            group: None,
            announced_by: None,
        }
    }

    /// The relays of this one's group, in the order of `list`. This one stays as it is known, by the address that is
    /// known to work from here; where its key is not on the list it is none of the group any more.
    #[must_use]
    pub fn with_group(&self, list: &RelayList) -> Vec<Self> {
        let of = |relay: &GroupRelay| {
            let key = Fingerprint::from_bytes(relay.key);
            if key == self.key {
                return self.clone();
            }
            let pinned = relay.certificate.first();
            Self {
                url: relay.url.clone(),
                key,
                tls: pinned.map_or(TlsCheck::System, |sha256| TlsCheck::Pinned(*sha256)),
                announced_by: Some(self.url.clone()),
                ..self.clone()
            }
        };
        list.relays().iter().map(of).collect()
    }

    /// Keys and values as they stand in the file; a key without a value does not stand there.
    fn fields(&self) -> [(&'static str, Option<String>); 6] {
        let Self {
            url,
            key,
            tls,
            user,
            machine,
            group,
            announced_by: _,
        } = self;
        let certificate = match tls {
            TlsCheck::System => None,
            TlsCheck::Pinned(sha256) => Some(to_pairs(sha256)),
        };
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        [
            ("url", Some(url.clone())),
            ("key", Some(key.to_string())),
            ("certificate", certificate),
            ("user", given(user)),
            ("machine", given(machine)),
            ("group", group.map(|group| group.to_string())),
        ]
    }
}

/// The file, understood, with the text it was read from.
#[derive(Debug, Clone)]
pub struct KnownRelays {
    text: String,
    relays: Vec<KnownRelay>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    relay: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    key: toml::Spanned<String>,
    certificate: Option<toml::Spanned<String>>,
    #[serde(default)]
    user: String,
    #[serde(default)]
    machine: String,
    group: Option<toml::Spanned<String>>,
}

impl KnownRelays {
    /// Reads the text of the file at `path`, which is only named in errors.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, HomeError> {
        let wrong = |position: usize, reason: String| HomeError::Content {
            path: path.to_owned(),
            line: text[..position.min(text.len())].matches('\n').count() + 1,
            reason,
        };
        let document: Document = toml::from_str(text).map_err(|error| {
            let position = error.span().map_or(0, |span| span.start);
            wrong(position, error.message().to_owned())
        })?;
        let relays = document.relay.into_iter().map(|entry| {
            let no_key = |at: &toml::Spanned<String>, error: ParseFingerprintError| {
                wrong(at.span().start, error.to_string())
            };
            let key = entry.key.get_ref().parse();
            let key = key.map_err(|error| no_key(&entry.key, error))?;
            let group = entry.group.as_ref().map(|text| {
                let group = text.get_ref().parse();
                group.map_err(|error| no_key(text, error))
            });
            let tls = match &entry.certificate {
                None => TlsCheck::System,
                Some(text) => TlsCheck::Pinned(from_pairs(text.get_ref()).ok_or_else(|| {
                    let reason = "a certificate's fingerprint is 32 pairs of hexadecimal digits";
                    wrong(text.span().start, reason.to_owned())
                })?),
            };
            Ok(KnownRelay {
                url: entry.url,
                key,
                tls,
                user: entry.user,
                machine: entry.machine,
                group: group.transpose()?,
                announced_by: None,
            })
        });
        Ok(Self {
            relays: relays.collect::<Result<_, HomeError>>()?,
            text: text.to_owned(),
        })
    }

    /// All of them, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[KnownRelay] {
        &self.relays
    }

    /// The one with this address.
    #[must_use]
    pub fn find(&self, url: &str) -> Option<&KnownRelay> {
        self.relays.iter().find(|relay| relay.url == url)
    }

    /// The text to be written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Puts an entry in the place of the one with the same address, or at the end.
    pub(super) fn put(&mut self, relay: &KnownRelay) {
        let known = self.relays.iter().position(|old| old.url == relay.url);
        let mut wanted = self.relays.clone();
        match known {
            Some(at) => wanted[at] = relay.clone(),
            None => wanted.push(relay.clone()),
        }
        let mut text = self.edited(known, relay);
        let reread = Self::parse(&text, Path::new(""));
        if !reread.is_ok_and(|reread| reread.relays == wanted) {
            // The file is written in a way that editing by lines does not understand.
            text = wanted.iter().fold(INTRODUCTION.to_owned(), |text, relay| {
                text + "\n" + &entry_text(relay)
            });
        }
        self.text = text;
        self.relays = wanted;
    }

    /// The text with one entry changed or added, everything else as it was.
    fn edited(&self, known: Option<usize>, relay: &KnownRelay) -> String {
        let Some(known) = known else {
            let before = if self.text.is_empty() {
                INTRODUCTION
            } else {
                self.text.trim_end()
            };
            return format!("{}\n\n{}", before.trim_end(), entry_text(relay));
        };
        let mut text = String::with_capacity(self.text.len() + 256);
        // Entries are counted as their first lines pass by.
        let mut passed = 0;
        for line in self.text.split_inclusive('\n') {
            let begins = line.trim() == ENTRY;
            passed += usize::from(begins);
            if passed != known + 1 {
                text += line;
            } else if begins {
                text += &entry_text(relay);
            } else if !is_ours(line) {
                text += line;
            }
        }
        text
    }
}

/// Whether a line sets one of the keys that an entry of ours holds.
fn is_ours(line: &str) -> bool {
    let names = KnownRelay::new("", Fingerprint::from_bytes([0; 32])).fields();
    line.split_once('=')
        .is_some_and(|(key, _)| names.iter().any(|(name, _)| *name == key.trim()))
}

fn entry_text(relay: &KnownRelay) -> String {
    let mut text = format!("{ENTRY}\n");
    for (name, value) in relay.fields() {
        if let Some(value) = value {
            text += &format!("{name} = {}\n", toml::Value::String(value));
        }
    }
    text
}

fn to_pairs(bytes: &[u8; 32]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// Colons may be left out, and case does not matter.
fn from_pairs(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(url: &str, byte: u8) -> KnownRelay {
        KnownRelay {
            tls: TlsCheck::Pinned([byte; 32]),
            user: "alice".into(),
            machine: "laptop".into(),
            group: Some(VerifyingKey([byte ^ 0x55; 32])),
            ..KnownRelay::new(url, Fingerprint::from_bytes([byte; 32]))
        }
    }

    fn parse(text: &str) -> Result<KnownRelays, HomeError> {
        KnownRelays::parse(text, Path::new("relays.toml"))
    }

    #[test]
    fn what_is_put_in_is_read_back_in_order() {
        let mut relays = parse("").unwrap();
        relays.put(&relay("http://a", 1));
        relays.put(&relay("https://b", 2));
        let mut changed = relay("http://a", 3);
        changed.tls = TlsCheck::System;
        relays.put(&changed);
        let read = parse(relays.text()).unwrap();
        assert_eq!(read.list(), [changed.clone(), relay("https://b", 2)]);
        assert_eq!(read.find("http://a"), Some(&changed));
        assert_eq!(read.find("http://c"), None);
        assert!(relays.text().starts_with(INTRODUCTION));
    }

    #[test]
    fn comments_and_order_stay() {
        let key = Fingerprint::from_bytes([9; 32]);
        let text = format!(
            "# mine\n\n# at work\n[[relay]]\nurl = 'http://a'\n# old key\nkey = \"{key}\"\n\n# at home\n[[relay]]\nurl = 'http://b'\nkey = \"{key}\"\n"
        );
        let mut relays = parse(&text).unwrap();
        relays.put(&relay("http://a", 1));
        relays.put(&relay("http://c", 3));
        let new = relays.text();
        for comment in [
            "# mine\n",
            "# at work\n[[relay]]\n",
            "# old key\n",
            "# at home\n[[relay]]\nurl = 'http://b'\n",
        ] {
            assert!(new.contains(comment), "{comment:?} in\n{new}");
        }
        let read = parse(new).unwrap();
        let urls: Vec<_> = read.list().iter().map(|relay| &relay.url[..]).collect();
        assert_eq!(urls, ["http://a", "http://b", "http://c"]);
        assert_eq!(read.list()[0], relay("http://a", 1));
        assert_eq!(read.list()[1].key, key);
    }

    #[test]
    fn other_ways_to_write_the_file_are_understood() {
        let key = Fingerprint::from_bytes([9; 32]);
        let mut relays =
            parse(&format!("relay = [{{ url = 'http://a', key = '{key}' }}]")).unwrap();
        relays.put(&relay("http://b", 1));
        let read = parse(relays.text()).unwrap();
        assert_eq!(read.list().len(), 2);
        assert_eq!(read.list()[0].key, key);
    }

    #[test]
    fn mistakes_are_found_with_their_line() {
        let key = Fingerprint::from_bytes([9; 32]).to_string();
        for (text, line, word) in [
            ("x = 1", 1, "x"),
            ("[[relay]]\nurl = 'a'\n", 1, "key"),
            ("[[relay]]\nurl = 'a'\nkey = 'b'\n", 3, "52 characters"),
            ("[[relay]]\nurl = 'a'\nkey = \n", 3, ""),
            (
                &format!("[[relay]]\nurl='a'\nkey='{key}'\nkye='b'"),
                4,
                "kye",
            ),
            (
                &format!("[[relay]]\nurl='a'\nkey='{key}'\ncertificate='AB:C'"),
                4,
                "32 pairs",
            ),
            (
                &format!("[[relay]]\nurl='a'\nkey='{key}'\ngroup='x'"),
                4,
                "52 characters",
            ),
        ] {
            match parse(text) {
                Err(HomeError::Content {
                    line: found,
                    reason,
                    ..
                }) => {
                    assert_eq!(found, line, "{text}");
                    assert!(reason.contains(word), "{reason}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn certificates_in_either_spelling() {
        let bytes: [u8; 32] = std::array::from_fn(|n| n as u8 * 7);
        let text = to_pairs(&bytes);
        assert_eq!(from_pairs(&text), Some(bytes));
        assert_eq!(
            from_pairs(&text.to_lowercase().replace(':', "")),
            Some(bytes)
        );
        assert_eq!(from_pairs(&text[..text.len() - 1]), None);
        assert_eq!(from_pairs(&format!("{text}:00")), None);
        assert_eq!(from_pairs("xy"), None);
    }
}
