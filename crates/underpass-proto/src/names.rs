//! Names of services, users and machines, and the pseudo DNS names made of them.
//!
//! A name is one label of a host name (RFC 1123 §2.1) in lower case: 1 to 63 letters a to z,
//! digits and hyphens, no hyphen first or last. A service is named `SERVICE.OWNER`, or
//! `SERVICE` alone where only one owner has one of that name. For programs that know nothing
//! of this it also has a pseudo DNS name: the same, and a suffix.

use std::fmt;

use thiserror::Error;

/// The suffix of pseudo DNS names unless a setting says otherwise. `internal` is kept out of
/// the public DNS for private use.
pub const DEFAULT_SUFFIX: &str = "underpass.internal";

/// The longest name, in bytes (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 63;

/// The longest suffix, in bytes: with two names before it a pseudo DNS name keeps within the
/// 253 bytes that DNS allows (RFC 1035 §2.3.4, less the bytes that only the wire has).
pub const MAX_SUFFIX: usize = 253 - 2 * (MAX_NAME + 1);

/// Why something is not a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// There is nothing.
    #[error("a name is empty")]
    Empty,
    /// It has more than 63 bytes.
    #[error("a name is longer than {MAX_NAME} characters")]
    TooLong,
    /// It has a character that names do not have.
    #[error("{0:?} cannot be in a name: only a to z, 0 to 9 and hyphens can")]
    Character(char),
    /// It starts or ends with a hyphen.
    #[error("a name cannot start or end with a hyphen")]
    Hyphen,
    /// More than service and owner stand before the suffix.
    #[error("a service is named SERVICE or SERVICE.OWNER, with nothing more before or after")]
    Labels,
    /// The name does not end with the suffix of pseudo DNS names.
    #[error("the name does not end with the suffix of pseudo names")]
    Suffix,
}

/// Checks the name of a service, user or machine.
///
/// # Errors
/// [`NameError`] with the first thing that is wrong.
pub fn check(name: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character(c));
    }
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

/// Checks a suffix for pseudo DNS names: names with dots between them, at most
/// [`MAX_SUFFIX`] bytes.
///
/// # Errors
/// [`NameError`] with the first thing that is wrong.
pub fn check_suffix(suffix: &str) -> Result<(), NameError> {
    suffix.split('.').try_for_each(check)?;
    if suffix.len() > MAX_SUFFIX {
        return Err(NameError::TooLong);
    }
    Ok(())
}

/// The suffix of pseudo DNS names, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Suffix(String);

impl Suffix {
    /// What stands before the suffix in a pseudo DNS name, in lower case: written in any case and with or without a dot at
    /// the end, as DNS has it (RFC 4343).
    ///
    /// # Errors
    /// [`NameError::Suffix`] where it is somebody else's name, which must go to real DNS; [`NameError::Empty`] where it is
    /// the suffix itself, which must not.
    pub fn below(&self, name: &str) -> Result<String, NameError> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let rest = name.strip_suffix(&self.0).ok_or(NameError::Suffix)?;
        match rest.strip_suffix('.') {
            Some("") => Err(NameError::Empty),
            Some(rest) => Ok(rest.to_owned()),
            None if rest.is_empty() => Err(NameError::Empty),
            None => Err(NameError::Suffix),
        }
    }

    /// What stands before the suffix, or all of a name that has it not.
    pub fn without(&self, name: &str) -> String {
        self.below(name).unwrap_or_else(|_| name.to_owned())
    }

    /// The pseudo DNS name for `rest`, without a dot at the end.
    pub fn after(&self, rest: impl fmt::Display) -> String {
        format!("{rest}.{}", self.0)
    }

    /// The suffix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Suffix {
    fn default() -> Self {
        Self(DEFAULT_SUFFIX.to_owned())
    }
}

impl std::str::FromStr for Suffix {
    type Err = NameError;

    /// As [`check_suffix`] wants it, in any case.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        check_suffix(&text)?;
        Ok(Self(text))
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How somebody names a service: with its owner, or without.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    service: String,
    owner: Option<String>,
}

impl ServiceName {
    /// The service of this name; of that owner, or whose owner is to be found.
    ///
    /// # Errors
    /// [`NameError`] where one of the two is not a name.
    pub fn new(service: &str, owner: Option<&str>) -> Result<Self, NameError> {
        check(service)?;
        owner.map_or(Ok(()), check)?;
        Ok(ServiceName {
            service: service.to_owned(),
            owner: owner.map(str::to_owned),
        })
    }

