//! A hop's session over real carriers on loopback: attached, cut, resumed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{broadcast, mpsc};
use underpass_carrier::{ClientSettings, KINDS, Kind, Listen, NotFound, Server, ServerSettings};
use underpass_endpoint::dial::dial_udp;
use underpass_endpoint::flow::{Flow, FlowSettings};
use underpass_endpoint::link::{LinkEnd, Router};
use underpass_endpoint::splice::{HostSide, splice, splice_far, splice_host};
use underpass_endpoint::{
    Accepted, Acceptor, AttachSettings, Attachment, Channel, Link, OpenOptions, Session,
};
use underpass_proto::code::Code;
use underpass_proto::frame::ChannelKind;
use underpass_proto::route::RouteHeader;
use underpass_proto::session::Config;
use underpass_seal::StaticKey;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

struct NoRoutes;

impl Router for NoRoutes {
    fn routed(&self, _: &Arc<Link>, _: RouteHeader, _: Bytes) {}
    fn link_down(&self, _: &Arc<Link>, _: &LinkEnd) {}
}

/// A relay's front that hands out hop sessions; everything on `echo` comes back.
async fn far_end() -> (SocketAddr, mpsc::Receiver<Session>) {
    let listen = Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        socket: None,
    };
    let mut server = Server::bind(&[listen], ServerSettings::default(), Arc::new(NotFound))
        .await
        .unwrap();
    let address = server.addresses()[0].1;
    let (sender, sessions) = mpsc::channel(16);
    let identity = Arc::new(StaticKey::generate());
    let acceptor = Arc::new(Acceptor::new(
        identity,
        Config::default(),
        Arc::new(NoRoutes),
    ));
    tokio::spawn(async move {
        while let Some(carrier) = server.accept().await {
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                if let Ok(Accepted::New { session, .. }) = acceptor.accept(carrier).await {
                    tokio::spawn(echo(session.clone()));
                    sender.send(session).await.unwrap();
                }
            });
        }
    });
    (address, sessions)
}

async fn echo(session: Session) {
    while let Some(incoming) = session.accept().await {
        match incoming.service() {
            "echo" => {
                let (mut reader, mut writer) = incoming.accept().into_split();
                tokio::spawn(async move {
                    while let Ok(Some(chunk)) = reader.read_chunk().await {
                        writer.write_chunk(chunk).await.unwrap();
                    }
                    writer.finish().await.unwrap();
                });
            }
            target if target.starts_with("udp:") => {
                let socket = dial_udp(&target["udp:".len()..], LIMIT).await.unwrap();
                tokio::spawn(flow(incoming.accept(), socket));
            }
            _ => incoming.refuse(Code::Refused),
        }
    }
}

async fn flow(channel: Channel, mut socket: UdpSocket) {
    let settings = FlowSettings {
        idle: Duration::from_millis(500),
        ..FlowSettings::default()
    };
    let mut flow = Flow::new(channel, settings);
    let end = flow.carry(&mut socket).await;
    flow.end(&end);
}

/// A TCP forwarder in between, whose connections can all be cut at once.
async fn cuttable(target: SocketAddr) -> (SocketAddr, broadcast::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, _) = broadcast::channel(4);
    let cutter = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cut = cutter.subscribe();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(target).await else {
                    return;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = cut.recv() => {
                        let _ = near.set_zero_linger();
                        let _ = far.set_zero_linger();
                    }
                }
            });
        }
    });
    (address, cut)
}

async fn attach(address: SocketAddr, carrier: &str) -> Attachment {
    let settings = AttachSettings {
        relay: format!("http://{address}").parse().unwrap(),
        relay_key: None,
        carriers: KINDS.iter().filter(|kind| kind.name == carrier).collect(),
        client: ClientSettings::default(),
        ascent: underpass_endpoint::AscentSettings::default(),
        session: Config::default(),
    };
    Attachment::attach(settings, Arc::new(StaticKey::generate()))
        .await
        .unwrap()
}

/// The far end listens on TCP, and connections over that can be cut.
fn over_http() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| !kind.abilities.needs_udp)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0])
        .collect()
}

