//! What every kind of carrier must do, over plain HTTP and over TLS, against the real server.

mod rig;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use rig::{
    Rig, SCHEMES, Stream, check_stream, close, recv, recv_error, recv_exactly, recv_to_end, send,
    send_stream, within,
};
use underpass_carrier::{
    Carrier, CarrierError, KINDS, Kind, ServerSettings, Sink, TlsTrust, connect, kind_by_name,
};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_exactly_both_ways_at_once() {
    let mut rig = Rig::new().await;
    for (seed, kind) in (1u64..).zip(KINDS) {
        for scheme in SCHEMES {
            let (client, server) = rig.pair(kind, scheme).await;
            let (mut c, mut s) = (client, server);
            let len = 8 * MIB + 12_345;
            let (up, down, (), ()) = tokio::join!(
                send_stream(&mut *c.sink, Stream::new(seed, len)),
                send_stream(&mut *s.sink, Stream::new(seed + 100, len)),
                check_stream(&mut *s.source, Stream::new(seed, len)),
                check_stream(&mut *c.source, Stream::new(seed + 100, len)),
            );
            up.unwrap_or_else(|error| panic!("{} up: {error}", kind.name));
            down.unwrap_or_else(|error| panic!("{} down: {error}", kind.name));
        }
    }
}

#[tokio::test]
async fn small_messages_go_back_and_forth() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        for round in 0u32..200 {
            let ping = round.to_be_bytes();
            send(&mut client, &ping).await.expect("alive");
            assert_eq!(recv_exactly(&mut server, 4).await, ping, "{}", kind.name);
            let pong = (!round).to_be_bytes();
            send(&mut server, &pong).await.expect("alive");
            assert_eq!(recv_exactly(&mut client, 4).await, pong, "{}", kind.name);
        }
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        for scheme in SCHEMES {
            let (mut client, mut server) = rig.pair(kind, scheme).await;
            send(&mut client, b"last words").await.expect("alive");
            let (closed, read) = tokio::join!(close(&mut client), recv_to_end(&mut server));
            closed.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            assert_eq!(read.expect("clean end"), b"last words", "{}", kind.name);
            // The other direction goes on, also when nothing is left of the closed one.
            client.sink = Box::new(NoSink);
            for part in [&b"still "[..], b"here"] {
                send(&mut server, part).await.expect("alive");
                assert_eq!(recv_exactly(&mut client, part.len()).await, part);
            }
            let (closed, read) = tokio::join!(close(&mut server), recv_to_end(&mut client));
            closed.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            assert_eq!(read.expect("clean end"), b"", "{}", kind.name);
        }
    }
}

/// In the place of a sink that was dropped.
struct NoSink;

impl Sink for NoSink {
    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        _: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        Poll::Ready(Err(CarrierError::Closed))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        Poll::Ready(Err(CarrierError::Closed))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        Poll::Ready(Err(CarrierError::Closed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_may_end_its_direction_first() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        send(&mut server, b"bye").await.expect("alive");
        let (closed, read) = tokio::join!(close(&mut server), recv_to_end(&mut client));
        closed.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        assert_eq!(read.expect("clean end"), b"bye", "{}", kind.name);
        for part in [&b"one "[..], b"two"] {
            send(&mut client, part).await.expect("alive");
            assert_eq!(recv_exactly(&mut server, part.len()).await, part);
        }
        let (closed, read) = tokio::join!(close(&mut client), recv_to_end(&mut server));
        closed.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        assert_eq!(read.expect("clean end"), b"", "{}", kind.name);
    }
}

#[tokio::test]
async fn a_carrier_dropped_without_its_end_is_an_error_to_the_other_side() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        for scheme in SCHEMES {
            let (client, mut server) = rig.pair(kind, scheme).await;
            drop(client);
            let error = recv_error(&mut server).await;
            assert_eq!(error.code(), "broken", "{}: {error}", kind.name);

            let (mut client, server) = rig.pair(kind, scheme).await;
            drop(server);
            let error = recv_error(&mut client).await;
            let codes = ["broken", "refused"];
            assert!(codes.contains(&error.code()), "{}: {error}", kind.name);
        }
    }
}

#[tokio::test]
async fn a_sink_dropped_alone_is_an_error_to_the_other_side() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        for scheme in SCHEMES {
            let (client, mut server) = rig.pair(kind, scheme).await;
            let Carrier { sink, source, .. } = client;
            drop(sink);
            let error = recv_error(&mut server).await;
            assert_eq!(error.code(), "broken", "{}: {error}", kind.name);
            drop(source);
        }
    }
}

/// How many bytes beyond what the reader took a carrier may swallow: the kernel's buffers on both
/// sides (up to 6 and 4 MiB on Linux), and a window of numbered bodies.
const SWALLOWED: usize = 20 * MIB;

