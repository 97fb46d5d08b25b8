//! One function per parser and state machine of the carriers, for the fuzzer and for the test that
//! replays its corpus.
//!
//! Each takes any bytes, must not panic by itself, and asserts what holds for all input: what was
//! understood can be written and is then understood the same, how bytes are cut makes no difference,
//! bytes never change on their way, and what is kept has a bound.

mod numbered;
mod script;
mod server;

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

use crate::answers::read_answer as read;
use crate::coding::Coding;
use crate::error::CarrierError;
use crate::kind::kind_by_name;
pub use crate::proxy::fuzzing::{bypass, challenge, login, ntlm, pac, proxy_url};
use crate::request::{IdPlace, Part, parse_request};
use crate::span::{self, Decoder, Event, SpanBuf};
use crate::url::RelayUrl;
pub use numbered::{answers, uplink, window};
use script::Script;
pub use server::server;

/// One function of this module.
pub type Target = fn(&[u8]);

/// All of them, by the names of fuzz targets and corpus folders.
pub const TARGETS: &[(&str, Target)] = &[
    ("carrier_request", request),
    ("carrier_span", span),
    ("carrier_window", window),
    ("carrier_uplink", uplink),
    ("carrier_answers", answers),
    ("carrier_read_answer", read_answer),
    ("carrier_url", url),
    ("carrier_server", server),
    ("carrier_coding", coding),
    ("carrier_issuer", issuer),
    ("carrier_challenge", challenge),
    ("carrier_login", login),
    ("carrier_ntlm", ntlm),
    ("carrier_pac", pac),
    ("carrier_proxy_url", proxy_url),
    ("carrier_bypass", bypass),
];

/// What a request asks for: the first line is path and query, the second one the cookies; the first
/// byte chooses whether carriers live under a prefix.
pub fn request(data: &[u8]) {
    let Some((steer, text)) = data.split_first() else {
        return;
    };
    let prefix = if steer & 1 == 0 { "" } else { "/p" };
    let (target, cookies) = match text.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let Ok(target) = std::str::from_utf8(target) else {
        return;
    };
    let (path, query) = split_target(target);
    let Some(address) = parse_request(prefix, path, query, cookies) else {
        return;
    };
    assert!(path.starts_with(prefix) && !address.kind.contains('/'));
    assert!(address.id.is_some() || address.part == Part::Whole);
    if let Some(kind) = kind_by_name(address.kind) {
        assert_eq!(kind.name, address.kind);
    }
    for place in [IdPlace::Url, IdPlace::Cookie] {
        let written = address.to_target(prefix, place, 0x1234_5678_9abc_def0);
        let cookie = address.to_cookie(place);
        assert_eq!(
            cookie.is_some(),
            place == IdPlace::Cookie && address.id.is_some()
        );
        let (path, query) = split_target(&written);
        let back = parse_request(prefix, path, query, cookie.as_ref().map(String::as_bytes));
        assert_eq!(back, Some(address), "{written}");
    }
}

fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// Everything in a stream of spans, data joined; how it ended.
fn decode(bytes: &Bytes, chunk: usize) -> (Vec<Event>, Vec<u8>, Result<Decoder, String>) {
    let (mut events, mut data) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::default();
    let mut rest = bytes.clone();
    while rest.has_remaining() {
        decoder.push(rest.split_to(chunk.min(rest.len())));
        loop {
            match decoder.next_event() {
                Ok(Some(Event::Data(bytes))) => {
                    assert!(!bytes.is_empty() && !decoder.ended());
                    data.extend_from_slice(&bytes);
                }
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.code(), "protocol");
                    return (events, data, Err(error.to_string()));
                }
            }
        }
    }
    (events, data, Ok(decoder))
}

