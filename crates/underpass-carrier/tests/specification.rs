//! Holds the page about carriers against the code: its exchanges are spoken with a real server, and
//! the requests of the real client stand in it.

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rig::{Rig, SCHEMES, close, recv_exactly, recv_to_end, send, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use underpass_carrier::span::{self, Decoder, Event};
use underpass_carrier::{Carrier, IdPlace, KINDS};

const ID: &str = "00112233445566778899aabbccddeeff";

/// The blocks of one sort in the page, by the rest of their first line.
fn blocks(sort: &str) -> BTreeMap<String, Vec<String>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/protocol-carriers.md"
    );
    let page = std::fs::read_to_string(path).expect("the page");
    let mut blocks = BTreeMap::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(tag) = line.strip_prefix("```").and_then(|l| l.strip_prefix(sort)) else {
            continue;
        };
        let inside = lines.by_ref().take_while(|line| *line != "```");
        let inside = inside.map(str::to_owned).collect();
        blocks.insert(tag.trim().to_owned(), inside);
    }
    assert!(!blocks.is_empty());
    blocks
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
    digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
}

/// The bytes of a line behind its mark: text with its end, or hexadecimal digits.
fn bytes_of(line: &str, mark: char) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(mark)?;
    Some(match rest.strip_prefix(mark) {
        Some(digits) => hex(digits),
        None => format!("{}\r\n", rest.strip_prefix(' ').unwrap_or(rest)).into_bytes(),
    })
}

/// Puts the date of the page (RFC 9110 section 5.6.7) where the server's stands.
fn with_fixed_date(mut answer: Vec<u8>) -> Vec<u8> {
    const FIXED: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let field = b"\r\ndate: ";
    let places: Vec<usize> = answer
        .windows(field.len())
        .enumerate()
        .filter_map(|(at, window)| (window == field).then_some(at + field.len()))
        .collect();
    for at in places {
        answer[at..at + FIXED.len()].copy_from_slice(FIXED);
    }
    answer
}

/// Speaks one exchange of the page.
async fn speak(name: &str, lines: &[String]) {
    let mut rig = Rig::new().await;
    let mut connections: BTreeMap<&str, TcpStream> = BTreeMap::new();
    let mut current = "";
    let mut carrier: Option<Carrier> = None;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let run = |mark| {
            let of_this_mark = lines[at..].iter().map_while(|line| bytes_of(line, mark));
            let parts: Vec<Vec<u8>> = of_this_mark.collect();
            (parts.len().max(1), parts.concat())
        };
        let mut count = 1;
        if let Some(number) = line.strip_prefix("# connection ") {
            current = number;
            if !connections.contains_key(number) {
                let port = rig.port(SCHEMES[0]);
                let connected = within(TcpStream::connect(("127.0.0.1", port))).await;
                connections.insert(number, connected.expect("connected"));
            }
        } else if let Some(action) = line.strip_prefix("= ") {
            act(&mut rig, &mut carrier, action).await;
        } else if line.starts_with('>') {
            let bytes;
            (count, bytes) = run('>');
            let stream = connections.get_mut(current).expect("a connection");
            within(stream.write_all(&bytes)).await.expect("written");
        } else {
            let wanted;
            (count, wanted) = run('<');
            assert!(!wanted.is_empty(), "{name}: {line}");
            let stream = connections.get_mut(current).expect("a connection");
            let found = read_as(stream, &wanted).await;
            assert_eq!(
                found.escape_ascii().to_string(),
                wanted.escape_ascii().to_string(),
                "{name}"
            );
        }
        at += count;
    }
    // Nothing more may have come.
    for stream in connections.values_mut() {
        let more = stream.try_read(&mut [0; 64]);
        assert!(!matches!(more, Ok(1..)), "{name}: {more:?}");
    }
}

