//! The list as a file: one word and its values on each line, comments after `#` at the beginning of one.
//!
//! ```text
//! # written by whoever runs the group
//! relay http://a.example#FINGERPRINT
//! relay https://b.example#FINGERPRINT certificate SHA256
//! # added by signing it
//! group KEY
//! serial 3
//! signature HEX
//! ```

use std::fmt::{self, Write as _};

use thiserror::Error;
use underpass_seal::{Fingerprint, SIGNATURE_LEN, SigningKey, VerifyingKey};

use super::{GroupError, RelayList};
use crate::control::GroupRelay;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// Its number, from 1; one past the last where something is missing.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// A list as it stands in a file, signed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// The relays.
    pub relays: Vec<GroupRelay>,
    /// The key that it says to be signed by.
    pub group: Option<VerifyingKey>,
    /// Its serial.
    pub serial: Option<u64>,
    signature: Option<[u8; SIGNATURE_LEN]>,
    /// What people wrote, without what signing adds.
    own: String,
    lines: usize,
}

impl Draft {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A line is none of a list, or a word that may be there once is there twice.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let mut draft = Self::default();
        for line in text.lines() {
            draft.lines += 1;
            let wrong = |reason: String| LineError {
                line: draft.lines,
                reason,
            };
            let mut words = line.split_ascii_whitespace();
            let word = words.next().unwrap_or("#");
            let values: Vec<&str> = words.collect();
            match (word, &values[..]) {
                ("relay", values) => draft.relays.push(relay(values).map_err(wrong)?),
                ("group", [key]) if draft.group.is_none() => {
                    let key = key.parse::<VerifyingKey>();
                    draft.group = Some(key.map_err(|error| wrong(error.to_string()))?);
                }
                ("serial", [number]) if draft.serial.is_none() => {
                    let number = number.parse::<u64>();
                    draft.serial = Some(number.map_err(|error| wrong(error.to_string()))?);
                }
                ("signature", [hex]) if draft.signature.is_none() => {
                    let none = || wrong("a signature has 128 hexadecimal digits".to_owned());
                    draft.signature = Some(from_hex(hex).ok_or_else(none)?);
                }
                (word, _) if word.starts_with('#') => {}
                (word, _) => {
                    let reason = format!(
                        "{word:?} does not belong there; lines are: relay URL#FINGERPRINT [certificate SHA256], \
                         and once each group KEY, serial N, signature HEX"
                    );
                    return Err(wrong(reason));
                }
            }
            if !["group", "serial", "signature"].contains(&word) {
                draft.own += line.trim_end();
                draft.own.push('\n');
            }
        }
        Ok(draft)
    }

    /// The list, if it is signed.
    ///
    /// # Errors
    /// Something is missing, no list may hold it, or the signature is wrong.
    pub fn signed(&self) -> Result<RelayList, GroupError> {
        let missing = |word: &str| LineError {
            line: self.lines + 1,
            reason: format!(
                "the line `{word}` is missing: the list is not signed, or its end is cut off"
            ),
        };
        let group = self.group.ok_or_else(|| missing("group"))?;
        let serial = self.serial.ok_or_else(|| missing("serial"))?;
        let signature = self.signature.ok_or_else(|| missing("signature"))?;
        RelayList::signed_by(group, serial, self.relays.clone(), signature)
    }

    /// Signs what is there now: with the next serial, or not anew where this key has signed just that.
    ///
    /// # Errors
    /// No list may hold it.
    pub fn sign(&self, key: &SigningKey) -> Result<RelayList, GroupError> {
        match self.signed() {
            Ok(list) if list.group() == key.public() => Ok(list),
            _ => {
                let serial = self.serial.unwrap_or(0).saturating_add(1);
                RelayList::sign(key, serial, self.relays.clone())
            }
        }
    }

    /// The text of the file once it is signed: what people wrote, and what signing adds.
    #[must_use]
    pub fn text(&self, list: &RelayList) -> String {
        format!("{}{}", self.own, Added(list))
    }
}

impl RelayList {
    /// Reads the text of a signed file.
    ///
    /// # Errors
    /// It cannot be read, its end is missing, or its signature is wrong.
    pub fn parse(text: &str) -> Result<Self, GroupError> {
        Draft::parse(text)?.signed()
    }
}

/// As a file, which [`RelayList::parse`] reads.
impl fmt::Display for RelayList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for relay in &self.relays {
            let key = Fingerprint::from_bytes(relay.key);
            write!(f, "relay {}#{key}", relay.url)?;
            for sha256 in &relay.certificate {
                write!(f, " certificate {}", to_hex(sha256))?;
            }
            writeln!(f)?;
        }
        Added(self).fmt(f)
    }
}

/// What signing adds to a file.
struct Added<'a>(&'a RelayList);

impl fmt::Display for Added<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RelayList {
            group,
            serial,
            relays: _,
            signature,
        } = self.0;
        let signature = to_hex(signature);
        writeln!(f, "group {group}\nserial {serial}\nsignature {signature}")
    }
}

/// One relay, from what stands behind the word.
fn relay(values: &[&str]) -> Result<GroupRelay, String> {
    let (address, certificate) = match values {
        [address] => (*address, vec![]),
        [address, "certificate", sha256] => {
            let sha256 = from_hex(sha256);
            let none = "a certificate's SHA-256 has 64 hexadecimal digits";
            (*address, vec![sha256.ok_or(none)?])
        }
        _ => return Err("a relay is URL#FINGERPRINT [certificate SHA256]".to_owned()),
    };
    let (url, key) = address
        .rsplit_once('#')
        .ok_or_else(|| format!("{address} has no #FINGERPRINT"))?;
    let key = key.parse::<Fingerprint>();
    let key = key.map_err(|error| format!("the fingerprint of {url}: {error}"))?;
    Ok(GroupRelay {
        url: url.trim_end_matches('/').to_owned(),
        key: *key.as_bytes(),
        certificate,
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Colons may stand between bytes.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.chars().filter(|c| *c != ':');
    let digits: Vec<u8> = digits
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok().filter(|_| rest.is_empty())
}
