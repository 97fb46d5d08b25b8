//! Heads of requests and answers (RFC 9112 sections 2 to 6). Pure.

use bytes::{Bytes, BytesMut};

use super::Garbled;
use super::body::Body;

/// The longest head, in bytes: servers take a half or a quarter of it.
pub(super) const MAX_HEAD: usize = 64 << 10;

/// A line of a head: its name, and what stands behind the colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    name: Bytes,
    pub(super) value: Bytes,
}

impl Field {
    /// Whether it is of this name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// A head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    start: Bytes,
    pub(super) fields: Vec<Field>,
}

/// Takes a whole head off the front of `buffer`, or nothing until more has come. Empty lines before it are dropped (RFC 9112
/// section 2.2).
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Head>, Garbled> {
    let begin = buffer.iter().position(|byte| !b"\r\n".contains(byte));
    let _ = buffer.split_to(begin.unwrap_or(buffer.len()));
    match end(buffer) {
        Some(end) if end <= MAX_HEAD => Head::read(&buffer.split_to(end).freeze()).map(Some),
        None if buffer.len() <= MAX_HEAD => Ok(None),
        _ => Err(Garbled("a head without an end")),
    }
}

/// Where the empty line ends that ends a head.
fn end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let line = from + bytes[from..].iter().position(|byte| *byte == b'\n')? + 1;
        match &bytes[line..] {
            [b'\n', ..] => return Some(line + 1),
            [b'\r', b'\n', ..] => return Some(line + 2),
            _ => from = line,
        }
    }
}

impl Head {
    fn read(bytes: &Bytes) -> Result<Self, Garbled> {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            bytes.slice_ref(line)
        });
        let start = lines.next().ok_or(Garbled("no first line"))?;
        let mut fields = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            fields.push(field(&line)?);
        }
        let odd = |text: &Bytes| text.iter().any(|byte| b"\r\0".contains(byte));
        if odd(&start) || fields.iter().any(|field| odd(&field.value)) {
            return Err(Garbled("a control character"));
        }
        Ok(Self { start, fields })
    }

    /// The method of a request.
    pub(super) fn method(&self) -> &[u8] {
        self.start
            .split(|byte| *byte == b' ')
            .next()
            .unwrap_or_default()
    }

    /// Whether it begins as a request of HTTP/1 does.
    pub(super) fn is_request(&self) -> bool {
        let last = self.start.rsplit(|byte| *byte == b' ').next();
        last.is_some_and(|last| last.starts_with(b"HTTP/1.")) && !self.method().is_empty()
    }

    /// The status of an answer.
    pub(super) fn status(&self) -> Result<u16, Garbled> {
        let mut words = self.start.split(|byte| *byte == b' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().unwrap_or_default();
        let status = std::str::from_utf8(status)
            .ok()
            .and_then(|it| it.parse().ok());
        let sound = version.starts_with(b"HTTP/1.");
        status
            .filter(|status| sound && (100..1000).contains(status))
            .ok_or(Garbled("no status line"))
    }

    /// The value of the only field of this name.
    pub(super) fn only(&self, name: &str) -> Result<Option<&Bytes>, Garbled> {
        let mut found = self.fields.iter().filter(|field| field.is(name));
        let first = found.next().map(|field| &field.value);
        match found.next() {
            None => Ok(first),
            Some(_) => Err(Garbled("a field that may stand once stands twice")),
        }
    }

    /// Puts a field at the front.
    pub(super) fn add(&mut self, name: &'static str, value: Bytes) {
        let name = Bytes::from_static(name.as_bytes());
        self.fields.insert(0, Field { name, value });
    }

    /// How long the body is that follows, by the fields alone; nothing where they do not say.
    pub(super) fn body(&self, is_request: bool) -> Result<Option<Body>, Garbled> {
        let values = |name: &'static str| {
            let fields = self.fields.iter().filter(move |field| field.is(name));
            fields.flat_map(|field| field.value.split(|byte| *byte == b','))
        };
        let coding = values("transfer-encoding").last();
        let mut lengths = values("content-length").map(<[u8]>::trim_ascii);
        match (coding, lengths.next()) {
            (Some(_), Some(_)) => Err(Garbled("a length and a transfer coding")),
            (Some(coding), None) if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => {
                Ok(Some(Body::chunked()))
            }
            (Some(_), None) if is_request => Err(Garbled("an unknown transfer coding")),
            (Some(_), None) => Ok(Some(Body::UntilEnd)),
            (None, Some(length)) => {
                if lengths.any(|other| other != length) {
                    return Err(Garbled("two lengths"));
                }
                let digits = length.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(length).ok().filter(|_| digits);
                let length = length.and_then(|length| length.parse().ok());
                length
                    .map(|length| Some(Body::Length(length)))
                    .ok_or(Garbled("a length that is none"))
            }
            (None, None) => Ok(None),
        }
    }

    /// Writes it out.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.start);
        for Field { name, value } in &self.fields {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn field(line: &Bytes) -> Result<Field, Garbled> {
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(Garbled("a line without a colon"))?;
    // A blank before the colon, or a line that goes on from the one before, is read in different ways by different servers.
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if colon == 0 || !line[..colon].iter().all(is_token) {
        return Err(Garbled("the name of a field"));
    }
    Ok(Field {
        name: line.slice(..colon),
        value: line.slice_ref(line[colon + 1..].trim_ascii()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Head>, Garbled> {
        take(&mut text.as_bytes().into())
    }

    fn body(fields: &str, is_request: bool) -> Result<Option<Body>, Garbled> {
        let head = read(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).unwrap();
        head.unwrap().body(is_request)
    }

    #[test]
    fn a_head_is_taken_with_its_end_and_no_more() {
        let mut buffer = BytesMut::from("\r\nGET / HTTP/1.1\r\nHost:a\r\nx:  y \r\n\r\nbody");
        let head = take(&mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..], b"body");
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(out, b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n");
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
        assert!(read("GET / HTTP/1.1\nHost: a\n\n").unwrap().is_some());
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Host : a\r\n",
            " x: y\r\n",
            "nothing\r\n",
            ": x\r\n",
            "x: a\rb\r\n",
        ] {
            assert!(
                read(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).is_err(),
                "{fields:?}"
            );
        }
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1, 2\r\n",
            "Content-Length: +1\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
        ] {
            assert!(body(fields, true).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn bodies() {
        assert_eq!(body("", true), Ok(None));
        assert_eq!(
            body("Content-Length: 5, 5\r\n", true),
            Ok(Some(Body::Length(5)))
        );
        let chunked = Ok(Some(Body::chunked()));
        assert_eq!(body("Transfer-Encoding: gzip, Chunked\r\n", true), chunked);
        assert_eq!(
            body("Transfer-Encoding: gzip\r\n", false),
            Ok(Some(Body::UntilEnd))
        );
    }

    #[test]
    fn a_head_without_an_end_is_given_up() {
        let mut buffer = BytesMut::from(&vec![b'x'; MAX_HEAD][..]);
        assert_eq!(take(&mut buffer), Ok(None));
        buffer.extend_from_slice(b"x");
        assert!(take(&mut buffer).is_err());
    }
}
