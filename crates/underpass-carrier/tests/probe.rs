//! What probes find out, straight and through real boxes and a hostile one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::net::SocketAddr;
use std::time::Duration;

use rig::Rig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use underpass_carrier::probe::{ProbeSettings, greet, knock, measure, resolve, survives_silence};
use underpass_carrier::{CarrierError, RelayUrl, Scheme};

fn patient() -> ProbeSettings {
    ProbeSettings {
        limit: rig::PATIENCE,
        idle: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_straight_path_passes_everything() {
    let rig = Rig::new().await;
    for scheme in rig::SCHEMES {
        let mut settings = patient();
        settings.idle = Some(Duration::from_secs(1));
        let known = measure(&rig.url(scheme), &rig.client, settings)
            .await
            .unwrap();
        assert_eq!(known.intact, Some(true));
        assert_eq!(known.streaming_down, Some(true));
        assert_eq!((known.flush_size, known.held_for), (None, None));
        assert_eq!(known.streaming_up, Some(true));
        assert_eq!(known.largest_body, Some(1_000_000));
        assert_eq!(known.idle_survived, Some(true));
        for rung in underpass_carrier::KINDS {
            let rungs = underpass_carrier::ladder::rungs_of(&[rung]);
            assert_eq!(known.hopeless(&rungs[0]), None, "{}", rung.name);
        }
    }
}

/// A box that takes each request whole, refuses what it does not understand or is too long for it, and passes each
/// answer on when it is complete. It knows no more of HTTP than that.
async fn holding_box(onward: SocketAddr, largest: usize, flip: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(hold(client, onward, largest, flip));
        }
    });
    address
}

async fn hold(mut client: TcpStream, onward: SocketAddr, largest: usize, flip: bool) -> Option<()> {
    let head = read_head(&mut client).await?;
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = text.lines().find_map(|line| {
        line.strip_prefix("content-length: ")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let refusal = match length {
        Some(length) if length > largest => Some("413 Too Large"),
        None if text.contains("transfer-encoding") => Some("411 Length Required"),
        _ => None,
    };
    if let Some(status) = refusal {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        client.write_all(answer.as_bytes()).await.ok()?;
        // Closing with unread bytes would reset the connection, and the answer be lost.
        let mut rest = Vec::new();
        let reading = client.read_to_end(&mut rest);
        let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
        return None;
    }
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body).await.ok()?;
    let mut server = TcpStream::connect(onward).await.ok()?;
    let head = String::from_utf8(head)
        .ok()?
        .replacen("\r\n", "\r\nconnection: close\r\n", 1);
    server.write_all(head.as_bytes()).await.ok()?;
    server.write_all(&body).await.ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.ok()?;
    if flip && let Some(last) = answer.last_mut() {
        *last ^= 0x80;
    }
    client.write_all(&answer).await.ok()?;
    client.shutdown().await.ok()
}

async fn read_head(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    Some(head)
}

fn through(address: SocketAddr) -> RelayUrl {
    format!("http://{address}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holding_box_is_recognised_with_all_its_limits() {
    let rig = Rig::new().await;
    let address = holding_box(
        ([127, 0, 0, 1], rig.port(Scheme::Http)).into(),
        200_000,
        false,
    )
    .await;
    let known = measure(&through(address), &rig.client, patient())
        .await
        .unwrap();
    assert_eq!(known.intact, Some(true));
    assert_eq!(known.streaming_down, Some(false));
    assert_eq!(known.flush_size, None);
    assert!(
        known.held_for.unwrap() >= Duration::from_millis(700),
        "{known:?}"
    );
    assert_eq!(known.streaming_up, Some(false));
    // Half of what was refused, or half of that, where a busy machine took too long for it.
    let largest = known.largest_body.unwrap();
    assert!((1..200_000).contains(&largest), "{known:?}");
    let kinds: Vec<_> = underpass_carrier::KINDS.iter().collect();
    for rung in underpass_carrier::ladder::rungs_of(&kinds) {
        let needs = &rung.abilities;
        let streams = needs.needs_response_streaming || needs.needs_request_streaming;
        assert_eq!(known.hopeless(&rung).is_some(), streams, "{}", rung.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_changes_bytes_is_recognised() {
    let rig = Rig::new().await;
    let address = holding_box(
        ([127, 0, 0, 1], rig.port(Scheme::Http)).into(),
        2_000_000,
        true,
    )
    .await;
    let known = measure(&through(address), &rig.client, patient())
        .await
        .unwrap();
    assert_eq!(known.intact, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_asks_without_end_is_refused() {
    let rig = Rig::new().await;
    let url = rig.url(Scheme::Http);
    let mut refused = None;
    for _ in 0..40 {
        if let Err(error) = measure(&url, &rig.client, patient()).await {
            refused = Some(error);
            break;
        }
    }
    assert!(
        matches!(refused, Some(CarrierError::Refused { status: 503, .. })),
        "{refused:?}"
    );
}

/// A box that passes bytes on, and cuts connections on which nothing came from the relay for so long.
async fn cutting_box(onward: SocketAddr, idle: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(onward).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(
                    async move { tokio::io::copy(&mut from_client, &mut to_server).await },
                );
                let mut piece = vec![0; 4096];
                while let Ok(Ok(count @ 1..)) =
                    tokio::time::timeout(idle, from_server.read(&mut piece)).await
                {
                    to_client.write_all(&piece[..count]).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_that_is_cut_is_told_from_silence_that_is_not() {
    let rig = Rig::new().await;
    let relay: SocketAddr = ([127, 0, 0, 1], rig.port(Scheme::Http)).into();
    let length = Duration::from_secs(2);
    let straight = rig.url(Scheme::Http);
    assert!(
        survives_silence(&straight, &rig.client, length)
            .await
            .unwrap()
    );
    let cut = through(cutting_box(relay, Duration::from_secs(1)).await);
    assert!(!survives_silence(&cut, &rig.client, length).await.unwrap());
    // Where there is no relay at all, nothing is known.
    let nobody = through("127.0.0.1:1".parse().unwrap());
    survives_silence(&nobody, &rig.client, length)
        .await
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_tells_a_relay_from_others() {
    let rig = Rig::new().await;
    for scheme in rig::SCHEMES {
        let greeting = greet(&rig.url(scheme), &rig.client).await.unwrap();
        assert!(greeting.is_relay, "{greeting:?}");
        assert_eq!(greeting.info.tls.is_some(), scheme == Scheme::Https);
        let date = greeting.date.unwrap();
        let apart = greeting.heard_at.duration_since(date).unwrap_or_default();
        assert!(apart < rig::PATIENCE, "{greeting:?}");
    }
    let elsewhere = format!("{}/elsewhere", rig.url(Scheme::Http))
        .parse()
        .unwrap();
    let greeting = greet(&elsewhere, &rig.client).await.unwrap();
    assert_eq!((greeting.status, greeting.is_relay), (404, false));
}

#[tokio::test]
async fn single_steps_say_what_fails() {
    let [first, ..] = resolve("127.0.0.1", 1).await.unwrap()[..] else {
        panic!("an address is its own address");
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap();
    knock(open, rig::PATIENCE).await.unwrap();
    match knock(first, rig::PATIENCE).await {
        Err(CarrierError::Connect { kind, .. }) => {
            assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
}