/// As many bytes as `wanted`, or up to the first difference.
async fn read_as(stream: &mut TcpStream, wanted: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while found.len() < wanted.len() {
        let mut chunk = vec![0; wanted.len() - found.len()];
        let count = within(stream.read(&mut chunk)).await.expect("read");
        if count == 0 {
            break;
        }
        found.extend_from_slice(&chunk[..count]);
        let fixed = with_fixed_date(found.clone());
        // The answer's head comes in one piece, so its date is whole; waiting on would hang.
        if !wanted.starts_with(&fixed) {
            return fixed;
        }
    }
    with_fixed_date(found)
}

async fn act(rig: &mut Rig, carrier: &mut Option<Carrier>, action: &str) {
    if action == "takes a carrier" {
        *carrier = within(rig.server.accept()).await;
        return;
    }
    let carrier = carrier.as_mut().expect("a carrier");
    match action.split_once(' ') {
        Some(("reads", text)) => {
            assert_eq!(recv_exactly(carrier, text.len()).await, text.as_bytes());
        }
        Some(("writes", text)) => {
            let mut queue = [Bytes::copy_from_slice(text.as_bytes())].into();
            rig::send_queue(&mut *carrier.sink, &mut queue)
                .await
                .expect("alive");
        }
        Some(("sees", "the end")) => assert!(recv_to_end(carrier).await.expect("clean").is_empty()),
        Some(("begins", "to end")) => {
            // Finished by the poll that comes next.
            poll_fn(|cx| {
                let _ = carrier.sink.poll_close(cx);
                std::task::Poll::Ready(())
            })
            .await;
        }
        None if action == "ends" => close(carrier).await.expect("closed"),
        _ => panic!("nobody knows how to {action:?}"),
    }
}

#[tokio::test]
async fn the_server_speaks_as_the_page_says() {
    for (name, lines) in blocks("exchange") {
        speak(&name, &lines).await;
    }
}

/// Puts `by` where a row of exactly `len` hexadecimal digits stands.
fn replace_word(line: &str, len: usize, by: &str) -> String {
    let parts = line.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let replaced = parts.map(|part| {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = word.len() == len && word.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id {
            part.replace(word, by)
        } else {
            part.to_owned()
        }
    });
    replaced.collect()
}

/// Puts the page's names where a client's random ones stand.
fn normalised(head: &str) -> String {
    let mut out = Vec::new();
    for line in head.split("\r\n").take_while(|line| !line.is_empty()) {
        let line = match line.split_once(": ") {
            Some(("host", _)) => "host: relay.example".to_owned(),
            Some(("cookie", _)) => format!("cookie: sid={ID}"),
            Some(("sec-websocket-key", _)) => {
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==".to_owned()
            }
            _ => line.to_owned(),
        };
        let line = replace_word(&line, 32, ID);
        out.push(match line.contains("?u=") || line.contains("&u=") {
            true => replace_word(&line, 16, "0123456789abcdef"),
            false => line,
        });
    }
    out.join("\n")
}

/// Passes connections on to `port` and keeps the heads of the requests on them.
async fn overhear(listener: TcpListener, port: u16, heads: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        let (mut client, _) = listener.accept().await.expect("a client");
        let heads = Arc::clone(&heads);
        tokio::spawn(async move {
            let mut server = TcpStream::connect(("127.0.0.1", port))
                .await
                .expect("server");
            let (mut from, mut to) = client.split();
            let (mut back_from, mut back_to) = server.split();
            let forward = async {
                let mut seen = Vec::new();
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut chunk).await {
                    seen.extend_from_slice(&chunk[..count]);
                    keep_heads(&seen, &heads);
                    let _ = back_to.write_all(&chunk[..count]).await;
                }
            };
            let backward = tokio::io::copy(&mut back_from, &mut to);
            tokio::select! {
                () = forward => {}
                _ = backward => {}
            }
        });
    }
}

