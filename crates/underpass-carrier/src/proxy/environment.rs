//! Which proxy the variables of the environment name for a relay. Pure.

use super::address::{ProxyUrl, ProxyUrlError};
use super::bypass::Bypass;
use crate::url::{RelayUrl, Scheme};

/// What `HTTP_PROXY` and its kin say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    http: Option<Named>,
    https: Option<Named>,
    bypass: Bypass,
}

/// A proxy, and the variable that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    variable: &'static str,
    proxy: ProxyUrl,
}

/// A variable names no proxy. Holds nothing of its value, which may have a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable {variable}: {error}")]
pub struct EnvironmentError {
    /// Its name.
    pub variable: &'static str,
    /// What is wrong with its value.
    pub error: ProxyUrlError,
}

impl Environment {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`; the same in lower case comes
    /// first, and an empty one means none. `variable` looks variables up.
    ///
    /// # Errors
    /// A variable that would be used names no proxy.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        // A web server hands the header `Proxy:` of any client to its programs in this variable; only
        // they have REQUEST_METHOD too (RFC 3875 section 4.1.18, and curl's reason).
        let in_web_server = variable("REQUEST_METHOD").is_some();
        let upper_http = match in_web_server {
            true => &["http_proxy"][..],
            false => &["http_proxy", "HTTP_PROXY"],
        };
        let all = ["all_proxy", "ALL_PROXY"];
        let first = |names: &[&'static str]| {
            let mut names = names.iter().chain(&all);
            names.find_map(|name| Some((*name, variable(name)?)))
        };
        let proxy = |names: &[&'static str]| match first(names) {
            Some((name, text)) if !text.trim().is_empty() => match text.parse() {
                Ok(proxy) => Ok(Some(Named {
                    variable: name,
                    proxy,
                })),
                Err(error) => Err(EnvironmentError {
                    variable: name,
                    error,
                }),
            },
            _ => Ok(None),
        };
        let bypass = variable("no_proxy").or_else(|| variable("NO_PROXY"));
        Ok(Self {
            http: proxy(upper_http)?,
            https: proxy(&["https_proxy", "HTTPS_PROXY"])?,
            bypass: Bypass::parse(&bypass.unwrap_or_default()),
        })
    }

    /// The proxy on the way to `relay`, if there is one.
    #[must_use]
    pub fn proxy_for(&self, relay: &RelayUrl) -> Option<&ProxyUrl> {
        let named = self.named(relay).filter(|_| !self.bypasses(relay));
        named.map(|named| &named.proxy)
    }

    /// The variable that names a proxy for relays of this scheme.
    #[must_use]
    pub fn variable_for(&self, relay: &RelayUrl) -> Option<&'static str> {
        self.named(relay).map(|named| named.variable)
    }

    /// Whether `NO_PROXY` leaves this relay out.
    #[must_use]
    pub fn bypasses(&self, relay: &RelayUrl) -> bool {
        self.bypass.matches(relay.host(), relay.port())
    }

    fn named(&self, relay: &RelayUrl) -> Option<&Named> {
        match relay.scheme() {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        Environment::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_and_the_way_they_choose() {
        let (http, https) = ("http://relay.example", "https://relay.example");
        type Case = (
            &'static [(&'static str, &'static str)],
            &'static str,
            Option<&'static str>,
        );
        let cases: &[Case] = &[
            (&[], http, None),
            (&[("http_proxy", "a:1")], http, Some("http://a:1")),
            (&[("http_proxy", "a:1")], https, None),
            (&[("HTTPS_PROXY", "b:2")], https, Some("http://b:2")),
            (&[("HTTPS_PROXY", "b:2")], http, None),
            (
                &[("HTTP_PROXY", "A:1"), ("http_proxy", "a:2")],
                http,
                Some("http://a:2"),
            ),
            (&[("HTTP_PROXY", "a:1"), ("http_proxy", "")], http, None),
            (
                &[("HTTP_PROXY", "a:1"), ("REQUEST_METHOD", "GET")],
                http,
                None,
            ),
            (
                &[("http_proxy", "a:1"), ("REQUEST_METHOD", "GET")],
                http,
                Some("http://a:1"),
            ),
            (
                &[("HTTPS_PROXY", "a:1"), ("REQUEST_METHOD", "GET")],
                https,
                Some("http://a:1"),
            ),
            (
                &[("ALL_PROXY", "socks5://s")],
                http,
                Some("socks5://s:1080"),
            ),
            (
                &[("all_proxy", "s:1"), ("ALL_PROXY", "S:2")],
                https,
                Some("http://s:1"),
            ),
            (
                &[("ALL_PROXY", "s:1"), ("https_proxy", "b:2")],
                https,
                Some("http://b:2"),
            ),
            (
                &[("ALL_PROXY", "s:1"), ("NO_PROXY", ".example")],
                http,
                None,
            ),
            (
                &[("ALL_PROXY", "s:1"), ("NO_PROXY", "*"), ("no_proxy", "x")],
                http,
                Some("http://s:1"),
            ),
            (
                &[("ALL_PROXY", "s:1"), ("no_proxy", "relay.example:443")],
                https,
                None,
            ),
            (
                &[("ALL_PROXY", "s:1"), ("no_proxy", "relay.example:443")],
                http,
                Some("http://s:1"),
            ),
        ];
        for (variables, relay, wanted) in cases {
            let relay: RelayUrl = relay.parse().expect("valid");
            let environment = read(variables).expect("valid");
            let found = environment.proxy_for(&relay).map(ToString::to_string);
            assert_eq!(found.as_deref(), *wanted, "{variables:?}");
        }
    }

    #[test]
    fn a_bad_variable_is_named_and_its_secret_is_not() {
        let error = read(&[("https_proxy", "http://u:topsecret@h:x")]).expect_err("bad port");
        assert_eq!(error.variable, "https_proxy");
        assert!(!format!("{error} {error:?}").contains("topsecret"));
        // One that loses is not looked at.
        assert!(read(&[("http_proxy", "a"), ("HTTP_PROXY", "ftp://x")]).is_ok());
    }
}