/// A stream of spans; the first byte is the length of its chunks.
pub fn span(data: &[u8]) {
    let Some((steer, rest)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    let (events, data, outcome) = decode(&bytes, usize::MAX);
    let (events_in_parts, data_in_parts, in_parts) = decode(&bytes, usize::from(*steer).max(1));
    assert_eq!((&events, &data), (&events_in_parts, &data_in_parts));
    let ends = events.iter().filter(|event| **event == Event::End).count();
    assert!(ends <= 1, "nothing follows an end");
    match (&outcome, &in_parts) {
        (Ok(whole), Ok(parts)) => {
            assert_eq!(whole.between_spans(), parts.between_spans());
            assert_eq!((whole.ended(), parts.ended()), (ends == 1, ends == 1));
        }
        (Err(whole), Err(parts)) => assert_eq!(whole, parts),
        _ => panic!("understood in one piece or in parts only"),
    }
    // What was read is written by our side in one span, and read the same.
    if !data.is_empty() {
        let chunks: VecDeque<Bytes> = [Bytes::from(data.clone())].into();
        let mut written = SpanBuf::data(chunks, data.len());
        let wire = written.copy_to_bytes(written.remaining());
        let (events, again, outcome) = decode(&wire, 3);
        assert!(events.is_empty() && outcome.is_ok_and(|decoder| decoder.between_spans()));
        assert_eq!(again, data);
    }
}

/// The body that a client gets for a poll; the first byte is the poll's number.
pub fn read_answer(data: &[u8]) {
    let Some((number, body)) = data.split_first() else {
        return;
    };
    let number = u64::from(*number);
    let received = match read(Bytes::copy_from_slice(body), number) {
        Ok(received) => received,
        Err(error) => return assert!(matches!(error, CarrierError::Protocol { .. })),
    };
    assert!(
        body.starts_with(&span::number_span(number)),
        "another poll's"
    );
    let len: usize = received.data.iter().map(Bytes::len).sum();
    assert!(len <= body.len() - span::number_span(number).len());
    let other = read(Bytes::copy_from_slice(body), number ^ 1);
    assert!(other.is_err(), "an answer is to one poll only");
    // An end is the last thing in a body; a body without one may be cut at its end, not inside.
    let more = [body, &span::empty_fill()[..]].concat();
    assert_eq!(read(more.into(), number).is_err(), received.end);
    let cut = Bytes::copy_from_slice(&body[..body.len() - 1]);
    assert!(read(cut, number).is_err(), "stops inside a span");
}

/// The body of a numbered request that came as text.
pub fn coding(data: &[u8]) {
    let read = |text: Vec<u8>| Coding::Text.read(text.into());
    let Ok(bytes) = read(data.to_vec()) else {
        return;
    };
    assert!(bytes.len() <= data.len());
    let mut body = Coding::Text.write([bytes.clone()].into());
    let text = body.copy_to_bytes(body.remaining());
    assert!(text.len() <= Coding::Text.written_len(bytes.len()) && text.is_ascii());
    // Boxes may change how its lines end.
    let mut folded = Vec::new();
    for byte in text {
        match byte {
            b'\n' => folded.extend_from_slice(b"\r\n "),
            _ => folded.push(byte),
        }
    }
    assert_eq!(read(folded).ok(), Some(bytes));
}

/// The certificate of whoever answers in the relay's place.
pub fn issuer(data: &[u8]) {
    if let Some(name) = crate::certificate::issuer(data) {
        assert!(!name.contains(char::is_control), "it goes to the terminal");
        assert!(name.len() <= data.len() * 3, "{name}");
    }
}

/// What somebody typed as the address of a relay.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(url) = text.parse::<RelayUrl>() else {
        return;
    };
    assert_eq!(url.to_string().parse(), Ok(url.clone()), "{url}");
    assert!(url.port() != 0 && !url.host().is_empty());
    assert!(url.prefix().is_empty() || url.prefix().starts_with('/'));
    assert!(!url.prefix().ends_with('/'));
    // All of it goes into the heads of requests, where nothing may start another line or field.
    let plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}#?".contains(c);
    assert!(url.authority().chars().all(plain), "{url}");
    assert!(url.prefix().chars().all(plain), "{url}");
    assert!(
        url.fingerprint()
            .is_none_or(|print| !print.contains(char::is_control)),
        "a fingerprint goes to the terminal"
    );
    let authority: http::uri::Authority = url.authority().parse().expect("an authority of HTTP");
    assert_eq!(
        authority.port_u16().is_none(),
        url.authority() == authority.host()
    );
    let uri: http::Uri = format!("{}/poll/x", url.prefix())
        .parse()
        .expect("a target of HTTP");
    assert_eq!(uri.path(), format!("{}/poll/x", url.prefix()));
}
