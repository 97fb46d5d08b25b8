//! What a carrier's requests look like: paths, numbers, ids and the cookie. Pure.
//!
//! ```text
//! PREFIX/KIND                         a carrier in one request (upgrade, ws)
//! PREFIX/KIND/ID                      the whole carrier (DELETE gives it up)
//! PREFIX/KIND/ID/down                 the streaming answer
//! PREFIX/KIND/ID/down/NUMBER          poll NUMBER
//! PREFIX/KIND/ID/up                   the streaming request
//! PREFIX/KIND/ID/up/OFFSET[/end]      bytes from OFFSET of the stream on; the last ones
//! ```
//!
//! `ID` is 32 lower-case hexadecimal digits. It may stand in the cookie `sid` instead of the path; a
//! random query then keeps every path unique, because boxes on the way cache by path.
//! A poll's first request may carry `hold=MILLISECONDS`, the time the relay may hold an idle poll.

use std::fmt::{self, Write as _};
use std::time::Duration;

/// The name of the cookie that may carry the id.
pub const COOKIE: &str = "sid";
/// Longest path and query that is looked at, in bytes. Ours stay under 200 plus the prefix.
pub const MAX_TARGET_LEN: usize = 2048;

/// The random name of one carrier, 128 bits. Whoever knows it can use the carrier, so it is as
/// secret as a session cookie; the session inside authenticates for itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CarrierId(u128);

impl CarrierId {
    /// A name from 128 bits that nobody can guess.
    #[must_use]
    pub fn from_random(bits: u128) -> Self {
        Self(bits)
    }

    /// Exactly 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(hex) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for CarrierId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CarrierId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first digits tell carriers apart in a log without giving the name away.
        write!(f, "CarrierId({:08x}…)", self.0 >> 96)
    }
}

/// Which part of a carrier a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The carrier as a whole.
    Whole,
    /// The bytes from the relay, as one streaming answer.
    Down,
    /// The bytes from the relay, as the answer to the poll of this number.
    Poll(u64),
    /// The bytes to the relay, as one streaming request.
    Up,
    /// Bytes to the relay, as one request of many.
    Post {
        /// Where in the stream its first byte belongs, from 0.
        offset: u64,
        /// Whether the stream ends with its last byte.
        end: bool,
    },
}

/// Where the id of a carrier of several requests stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdPlace {
    /// In the path of the URL.
    #[default]
    Url,
    /// In the cookie `sid`.
    Cookie,
}

/// What one request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// The name of the kind of carrier.
    pub kind: &'a str,
    /// Which carrier; none for a carrier in one request.
    pub id: Option<CarrierId>,
    /// Which part of it.
    pub part: Part,
    /// How long the relay may hold an idle poll.
    pub hold: Option<Duration>,
}

/// Reads what a request asks for, or `None` if it is none of ours.
///
/// `cookies` is the value of the `Cookie` header, if there is one.
#[must_use]
pub fn parse_request<'a>(
    prefix: &str,
    path: &'a str,
    query: Option<&str>,
    cookies: Option<&[u8]>,
) -> Option<Address<'a>> {
    if path.len() + query.map_or(0, str::len) > MAX_TARGET_LEN {
        return None;
    }
    let mut segments = path.strip_prefix(prefix)?.strip_prefix('/')?.split('/');
    let kind = segments.next().filter(|kind| is_kind_name(kind))?;
    let mut word = segments.next();
    let mut id = word.and_then(CarrierId::parse);
    if id.is_some() {
        word = segments.next();
    } else {
        id = cookies.and_then(id_in_cookies);
    }
    let part = match word {
        None => Part::Whole,
        Some("down") => match segments.next() {
            None => Part::Down,
            Some(number) => Part::Poll(parse_number(number)?),
        },
        Some("up") => match segments.next() {
            None => Part::Up,
            Some(offset) => Part::Post {
                offset: parse_number(offset)?,
                end: match segments.next() {
                    None => false,
                    Some("end") => true,
                    Some(_) => return None,
                },
            },
        },
        Some(_) => return None,
    };
    if segments.next().is_some() || (id.is_none() && part != Part::Whole) {
        return None;
    }
    let hold = query.and_then(hold_in_query);
    Some(Address {
        kind,
        id,
        part,
        hold,
    })
}

fn is_kind_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=16).contains(&text.len()) && text.bytes().all(plain)
}

/// A decimal number in the one way to write it: no sign, no leading zero.
fn parse_number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (plain && canonical).then(|| text.parse().ok()).flatten()
}

fn id_in_cookies(cookies: &[u8]) -> Option<CarrierId> {
    let cookies = std::str::from_utf8(cookies).ok()?;
    cookies
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then(|| CarrierId::parse(value)).flatten())
}

fn hold_in_query(query: &str) -> Option<Duration> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(name, value)| (name == "hold").then(|| parse_number(value)).flatten())
        .map(Duration::from_millis)
}