#[tokio::test]
async fn a_reader_that_stops_stops_the_sender() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        for from_client in [true, false] {
            let (client, server) = rig.pair(kind, SCHEMES[0]).await;
            let (mut beside, mut beside_far) = rig.pair(kind, SCHEMES[0]).await;
            let (mut from, mut to) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            let total = 48 * MIB;
            let (taken, mut read) = (std::cell::Cell::new(0), 0);
            let sending = async {
                let block = Bytes::from(vec![9; 64 * 1024]);
                let mut queue = VecDeque::new();
                while taken.get() < total {
                    queue.push_back(block.clone());
                    rig::send_queue(&mut *from.sink, &mut queue).await?;
                    taken.set(taken.get() + block.len());
                }
                close(&mut from).await
            };
            let reading = async {
                // Another carrier is busy meanwhile; the sender has all the time it needs to fail.
                for _ in 0..300 {
                    send(&mut beside, b"x").await.expect("alive");
                    recv_exactly(&mut beside_far, 1).await;
                }
                assert!(taken.get() <= SWALLOWED, "{}: {}", kind.name, taken.get());
                while let Some(chunk) = recv(&mut *to.source).await {
                    read += chunk.expect("alive").len();
                    assert!(taken.get() - read.min(taken.get()) <= SWALLOWED + 64 * 1024);
                }
            };
            let (sent, ()) = tokio::join!(sending, reading);
            sent.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            assert_eq!(read, total, "{}", kind.name);
        }
    }
}

#[tokio::test]
async fn one_send_takes_no_more_than_one_body() {
    let mut rig = Rig::new().await;
    for kind in KINDS {
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        for carrier in [&mut client, &mut server] {
            let mut queue = VecDeque::from([Bytes::from(vec![1; 8 * MIB])]);
            let sent = poll_fn(|cx| Poll::Ready(carrier.sink.poll_send(cx, &mut queue))).await;
            assert!(matches!(sent, Poll::Ready(Ok(()))), "{}", kind.name);
            let taken = 8 * MIB - queue.iter().map(Bytes::len).sum::<usize>();
            assert!((1..=192 * 1024).contains(&taken), "{} {taken}", kind.name);
        }
    }
}

#[tokio::test]
async fn a_pinned_certificate_must_be_the_one_and_any_is_reported() {
    let mut rig = Rig::new().await;
    let url = rig.url(SCHEMES[1]);
    for kind in KINDS {
        let mut wrong = rig.client.clone();
        wrong.tls = TlsTrust::PinnedCertificate([7; 32]);
        let error = connect(&url, kind, &wrong).await.expect_err("not that one");
        assert_eq!(error.code(), "certificate", "{}: {error}", kind.name);

        wrong.tls = TlsTrust::System;
        let error = connect(&url, kind, &wrong)
            .await
            .expect_err("no root signed it");
        assert!(
            ["certificate", "setting"].contains(&error.code()),
            "{error}"
        );

        rig.client.tls = TlsTrust::AcceptAndReport;
        let (client, server) = rig.pair(kind, SCHEMES[1]).await;
        let tls = client.info.tls.expect("TLS was spoken");
        assert_eq!(tls.certificate_sha256, Some(rig.identity.fingerprint()));
        assert_eq!(tls.version, "TLS 1.3");
        assert_eq!(server.info.carrier, kind.name);
        assert_eq!(server.info.tls.map(|tls| tls.version), Some("TLS 1.3"));
        assert!(client.info.peer.is_some() && server.info.peer.is_some());
    }
}

#[tokio::test]
async fn nobody_listening_and_no_relay_are_told_apart() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = free.local_addr().expect("address");
    drop(free);
    let nobody = format!("http://{address}").parse().expect("valid");
    let mut rig = Rig::with({
        let mut settings = ServerSettings::default();
        settings.prefix = "/deep/inside".to_owned();
        settings
    })
    .await;
    let outside = format!("http://127.0.0.1:{}", rig.port(SCHEMES[0]));
    let outside = outside.parse().expect("valid");
    for kind in KINDS.iter().filter(|kind| !kind.abilities.needs_udp) {
        let error = connect(&nobody, kind, &rig.client)
            .await
            .expect_err("nobody");
        let CarrierError::Connect { kind: why, .. } = error else {
            panic!("{}: {error}", kind.name);
        };
        assert_eq!(why, std::io::ErrorKind::ConnectionRefused);
        let error = connect(&outside, kind, &rig.client).await.expect_err("404");
        let refused = matches!(error, CarrierError::Refused { status: 404, .. });
        assert!(refused, "{}: {error}", kind.name);
        // Under its prefix it is there.
        let (mut client, _server) = rig.pair(kind, SCHEMES[0]).await;
        send(&mut client, b"x").await.expect("alive");
    }
}

#[tokio::test]
async fn shutdown_ends_carriers_that_are_left() {
    for kind in KINDS {
        let mut rig = Rig::new().await;
        let (mut client, server) = rig.pair(kind, SCHEMES[0]).await;
        drop(server);
        within(rig.server.shutdown(std::time::Duration::ZERO)).await;
        let error = recv_error(&mut client).await;
        let codes = ["broken", "refused", "connect"];
        assert!(codes.contains(&error.code()), "{}: {error}", kind.name);
    }
}

#[test]
fn the_table_has_the_kinds_in_the_order_of_preference() {
    let names = |kinds: &[&Kind]| kinds.iter().map(|kind| kind.name).collect::<Vec<_>>();
    let all: Vec<&Kind> = KINDS.iter().collect();
    let http = [
        "upgrade", "h2", "ws", "stream", "posts", "h2posts", "poll", "text",
    ];
    assert_eq!(names(&all), [&["quic"][..], &http].concat());
    assert!(kind_by_name("ws").is_some());
}