async fn exchange(session: &Session, data: &[u8], compress: bool) {
    let options = OpenOptions {
        compress,
        ..OpenOptions::default()
    };
    let channel = session.open("echo", options).await.unwrap();
    let (mut reader, mut writer) = channel.into_split();
    let writing = async {
        writer.write_all(data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let reading = reader.read_to_end(&mut back);
    let ((), read) = tokio::join!(writing, reading);
    read.unwrap();
    assert!(
        back == data,
        "{} of {} bytes came back",
        back.len(),
        data.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_over_every_carrier() {
    for kind in over_http() {
        let (address, _sessions) = far_end().await;
        let attachment = attach(address, kind.name).await;
        exchange(&attachment.session(), &pattern(5_000_000), false).await;
        exchange(&attachment.session(), &pattern(3_000_000), true).await;
        attachment.detach().await;
    }
}

/// The first one is sent before anybody has answered: it must not overtake the opening.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_pass_whole_until_their_flow_is_idle_or_nobody_is_there() {
    let (address, _sessions) = far_end().await;
    let attachment = attach(address, "upgrade").await;
    let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = host.local_addr().unwrap();
    let echoing = tokio::spawn(async move {
        let mut room = vec![0; 65_536];
        loop {
            let (length, from) = host.recv_from(&mut room).await.unwrap();
            host.send_to(&room[..length], from).await.unwrap();
        }
    });
    let open = |target: String| {
        let session = attachment.session();
        let options = OpenOptions {
            kind: ChannelKind::Datagram,
            ..OpenOptions::default()
        };
        async move { session.open(&target, options).await.unwrap().into_split() }
    };
    let (mut reader, mut writer) = open(format!("udp:{at}")).await;
    for size in [0, 1, 1500, 65_507] {
        let data = Bytes::from(pattern(size));
        let deadline = tokio::time::Instant::now() + LIMIT;
        writer.send_datagram(data.clone(), deadline).unwrap();
        assert_eq!(reader.read_chunk().await.unwrap(), Some(data), "{size}");
    }
    assert_eq!(writer.max_datagram(), 65_507);
    let large = Bytes::from(pattern(65_508));
    assert!(
        writer
            .send_datagram(large, tokio::time::Instant::now() + LIMIT)
            .is_err()
    );
    let ended = reader.read_chunk().await.unwrap_err();
    assert_eq!(ended.code(), Code::NoError);

    echoing.abort();
    let _ = echoing.await;
    let (mut reader, mut writer) = open(format!("udp:{at}")).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    writer
        .send_datagram(Bytes::from_static(b"anybody?"), deadline)
        .unwrap();
    let refused = reader.read_chunk().await.unwrap_err();
    assert_eq!(refused.code(), Code::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_channel_says_why() {
    let (address, _sessions) = far_end().await;
    let attachment = attach(address, "upgrade").await;
    let mut channel = attachment
        .session()
        .open("nothing", OpenOptions::default())
        .await
        .unwrap();
    assert_eq!(channel.accepted().await.unwrap_err().code(), Code::Refused);
    assert!(channel.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_cost_no_byte() {
    for kind in over_http() {
        let (address, _sessions) = far_end().await;
        let (address, cut) = cuttable(address).await;
        let attachment = attach(address, kind.name).await;
        let session = attachment.session();
        let data = pattern(24_000_000);
        // A poll carrier outlives its connections: only cuts are counted, not legs.
        let done = AtomicBool::new(false);
        let cutting = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = cut.send(());
            }
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(cutting, async {
            while !done.load(Ordering::Relaxed) {
                exchange(&session, &data, false).await;
            }
        });
        assert_eq!(attachment.session().id(), session.id(), "{}", kind.name);
        attachment.detach().await;
    }
}

/// Answers each connection with its name, then echoes.
async fn named_service(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.write_all(name.as_bytes()).await.unwrap();
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_moves_to_another_host_service_unnoticed() {
    let (address, mut sessions) = far_end().await;
    let attachment = attach(address, "upgrade").await;
    let far = sessions.recv().await.unwrap();
    let services = [named_service("one:").await, named_service("two:").await];
    let near = attachment.session();
    let dialled = services.clone();
    let channel = far.open("back", OpenOptions::default()).await.unwrap();
    let incoming = near.accept().await.unwrap();
    let dial = move |service: String| {
        let two = dialled[1].clone();
        async move {
            match &service[..] {
                "two" => TcpStream::connect(two).await.map_err(|_| Code::Refused),
                _ => Err(Code::NoService),
            }
        }
    };
    let first = TcpStream::connect(&services[0]).await.unwrap();
    let splicing = tokio::spawn(splice_far(incoming.accept(), first, dial));
    let (mut reader, mut writer) = channel.into_split();
    let mut expect = async |text: &str| {
        let mut read = vec![0; text.len()];
        reader.read_exact(&mut read).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&read), text);
    };
    expect("one:").await;
    writer.write_all(b"before").await.unwrap();
    expect("before").await;
    writer.redial("two").await.unwrap();
    writer.write_all(b"after").await.unwrap();
    expect("two:after").await;
    writer.redial("nowhere").await.unwrap();
    let mut rest = Vec::new();
    assert!(reader.read_to_end(&mut rest).await.is_err());
    assert_eq!(splicing.await.unwrap().redials, 1);
}

/// The far end's own wish: it counts how often, and where it dials.
struct Moving {
    targets: Vec<String>,
    cuts: tokio::sync::watch::Receiver<usize>,
    dialled: tokio::sync::Mutex<usize>,
}

impl HostSide for Moving {
    async fn dial(&self, service: Option<String>) -> Result<TcpStream, Code> {
        assert_eq!(service, None);
        let mut dialled = self.dialled.lock().await;
        *dialled += 1;
        let target = self.targets.get(*dialled).ok_or(Code::Refused)?;
        TcpStream::connect(target).await.map_err(|_| Code::Refused)
    }

    async fn cut(&self) {
        let (mut cuts, dialled) = (self.cuts.clone(), *self.dialled.lock().await);
        let _ = cuts.wait_for(|cuts| *cuts > dialled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_side_dials_anew_and_the_near_side_keeps_its_channel() {
    let (address, mut sessions) = far_end().await;
    let attachment = attach(address, "upgrade").await;
    let far = sessions.recv().await.unwrap();
    let targets = vec![named_service("one:").await, named_service("two:").await];
    let near = attachment.session();
    let channel = far.open("back", OpenOptions::default()).await.unwrap();
    let incoming = near.accept().await.unwrap();
    let (cut, cuts) = tokio::sync::watch::channel(0);
    let first = TcpStream::connect(&targets[0]).await.unwrap();
    let host = Moving {
        targets,
        cuts,
        dialled: tokio::sync::Mutex::new(0),
    };
    let splicing = tokio::spawn(splice_host(incoming.accept(), first, host));
    let (mut reader, mut writer) = channel.into_split();
    let mut expect = async |text: &str| {
        let mut read = vec![0; text.len()];
        reader.read_exact(&mut read).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&read), text);
    };
    expect("one:").await;
    writer.write_all(b"before").await.unwrap();
    expect("before").await;
    cut.send_replace(1);
    expect("two:").await;
    writer.write_all(b"after").await.unwrap();
    expect("after").await;
    // Where the new host does not answer, the conversation ends, and not as if it were over.
    cut.send_replace(2);
    let mut rest = Vec::new();
    assert!(reader.read_to_end(&mut rest).await.is_err());
    assert_eq!(splicing.await.unwrap().redials, 1);
}

/// As when the process ends in the middle of a conversation: all its tasks are dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_splice_that_is_dropped_is_a_break_for_its_program() {
    let (address, _sessions) = far_end().await;
    let attachment = attach(address, "upgrade").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..20 {
        let options = OpenOptions::default();
        let channel = attachment.session().open("echo", options).await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (near, accepted) = tokio::join!(dialled, listener.accept());
        let splicing = tokio::spawn(splice(channel, accepted.unwrap().0));
        let mut near = near.unwrap();
        near.write_all(b"before").await.unwrap();
        near.read_exact(&mut [0; 6]).await.unwrap();
        // It reads while the other end goes: that would see a FIN before a reset.
        let program = tokio::spawn(async move { near.read(&mut [0; 1]).await });
        splicing.abort();
        let read = program.await.unwrap();
        assert!(read.is_err(), "a clean end: {read:?}");
    }
}
