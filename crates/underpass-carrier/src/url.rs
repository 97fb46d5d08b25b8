//! Addresses of relays.

use std::fmt;
use std::str::FromStr;

use crate::authority::{Authority, AuthorityError, bracketed};

/// How requests travel to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP over plain TCP. The session inside is sealed all the same.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as it stands in an address.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The address of a relay: `http://host[:port][/prefix][#FINGERPRINT]`, or the same with `https`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    prefix: String,
    fingerprint: Option<String>,
}

/// What is wrong with the text of a relay's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayUrlError {
    /// It does not start with `http://` or `https://`.
    #[error("a relay's address starts with http:// or https://")]
    Scheme,
    /// There is no host, or it holds characters that no host name holds.
    #[error("the host in the relay's address is missing or malformed")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port in the relay's address is not a number from 1 to 65535")]
    Port,
    /// The path holds characters that need escaping, or a query.
    #[error("the path in the relay's address may hold letters, digits and -._~/ only")]
    Prefix,
    /// The fingerprint holds control characters, which could do mischief where it is shown.
    #[error("the fingerprint in the relay's address holds control characters; was it cut?")]
    Fingerprint,
}

impl From<AuthorityError> for RelayUrlError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Host => Self::Host,
            AuthorityError::Port => Self::Port,
        }
    }
}

impl RelayUrl {
    /// Plain or TLS.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path under which the relay answers: empty, or `/` and more without a `/` at its end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The fingerprint of the relay's own key, if the address carries one. Kept as written; checking
    /// it belongs to the handshake inside the carrier.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Host and port as the `Host` header and a dialler want them: brackets around IPv6, the port
    /// only where it is not the scheme's own (RFC 9110 section 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        if self.port == self.scheme.default_port() {
            host.into_owned()
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Host and port, both always, as CONNECT wants them (RFC 9110 section 9.3.6).
    #[must_use]
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

impl FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = split_scheme(text.trim())?;
        let (rest, fingerprint) = match rest.split_once('#') {
            Some((rest, print)) => (rest, Some(print.to_owned()).filter(|p| !p.is_empty())),
            None => (rest, None),
        };
        if fingerprint
            .as_ref()
            .is_some_and(|print| print.contains(char::is_control))
        {
            return Err(RelayUrlError::Fingerprint);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let Authority { host, port } = Authority::parse(authority)?;
        let prefix = path.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if !prefix.chars().all(plain) {
            return Err(RelayUrlError::Prefix);
        }
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(scheme.default_port()),
            prefix: prefix.to_owned(),
            fingerprint,
        })
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), RelayUrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(RelayUrlError::Scheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok((Scheme::Http, rest)),
        "https" => Ok((Scheme::Https, rest)),
        _ => Err(RelayUrlError::Scheme),
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scheme,
            host: _,
            port: _,
            prefix,
            fingerprint,
        } = self;
        write!(f, "{}://{}{prefix}", scheme.as_str(), self.authority())?;
        match fingerprint {
            Some(print) => write!(f, "#{print}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<RelayUrl, RelayUrlError> {
        text.parse()
    }

    #[test]
    fn parts_are_told_apart() {
        let url = parse("https://Relay.Example:8443/a/b/#AB:cd").expect("valid");
        assert_eq!(url.scheme(), Scheme::Https);
        assert_eq!(url.host(), "relay.example");
        assert_eq!(url.port(), 8443);
        assert_eq!(url.prefix(), "/a/b");
        assert_eq!(url.fingerprint(), Some("AB:cd"));
        assert_eq!(url.authority(), "relay.example:8443");
        assert_eq!(url.to_string(), "https://relay.example:8443/a/b#AB:cd");
    }

    #[test]
    fn defaults_are_left_out_of_the_authority() {
        assert_eq!(parse("http://h").expect("valid").authority(), "h");
        assert_eq!(parse("https://h:443/").expect("valid").authority(), "h");
        assert_eq!(parse("http://h:443").expect("valid").authority(), "h:443");
    }

    #[test]
    fn ipv6_keeps_its_brackets_on_the_wire_only() {
        let url = parse("http://[::1]:8080/x").expect("valid");
        assert_eq!(url.host(), "::1");
        assert_eq!(url.authority(), "[::1]:8080");
        let url = parse("https://[::1]").expect("valid");
        assert_eq!(url.host_and_port(), "[::1]:443");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("relay", RelayUrlError::Scheme),
            ("ftp://h", RelayUrlError::Scheme),
            ("http://", RelayUrlError::Host),
            ("http://a b", RelayUrlError::Host),
            ("http://[::1", RelayUrlError::Host),
            ("http://[zz]", RelayUrlError::Host),
            ("http://user@h", RelayUrlError::Host),
            ("http://h:0", RelayUrlError::Port),
            ("http://h:70000", RelayUrlError::Port),
            ("http://h:+80", RelayUrlError::Port),
            ("http://[::1]8080", RelayUrlError::Port),
            ("http://h/a?b", RelayUrlError::Prefix),
            ("http://h/a b", RelayUrlError::Prefix),
            ("http://h#ab\x1b[2Jcd", RelayUrlError::Fingerprint),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_survives_printing(text in "https?://[ -~]{0,40}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn nothing_panics(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}
