//! Addresses of proxies, as settings, variables and PAC files write them. Pure.

use std::fmt;
use std::str::FromStr;

use super::credentials::Credentials;
use crate::authority::{Authority, AuthorityError, bracketed};

/// What is spoken to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyScheme {
    /// HTTP over TCP.
    Http,
    /// HTTP over TLS.
    Https,
    /// SOCKS 5 (RFC 1928); the proxy resolves the name.
    Socks5,
}

impl ProxyScheme {
    /// The scheme as it stands in an address.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            // RFC 1928 section 3.
            Self::Socks5 => 1080,
        }
    }
}

/// The address of a proxy: `[SCHEME://][USER:PASSWORD@]HOST[:PORT]`. Shown, it never has the
/// credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    scheme: ProxyScheme,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

/// What is wrong with the address of a proxy. Never holds the address, which may have a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyUrlError {
    /// The scheme is none that can be used.
    #[error("a proxy's address starts with http://, https:// or socks5://")]
    Scheme,
    /// There is no host, or it holds characters that no host name holds.
    #[error("the host in the proxy's address is missing or malformed")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port in the proxy's address is not a number from 1 to 65535")]
    Port,
    /// A `%` without two hexadecimal digits, or bytes that are no UTF-8, in user name or password.
    #[error(
        "user name or password in the proxy's address is malformed; write special characters as %XX"
    )]
    Credentials,
    /// Something follows the port.
    #[error("a proxy's address has no path")]
    Path,
}

impl From<AuthorityError> for ProxyUrlError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Host => Self::Host,
            AuthorityError::Port => Self::Port,
        }
    }
}

impl ProxyUrl {
    /// A proxy without credentials in its address.
    #[must_use]
    pub fn new(scheme: ProxyScheme, host: &str, port: u16) -> Self {
        Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
            credentials: None,
        }
    }

    /// What is spoken to it.
    #[must_use]
    pub fn scheme(&self) -> ProxyScheme {
        self.scheme
    }

    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The credentials that its address carries.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = match text.trim().split_once("://") {
            None => (ProxyScheme::Http, text.trim()),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => (ProxyScheme::Http, rest),
                "https" => (ProxyScheme::Https, rest),
                "socks5" | "socks5h" | "socks" => (ProxyScheme::Socks5, rest),
                _ => return Err(ProxyUrlError::Scheme),
            },
        };
        // A password may hold anything but what ends it: the last @ counts.
        let (user_info, rest) = match rest.rsplit_once('@') {
            Some((user_info, rest)) => (Some(user_info), rest),
            None => (None, rest),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let Authority { host, port } = Authority::parse(rest)?;
        let credentials = user_info.map(read_user_info).transpose()?;
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(scheme.default_port()),
            credentials: credentials.flatten(),
        })
    }
}

fn read_user_info(text: &str) -> Result<Option<Credentials>, ProxyUrlError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let [user, password] = [user, password].map(unescape);
    let (user, password) = user.zip(password).ok_or(ProxyUrlError::Credentials)?;
    Ok((!user.is_empty()).then(|| Credentials::new(&user, &password)))
}

/// Percent-decodes (RFC 3986 section 2.1).
fn unescape(text: &str) -> Option<zeroize::Zeroizing<String>> {
    let mut out = zeroize::Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high << 4 | low).ok()?);
    }
    let text = std::str::from_utf8(&out).ok()?;
    Some(zeroize::Zeroizing::new(text.to_owned()))
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scheme,
            host,
            port,
            credentials: _,
        } = self;
        write!(f, "{}://{}:{port}", scheme.as_str(), bracketed(host))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_what_they_mean() {
        for (text, shown) in [
            ("proxy", "http://proxy:80"),
            ("Proxy.Example:3128", "http://proxy.example:3128"),
            ("http://proxy:8080/", "http://proxy:8080"),
            ("HTTPS://proxy", "https://proxy:443"),
            ("socks5h://10.0.0.1", "socks5://10.0.0.1:1080"),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("http://u:p@proxy:1", "http://proxy:1"),
            ("http://u:p@:/x@proxy:1", "http://proxy:1"),
            ("http://:@proxy", "http://proxy:80"),
        ] {
            let url: ProxyUrl = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn credentials_are_unescaped_and_never_shown() {
        let url: ProxyUrl = "http://DOM%5Canna:p%40ss%3Aw%C3%B6rd@proxy:3128"
            .parse()
            .unwrap();
        let credentials = url.credentials().expect("given");
        assert_eq!(credentials.user(), "DOM\\anna");
        assert_eq!(credentials.password(), "p@ss:wörd");
        let shown = format!("{url} {url:?} {credentials:?}");
        assert!(
            !shown.contains("anna") && !shown.contains("p@ss"),
            "{shown}"
        );
        let bare: ProxyUrl = "http://proxy".parse().unwrap();
        assert_eq!(bare.credentials(), None);
    }

    #[test]
    fn what_is_wrong_is_named_without_the_address() {
        use ProxyUrlError as E;
        for (text, error) in [
            ("", E::Host),
            ("ftp://proxy", E::Scheme),
            ("http://", E::Host),
            ("http://a b", E::Host),
            ("http://[::1", E::Host),
            ("http://[x]", E::Host),
            ("http://[::1]x", E::Port),
            ("http://proxy:", E::Port),
            ("http://proxy:0", E::Port),
            ("http://proxy:+8", E::Port),
            ("http://proxy:65536", E::Port),
            ("http://proxy:1/x", E::Path),
            ("http://u:%zz@proxy", E::Credentials),
            ("http://u:%ff@proxy", E::Credentials),
            ("http://secret%@proxy", E::Credentials),
        ] {
            assert_eq!(text.parse::<ProxyUrl>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_parses_survives(text in ".{0,60}") {
            if let Ok(url) = text.parse::<ProxyUrl>() {
                let again: ProxyUrl = url.to_string().parse().expect("shown in full");
                prop_assert_eq!(again.to_string(), url.to_string());
            }
        }
    }
}
