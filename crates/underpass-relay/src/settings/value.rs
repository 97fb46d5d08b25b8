//! Values of settings, as text and as TOML.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use underpass_carrier::x509::{NamedBy, NamedByError};

use crate::authority::{AuthorityAddress, AuthorityAddressError};
use crate::certificates::CertificateUsers;

/// A value of a setting.
pub(super) trait Value: Sized {
    /// What it is, for people.
    const KIND: &'static str;
    /// Whether several may be given.
    const SEVERAL: bool = false;

    /// Reads it from text.
    fn parse(text: &str) -> Result<Self, String>;

    /// Reads it from a settings file: what is not text is read as the text it stands for.
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::parse(text),
            toml::Value::Integer(number) => Self::parse(&number.to_string()),
            toml::Value::Boolean(flag) => Self::parse(&flag.to_string()),
            _ => Err(format!("one {} is expected", Self::KIND)),
        }
    }

    /// As one would write it; empty for none.
    fn show(&self) -> String;
}

/// A length of time, such as `10m` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of bytes, such as `64 KiB` or `256 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub usize);

/// How many of something there may be.
pub type Count = usize;

fn parsed<T: std::str::FromStr<Err: Display>>(text: &str, kind: &str) -> Result<T, String> {
    text.trim()
        .parse()
        .map_err(|error| format!("{text:?} is no {kind}: {error}"))
}

impl Value for Count {
    const KIND: &'static str = "NUMBER";
    fn parse(text: &str) -> Result<Self, String> {
        parsed(text, Self::KIND)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for bool {
    const KIND: &'static str = "BOOL";
    fn parse(text: &str) -> Result<Self, String> {
        parsed(text, Self::KIND)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const KIND: &'static str = "TEXT";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "PATH";
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a path cannot be empty".to_owned());
        }
        Ok(text.into())
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "ADDRESS:PORT";
    fn parse(text: &str) -> Result<Self, String> {
        parsed(text, Self::KIND)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for AuthorityAddress {
    const KIND: &'static str = "HOST:PORT#FINGERPRINT";
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: AuthorityAddressError| error.to_string())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for NamedBy {
    const KIND: &'static str = "cn|uri:PREFIX|email:DOMAIN";
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: NamedByError| error.to_string())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for CertificateUsers {
    const KIND: &'static str = "known|make";
    fn parse(text: &str) -> Result<Self, String> {
        parsed(text, Self::KIND)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Span {
    const KIND: &'static str = "DURATION";
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |error| format!("{text:?} is no duration such as 90s or 10m: {error}");
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(wrong)
    }
    fn show(&self) -> String {
        humantime::format_duration(self.0).to_string()
    }
}

/// Units of sizes, the largest first.
const UNITS: [(&str, usize); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Value for ByteSize {
    const KIND: &'static str = "SIZE";
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size such as 64 KiB or 256 MiB");
        let text = text.trim();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1));
        let number: usize = number.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
    fn show(&self) -> String {
        let whole = UNITS
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = whole.copied().unwrap_or(("B", 1));
        format!("{} {unit}", self.0 / factor)
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, T::show)
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: &'static str = T::KIND;
    const SEVERAL: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(T::parse)
            .collect()
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Array(values) => values.iter().map(T::from_toml).collect(),
            toml::Value::String(text) => Self::parse(text),
            other => T::from_toml(other).map(|value| vec![value]),
        }
    }
    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("7", 7),
            ("7 B", 7),
            ("64KiB", 65_536),
            ("1 MiB", 1 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5 MiB", "1 MB", "99999999999999 GiB"] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bytes: usize, seconds in 0u64..10_000_000) {
            prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).show()), Ok(ByteSize(bytes)));
            let span = Span(Duration::from_secs(seconds));
            prop_assert_eq!(Span::parse(&span.show()), Ok(span));
        }
    }
}
