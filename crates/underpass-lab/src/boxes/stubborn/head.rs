//! The heads of requests and answers: read, looked at, written (RFC 9112).

use std::fmt;

/// Header fields that any box knows, in lower case. Those of upgrades and WebSockets are not among them.
pub const COMMON: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "location",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// The longest head that is read, in bytes.
pub(super) const LONGEST: usize = 64 * 1024;

/// Something that is not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not HTTP: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Header fields in the order in which they came. Bytes beyond ASCII stand for the characters of the same number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(pub(super) Vec<(String, String)>);

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.0.push((name.into(), value.into()));
    }

    /// Whether one of the comma-separated words of `name` is `word`.
    pub(super) fn says(&self, name: &str, word: &str) -> bool {
        let of_name = self
            .0
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name));
        of_name
            .flat_map(|(_, value)| value.split(','))
            .any(|own| own.trim().eq_ignore_ascii_case(word))
    }

    /// Leaves out what is meant for the next machine only (RFC 9110 section 7.6.1).
    pub(super) fn drop_hop_by_hop(&mut self) {
        let named: Vec<String> = self
            .0
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(','))
            .map(|word| word.trim().to_owned())
            .collect();
        let always = [
            "connection",
            "proxy-connection",
            "keep-alive",
            "te",
            "trailer",
        ];
        let more = ["upgrade", "proxy-authorization", "transfer-encoding"];
        for name in always.into_iter().chain(more) {
            self.remove(name);
        }
        named.iter().for_each(|name| self.remove(name));
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            write!(f, "{name}: {value}\r\n")?;
        }
        f.write_str("\r\n")
    }
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    /// The minor version of HTTP/1.
    pub(super) minor: u8,
    pub(super) fields: Fields,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) minor: u8,
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) fields: Fields,
}

impl Request {
    /// Reads a head from the beginning of `bytes` and gives its length too; `None` when it is not all there yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some((start, fields, length)) = parse(bytes)? else {
            return Ok(None);
        };
        let mut words = start.split(' ');
        let (method, target) = (words.next(), words.next());
        let minor = words.next().and_then(minor_version);
        let (Some(method), Some(target), Some(minor), None) = (method, target, minor, words.next())
        else {
            return Err(Malformed("the request line"));
        };
        let request = Self {
            method: method.into(),
            target: target.into(),
            minor,
            fields,
        };
        Ok(Some((request, length)))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self {
            method,
            target,
            minor,
            fields,
        } = self;
        latin1(&format!("{method} {target} HTTP/1.{minor}\r\n{fields}"))
    }
}

impl Answer {
    /// An answer of the box's own.
    pub(super) fn own(status: u16, reason: &str) -> Self {
        let fields = vec![("Server".into(), "stubborn".into())];
        Self {
            minor: 1,
            status,
            reason: reason.into(),
            fields: Fields(fields),
        }
    }

    /// As [`Request::parse`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some((start, fields, length)) = parse(bytes)? else {
            return Ok(None);
        };
        let mut words = start.splitn(3, ' ');
        let minor = words.next().and_then(minor_version);
        let status = words.next().and_then(|word| word.parse().ok());
        let (Some(minor), Some(status)) = (minor, status) else {
            return Err(Malformed("the status line"));
        };
        let reason = words.next().unwrap_or_default().into();
        let answer = Self {
            minor,
            status,
            reason,
            fields,
        };
        Ok(Some((answer, length)))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self {
            minor,
            status,
            reason,
            fields,
        } = self;
        latin1(&format!("HTTP/1.{minor} {status} {reason}\r\n{fields}"))
    }
}

fn minor_version(word: &str) -> Option<u8> {
    match word {
        "HTTP/1.0" => Some(0),
        "HTTP/1.1" => Some(1),
        _ => None,
    }
}

/// The characters of `text` as the bytes of the same number.
fn latin1(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(c).unwrap_or(b'?'))
        .collect()
}

fn parse(bytes: &[u8]) -> Result<Option<(String, Fields, usize)>, Malformed> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        if bytes.len() > LONGEST {
            return Err(Malformed("a head without an end"));
        }
        return Ok(None);
    };
    let text: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':').ok_or(Malformed("a header field"))?;
        Ok((name.to_owned(), value.trim().to_owned()))
    };
    let fields = lines.map(field).collect::<Result<_, _>>()?;
    Ok(Some((start, Fields(fields), end + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete_and_written_as_it_was() {
        let text = b"POST http://r:8080/x HTTP/1.1\r\nHost: r\r\nX-Odd:  \xe9 \r\n\r\nbody";
        for length in 0..text.len() - 4 {
            assert_eq!(Request::parse(&text[..length]), Ok(None));
        }
        let (request, length) = Request::parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"body");
        assert_eq!(request.fields.get("x-odd"), Some("\u{e9}"));
        let written = request.to_bytes();
        assert_eq!(
            written,
            b"POST http://r:8080/x HTTP/1.1\r\nHost: r\r\nX-Odd: \xe9\r\n\r\n"
        );
        let (answer, _) = Answer::parse(b"HTTP/1.0 404 Not Found\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!((answer.minor, answer.status), (0, 404));
        assert_eq!(answer.to_bytes(), b"HTTP/1.0 404 Not Found\r\n\r\n");
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "PRI * HTTP/2.0\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nodd\r\n\r\n",
        ] {
            assert!(Request::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Request::parse(&[b'a'; LONGEST + 1]).is_err());
    }

    #[test]
    fn fields_for_the_next_machine_are_left_out() {
        let text = "GET / HTTP/1.1\r\nConnection: X-Mine, close\r\nx-mine: 1\r\nTE: trailers\r\nCookie: a\r\n\r\n";
        let (mut request, _) = Request::parse(text.as_bytes()).unwrap().unwrap();
        assert!(request.fields.says("connection", "CLOSE"));
        request.fields.drop_hop_by_hop();
        assert_eq!(request.fields.0, [("Cookie".to_owned(), "a".to_owned())]);
    }
}
