//! What the texts of settings mean.

use std::str::FromStr;
use std::time::Duration;

use http::HeaderValue;
use underpass_carrier::proxy::{ProxyUrl, ProxyUrlError};
use underpass_carrier::{IdPlace, KINDS, Kind, RelayUrl, RelayUrlError, kind_by_name};
use underpass_endpoint::MAX_LEGS;
use underpass_proto::Grade;
use underpass_proto::frame::Class;

use crate::failure::Failure;

/// A length of time: `90s`, `10m`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Self(true)),
            "false" | "0" | "no" | "off" | "" => Ok(Self(false)),
            _ => Err("a switch is true or false"),
        }
    }
}

/// Addresses of relays, the first choice first; or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayChoice(pub Vec<RelayUrl>);

impl FromStr for RelayChoice {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text.split(',').map(str::trim);
        let given = named.filter(|_| !text.is_empty());
        given.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Kinds of carriers that may be used, the first choice first.
#[derive(Debug, Clone)]
pub struct Carriers(pub Vec<&'static Kind>);

impl Carriers {
    /// Their names.
    #[cfg(test)]
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|kind| kind.name).collect()
    }
}

impl FromStr for Carriers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text == "auto" {
            return Ok(Self(KINDS.iter().collect()));
        }
        let kind = |name: &str| {
            kind_by_name(name.trim()).ok_or_else(|| {
                let all: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
                format!("there is no carrier {name:?}; there are {}", all.join(", "))
            })
        };
        text.split(',')
            .map(kind)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A text that means what it says: a path, an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl FromStr for Text {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Which proxy is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyMode {
    /// What a PAC file or the environment says.
    Auto,
    /// None.
    None,
    /// This one.
    Fixed(ProxyUrl),
}

/// The proxy to use. An address that is wrong is told later and without the text, which may hold a
/// password; what is told when a setting is read shows all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySetting(Result<ProxyMode, ProxyUrlError>);

impl ProxySetting {
    /// What it says.
    pub fn mode(&self) -> Result<ProxyMode, Failure> {
        let wrong = |error| {
            let words = "it is auto, none or http://HOST:PORT";
            Failure::usage(format!("the setting proxy: {error}; {words}"))
        };
        self.0.clone().map_err(wrong)
    }
}

impl FromStr for ProxySetting {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(match text {
            "" | "auto" => Ok(ProxyMode::Auto),
            "none" => Ok(ProxyMode::None),
            text => text.parse().map(ProxyMode::Fixed),
        }))
    }
}

/// A media type for HTTP bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType(pub HeaderValue);

impl FromStr for MediaType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text
            .split_once('/')
            .is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty());
        let value = HeaderValue::from_str(text).ok().filter(|_| named);
        value.map(Self).ok_or("a media type is written TYPE/NAME")
    }
}

/// One of a few words, each with its meaning.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident($type:ty): $($word:literal => $value:expr),*) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub $type);

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $( $word => Ok(Self($value)), )*
                    _ => Err(format!("it is one of {}", [$($word),*].join(", "))),
                }
            }
        }
    };
}

/// How a certificate is checked at login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCheckMode {
    /// By the system's roots.
    System,
    /// By its fingerprint, pinned at first use.
    Pinned,
    /// By the system's roots where they know it, else by its fingerprint.
    Auto,
}

words! {
    /// Where the id of a carrier of several requests stands.
    CarrierIdPlace(IdPlace): "url" => IdPlace::Url, "cookie" => IdPlace::Cookie
}

words! {
    /// Whether polls are POSTs.
    PollMethod(bool): "get" => false, "post" => true
}

/// A port, which is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub std::num::NonZeroU16);

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = text.parse().map(Self);
        port.map_err(|_| "a port is a number from 1 to 65535")
    }
}

/// How many legs carry a session at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Legs(pub usize);

impl FromStr for Legs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legs = text.parse().ok();
        let legs = legs.filter(|legs| (1..=MAX_LEGS).contains(legs));
        legs.map(Self)
            .ok_or_else(|| format!("it is a number from 1 to {MAX_LEGS}"))
    }
}

/// How many there may be of something that takes a socket each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub usize);

impl FromStr for Count {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = text.parse().ok();
        let count = count.filter(|count| (1..=65_536).contains(count));
        count.map(Self).ok_or("it is a number from 1 to 65536")
    }
}

words! {
    /// How a certificate is checked at login.
    TlsMode(TlsCheckMode): "auto" => TlsCheckMode::Auto, "system" => TlsCheckMode::System, "pinned" => TlsCheckMode::Pinned
}

words! {
    /// How much of a session others can read.
    Secrecy(Grade): "blind" => Grade::Blind, "relay" => Grade::Relay, "none" => Grade::None
}

words! {
    /// The priority of channels.
    Priority(Class): "interactive" => Class::Interactive, "normal" => Class::Normal, "bulk" => Class::Bulk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_their_meanings() {
        assert_eq!("1m 30s".parse::<Span>().unwrap().0.as_secs(), 90);
        assert!("1".parse::<Switch>().unwrap().0 && !"".parse::<Switch>().unwrap().0);
        assert!("maybe".parse::<Switch>().is_err());
        assert!("90".parse::<Span>().is_err(), "a number without a unit");
        for all in ["", "auto"] {
            assert_eq!(all.parse::<Carriers>().unwrap().0.len(), KINDS.len());
        }
        assert_eq!(
            "ws, upgrade".parse::<Carriers>().unwrap().names(),
            ["ws", "upgrade"]
        );
        let error = "ws,smoke".parse::<Carriers>().unwrap_err();
        assert!(
            error.contains("\"smoke\"") && error.contains("upgrade"),
            "{error}"
        );
        assert_eq!("".parse::<RelayChoice>().unwrap().0, []);
        let two = "http://a, https://b/x".parse::<RelayChoice>().unwrap().0;
        assert_eq!(two.len(), 2);
        for bad in ["relay", "http://a,", ","] {
            assert!(bad.parse::<RelayChoice>().is_err(), "{bad:?}");
        }
        assert_eq!("bulk".parse::<Priority>().unwrap().0, Class::Bulk);
        assert_eq!("4".parse::<Legs>().unwrap().0, 4);
        for bad in ["0", "5", "two", ""] {
            assert!(bad.parse::<Legs>().is_err(), "{bad:?}");
        }
        assert_eq!("1024".parse::<Count>(), Ok(Count(1024)));
        assert!("0".parse::<Count>().is_err() && "65537".parse::<Count>().is_err());
        let error = "fast".parse::<Priority>().unwrap_err();
        assert_eq!(error, "it is one of interactive, normal, bulk");
        let proxy = |text: &str| text.parse::<ProxySetting>().unwrap().mode();
        assert_eq!(proxy("auto"), Ok(ProxyMode::Auto));
        assert_eq!(proxy("none"), Ok(ProxyMode::None));
        assert!(matches!(proxy("proxy:3128"), Ok(ProxyMode::Fixed(_))));
        let failure = proxy("http://anna:sesame@proxy:x").unwrap_err();
        assert_eq!(failure.exit, 2);
        assert!(!format!("{failure} {failure:?}").contains("sesame"));
        assert!("a/b".parse::<MediaType>().is_ok());
        for bad in ["a", "/b", "a/", "a/b\n"] {
            assert!(bad.parse::<MediaType>().is_err(), "{bad:?}");
        }
    }
}
