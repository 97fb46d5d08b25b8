//! HTTP/2 to the server: both protocols on one port, and frames that a client of ours never sends.

mod rig;

use std::time::Duration;

use rig::http::{Http, until};
use rig::{Rig, SCHEMES, recv_exactly, send, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use underpass_carrier::{Carrier, ServerSettings, connect, kind_by_name};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not indexed, as it is (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).expect("below 127");
    let mut out = vec![0, length(name)];
    out.extend(name.bytes());
    out.push(length(value));
    out.extend(value.bytes());
    out
}

fn request(method: &str, path: &str) -> Vec<u8> {
    [
        field(":method", method),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "relay"),
    ]
    .concat()
}

/// Connects and says what HTTP/2 begins with.
async fn begin(port: u16) -> TcpStream {
    let stream = within(TcpStream::connect(("127.0.0.1", port))).await;
    let mut stream = stream.expect("connected");
    stream.write_all(PREFACE).await.expect("sent");
    let settings = frame(SETTINGS, 0, 0, &[]);
    stream.write_all(&settings).await.expect("sent");
    stream
}

/// Kinds of the frames that come until the server closes, or resets.
async fn kinds_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = within(stream.read_to_end(&mut all)).await;
    let (mut kinds, mut rest) = (Vec::new(), &all[..]);
    while let Some((head, behind)) = rest.split_at_checked(9) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        kinds.push(head[3]);
        rest = behind.get(len..).unwrap_or(&[]);
    }
    kinds
}

/// A carrier that nothing of this may harm.
async fn bystander(rig: &mut Rig) -> (Carrier, Carrier) {
    let kind = kind_by_name("h2").expect("known");
    rig.pair(kind, SCHEMES[0]).await
}

async fn check((client, server): &mut (Carrier, Carrier)) {
    send(client, b"ping").await.expect("unharmed");
    assert_eq!(recv_exactly(server, 4).await, b"ping");
    send(server, b"pong").await.expect("unharmed");
    assert_eq!(recv_exactly(client, 4).await, b"pong");
}

async fn rig(change: impl FnOnce(&mut ServerSettings)) -> Rig {
    let mut settings = ServerSettings::default();
    change(&mut settings);
    Rig::with(settings).await
}

#[tokio::test]
async fn a_preface_that_comes_in_parts_is_recognised() {
    let rig = rig(|settings| settings.header_timeout = Duration::from_secs(1)).await;
    let stream = TcpStream::connect(("127.0.0.1", rig.port(SCHEMES[0]))).await;
    let mut stream = stream.expect("connected");
    stream.set_nodelay(true).expect("set");
    for part in PREFACE.chunks(5) {
        stream.write_all(part).await.expect("sent");
        tokio::task::yield_now().await;
    }
    stream
        .write_all(&frame(SETTINGS, 0, 0, &[]))
        .await
        .expect("sent");
    let mut head = [0; 9];
    within(stream.read_exact(&mut head))
        .await
        .expect("answered");
    assert_eq!(head[3], SETTINGS);
    // What only begins like it is HTTP/1.1.
    let answer = rig::http::raw(rig.port(SCHEMES[0]), b"PRI * HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 "));
}

