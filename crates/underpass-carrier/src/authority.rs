//! `HOST[:PORT]`, as it stands in the addresses of relays and proxies and in lists of hosts (RFC 3986
//! section 3.2). Pure.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// A host, and its port where one is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address without its brackets; as written.
    pub(crate) host: &'a str,
    /// From 1 to 65535.
    pub(crate) port: Option<u16>,
}

/// Which part of it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthorityError {
    /// It is missing, or holds characters that no host name holds.
    Host,
    /// It is not a number from 1 to 65535.
    Port,
}

impl<'a> Authority<'a> {
    /// Reads one. User names and passwords are none of its business.
    pub(crate) fn parse(text: &'a str) -> Result<Self, AuthorityError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(AuthorityError::Host)?;
                if host.parse::<Ipv6Addr>().is_err() {
                    return Err(AuthorityError::Host);
                }
                let port = match after.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if after.is_empty() => None,
                    None => return Err(AuthorityError::Port),
                };
                (host, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let sound = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(sound) {
            return Err(AuthorityError::Host);
        }
        let port = port.map(|text| parse_port(text).ok_or(AuthorityError::Port));
        Ok(Self {
            host,
            port: port.transpose()?,
        })
    }
}

/// A port without a sign, which the standard library would take.
fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// A host as it stands in an address: brackets around IPv6.
pub(crate) fn bracketed(host: &str) -> Cow<'_, str> {
    match host.contains(':') {
        true => Cow::Owned(format!("[{host}]")),
        false => Cow::Borrowed(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        use AuthorityError as E;
        for (text, expected) in [
            ("relay", Ok(("relay", None))),
            ("relay:1", Ok(("relay", Some(1)))),
            ("10.0.0.1:65535", Ok(("10.0.0.1", Some(65535)))),
            ("[::1]", Ok(("::1", None))),
            ("[2001:db8::1]:080", Ok(("2001:db8::1", Some(80)))),
            ("", Err(E::Host)),
            (":80", Err(E::Host)),
            ("a b", Err(E::Host)),
            ("user@relay", Err(E::Host)),
            ("[::1", Err(E::Host)),
            ("[relay]", Err(E::Host)),
            ("[::1%eth0]", Err(E::Host)),
            ("[::1]80", Err(E::Port)),
            ("[::1]:", Err(E::Port)),
            ("::1", Err(E::Host)),
            ("relay:", Err(E::Port)),
            ("relay:0", Err(E::Port)),
            ("relay:+80", Err(E::Port)),
            ("relay:65536", Err(E::Port)),
            ("relay:80:80", Err(E::Port)),
        ] {
            let read = Authority::parse(text).map(|it| (it.host, it.port));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn only_ipv6_gets_brackets() {
        assert_eq!(bracketed("::1"), "[::1]");
        assert_eq!(bracketed("relay.example"), "relay.example");
    }
}