    /// Reads `SERVICE` or `SERVICE.OWNER`.
    ///
    /// # Errors
    /// [`NameError`] where it is neither.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.split_once('.') {
            None => Self::new(text, None),
            Some((_, owner)) if owner.contains('.') => Err(NameError::Labels),
            Some((service, owner)) => Self::new(service, Some(owner)),
        }
    }

    /// Reads a pseudo DNS name, `SERVICE.SUFFIX` or `SERVICE.OWNER.SUFFIX`, in any case and
    /// with or without a dot at the end, as DNS has it (RFC 4343).
    ///
    /// # Errors
    /// [`NameError::Suffix`] where it is somebody else's name, which must go to real DNS;
    /// any other where it ends with the suffix and names no service, and must not.
    pub fn parse_dns(name: &str, suffix: &str) -> Result<Self, NameError> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let suffix = suffix.to_ascii_lowercase();
        let rest = name.strip_suffix(&suffix).ok_or(NameError::Suffix)?;
        if rest.is_empty() {
            return Err(NameError::Empty);
        }
        Self::parse(rest.strip_suffix('.').ok_or(NameError::Suffix)?)
    }

    /// The pseudo DNS name, without a dot at the end.
    pub fn to_dns(&self, suffix: &str) -> String {
        format!("{self}.{suffix}")
    }

    /// The service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Its owner, where given.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service)?;
        self.owner
            .iter()
            .try_for_each(|owner| write!(f, ".{owner}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";

    #[test]
    fn names_and_what_are_none() {
        let longest = "a".repeat(63);
        for name in ["a", "0", "db", "web-1", "a--b", "xn--bcher-kva", &longest] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        let too_long = "a".repeat(64);
        for (name, error) in [
            ("", NameError::Empty),
            (&too_long, NameError::TooLong),
            ("DB", NameError::Character('D')),
            ("a_b", NameError::Character('_')),
            ("a.b", NameError::Character('.')),
            ("bücher", NameError::Character('ü')),
            ("@control", NameError::Character('@')),
            ("*", NameError::Character('*')),
            ("a' or 1=1", NameError::Character('\'')),
            ("-a", NameError::Hyphen),
            ("a-", NameError::Hyphen),
            ("-", NameError::Hyphen),
        ] {
            assert_eq!(check(name), Err(error), "{name}");
        }
    }

    #[test]
    fn pseudo_dns_names() {
        let parse = |name| ServiceName::parse_dns(name, DEFAULT_SUFFIX);
        let alone = ServiceName::new("db", None).unwrap();
        let owned = ServiceName::new("db", Some("alice")).unwrap();
        assert_eq!(parse("db.underpass.internal"), Ok(alone.clone()));
        assert_eq!(parse("DB.Alice.Underpass.INTERNAL."), Ok(owned.clone()));
        assert_eq!(alone.to_dns(DEFAULT_SUFFIX), "db.underpass.internal");
        assert_eq!(owned.to_dns("corp"), "db.alice.corp");
        for (name, error) in [
            ("example.org", NameError::Suffix),
            ("xunderpass.internal", NameError::Suffix),
            ("internal", NameError::Suffix),
            ("underpass.internal", NameError::Empty),
            (".underpass.internal", NameError::Empty),
            ("a..underpass.internal", NameError::Empty),
            ("a.b.c.underpass.internal", NameError::Labels),
            ("a_b.underpass.internal", NameError::Character('_')),
        ] {
            assert_eq!(parse(name), Err(error), "{name}");
        }
    }

    #[test]
    fn what_stands_before_the_suffix() {
        let [usual, other] = ["underpass.internal", "Corp"].map(|it| it.parse::<Suffix>().unwrap());
        assert_eq!(usual, Suffix::default());
        assert_eq!(usual.below("DB.Al.Underpass.Internal."), Ok("db.al".into()));
        assert_eq!(other.below("db.corp"), Ok("db".into()));
        assert_eq!(other.after("db.al"), "db.al.corp");
        assert_eq!(usual.without("a.underpass.internal"), "a");
        assert_eq!(usual.without("a.corp"), "a.corp");
        for (name, error) in [
            ("db.corp", NameError::Suffix),
            ("xunderpass.internal", NameError::Suffix),
            ("internal", NameError::Suffix),
            ("", NameError::Suffix),
            ("underpass.internal", NameError::Empty),
            (".underpass.internal.", NameError::Empty),
        ] {
            assert_eq!(usual.below(name), Err(error), "{name}");
        }
    }

    #[test]
    fn suffixes() {
        assert_eq!(check_suffix(DEFAULT_SUFFIX), Ok(()));
        assert_eq!(check_suffix("corp"), Ok(()));
        assert_eq!(check_suffix(".corp"), Err(NameError::Empty));
        assert_eq!(check_suffix(""), Err(NameError::Empty));
        let long = ["a".repeat(63), "b".repeat(63)].join(".");
        assert_eq!(check_suffix(&long), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn valid_names_round_trip(
            service in NAME,
            owner in proptest::option::of(NAME),
            suffix in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}",
            dot: bool,
        ) {
            let name = ServiceName::new(&service, owner.as_deref()).unwrap();
            prop_assert_eq!(ServiceName::parse(&name.to_string()), Ok(name.clone()));
            prop_assert_eq!(check_suffix(&suffix), Ok(()));
            let mut dns = name.to_dns(&suffix).to_ascii_uppercase();
            prop_assert!(dns.len() <= 253);
            if dot {
                dns.push('.');
            }
            prop_assert_eq!(ServiceName::parse_dns(&dns, &suffix), Ok(name));
        }

        #[test]
        fn any_text(text in "\\PC*|[a-z.-]{0,70}") {
            let valid = check(&text).is_ok();
            let simple = !text.is_empty()
                && text.len() <= 63
                && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && !text.starts_with('-')
                && !text.ends_with('-');
            prop_assert_eq!(valid, simple);
            if let Ok(name) = ServiceName::parse(&text) {
                prop_assert_eq!(name.to_string(), text.clone());
            }
            let dns = format!("{text}.{DEFAULT_SUFFIX}");
            if let Ok(name) = ServiceName::parse_dns(&dns, DEFAULT_SUFFIX) {
                prop_assert_eq!(name.to_dns(DEFAULT_SUFFIX), dns.to_ascii_lowercase());
            }
        }
    }
}