impl Address<'_> {
    /// Path and query of the request. `unique` goes into the query where the id does not stand in
    /// the path.
    #[must_use]
    pub fn to_target(&self, prefix: &str, place: IdPlace, unique: u64) -> String {
        let Self {
            kind,
            id,
            part,
            hold,
        } = *self;
        let mut out = format!("{prefix}/{kind}");
        let in_url = id.filter(|_| place == IdPlace::Url);
        if let Some(id) = in_url {
            let _ = write!(out, "/{id}");
        }
        // Writing to a String cannot fail.
        let _ = match part {
            Part::Whole => Ok(()),
            Part::Down => write!(out, "/down"),
            Part::Poll(number) => write!(out, "/down/{number}"),
            Part::Up => write!(out, "/up"),
            Part::Post { offset, end } => {
                write!(out, "/up/{offset}{}", if end { "/end" } else { "" })
            }
        };
        let mut separator = '?';
        if let Some(hold) = hold {
            let _ = write!(out, "?hold={}", hold.as_millis());
            separator = '&';
        }
        if id.is_some() && in_url.is_none() {
            let _ = write!(out, "{separator}u={unique:016x}");
        }
        out
    }

    /// The value of the `Cookie` header, where the id stands there.
    #[must_use]
    pub fn to_cookie(&self, place: IdPlace) -> Option<String> {
        match (place, self.id) {
            (IdPlace::Cookie, Some(id)) => Some(format!("{COOKIE}={id}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn parse(path: &str, cookies: Option<&str>) -> Option<Part> {
        parse_request("/p", path, None, cookies.map(str::as_bytes)).map(|address| address.part)
    }

    #[test]
    fn each_form_is_read() {
        let post = |offset, end| Some(Part::Post { offset, end });
        for (rest, part) in [
            ("", Some(Part::Whole)),
            ("/down", Some(Part::Down)),
            ("/down/0", Some(Part::Poll(0))),
            ("/down/18446744073709551615", Some(Part::Poll(u64::MAX))),
            ("/up", Some(Part::Up)),
            ("/up/65536", post(65536, false)),
            ("/up/0/end", post(0, true)),
        ] {
            assert_eq!(parse(&format!("/p/poll/{ID}{rest}"), None), part, "{rest}");
            let cookie = format!("a=b; {COOKIE}={ID}");
            assert_eq!(parse(&format!("/p/poll{rest}"), Some(&cookie)), part);
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for path in [
            "",
            "/p",
            "/p/",
            "/q/ws",
            "/pws",
            "/p/WS",
            "/p/ws/",
            "/p/ws/x",
            "/p/poll/down/1",
            "/p/poll/0123/down/1",
            "/p/poll/0123456789ABCDEF0123456789abcdef/down",
            "/p/poll/0123456789abcdef0123456789abcdef/down/01",
            "/p/poll/0123456789abcdef0123456789abcdef/down/+1",
            "/p/poll/0123456789abcdef0123456789abcdef/down/18446744073709551616",
            "/p/poll/0123456789abcdef0123456789abcdef/down/1/2",
            "/p/poll/0123456789abcdef0123456789abcdef/up/1/END",
            "/p/poll/0123456789abcdef0123456789abcdef/up/1/end/x",
        ] {
            assert_eq!(parse(path, None), None, "{path}");
        }
        assert_eq!(parse("/p/poll/down/1", Some("sid=short")), None);
        let long = format!("/p/poll/{ID}/up/{}", "1".repeat(MAX_TARGET_LEN));
        assert_eq!(parse(&long, None), None);
    }

    #[test]
    fn the_log_does_not_show_the_name() {
        let id = CarrierId::parse(ID).expect("valid");
        assert_eq!(format!("{id:?}"), "CarrierId(01234567…)");
    }

    fn any_part() -> impl Strategy<Value = Part> {
        prop_oneof![
            Just(Part::Whole),
            Just(Part::Down),
            Just(Part::Up),
            any::<u64>().prop_map(Part::Poll),
            (any::<u64>(), any::<bool>()).prop_map(|(offset, end)| Part::Post { offset, end }),
        ]
    }

    proptest! {
        #[test]
        fn written_addresses_are_read_back(
            part in any_part(),
            bits in any::<u128>(),
            in_cookie in any::<bool>(),
            hold in prop::option::of(0u64..100_000),
            prefix in "(/[a-z]{1,5}){0,2}",
            unique in any::<u64>(),
        ) {
            let place = if in_cookie { IdPlace::Cookie } else { IdPlace::Url };
            let address = Address {
                kind: "poll",
                id: Some(CarrierId::from_random(bits)),
                part,
                hold: hold.map(Duration::from_millis),
            };
            let target = address.to_target(&prefix, place, unique);
            let cookie = address.to_cookie(place);
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (&target[..], None),
            };
            let back = parse_request(&prefix, path, query, cookie.as_ref().map(|c| c.as_bytes()));
            prop_assert_eq!(back, Some(address));
        }

        #[test]
        fn nothing_panics(
            path in ".{0,80}", query in prop::option::of(".{0,40}"),
            cookies in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
        ) {
            let _ = parse_request("", &path, query.as_deref(), cookies.as_deref());
        }
    }
}
