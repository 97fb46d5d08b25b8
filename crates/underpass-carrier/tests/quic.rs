//! QUIC: paths that lose packets and change addresses, no path at all, and clients that mean harm.

mod rig;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rig::http::until;
use rig::{
    Rig, SCHEMES, Stream, check_stream, recv_error, recv_exactly, send, send_stream, within,
};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use underpass_carrier::proxy::{Proxies, ProxyChoice, ProxySettings};
use underpass_carrier::{CarrierError, Kind, ServerSettings, TlsTrust, connect, kind_by_name};

async fn rig(change: impl FnOnce(&mut ServerSettings)) -> Rig {
    let mut settings = ServerSettings::default();
    change(&mut settings);
    Rig::with(settings).await
}

fn quic() -> &'static Kind {
    kind_by_name("quic").expect("known")
}

/// Passes packets on to a port and back, except for one in `lost_of`; told so, it goes on from another
/// address, as a NAT does that has forgotten the old one.
async fn path(upstream: u16, lost_of: u32, rebind: Arc<Notify>) -> u16 {
    let near = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let port = near.local_addr().expect("address").port();
    let upstream: SocketAddr = ([127, 0, 0, 1], upstream).into();
    tokio::spawn(async move {
        let mut random = ChaCha8Rng::seed_from_u64(31);
        let mut lost = || random.next_u32() % lost_of == 0;
        let mut far = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let mut client = None;
        let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                received = near.recv_from(&mut up) => {
                    let Ok((len, from)) = received else { continue };
                    client = Some(from);
                    if !lost() {
                        let _ = far.send_to(&up[..len], upstream).await;
                    }
                }
                received = far.recv(&mut down) => {
                    let (Ok(len), Some(client)) = (received, client) else { continue };
                    if !lost() {
                        let _ = near.send_to(&down[..len], client).await;
                    }
                }
                () = rebind.notified() => {
                    far = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
                }
            }
        }
    });
    port
}

#[tokio::test]
async fn bytes_arrive_exactly_over_a_path_that_loses_packets() {
    let mut rig = rig(|_| ()).await;
    rig.client.quic_port = path(rig.client.quic_port, 50, Arc::default()).await;
    let (mut client, mut server) = rig.pair(quic(), SCHEMES[0]).await;
    let (up, down, (), ()) = tokio::join!(
        send_stream(&mut *client.sink, Stream::new(1, 2_000_000)),
        send_stream(&mut *server.sink, Stream::new(2, 2_000_000)),
        check_stream(&mut *server.source, Stream::new(1, 2_000_000)),
        check_stream(&mut *client.source, Stream::new(2, 2_000_000)),
    );
    up.and(down).expect("sent again until it arrived");
}

#[tokio::test]
async fn a_change_of_address_breaks_nothing() {
    let mut rig = rig(|_| ()).await;
    let rebind = Arc::new(Notify::new());
    rig.client.quic_port = path(rig.client.quic_port, u32::MAX, Arc::clone(&rebind)).await;
    let (mut client, mut server) = rig.pair(quic(), SCHEMES[1]).await;
    for _ in 0..3 {
        rebind.notify_one();
        send(&mut client, b"from elsewhere").await.expect("alive");
        assert_eq!(recv_exactly(&mut server, 14).await, b"from elsewhere");
        send(&mut server, b"found").await.expect("alive");
        assert_eq!(recv_exactly(&mut client, 5).await, b"found");
    }
}

#[tokio::test]
async fn where_udp_does_not_pass_the_attempt_ends_in_good_time() {
    let mut rig = rig(|_| ()).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    rig.client.quic_port = silent.local_addr().expect("address").port();
    rig.client.quic_timeout = Duration::from_millis(300);
    let url = rig.url(SCHEMES[0]);
    let error = within(connect(&url, quic(), &rig.client)).await;
    let error = error.expect_err("nobody answers");
    assert_eq!(error.code(), "timed-out", "{error}");
    assert!(!error.is_about_the_host(), "another carrier may do better");
}

