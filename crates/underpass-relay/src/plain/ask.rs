//! What a client asks for: method, path, query, cookie. Pure.
//!
//! ```text
//! POST PREFIX/plain/open?service=NAME[&once=TEXT]
//! POST PREFIX/plain[/SESSION]/up?offset=N[&end=1]
//! GET  PREFIX/plain[/SESSION]/down?offset=N[&wait=SECONDS]
//! POST PREFIX/plain[/SESSION]/close
//! ```

use std::fmt;

use super::token::Token;

/// The first part of the path of every request, behind the prefix.
pub(super) const ROOT: &str = "/plain";
/// The cookie that may hold the session instead of the path.
pub(super) const COOKIE: &str = "underpass_session";
/// The longest text by which a client marks attempts to open one session, in bytes.
const LONGEST_ONCE: usize = 64;

/// The random name of a session, 128 bits. It is of no use without a token of the same owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionName(u128);

impl SessionName {
    /// A name from 128 bits that nobody can guess.
    pub(super) fn from_random(bits: u128) -> Self {
        Self(bits)
    }

    /// Exactly 32 hexadecimal digits in lower case.
    fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let sound = text.len() == 32 && text.bytes().all(hex);
        let bits = sound.then(|| u128::from_str_radix(text, 16).ok());
        bits.flatten().map(Self)
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionName({:08x}…)", self.0 >> 96)
    }
}

/// What one request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A session to a service.
    Open {
        /// The service, as the user named it.
        service: String,
        /// The same in attempts to open one session; empty for one that stands alone.
        once: String,
    },
    /// Takes the body for bytes to the service.
    Up {
        session: SessionName,
        /// Where in the stream its first byte belongs.
        offset: u64,
        /// Whether the stream ends behind the last one.
        end: bool,
    },
    /// The bytes from the service.
    Down {
        session: SessionName,
        /// From which one on; those before it have arrived.
        offset: u64,
        /// For how many seconds the answer may be held at the most.
        wait: Option<u64>,
    },
    /// Ends the session.
    Close { session: SessionName },
}

/// Why a request asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    /// Not a path of this interface at all.
    #[error("no such page")]
    Elsewhere,
    /// The path is known, and wants another method.
    #[error("this request is made with {0}")]
    Method(&'static str),
    /// Neither path nor cookie name a session.
    #[error("the session is missing: it stands in the path, or in the cookie {COOKIE}")]
    NoSession,
    /// Something in the query is missing or wrong.
    #[error("{0}")]
    Query(&'static str),
}

/// What is looked at of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    /// The values of all `Cookie` headers.
    pub(super) cookies: &'a [&'a str],
}

/// Whether a path is one of this interface's.
pub(super) fn is_ours(prefix: &str, path: &str) -> bool {
    below_root(prefix, path).is_some()
}

fn below_root<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?.strip_prefix(ROOT)?;
    rest.strip_prefix('/')
}

/// Understands a request.
///
/// # Errors
/// [`Unclear`] with what is wrong.
pub(super) fn understand(prefix: &str, parts: Parts<'_>) -> Result<Ask, Unclear> {
    let rest = below_root(prefix, parts.path).ok_or(Unclear::Elsewhere)?;
    let (named, word) = match rest.split_once('/') {
        Some((name, word)) => (
            Some(SessionName::parse(name).ok_or(Unclear::Elsewhere)?),
            word,
        ),
        None => (None, rest),
    };
    let method = match word {
        "open" if named.is_none() => "POST",
        "up" | "close" => "POST",
        "down" => "GET",
        _ => return Err(Unclear::Elsewhere),
    };
    if parts.method != method {
        return Err(Unclear::Method(method));
    }
    let query = Query::read(parts.query.unwrap_or(""))?;
    if word == "open" {
        let service = query.service.unwrap_or("").to_owned();
        if service.is_empty() {
            return Err(Unclear::Query("the service is missing: ?service=NAME"));
        }
        let once = query.once.unwrap_or("").to_owned();
        return Ok(Ask::Open { service, once });
    }
    let session = named
        .or_else(|| in_cookies(parts.cookies))
        .ok_or(Unclear::NoSession)?;
    let offset = query
        .offset
        .ok_or(Unclear::Query("the offset is missing: ?offset=N"));
    Ok(match word {
        "up" => Ask::Up {
            session,
            offset: offset?,
            end: query.end,
        },
        "down" => Ask::Down {
            session,
            offset: offset?,
            wait: query.wait,
        },
        _ => Ask::Close { session },
    })
}

#[derive(Default)]
struct Query<'a> {
    service: Option<&'a str>,
    once: Option<&'a str>,
    offset: Option<u64>,
    wait: Option<u64>,
    end: bool,
}

