//! Clients that mean harm: the server goes on, other carriers do not notice, and what such clients
//! make it keep is bounded and freed.

mod rig;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rig::http::{Http, raw, until};
use rig::{Rig, SCHEMES, recv_error, recv_exactly, send, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use underpass_carrier::{
    Carrier, CarrierError, KINDS, ServerSettings, SourceLimit, Watcher, connect, kind_by_name,
};

const SHORT: Duration = Duration::from_millis(20);

async fn rig(change: impl FnOnce(&mut ServerSettings)) -> Rig {
    let mut settings = ServerSettings::default();
    change(&mut settings);
    Rig::with(settings).await
}

/// A carrier of each kind, made before the attack, for which nothing may change.
struct Bystanders(Vec<(Carrier, Carrier)>);

impl Bystanders {
    async fn new(rig: &mut Rig) -> Self {
        let mut all = Vec::new();
        for kind in KINDS {
            all.push(rig.pair(kind, SCHEMES[0]).await);
        }
        Self(all)
    }

    async fn check(&mut self) {
        for (client, server) in &mut self.0 {
            send(client, b"ping").await.expect("unharmed");
            assert_eq!(recv_exactly(server, 4).await, b"ping");
            send(server, b"pong").await.expect("unharmed");
            assert_eq!(recv_exactly(client, 4).await, b"pong");
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(answer.get(9..12)?).ok()?;
    answer
        .starts_with(b"HTTP/1.1 ")
        .then(|| text.parse().ok())?
}

#[tokio::test]
async fn random_bytes_and_broken_requests() {
    let mut rig = rig(|settings| settings.header_timeout = SHORT).await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let request = b"POST /poll/00112233445566778899aabbccddeeff/up/0 HTTP/1.1\r\n\
        Host: x\r\nContent-Length: 5\r\nCookie: sid=00\r\n\r\nhello";
    for round in 0..150 {
        let mut bytes = if round % 3 == 0 {
            let mut noise = vec![0; 1 + random.next_u32() as usize % 3000];
            random.fill_bytes(&mut noise);
            noise
        } else {
            request.to_vec()
        };
        for _ in 0..random.next_u32() % 6 {
            let at = random.next_u32() as usize % bytes.len();
            bytes[at] = random.next_u32() as u8;
        }
        if round % 5 == 0 {
            bytes.truncate(random.next_u32() as usize % bytes.len());
        }
        for scheme in SCHEMES {
            raw(rig.port(scheme), &bytes).await;
        }
    }
    bystanders.check().await;
    Bystanders::new(&mut rig).await.check().await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_never_end() {
    let mut rig = rig(|settings| settings.header_timeout = SHORT).await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let port = rig.port(SCHEMES[0]);
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let answer = raw(port, long_path.as_bytes()).await;
    assert!(matches!(status(&answer), None | Some(414 | 431)));
    let long_value = "b".repeat(500_000);
    let long_header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long_value}\r\n\r\n");
    let answer = raw(port, long_header.as_bytes()).await;
    assert!(matches!(status(&answer), None | Some(431)));
    let many = "A: b\r\n".repeat(5_000);
    let answer = raw(port, format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(matches!(status(&answer), None | Some(431)));
    // The server closes these by itself: `raw` waits for that.
    raw(port, b"").await;
    raw(port, b"GET /ws HTTP/1.1\r\nHost:").await;
    raw(rig.port(SCHEMES[1]), b"\x16\x03\x01").await;
    bystanders.check().await;
}

#[tokio::test]
async fn names_and_methods_that_nothing_answers_to() {
    let mut rig = rig(|_| ()).await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let mut http = Http::connect(rig.port(SCHEMES[0])).await;
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let (known, _) = rig.server.load();
    for kind in KINDS {
        for _ in 0..20 {
            let id = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
            for (method, rest) in [
                ("POST", "up/0"),
                ("POST", "up/0/end"),
                ("POST", "up"),
                ("GET", "down/1"),
                ("DELETE", ""),
                ("PUT", "down"),
                ("GET", "up"),
                ("POST", "down/1"),
                ("PUT", "down/0"),
                ("PATCH", "up/0"),
            ] {
                let path = format!("/{}/{id}/{rest}", kind.name);
                let path = path.trim_end_matches('/');
                let answer = http.ask(method, path, b"x").await;
                let allowed = [404, 426];
                assert!(allowed.contains(&answer.status.as_u16()), "{method} {path}");
                let text = String::from_utf8_lossy(&answer.body).to_lowercase();
                assert!(!text.contains("underpass"), "gives no name away");
            }
        }
    }
    assert_eq!(rig.server.load().0, known, "nothing was made");
    bystanders.check().await;
}

#[tokio::test]
async fn an_id_opens_nothing_under_another_kind() {
    let rig = rig(|_| ()).await;
    let port = rig.port(SCHEMES[0]);
    let mut http = Http::connect(port).await;
    let id = "00112233445566778899aabbccddeeff";
    let opened = http.ask("GET", &format!("/poll/{id}/down/0"), b"").await;
    assert_eq!(opened.status, 200);
    let answer = http.ask("POST", &format!("/posts/{id}/up/0"), b"x").await;
    assert_eq!(answer.status, 404);
    let answer = http.ask("POST", &format!("/stream/{id}/up"), b"x").await;
    assert_eq!(answer.status, 404);
    for kind in ["h2posts", "text"] {
        let answer = http.ask("POST", &format!("/{kind}/{id}/up/0"), b"").await;
        assert_eq!(answer.status, 404, "{kind}");
        let answer = http.ask("GET", &format!("/{kind}/{id}/down/1"), b"").await;
        assert_eq!(answer.status, 404, "{kind}");
    }
    for kind in ["stream", "posts"] {
        let path = format!("/{kind}/{id}/down");
        let answer = http.ask("GET", &path, b"").await;
        assert_eq!(answer.status, 404, "{kind}: the name is taken");
    }
    assert_eq!(rig.server.load(), (1, 1));
}

/// Begins carriers by hand and never sends a byte on them. Returns what the server said to each.
async fn half_open(kind: &str, port: u16, count: u32) -> (Vec<TcpStream>, Vec<u16>) {
    let (mut streams, mut statuses) = (Vec::new(), Vec::new());
    for index in 0..count {
        let (path, headers) = match kind {
            "upgrade" => (
                "/upgrade".to_owned(),
                "Connection: Upgrade\r\nUpgrade: underpass\r\n",
            ),
            "ws" => (
                "/ws".to_owned(),
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
            "poll" | "h2posts" | "text" => (format!("/{kind}/{index:032x}/down/0"), ""),
            _ => (format!("/{kind}/{index:032x}/down"), ""),
        };
        // Answered over HTTP/1.1 as well, where a box on the way has changed the protocol.
        let (method, path, headers) = match kind {
            "h2" => ("POST", "/h2".to_owned(), "Transfer-Encoding: chunked\r\n"),
            _ => ("GET", path, headers),
        };
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("connected");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        within(stream.read_exact(&mut head))
            .await
            .expect("answered");
        statuses.push(status(&head).expect("a status"));
        streams.push(stream);
    }
    (streams, statuses)
}

#[tokio::test]
async fn a_flood_of_half_made_carriers_is_bounded_and_freed() {
    const MOST: usize = 8;
    for kind in KINDS.iter().filter(|kind| !kind.abilities.needs_udp) {
        let mut rig = rig(|settings| {
            settings.max_half_made = MOST;
            settings.first_byte_timeout = Duration::from_millis(500);
            settings.silence = SHORT;
            settings.header_timeout = Duration::from_secs(1);
        })
        .await;
        let (streams, statuses) = half_open(kind.name, rig.port(SCHEMES[0]), 40).await;
        let (known, half_made) = rig.server.load();
        assert!(known <= MOST && half_made <= MOST, "{known} {half_made}");
        assert!(statuses.contains(&503), "{}: {statuses:?}", kind.name);
        // Each one is cut by the server.
        for mut stream in streams {
            let mut rest = Vec::new();
            let _ = within(stream.read_to_end(&mut rest)).await;
        }
        until(|| rig.server.load() == (0, 0)).await;
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        send(&mut client, b"room again").await.expect("alive");
        assert_eq!(recv_exactly(&mut server, 10).await, b"room again");
    }
}

#[tokio::test]
async fn a_client_learns_that_it_is_the_relay_that_has_no_room() {
    let rig = rig(|settings| settings.max_carriers = 0).await;
    let url = rig.url(SCHEMES[0]);
    for kind in KINDS.iter().filter(|kind| !kind.abilities.needs_udp) {
        let refused = connect(&url, kind, &rig.client).await;
        let busy = matches!(refused, Err(CarrierError::Busy));
        assert!(busy, "{}: {refused:?}", kind.name);
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let rig = rig(|settings| settings.max_connections = 3).await;
    let kind = kind_by_name("upgrade").expect("known");
    let port = rig.port(SCHEMES[0]);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(Http::connect(port).await);
    }
    // Answered, so they are counted.
    for http in &mut held {
        assert_eq!(http.ask("GET", "/", b"").await.status, 404);
    }
    assert_eq!(raw(port, b"GET / HTTP/1.1\r\n\r\n").await, b"");
    drop(held);
    let mut made = None;
    let url = rig.url(SCHEMES[0]);
    while made.is_none() {
        made = underpass_carrier::connect(&url, kind, &rig.client)
            .await
            .ok();
    }
    drop(made);
    rig.server.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn bodies_that_lie_about_their_length_or_never_come() {
    let mut rig = rig(|settings| settings.body_timeout = Duration::from_millis(100)).await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let port = rig.port(SCHEMES[0]);
    let id = "00112233445566778899aabbccddeeff";
    let mut http = Http::connect(port).await;
    http.ask("GET", &format!("/poll/{id}/down/0"), b"").await;
    let post = |length: &str, body: &str| {
        format!(
            "POST /poll/{id}/up/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n\r\n{body}"
        )
    };
    let slow = raw(port, post("Content-Length: 100", "only this").as_bytes()).await;
    assert_eq!(status(&slow), Some(408));
    let huge = post("Content-Length: 99999999999999999", "x");
    assert_eq!(status(&raw(port, huge.as_bytes()).await), Some(413));
    let odd = post("Content-Length: -1", "x");
    assert_eq!(status(&raw(port, odd.as_bytes()).await), Some(400));
    let chunk = "f4240\r\n".to_owned() + &"y".repeat(1_000_000) + "\r\n";
    let endless = post("Transfer-Encoding: chunked", &(chunk.clone() + &chunk));
    let answer = raw(port, endless.as_bytes()).await;
    assert!(matches!(status(&answer), Some(413) | None));
    bystanders.check().await;
}

#[tokio::test]
async fn bytes_that_are_no_carriers_after_a_good_beginning() {
    let mut rig = rig(|_| ()).await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let mut random = ChaCha8Rng::seed_from_u64(13);
    let port = rig.port(SCHEMES[0]);
    for kind in ["upgrade", "ws"] {
        for _ in 0..20 {
            let (mut streams, statuses) = half_open(kind, port, 1).await;
            assert_eq!(statuses, [101]);
            // A kind or frame type that does not exist, then noise.
            let mut noise = vec![0xf7; 4000];
            random.fill_bytes(&mut noise[4..]);
            let stream = &mut streams[0];
            let _ = stream.write_all(&noise).await;
            let mut rest = Vec::new();
            let _ = within(stream.read_to_end(&mut rest)).await;
        }
    }
    until(|| rig.server.load().1 == 0).await;
    bystanders.check().await;
}

#[tokio::test]
async fn a_live_carrier_that_turns_to_noise_ends_with_its_reason() {
    let mut rig = rig(|_| ()).await;
    let (mut streams, _) = half_open("upgrade", rig.port(SCHEMES[0]), 1).await;
    let stream = &mut streams[0];
    stream
        .write_all(&[0, 0, 0, 2, b'h', b'i'])
        .await
        .expect("sent");
    let mut server = within(rig.server.accept()).await.expect("accepted");
    assert_eq!(recv_exactly(&mut server, 2).await, b"hi");
    stream.write_all(b"<html>").await.expect("sent");
    assert_eq!(recv_error(&mut server).await.code(), "protocol");
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_cut() {
    let mut rig = rig(|settings| settings.write_stall = Duration::from_millis(200)).await;
    let port = rig.port(SCHEMES[0]);
    let (mut streams, _) = half_open("posts", port, 1).await;
    let mut http = Http::connect(port).await;
    let path = format!("/posts/{:032x}/up/0", 0);
    assert_eq!(http.ask("POST", &path, b"hi").await.status, 204);
    let mut server = within(rig.server.accept()).await.expect("accepted");
    let block = Bytes::from(vec![0; 64 * 1024]);
    let error = within(async {
        loop {
            let mut queue = VecDeque::from([block.clone()]);
            let sent = poll_fn(|cx| server.sink.poll_send(cx, &mut queue)).await;
            if let Err(error) = sent {
                return error;
            }
        }
    })
    .await;
    assert_eq!(error.code(), "broken");
    assert_eq!(recv_exactly(&mut server, 2).await, b"hi");
    recv_error(&mut server).await;
    let _ = streams[0].shutdown().await;
    until(|| rig.server.load() == (0, 0)).await;
}

/// A client that says something a byte at a time, each well in time, until the server has had enough of it.
async fn drip(port: u16, begin: &[u8], byte: u8) {
    let mut tcp = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a connection");
    tcp.write_all(begin).await.expect("it goes out");
    let (mut read, mut write) = tcp.into_split();
    let saying = async {
        while write.write_all(&[byte]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut rest = Vec::new();
    // It ends, in order or by a reset, while bytes still come.
    tokio::select! {
        () = saying => {}
        _ = read.read_to_end(&mut rest) => {}
    }
}

/// What the server has told of sources so far.
type Told = Arc<Mutex<Vec<SourceLimit>>>;

fn watched(settings: &mut ServerSettings, told: &Told) {
    let told = Arc::clone(told);
    settings.watcher = Some(Watcher::new(move |limit, from| {
        assert!(from.ip().is_loopback());
        told.lock().expect("nobody panics with it").push(limit);
    }));
}

fn times(told: &Told, limit: SourceLimit) -> usize {
    let told = told.lock().expect("nobody panics with it");
    told.iter().filter(|it| **it == limit).count()
}

#[tokio::test]
async fn requests_that_trickle_in_are_cut_and_told_of_whatever_still_comes() {
    let told = Told::default();
    let mut rig = rig(|settings| {
        settings.header_timeout = 10 * SHORT;
        settings.body_timeout = 10 * SHORT;
        watched(settings, &told);
    })
    .await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let port = rig.port(SCHEMES[0]);
    let head = b"GET /ws HTTP/1.1\r\nHost: x\r\nX: ";
    let body = b"POST /poll/00112233445566778899aabbccddeeff/up/0 HTTP/1.1\r\n\
        Host: x\r\nContent-Length: 50000\r\n\r\n";
    // Each would go on for minutes; all end, and meanwhile others come in as ever.
    let slow = (0..40).map(|n| async move {
        match n % 2 {
            0 => drip(port, head, b'x').await,
            _ => drip(port, body, b'y').await,
        }
    });
    let slow = futures_util::future::join_all(slow);
    let others = async {
        bystanders.check().await;
        Bystanders::new(&mut rig).await.check().await;
    };
    within(async { tokio::join!(slow, others) }).await;
    until(|| times(&told, SourceLimit::SlowHead) >= 20).await;
}

#[tokio::test]
async fn one_source_does_not_take_all_the_room() {
    let told = Told::default();
    let mut rig = rig(|settings| {
        settings.max_half_open_per_source = 8;
        watched(settings, &told);
    })
    .await;
    let mut bystanders = Bystanders::new(&mut rig).await;
    let port = rig.port(SCHEMES[0]);
    let connect = || TcpStream::connect(("127.0.0.1", port));
    let mut open = Vec::new();
    while times(&told, SourceLimit::HalfOpen) == 0 {
        assert!(open.len() < 100, "nothing is refused");
        let mut one = within(connect()).await.unwrap();
        // One that is refused is closed at once; the others say nothing either.
        let _ = tokio::time::timeout(SHORT, one.read(&mut [0])).await;
        open.push(one);
    }
    assert!(open.len() > 8, "{}", open.len());
    // Those whose requests have come do not count.
    bystanders.check().await;
    drop(open);
    Bystanders::new(&mut rig).await.check().await;
}
