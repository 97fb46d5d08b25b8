//! Names of users, machines and services, and how a service is referred to.
//!
//! A name is one label of a pseudo DNS name (`SERVICE.OWNER.underpass.internal`), so it follows
//! the host name rules of RFC 1123 §2.1 in lower case: 1 to 63 letters, digits and hyphens, no
//! hyphen at either end. Labels with hyphens in third and fourth place are refused: RFC 5890
//! §2.3.1 reserves them, and resolvers show `xn--…` as letters that the name does not contain.

use std::fmt;
use std::str::FromStr;

/// Longest name in bytes (RFC 1035 §2.3.4: a label has at most 63 octets).
pub const MAX_NAME_LEN: usize = 63;

/// A valid name of a user, machine or service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name cannot be empty; use 1 to 63 of a-z, 0-9 and '-'")]
    Empty,
    /// The text is longer than [`MAX_NAME_LEN`] bytes.
    #[error("a name has at most 63 characters, this one has {len} bytes")]
    TooLong {
        /// Length of the text in bytes.
        len: usize,
    },
    /// A character is outside the allowed set.
    #[error("{character:?} cannot stand in a name; use only a-z, 0-9 and '-'")]
    Character {
        /// The first character that is not allowed.
        character: char,
    },
    /// The text begins or ends with a hyphen.
    #[error("a name cannot begin or end with '-'")]
    HyphenAtEdge,
    /// Third and fourth character are hyphens (RFC 5890 §2.3.1).
    #[error("a name cannot have '--' in third and fourth place: DNS reserves such names")]
    Reserved,
}

impl Name {
    /// Checks `text` against the rules of this module.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong { len: text.len() });
        }
        let allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        if let Some(character) = text.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character { character });
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::HyphenAtEdge);
        }
        if text.get(2..4) == Some("--") {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

/// How somebody refers to a service: `SERVICE` or `SERVICE.OWNER`, the pseudo DNS suffix removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceRef {
    /// Name of the service.
    pub service: Name,
    /// Name of its owner, where given.
    pub owner: Option<Name>,
}

/// Why a text refers to no service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceRefError {
    /// More than one dot.
    #[error("a service is written SERVICE or SERVICE.OWNER, with one dot at most")]
    Shape,
    /// One of the parts is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for ServiceRef {
    type Err = ServiceRefError;
    fn from_str(text: &str) -> Result<Self, ServiceRefError> {
        let (service, owner) = match text.split_once('.') {
            None => (text, None),
            Some((_, owner)) if owner.contains('.') => return Err(ServiceRefError::Shape),
            Some((service, owner)) => (service, Some(owner)),
        };
        Ok(Self {
            service: Name::new(service)?,
            owner: owner.map(Name::new).transpose()?,
        })
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            None => write!(f, "{}", self.service),
            Some(owner) => write!(f, "{}.{owner}", self.service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rules once more, written as a table over bytes instead of the checks above.
    fn is_label(text: &str) -> bool {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(inner)
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
            && !(bytes.len() >= 4 && bytes[2] == b'-' && bytes[3] == b'-')
    }

    proptest! {
        #[test]
        fn any_text_is_judged_as_the_rules_say(text in any::<String>()) {
            prop_assert_eq!(Name::new(&text).is_ok(), is_label(&text));
        }

        #[test]
        fn texts_near_the_rules_are_judged_as_they_say(text in "[a-c0-1A._é-]{0,6}|[a-z-]{60,66}") {
            prop_assert_eq!(Name::new(&text).is_ok(), is_label(&text));
        }

        #[test]
        fn a_name_survives_printing_and_parsing(text in "[a-z0-9]([a-z0-9]{0,30}|[a-z0-9]{3}-[a-z0-9]{1,30})") {
            let name = Name::new(&text).unwrap();
            prop_assert_eq!(name.to_string(), text.clone());
            prop_assert_eq!(text.parse::<Name>().unwrap(), name);
        }

        #[test]
        fn references_never_panic_and_round_trip(text in "[a-b.-]{0,8}|\\PC{0,12}") {
            if let Ok(reference) = text.parse::<ServiceRef>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }

    #[test]
    fn every_rule_has_its_own_refusal() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(
            Name::new(&"a".repeat(64)),
            Err(NameError::TooLong { len: 64 })
        );
        assert!(Name::new(&"a".repeat(63)).is_ok());
        assert_eq!(
            Name::new("Db"),
            Err(NameError::Character { character: 'D' })
        );
        assert_eq!(Name::new("*"), Err(NameError::Character { character: '*' }));
        assert_eq!(Name::new("-a"), Err(NameError::HyphenAtEdge));
        assert_eq!(Name::new("a-"), Err(NameError::HyphenAtEdge));
        assert_eq!(Name::new("xn--db"), Err(NameError::Reserved));
        assert!(Name::new("x--db").is_ok());
    }

    #[test]
    fn references_have_one_or_two_parts() {
        let both: ServiceRef = "db.alice".parse().unwrap();
        assert_eq!(
            (both.service.as_str(), both.owner.unwrap().as_str()),
            ("db", "alice")
        );
        assert_eq!("a.b.c".parse::<ServiceRef>(), Err(ServiceRefError::Shape));
        assert_eq!("db.".parse::<ServiceRef>(), Err(NameError::Empty.into()));
        assert_eq!(".db".parse::<ServiceRef>(), Err(NameError::Empty.into()));
    }
}
