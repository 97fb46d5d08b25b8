//! The last resort, through a box that lets hardly anything pass.

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rig::http::raw;
use rig::{Rig, SCHEMES, Stream, check_stream, recv_exactly, send, send_stream, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use underpass_carrier::{KINDS, RelayUrl, ServerSettings, connect, kind_by_name};

const ID: &str = "00112233445566778899aabbccddeeff";

/// Reads a head and the body that its length announces; none if there is no such message.
async fn read_message(stream: &mut TcpStream, until_closed: bool) -> Option<(String, Vec<u8>)> {
    let (mut seen, mut part) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(seen[..end].to_vec()).ok()?;
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let wanted = match length {
                Some((_, length)) => length.parse().ok()?,
                None => 0,
            };
            if seen.len() - end - 4 >= wanted {
                return Some((head, seen.split_off(end + 4)));
            }
        }
        let count = stream.read(&mut part).await.ok()?;
        if count == 0 {
            assert!(!until_closed, "an answer broke off");
            return None;
        }
        seen.extend_from_slice(&part[..count]);
    }
}

/// What a strict box has let pass, and what it has not.
#[derive(Default)]
struct Counts {
    passed: AtomicUsize,
    refused: AtomicUsize,
}

/// A box that speaks HTTP/1.0: one request on a connection, GET and POST only, a length on every body;
/// it strips all other fields, lets only text pass, and asks every second request twice.
async fn strict_box(upstream: u16, counts: Arc<Counts>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let counts = Arc::clone(&counts);
            tokio::spawn(async move {
                let (head, body) = read_message(&mut near, false).await?;
                let first = head.lines().next()?;
                let (method, rest) = first.split_once(' ')?;
                let (path, _) = rest.split_once(' ')?;
                let chunked = head.to_lowercase().contains("transfer-encoding");
                let allowed = ["GET", "POST"].contains(&method) && !chunked;
                if !allowed || !is_text(&body) {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    let refusal = b"HTTP/1.0 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
                    return near.write_all(refusal).await.ok();
                }
                let length = match method {
                    "POST" => format!("Content-Length: {}\r\n", body.len()),
                    _ => String::new(),
                };
                let request = format!("{method} {path} HTTP/1.0\r\n{length}\r\n");
                let request = [request.as_bytes(), &body].concat();
                let mut answer = None;
                let count = counts.passed.fetch_add(1, Ordering::Relaxed);
                for _ in 0..1 + count % 2 {
                    let mut far = TcpStream::connect(("127.0.0.1", upstream)).await.ok()?;
                    far.write_all(&request).await.ok()?;
                    answer = read_message(&mut far, true).await;
                }
                let (head, body) = answer?;
                assert!(head.starts_with("HTTP/1.0 "), "{head}");
                assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
                let (_, status) = head.lines().next()?.split_once(' ')?;
                assert!(is_text(&body));
                let length = body.len();
                let answer = format!("HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n");
                near.write_all(&[answer.as_bytes(), &body].concat())
                    .await
                    .ok()
            });
        }
    });
    port
}

fn is_text(body: &[u8]) -> bool {
    body.iter()
        .all(|byte| byte.is_ascii_graphic() || b"\r\n".contains(byte))
        && body
            .split(|byte| *byte == b'\n')
            .all(|line| line.len() < 80)
}

#[tokio::test]
async fn text_passes_where_nothing_else_does() {
    let mut settings = ServerSettings::default();
    settings.first_byte_timeout = std::time::Duration::from_secs(1);
    let mut rig = Rig::with(settings).await;
    rig.client.proving_timeout = std::time::Duration::from_millis(500);
    let counts = Arc::new(Counts::default());
    let port = strict_box(rig.port(SCHEMES[0]), Arc::clone(&counts)).await;
    let url: RelayUrl = format!("http://127.0.0.1:{port}").parse().expect("valid");
    for kind in KINDS
        .iter()
        .filter(|kind| !kind.abilities.text_only && !kind.abilities.needs_udp)
    {
        connect(&url, kind, &rig.client)
            .await
            .map(drop)
            .expect_err(kind.name);
    }
    let refused = counts.refused.load(Ordering::Relaxed);
    let kind = kind_by_name("text").expect("known");
    let (mut client, mut server) = rig.pair_to(kind, &url).await;
    for _ in 0..5 {
        send(&mut server, b"\0now\xff").await.expect("alive");
        assert_eq!(recv_exactly(&mut client, 5).await, b"\0now\xff");
    }
    let (up, down, (), ()) = tokio::join!(
        send_stream(&mut *client.sink, Stream::new(1, 3_000_000)),
        send_stream(&mut *server.sink, Stream::new(2, 3_000_000)),
        check_stream(&mut *server.source, Stream::new(1, 3_000_000)),
        check_stream(&mut *client.source, Stream::new(2, 3_000_000)),
    );
    up.and(down).expect("everything passes");
    drop((client, server));
    rig::http::until(|| rig.server.load() == (0, 0)).await;
    assert_eq!(
        counts.refused.load(Ordering::Relaxed),
        refused,
        "nothing of it was refused"
    );
}

async fn ask(rig: &Rig, request: &str) -> String {
    let answer = raw(rig.port(SCHEMES[0]), request.as_bytes()).await;
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn requests_without_any_field_are_answered_with_a_length() {
    let mut rig = Rig::new().await;
    let opened = ask(&rig, &format!("GET /text/{ID}/down/0 HTTP/1.0\r\n\r\n")).await;
    assert!(opened.starts_with("HTTP/1.0 200 "), "{opened}");
    assert!(opened.contains("content-type: text/plain\r\n"), "{opened}");
    assert!(opened.contains("content-length: 17\r\n"), "{opened}");
    assert!(opened.ends_with("\r\n\r\nAwAACAAAAAAAAAAA\n"), "{opened}");
    let post = |body: &str| {
        let len = body.len();
        format!("POST /text/{ID}/up/0 HTTP/1.0\r\nContent-Length: {len}\r\n\r\n{body}")
    };
    // What was changed on the way is asked for again.
    let changed = ask(&rig, &post("<html>")).await;
    assert!(changed.starts_with("HTTP/1.0 408 "), "{changed}");
    for _ in 0..2 {
        let taken = ask(&rig, &post("aGVs\r\nbG8=\r\n")).await;
        assert!(taken.starts_with("HTTP/1.0 200 "), "{taken}");
        assert!(taken.ends_with("\r\n\r\nAwAACAAAAAAAAAAA\n"), "{taken}");
    }
    let mut server = within(rig.server.accept()).await.expect("accepted");
    assert_eq!(recv_exactly(&mut server, 5).await, b"hello");
}

#[tokio::test]
async fn a_page_for_everybody_is_not_taken_for_a_receipt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_message(&mut stream, false).await;
            let page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlogin";
            let _ = stream.write_all(page).await;
        }
    });
    let url: RelayUrl = format!("http://127.0.0.1:{port}").parse().expect("valid");
    let rig = Rig::new().await;
    let kind = kind_by_name("text").expect("known");
    let error = connect(&url, kind, &rig.client)
        .await
        .expect_err("no relay");
    assert_eq!(error.code(), "protocol", "{error}");
}