fn keep_heads(seen: &[u8], heads: &Mutex<BTreeSet<String>>) {
    let text = String::from_utf8_lossy(seen);
    for method in ["GET /", "POST /", "DELETE /"] {
        for (at, _) in text.match_indices(method) {
            if let Some(len) = text[at..].find("\r\n\r\n") {
                let head = normalised(&text[at..at + len + 4]);
                heads.lock().expect("no panic").insert(head);
            }
        }
    }
}

/// The heads of requests in the page.
fn heads_of_the_page() -> BTreeSet<String> {
    let mut heads = BTreeSet::new();
    for lines in blocks("exchange").values() {
        let sent: Vec<&str> = lines
            .iter()
            .map(|line| line.strip_prefix('>').map_or("", str::trim_start))
            .collect();
        for head in sent.split(|line| line.is_empty()) {
            if head.first().is_some_and(|line| line.ends_with(" HTTP/1.1")) {
                heads.insert(head.join("\n"));
            }
        }
    }
    heads
}

#[tokio::test]
async fn the_requests_of_the_page_are_those_of_the_client() {
    let mut rig = Rig::new().await;
    let heads = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let overhearing = overhear(listener, rig.port(SCHEMES[0]), Arc::clone(&heads));
    let overhearing = tokio::spawn(overhearing);
    let url = format!("http://{address}").parse().expect("an address");
    for place in [IdPlace::Url, IdPlace::Cookie] {
        rig.client.id_place = place;
        for kind in KINDS {
            let (mut client, mut server) = rig.pair_to(kind, &url).await;
            send(&mut server, b"down").await.expect("alive");
            assert_eq!(recv_exactly(&mut client, 4).await, b"down");
            let (closed, read) = tokio::join!(close(&mut client), recv_to_end(&mut server));
            closed.and(read).expect("a clean end");
            let (closed, read) = tokio::join!(close(&mut server), recv_to_end(&mut client));
            closed.and(read).expect("a clean end");
        }
    }
    // What a client says last, it says after it is gone.
    rig::http::until(|| rig.server.load() == (0, 0)).await;
    let heads: BTreeSet<String> = std::mem::take(&mut heads.lock().expect("no panic"));
    for head in heads_of_the_page() {
        let refused = head.contains("/upgrade ") && !head.contains("upgrade: ");
        assert!(
            heads.contains(&head) || refused,
            "no client says\n{head}\nbut\n{heads:#?}"
        );
    }
    overhearing.abort();
}

/// The fields of a request's head, as the page shows them.
fn fields_of(head: &http::request::Parts) -> Vec<String> {
    let authority = head.uri.authority().map(|_| "relay.example");
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let mut fields = vec![
        format!(":method {}", head.method),
        format!(":scheme {}", head.uri.scheme_str().unwrap_or("")),
        format!(":authority {}", authority.unwrap_or("")),
        replace_word(&format!(":path {path}"), 32, ID),
    ];
    fields.extend(lines_of(&head.headers));
    fields
}

fn lines_of(headers: &http::HeaderMap) -> Vec<String> {
    let lines = headers.iter().filter(|(name, _)| *name != "date");
    lines
        .map(|(name, value)| format!("{name} {}", value.to_str().expect("text")))
        .collect()
}