#[tokio::test]
async fn pages_and_refusals_come_over_both_protocols() {
    let rig = rig(|settings| settings.header_timeout = Duration::from_millis(300)).await;
    let port = rig.port(SCHEMES[0]);
    let mut http = Http::connect(port).await;
    assert_eq!(http.ask("GET", "/", b"").await.status, 404);
    let mut stream = begin(port).await;
    let head = request("GET", "/");
    let asked = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head);
    let leave = frame(GOAWAY, 0, 0, &[0; 8]);
    stream
        .write_all(&[asked, leave].concat())
        .await
        .expect("sent");
    let kinds = kinds_until_closed(&mut stream).await;
    assert!(
        kinds.contains(&HEADERS) && kinds.contains(&DATA),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn a_flood_of_requests_that_are_taken_back_ends_its_connection() {
    let mut rig = rig(|_| ()).await;
    let mut beside = bystander(&mut rig).await;
    let mut stream = begin(rig.port(SCHEMES[0])).await;
    let head = request("POST", "/h2");
    let mut flood = Vec::new();
    for index in 0..2_000u32 {
        let id = 2 * index + 1;
        flood.extend(frame(HEADERS, END_HEADERS, id, &head));
        flood.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
    }
    // It may be cut in the middle of it.
    let _ = stream.write_all(&flood).await;
    kinds_until_closed(&mut stream).await;
    until(|| rig.server.load().1 == 0).await;
    check(&mut beside).await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_half_made_ones_counted() {
    let mut rig = rig(|settings| {
        settings.first_byte_timeout = Duration::from_millis(300);
        settings.header_timeout = Duration::from_millis(300);
    })
    .await;
    let mut beside = bystander(&mut rig).await;
    let mut stream = begin(rig.port(SCHEMES[0])).await;
    let head = request("POST", "/h2");
    let streams = (0..60).flat_map(|i| frame(HEADERS, END_HEADERS, 2 * i + 1, &head));
    let _ = stream.write_all(&streams.collect::<Vec<u8>>()).await;
    until(|| rig.server.load().1 > 0).await;
    assert!(rig.server.load().1 <= 16);
    // None of them goes on: each is given up, and then the idle connection is.
    let kinds = kinds_until_closed(&mut stream).await;
    assert!(kinds.contains(&RST_STREAM));
    until(|| rig.server.load().1 == 0).await;
    check(&mut beside).await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_never_end() {
    let mut rig = rig(|settings| settings.header_timeout = Duration::from_millis(100)).await;
    let port = rig.port(SCHEMES[0]);
    let mut beside = bystander(&mut rig).await;
    let filling = field("x", &"y".repeat(100)).repeat(150);
    let head = [request("GET", "/"), filling.clone()].concat();
    let mut stream = begin(port).await;
    let _ = stream.write_all(&frame(HEADERS, 0, 1, &head)).await;
    for _ in 0..200 {
        if stream
            .write_all(&frame(CONTINUATION, 0, 1, &filling))
            .await
            .is_err()
        {
            break;
        }
    }
    kinds_until_closed(&mut stream).await;
    // Silent in the preface, in a frame, and after the settings.
    for beginning in [&PREFACE[..10], &[PREFACE, &[0, 0, 9]].concat(), PREFACE] {
        let stream = within(TcpStream::connect(("127.0.0.1", port))).await;
        let mut stream = stream.expect("connected");
        stream.write_all(beginning).await.expect("sent");
        kinds_until_closed(&mut stream).await;
    }
    check(&mut beside).await;
}

#[tokio::test]
async fn a_carrier_given_up_leaves_others_on_its_connection_alone() {
    let mut rig = rig(|_| ()).await;
    let mut stream = begin(rig.port(SCHEMES[0])).await;
    let head = request("POST", "/h2");
    for id in [1, 3] {
        let hello = [&[2, 0, 0, 0][..], &[0, 0, 0, 2], b"hi"].concat();
        let asked = [
            frame(HEADERS, END_HEADERS, id, &head),
            frame(DATA, 0, id, &hello),
        ];
        stream.write_all(&asked.concat()).await.expect("sent");
    }
    let mut first = within(rig.server.accept()).await.expect("accepted");
    let mut second = within(rig.server.accept()).await.expect("accepted");
    assert_eq!(recv_exactly(&mut first, 2).await, b"hi");
    assert_eq!(recv_exactly(&mut second, 2).await, b"hi");
    drop(first);
    send(&mut second, b"still here").await.expect("alive");
    let mut seen = Vec::new();
    while !seen.windows(10).any(|window| window == b"still here") {
        let mut part = [0; 1024];
        let count = within(stream.read(&mut part)).await.expect("alive");
        assert!(count > 0, "closed");
        seen.extend_from_slice(&part[..count]);
    }
}

#[tokio::test]
async fn a_server_without_http2_is_told_from_a_relay() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bound");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .await;
        }
    });
    let url = format!("http://127.0.0.1:{port}").parse().expect("valid");
    let rig = rig(|_| ()).await;
    let kind = kind_by_name("h2").expect("known");
    let error = connect(&url, kind, &rig.client)
        .await
        .expect_err("no relay");
    assert!(["broken", "protocol"].contains(&error.code()), "{error}");
}