impl<'a> Query<'a> {
    /// Reads `NAME=VALUE&…`. The name `n` is free for whatever makes an address unlike others.
    fn read(text: &'a str) -> Result<Self, Unclear> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "service" => query.service = Some(value),
                "once" if value.len() <= LONGEST_ONCE => query.once = Some(value),
                "once" => return Err(Unclear::Query("once= has 64 characters at the most")),
                "offset" => {
                    let wrong = Unclear::Query("offset= is a number of bytes");
                    query.offset = Some(number(value).ok_or(wrong)?);
                }
                "wait" => {
                    let wrong = Unclear::Query("wait= is a number of seconds");
                    query.wait = Some(number(value).ok_or(wrong)?);
                }
                "end" if value == "1" => query.end = true,
                "end" => return Err(Unclear::Query("end=1, or not at all")),
                "n" => {}
                _ => {
                    let known = "the query may have service, once, offset, end, wait and n";
                    return Err(Unclear::Query(known));
                }
            }
        }
        Ok(query)
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn in_cookies(cookies: &[&str]) -> Option<SessionName> {
    let pairs = cookies.iter().flat_map(|line| line.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    named.find_map(SessionName::parse)
}

/// The token in an `Authorization` header (RFC 6750 section 2.1).
pub(super) fn bearer(authorization: &str) -> Option<Token> {
    let (scheme, token) = authorization.split_once(' ')?;
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    bearer.then(|| Token::parse(token.trim())).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "00112233445566778899aabbccddeeff";

    fn ask(method: &str, target: &str, cookies: &[&str]) -> Result<Ask, Unclear> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let parts = Parts {
            method,
            path,
            query,
            cookies,
        };
        understand("/at", parts)
    }

    #[test]
    fn every_request_of_the_table() {
        let session = SessionName::parse(NAME).unwrap();
        assert_eq!(session.to_string(), NAME);
        let open = |once: &str| Ask::Open {
            service: "db.bob".to_owned(),
            once: once.to_owned(),
        };
        let up = |end| Ask::Up {
            session,
            offset: 7,
            end,
        };
        let down = |wait| Ask::Down {
            session,
            offset: 7,
            wait,
        };
        let in_path = |rest: &str| format!("/at/plain/{NAME}/{rest}");
        let cookie = format!("a=b; {COOKIE}={NAME}; c");
        for (method, rest, expected) in [
            ("POST", "up?offset=7", up(false)),
            ("POST", "up?offset=7&end=1", up(true)),
            ("GET", "down?offset=7&n=random", down(None)),
            ("GET", "down?wait=3&offset=7", down(Some(3))),
            ("POST", "close", Ask::Close { session }),
        ] {
            let by_path = ask(method, &in_path(rest), &["x=1"]);
            assert_eq!(by_path, Ok(expected.clone()), "{rest}");
            let by_cookie = ask(method, &format!("/at/plain/{rest}"), &["x=1", &cookie]);
            assert_eq!(by_cookie, Ok(expected), "{rest}");
        }
        assert_eq!(
            ask("POST", "/at/plain/open?service=db.bob", &[]),
            Ok(open(""))
        );
        let once = ask("POST", "/at/plain/open?service=db.bob&once=a1", &[&cookie]);
        assert_eq!(once, Ok(open("a1")));
    }

    #[test]
    fn what_is_unclear_is_named() {
        let long = format!("/at/plain/open?service=db&once={}", "x".repeat(65));
        let wrong_session = format!("/at/plain/{}/up?offset=0", NAME.to_uppercase());
        for (method, target, said) in [
            ("GET", "/plain/down?offset=0", "no such page"),
            ("GET", "/at/plain", "no such page"),
            ("GET", "/at/plainer/down?offset=0", "no such page"),
            ("GET", "/at/plain/sideways", "no such page"),
            ("POST", &wrong_session, "no such page"),
            (
                "POST",
                "/at/plain/00112233445566778899aabbccddeeff/open?service=db",
                "no such page",
            ),
            ("GET", "/at/plain/open?service=db", "made with POST"),
            ("POST", "/at/plain/down?offset=0", "made with GET"),
            ("POST", "/at/plain/open", "service is missing"),
            ("POST", "/at/plain/open?service=", "service is missing"),
            ("POST", &long, "64 characters"),
            ("POST", "/at/plain/up?offset=0", "session is missing"),
            ("POST", "/at/plain/close?ofset=0", "may have"),
            ("POST", "/at/plain/up?offset=-1", "number of bytes"),
            (
                "POST",
                "/at/plain/up?offset=99999999999999999999",
                "number of bytes",
            ),
            ("POST", "/at/plain/up?offset=0&end=yes", "end=1"),
            ("GET", "/at/plain/down?offset=0&wait=", "number of seconds"),
        ] {
            let error = ask(method, target, &[]).unwrap_err().to_string();
            assert!(error.contains(said), "{method} {target}: {error}");
        }
        let with_session = format!("/at/plain/{NAME}/up");
        let error = ask("POST", &with_session, &[]).unwrap_err();
        assert_eq!(error, Unclear::Query("the offset is missing: ?offset=N"));
    }

    #[test]
    fn tokens_are_found_in_their_header() {
        let token = Token::new([3; 32]);
        for header in [format!("Bearer {token}"), format!("bearer  {token} ")] {
            assert_eq!(bearer(&header), Some(token.clone()), "{header}");
        }
        for header in [
            format!("Basic {token}"),
            token.to_string(),
            "Bearer".into(),
            "Bearer x".into(),
        ] {
            assert_eq!(bearer(&header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(path in "(/at/plain)?/[a-z0-9/]{0,40}", query in "[a-z0-9=&%]{0,40}", cookie in ".{0,60}") {
            let parts = Parts { method: "GET", path: &path, query: Some(&query), cookies: &[&cookie] };
            let _ = understand("/at", parts);
            let _ = bearer(&cookie);
        }
    }
}