/// The lines of a block that begin with this mark and are no bytes.
fn fields_in(lines: &[String], mark: &str) -> Vec<String> {
    let fields = lines.iter().filter_map(|line| line.strip_prefix(mark));
    fields.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_http2_requests_of_the_page_are_those_of_the_client() {
    let rig = Rig::new().await;
    for (name, lines) in blocks("http2") {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (heard, mut heads) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let service = hyper::service::service_fn(move |request| {
                let heard = heard.clone();
                async move {
                    let (head, _): (_, hyper::body::Incoming) = http::Request::into_parts(request);
                    heard.send(head).await.expect("awaited");
                    Err::<http::Response<String>, _>("heard enough")
                }
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = hyper_util::rt::TokioIo::new(stream);
            let server = hyper::server::conn::http2::Builder::new(executor);
            let _ = server.serve_connection(io, service).await;
        });
        let url = format!("http://{address}").parse().expect("an address");
        let kind = underpass_carrier::kind_by_name(&name).expect("a kind");
        let failed = underpass_carrier::connect(&url, kind, &rig.client).await;
        failed.expect_err("nobody answered");
        let head = heads.recv().await.expect("a request");
        assert_eq!(fields_of(&head), fields_in(&lines, "> "));
    }
}

#[tokio::test]
async fn the_server_speaks_http2_as_the_page_says() {
    for lines in blocks("http2").values() {
        let mut rig = Rig::new().await;
        let stream = TcpStream::connect(("127.0.0.1", rig.port(SCHEMES[0]))).await;
        let io = hyper_util::rt::TokioIo::new(stream.expect("connected"));
        let executor = hyper_util::rt::TokioExecutor::new();
        let handshake = hyper::client::conn::http2::handshake(executor, io).await;
        let (mut sender, connection) = handshake.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = http::Request::builder();
        for field in fields_in(lines, "> ") {
            request = match field.split_once(' ').expect("name and value") {
                (":method", method) => request.method(method),
                (":path", path) => request.uri(format!("http://relay.example{path}")),
                (name, _) if name.starts_with(':') => request,
                (name, value) => request.header(name, value),
            };
        }
        let (sending, mut pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
        let body = futures_util::stream::poll_fn(move |cx| {
            let frame = |bytes| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes));
            pieces.poll_recv(cx).map(|bytes| bytes.map(frame))
        });
        let body = http_body_util::StreamBody::new(body);
        let request = request.body(body).expect("a request");
        let mut answer = None;
        let mut answering = Some(tokio::spawn(sender.send_request(request)));
        let mut carrier = None;
        for line in lines {
            if let Some(digits) = line.strip_prefix(">>") {
                sending.send(hex(digits).into()).await.expect("alive");
            } else if let Some(digits) = line.strip_prefix("<<") {
                let wanted = hex(digits);
                let body: &mut hyper::body::Incoming = answer.as_mut().expect("answered");
                let mut found = Vec::new();
                while found.len() < wanted.len() {
                    let frame = within(http_body_util::BodyExt::frame(body)).await;
                    let data = frame.expect("not the end").expect("alive").into_data();
                    found.extend_from_slice(&data.expect("bytes"));
                }
                assert_eq!(found, wanted);
            } else if let Some(action) = line.strip_prefix("= ") {
                act(&mut rig, &mut carrier, action).await;
            } else if line.starts_with("< ")
                && let Some(answering) = answering.take()
            {
                let response = within(answering)
                    .await
                    .expect("no panic")
                    .expect("answered");
                let (head, body) = response.into_parts();
                let mut fields = vec![format!(":status {}", head.status.as_u16())];
                fields.extend(lines_of(&head.headers));
                assert_eq!(fields, fields_in(lines, "< "));
                answer = Some(body);
            }
        }
    }
}

#[test]
fn the_spans_of_the_page_are_read_as_it_says() {
    for lines in blocks("spans").values() {
        for line in lines {
            let (name, digits) = line.split_once(' ').expect("a name");
            let bytes = hex(digits);
            let mut decoder = Decoder::default();
            decoder.push(bytes.clone().into());
            let event = decoder.next_event().expect("a span").expect("whole");
            assert!(decoder.between_spans());
            let written = match (name, event) {
                ("data", Event::Data(data)) => [&span::data_header(data.len())[..], &data].concat(),
                ("end", Event::End) => span::end_span().to_vec(),
                ("number", Event::Number(number)) => span::number_span(number).to_vec(),
                ("filling", Event::Fill) if bytes.len() == 4 => span::empty_fill().to_vec(),
                ("filling", Event::Fill) => bytes.clone(),
                (name, event) => panic!("{name} is {event:?}"),
            };
            assert_eq!(written, bytes);
        }
    }
}