#[tokio::test]
async fn no_packet_goes_past_a_proxy() {
    let mut rig = rig(|_| ()).await;
    let relay = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    rig.client.quic_port = relay.local_addr().expect("address").port();
    let mut settings = ProxySettings::default();
    settings.choice = ProxyChoice::Fixed("http://127.0.0.1:9".parse().expect("valid"));
    rig.client.proxies = Proxies::new(settings);
    let url = rig.url(SCHEMES[0]);
    let error = connect(&url, quic(), &rig.client).await;
    assert_eq!(error.expect_err("a proxy is set").code(), "setting");
    let sent = relay.try_recv(&mut [0; 1]);
    assert!(sent.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn a_plain_relay_needs_no_certificate_and_reports_the_one_it_shows() {
    let mut rig = rig(|_| ()).await;
    rig.client.tls = TlsTrust::PinnedCertificate([7; 32]);
    let (client, server) = rig.pair(quic(), SCHEMES[0]).await;
    let tls = client.info.tls.expect("QUIC has TLS");
    assert_eq!(tls.certificate_sha256, Some(rig.identity.fingerprint()));
    assert_eq!(
        client.info.peer.map(|peer| peer.port()),
        Some(rig.client.quic_port)
    );
    assert_eq!(server.info.carrier, "quic");
    let url = rig.url(SCHEMES[1]);
    let error = connect(&url, quic(), &rig.client)
        .await
        .expect_err("not that one");
    assert!(matches!(error, CarrierError::Certificate(_)), "{error}");
    assert!(error.to_string().contains("07:07"), "{error}");
}

#[tokio::test]
async fn under_load_addresses_are_validated_first() {
    let mut rig = rig(|settings| settings.quic_unvalidated = 0).await;
    let (mut client, mut server) = rig.pair(quic(), SCHEMES[0]).await;
    send(&mut server, b"proven").await.expect("alive");
    assert_eq!(recv_exactly(&mut client, 6).await, b"proven");
}

#[tokio::test]
async fn half_made_carriers_and_connections_are_bounded_and_freed() {
    const MOST: usize = 4;
    let mut rig = rig(|settings| {
        settings.max_half_made = MOST;
        settings.max_connections = 3 * MOST;
        settings.first_byte_timeout = Duration::from_secs(2);
    })
    .await;
    let url = rig.url(SCHEMES[0]);
    let (mut made, mut refused) = (Vec::new(), 0);
    for _ in 0..6 * MOST {
        match connect(&url, quic(), &rig.client).await {
            // Nothing is said on it.
            Ok(carrier) => made.push(carrier),
            Err(error) => {
                assert_eq!(error.code(), "broken", "{error}");
                refused += 1;
            }
        }
        assert!(rig.server.load().1 <= MOST);
    }
    assert!(refused > 0);
    for carrier in &mut made {
        assert_eq!(recv_error(carrier).await.code(), "broken");
    }
    until(|| rig.server.load() == (0, 0)).await;
    let (mut client, mut server) = rig.pair(quic(), SCHEMES[0]).await;
    send(&mut client, b"room again").await.expect("alive");
    assert_eq!(recv_exactly(&mut server, 10).await, b"room again");
}

#[tokio::test]
async fn noise_changes_nothing() {
    let mut rig = rig(|_| ()).await;
    let (mut client, mut server) = rig.pair(quic(), SCHEMES[0]).await;
    let mut random = ChaCha8Rng::seed_from_u64(32);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let port = rig.client.quic_port;
    for round in 0..2_000 {
        let mut noise = vec![0; 1 + random.next_u32() as usize % 1400];
        random.fill_bytes(&mut noise);
        if round % 2 == 0 && noise.len() > 6 {
            // A long header of version 1 (RFC 9000 section 17.2).
            noise[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        }
        socket
            .send_to(&noise, ("127.0.0.1", port))
            .await
            .expect("sent");
    }
    send(&mut client, b"ping").await.expect("unharmed");
    assert_eq!(recv_exactly(&mut server, 4).await, b"ping");
    rig.pair(quic(), SCHEMES[1]).await;
}
