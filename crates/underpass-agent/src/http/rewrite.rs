//! What is changed in the heads of a connection, one request and answer after the other. Pure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::Garbled;
use super::body::Body;
use super::head::{self, Head};

/// The most requests that may be sent before the first of them is answered.
const MOST_REQUESTS: usize = 1000;

/// What an answer must know of its request.
#[derive(Debug)]
struct Asked {
    /// How the client called the server.
    host: Option<Bytes>,
    /// Whether the answer has no body, whatever it says.
    head_only: bool,
    /// CONNECT: once it is granted, what follows is no HTTP.
    connect: bool,
}

/// Where one direction stands.
#[derive(Debug)]
enum State {
    Head,
    Body(Body),
    /// No HTTP any more.
    Opaque,
}

/// One direction: where it stands, and what has come of its next head.
#[derive(Debug)]
struct Half {
    state: State,
    head: BytesMut,
}

impl Half {
    fn new() -> Self {
        Self {
            state: State::Head,
            head: BytesMut::new(),
        }
    }

    /// Passes bytes on up to the next head that is whole; what has come behind that is kept with the next one.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Head>, Garbled> {
        loop {
            match &mut self.state {
                State::Opaque => {
                    // Also what had come of a head before the other side said that there are no more.
                    out.extend_from_slice(&self.head.split());
                    out.extend_from_slice(bytes);
                    return Ok(None);
                }
                State::Body(body) => {
                    let (taken, ended) = body.take(bytes)?;
                    out.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if !ended {
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
                State::Head => {
                    self.head.extend_from_slice(bytes);
                    return head::take(&mut self.head);
                }
            }
        }
    }

    /// Goes on behind a head with what had come behind it.
    fn go_on(&mut self, state: State, out: &mut Vec<u8>) -> Result<Option<Head>, Garbled> {
        self.state = state;
        let rest = self.head.split();
        self.take(&rest, out)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// The server's name, with its port where that is not 80.
    server: Bytes,
    asked: VecDeque<Asked>,
    up: Half,
    down: Half,
}

impl Rewriter {
    /// To the server at `HOST:PORT`.
    pub(super) fn new(at: &str) -> Self {
        Self {
            server: without_port(at.as_bytes()).to_vec().into(),
            asked: VecDeque::new(),
            up: Half::new(),
            down: Half::new(),
        }
    }

    /// What the client says, as the server is to hear it.
    pub(super) fn client_says(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Garbled> {
        let mut head = self.up.take(bytes, out)?;
        while let Some(request) = head {
            let state = self.request(request, out)?;
            head = self.up.go_on(state, out)?;
        }
        Ok(())
    }

    /// What the server says, as the client is to hear it.
    pub(super) fn server_says(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Garbled> {
        let mut head = self.down.take(bytes, out)?;
        while let Some(answer) = head {
            let state = self.answer(answer, out)?;
            head = self.down.go_on(state, out)?;
        }
        Ok(())
    }

    /// Whether nothing was asked that is not answered: the client can be told something.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && matches!(self.down.state, State::Head) && self.down.head.is_empty()
    }

    fn request(&mut self, mut head: Head, out: &mut Vec<u8>) -> Result<State, Garbled> {
        if !head.is_request() {
            return Err(Garbled("no request line of HTTP/1"));
        }
        if self.asked.len() == MOST_REQUESTS {
            return Err(Garbled("too many requests that wait for an answer"));
        }
        let host = head.only("host")?.cloned();
        match &host {
            None => head.add("Host", self.server.clone()),
            Some(called) => {
                for field in &mut head.fields {
                    if field.is("host") {
                        field.value = self.server.clone();
                    } else if field.is("origin") || field.is("referer") {
                        replace(&mut field.value, called, &self.server);
                    }
                }
            }
        }
        let body = head.body(true)?;
        self.asked.push_back(Asked {
            host,
            head_only: head.method() == b"HEAD",
            connect: head.method() == b"CONNECT",
        });
        head.write(out);
        Ok(body
            .filter(|body| *body != Body::Length(0))
            .map_or(State::Head, State::Body))
    }

    fn answer(&mut self, mut head: Head, out: &mut Vec<u8>) -> Result<State, Garbled> {
        let status = head.status()?;
        // 1xx are no answers yet; 101 is the last one.
        let asked = match status {
            100 | 102..200 => self.asked.front(),
            _ => None,
        };
        let popped;
        let asked = match asked {
            Some(asked) => asked,
            None => {
                // A server that gives up on a silent client answers what was not asked.
                popped = self.asked.pop_front().unwrap_or(Asked {
                    host: None,
                    head_only: false,
                    connect: false,
                });
                &popped
            }
        };
        if let Some(called) = &asked.host {
            for field in &mut head.fields {
                if field.is("location") || field.is("content-location") {
                    replace(&mut field.value, &self.server, called);
                } else if field.is("set-cookie") {
                    host_only(&mut field.value, &self.server);
                }
            }
        }
        let (head_only, connect) = (asked.head_only, asked.connect);
        let body = head.body(false)?;
        head.write(out);
        Ok(match status {
            101 => self.opaque(),
            200..300 if connect => self.opaque(),
            100..200 | 204 | 304 => State::Head,
            _ if head_only => State::Head,
            _ => match body {
                Some(Body::Length(0)) => State::Head,
                Some(body) => State::Body(body),
                None => State::Body(Body::UntilEnd),
            },
        })
    }

    fn opaque(&mut self) -> State {
        self.up.state = State::Opaque;
        State::Opaque
    }
}

/// Without the port that everybody assumes.
fn without_port(authority: &[u8]) -> &[u8] {
    authority.strip_suffix(b":80").unwrap_or(authority)
}

/// Puts one authority in the place of another at the beginning of an address.
fn replace(value: &mut Bytes, from: &[u8], to: &[u8]) {
    const SCHEME: &[u8] = b"http://";
    let Some((scheme, rest)) = value.split_at_checked(SCHEME.len()) else {
        return;
    };
    let end = rest.iter().position(|byte| b"/?#".contains(byte));
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    let is_it = without_port(authority).eq_ignore_ascii_case(without_port(from));
    if scheme.eq_ignore_ascii_case(SCHEME) && is_it {
        *value = [SCHEME, to, path].concat().into();
    }
}

/// Takes the domain out of a cookie where it is the server's: the client would not take a cookie for another host than the
/// one it has asked.
fn host_only(value: &mut Bytes, server: &[u8]) {
    let host = server
        .split(|byte| *byte == b':')
        .next()
        .unwrap_or_default();
    let is_domain = |part: &[u8]| {
        let part = part.trim_ascii();
        let Some((name, domain)) = part.split_at_checked(b"domain=".len()) else {
            return false;
        };
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        let tail = host
            .len()
            .checked_sub(domain.len())
            .map(|at| host.split_at(at));
        name.eq_ignore_ascii_case(b"domain=")
            && tail.is_some_and(|(before, tail)| {
                tail.eq_ignore_ascii_case(domain) && (before.is_empty() || before.ends_with(b"."))
            })
    };
    if value.split(|byte| *byte == b';').skip(1).any(is_domain) {
        let mut parts = value.split(|byte| *byte == b';');
        let mut kept = parts.next().unwrap_or_default().to_vec();
        for part in parts.filter(|part| !is_domain(part)) {
            kept.push(b';');
            kept.extend_from_slice(part);
        }
        *value = kept.into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewriter() -> Rewriter {
        Rewriter::new("intranet.corp:80")
    }

    fn up(rewriter: &mut Rewriter, text: &str) -> String {
        let mut out = Vec::new();
        rewriter.client_says(text.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn down(rewriter: &mut Rewriter, text: &str) -> String {
        let mut out = Vec::new();
        rewriter.server_says(text.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const ASK: &str = "GET /a HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

    #[test]
    fn the_server_hears_its_own_name() {
        let mut rewriter = rewriter();
        let asked = "POST /a HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nOrigin: http://127.0.0.1:8080\r\n\
                     Referer: http://127.0.0.1:8080/form?x\r\nContent-Length: 4\r\n\r\nbody";
        let heard = "POST /a HTTP/1.1\r\nHost: intranet.corp\r\nOrigin: http://intranet.corp\r\n\
                     Referer: http://intranet.corp/form?x\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(up(&mut rewriter, asked), heard);
        // The next one on the same connection; of other sites nothing is changed.
        let other = "GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://elsewhere\r\n\r\n";
        assert_eq!(
            up(&mut rewriter, other),
            other.replace("Host: a", "Host: intranet.corp")
        );
        let bare = up(&mut rewriter, "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(bare, "GET / HTTP/1.0\r\nHost: intranet.corp\r\n\r\n");
        let mut other_port = Rewriter::new("[fd00::1]:8000");
        assert!(up(&mut other_port, ASK).contains("\r\nHost: [fd00::1]:8000\r\n"));
    }

    #[test]
    fn the_client_is_sent_where_it_can_go() {
        for (said, heard) in [
            (
                "Location: http://intranet.corp/b",
                "Location: http://127.0.0.1:8080/b",
            ),
            (
                "Location: http://Intranet.Corp:80/b",
                "Location: http://127.0.0.1:8080/b",
            ),
            (
                "Location: HTTP://intranet.corp",
                "Location: http://127.0.0.1:8080",
            ),
            (
                "Content-Location: http://intranet.corp?q",
                "Content-Location: http://127.0.0.1:8080?q",
            ),
            ("Location: /b", "Location: /b"),
            (
                "Location: https://intranet.corp/b",
                "Location: https://intranet.corp/b",
            ),
            (
                "Location: http://intranet.corp.evil/b",
                "Location: http://intranet.corp.evil/b",
            ),
            (
                "Location: http://x@intranet.corp/b",
                "Location: http://x@intranet.corp/b",
            ),
            (
                "Set-Cookie: a=b; Domain=intranet.corp; Path=/",
                "Set-Cookie: a=b; Path=/",
            ),
            ("Set-Cookie: a=b; domain=.corp", "Set-Cookie: a=b"),
            (
                "Set-Cookie: a=b; Domain=net.corp",
                "Set-Cookie: a=b; Domain=net.corp",
            ),
            ("Set-Cookie: domain=corp", "Set-Cookie: domain=corp"),
        ] {
            let mut rewriter = rewriter();
            up(&mut rewriter, ASK);
            let answer =
                |line: &str| format!("HTTP/1.1 302 Found\r\n{line}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(down(&mut rewriter, &answer(said)), answer(heard));
            assert!(rewriter.is_idle());
        }
    }

    /// What has no body by its nature has none whatever it says, and the next answer is found behind it.
    #[test]
    fn answers_belong_to_their_requests() {
        let mut rewriter = rewriter();
        let ask = |method: &str, host: &str| format!("{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        up(
            &mut rewriter,
            &(ask("HEAD", "a") + &ask("GET", "b") + &ask("GET", "c")),
        );
        let said = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\
                    HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
                    HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nLocation: http://intranet.corp/\r\n\r\n\
                    3\r\nabc\r\n0\r\n\r\n\
                    HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nLocation: http://intranet.corp/\r\n\r\n";
        let heard = said
            .replacen("http://intranet.corp/", "http://b/", 1)
            .replacen("http://intranet.corp/", "http://c/", 1);
        assert_eq!(down(&mut rewriter, said), heard);
        assert!(rewriter.is_idle());
    }

    #[test]
    fn after_an_upgrade_nothing_is_read() {
        let mut rewriter = rewriter();
        up(
            &mut rewriter,
            "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        );
        let said = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01GET";
        assert_eq!(down(&mut rewriter, said), said);
        assert_eq!(
            up(&mut rewriter, "\x02no HTTP\r\n\r\n"),
            "\x02no HTTP\r\n\r\n"
        );
    }

    #[test]
    fn what_is_no_http_1_is_refused() {
        for text in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
            "GET /\r\n\r\n",
        ] {
            assert!(
                rewriter()
                    .client_says(text.as_bytes(), &mut Vec::new())
                    .is_err()
            );
        }
        let twice = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        assert!(
            rewriter()
                .client_says(twice.as_bytes(), &mut Vec::new())
                .is_err()
        );
        assert!(
            rewriter()
                .server_says(b"SSH-2.0-x\r\n\r\n", &mut Vec::new())
                .is_err()
        );
    }

    const CONVERSATION: [&str; 2] = [
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nGET /\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 F\r\nLocation: http://intranet.corp/\r\nContent-Length: 3\r\n\r\nabc\
         HTTP/1.1 200 OK\r\n\r\nuntil the end",
    ];

    proptest! {
        #[test]
        fn pieces_make_no_difference(cuts in prop::collection::vec(0usize..200, 0..10)) {
            let (mut whole, mut pieces) = (rewriter(), rewriter());
            for (said, is_client) in CONVERSATION.iter().zip([true, false]) {
                let mut wanted = Vec::new();
                let mut found = Vec::new();
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&said.len())).collect();
                cuts.extend([0, said.len()]);
                cuts.sort_unstable();
                let bytes = said.as_bytes();
                if is_client {
                    whole.client_says(bytes, &mut wanted).unwrap();
                } else {
                    whole.server_says(bytes, &mut wanted).unwrap();
                }
                for pair in cuts.windows(2) {
                    let piece = &bytes[pair[0]..pair[1]];
                    if is_client {
                        pieces.client_says(piece, &mut found).unwrap();
                    } else {
                        pieces.server_says(piece, &mut found).unwrap();
                    }
                }
                prop_assert_eq!(found, wanted);
            }
        }

        #[test]
        fn garbage_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for before in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"] {
                let said = [before.as_bytes(), &bytes].concat();
                let _ = rewriter().client_says(&said, &mut Vec::new());
            }
            let _ = rewriter().server_says(&bytes, &mut Vec::new());
        }
    }
}
