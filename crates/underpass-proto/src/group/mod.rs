//! The list of a group's relays: who signs it, what is believed of it, and how it is written in a file.
//!
//! Whoever runs the group holds its key, which no relay needs. An agent pins the group's key when it logs in to a
//! relay that announces the group, and from then on believes exactly what that key has signed, whichever relay
//! hands it on. A list has no expiry, so that no clock matters: it is good until one with a larger serial comes.

mod text;

use std::collections::HashSet;

use thiserror::Error;
use underpass_seal::{SIGNATURE_LEN, SigningKey, VerifyingKey};

use crate::Code;
use crate::control::{GroupList, GroupRelay, MAX_GROUP, MAX_RELAY_URL};
use crate::varint;
use crate::wire::Fields as _;

pub use text::{Draft, LineError};

/// What a signature of a list begins with, so that it is never taken for one of something else.
const SIGNED: &[u8] = b"underpass/1 relays of a group\0";

/// The relays of a group, with the signature of the group's key: there is none whose signature is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayList {
    group: VerifyingKey,
    serial: u64,
    relays: Vec<GroupRelay>,
    signature: [u8; SIGNATURE_LEN],
}

/// Why a list of relays is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// It cannot be read.
    #[error(transparent)]
    Line(#[from] LineError),
    /// It holds what no list may hold.
    #[error("{0}")]
    Content(String),
    /// Somebody changed it after it was signed, or it never was.
    #[error(
        "the signature of the list of relays with serial {serial} is not that of the key {group}"
    )]
    Signature {
        /// The key that it names.
        group: VerifyingKey,
        /// Its serial.
        serial: u64,
    },
    /// Another group's key signed it.
    #[error(
        "the list of relays is signed by the key {shown}, and the key of this group is {pinned}"
    )]
    OtherKey {
        /// The key that was pinned at login.
        pinned: VerifyingKey,
        /// The key that signed it.
        shown: VerifyingKey,
    },
    /// A newer one is known.
    #[error("the list of relays has the serial {shown}, and one with {kept} is known already")]
    Older {
        /// The serial of the list that is known.
        kept: u64,
        /// Its own.
        shown: u64,
    },
    /// Another one with the same serial is known.
    #[error("there are two different lists of relays with the serial {0}")]
    Twofold(u64),
}

impl GroupError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Line(_) | Self::Content(_) => Code::GroupUnreadable,
            Self::Signature { .. } => Code::GroupSignature,
            Self::OtherKey { .. } => Code::GroupKey,
            Self::Older { .. } | Self::Twofold(_) => Code::GroupSerial,
        }
    }
}

/// What a list that is believed says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// More than was known.
    New,
    /// What was known.
    Known,
}

impl RelayList {
    /// Signs a list.
    ///
    /// # Errors
    /// No list may hold that: nothing, too much, something twice, an address that is none.
    pub fn sign(
        key: &SigningKey,
        serial: u64,
        relays: Vec<GroupRelay>,
    ) -> Result<Self, GroupError> {
        check(serial, &relays)?;
        let group = key.public();
        let signature = key.sign(&signed(group, serial, &relays));
        Ok(Self {
            group,
            serial,
            relays,
            signature,
        })
    }

    /// The key that signed it.
    #[must_use]
    pub fn group(&self) -> VerifyingKey {
        self.group
    }

    /// Larger than that of the list before it.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The relays, in the order in which they are to be used where nothing else tells them apart.
    #[must_use]
    pub fn relays(&self) -> &[GroupRelay] {
        &self.relays
    }

    /// Whether an agent that pinned a group's key, and knows a list, takes this one.
    ///
    /// # Errors
    /// Another key has signed it, or what is known is newer.
    pub fn check(&self, pinned: VerifyingKey, kept: Option<&Self>) -> Result<News, GroupError> {
        let shown = self.group;
        if shown != pinned {
            return Err(GroupError::OtherKey { pinned, shown });
        }
        // A list of another key says nothing about this one's serial.
        let kept = kept.filter(|kept| kept.group == pinned);
        match kept {
            Some(kept) if self.serial < kept.serial => Err(GroupError::Older {
                kept: kept.serial,
                shown: self.serial,
            }),
            Some(kept) if self.serial == kept.serial && self.relays != kept.relays => {
                Err(GroupError::Twofold(self.serial))
            }
            Some(kept) if self.serial == kept.serial => Ok(News::Known),
            _ => Ok(News::New),
        }
    }

    /// The relay's answer to the request of this number.
    #[must_use]
    pub fn answer(&self, request: u64) -> GroupList {
        let Self {
            group,
            serial,
            relays,
            signature,
        } = self.clone();
        GroupList {
            request,
            group: group.0,
            serial,
            relays,
            signature,
        }
    }

    /// One that somebody has signed.
    fn signed_by(
        group: VerifyingKey,
        serial: u64,
        relays: Vec<GroupRelay>,
        signature: [u8; SIGNATURE_LEN],
    ) -> Result<Self, GroupError> {
        check(serial, &relays)?;
        if !group.has_signed(&signed(group, serial, &relays), &signature) {
            return Err(GroupError::Signature { group, serial });
        }
        Ok(Self {
            group,
            serial,
            relays,
            signature,
        })
    }
}

impl TryFrom<GroupList> for RelayList {
    type Error = GroupError;

    fn try_from(list: GroupList) -> Result<Self, GroupError> {
        let GroupList {
            request: _,
            group,
            serial,
            relays,
            signature,
        } = list;
        Self::signed_by(VerifyingKey(group), serial, relays, signature)
    }
}

/// What is signed: the label, then the list's fields from `group` to `relays` as GroupList has them, integers in
/// their shortest form.
fn signed(group: VerifyingKey, serial: u64, relays: &[GroupRelay]) -> Vec<u8> {
    let mut bytes = SIGNED.to_vec();
    bytes.extend(group.0);
    varint::put(&mut bytes, serial);
    varint::put(&mut bytes, relays.len() as u64);
    for relay in relays {
        relay.put_fields(&mut bytes);
    }
    bytes
}

/// Whether a list may hold this.
fn check(serial: u64, relays: &[GroupRelay]) -> Result<(), GroupError> {
    let wrong = |reason: String| Err(GroupError::Content(reason));
    if serial == 0 || serial > varint::VARINT_MAX {
        return wrong(format!("{serial} is no serial of a list of relays"));
    }
    if relays.is_empty() || relays.len() > MAX_GROUP {
        let count = relays.len();
        return wrong(format!("a group has 1 to {MAX_GROUP} relays, not {count}"));
    }
    let (mut urls, mut keys) = (HashSet::new(), HashSet::new());
    for relay in relays {
        let GroupRelay {
            url,
            key,
            certificate,
        } = relay;
        let is_web = url.starts_with("http://") || url.starts_with("https://");
        let is_plain = url
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_web || !is_plain || url.len() > MAX_RELAY_URL || certificate.len() > 1 {
            return wrong(format!("{url:?} is no address of a relay"));
        }
        if !urls.insert(url) || !keys.insert(key) {
            return wrong(format!("{url}, or the key of that relay, is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
