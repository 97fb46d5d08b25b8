//! A hop's session over real carriers on loopback: attached, cut, resumed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use underpass_carrier::{ClientSettings, KINDS, Listen, NotFound, Server, ServerSettings};
use underpass_endpoint::link::{LinkEnd, Router};
use underpass_endpoint::{
    Accepted, Acceptor, AttachSettings, Attachment, Link, OpenOptions, Session,
};
use underpass_proto::code::Code;
use underpass_proto::route::RouteHeader;
use underpass_proto::session::Config;
use underpass_seal::StaticKey;

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
            _ => incoming.refuse(Code::Refused),
        }
    }
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
        session: Config::default(),
    };
    Attachment::attach(settings, Arc::new(StaticKey::generate()))
        .await
        .unwrap()
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
    for kind in KINDS {
        let (address, _sessions) = far_end().await;
        let attachment = attach(address, kind.name).await;
        exchange(&attachment.session(), &pattern(5_000_000), false).await;
        exchange(&attachment.session(), &pattern(3_000_000), true).await;
        attachment.detach().await;
    }
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
    for kind in KINDS {
        let (address, _sessions) = far_end().await;
        let (address, cut) = cuttable(address).await;
        let attachment = attach(address, kind.name).await;
        let session = attachment.session();
        let data = pattern(24_000_000);
        let cutting = async {
            let mut cuts = 0;
            while attachment.status().drops < 10 {
                let drops = attachment.status().drops;
                let _ = cut.send(());
                cuts += 1;
                while attachment.status().drops == drops || attachment.status().carrier.is_none() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            cuts
        };
        let (cuts, ()) = tokio::join!(cutting, async {
            while attachment.status().drops < 10 {
                exchange(&session, &data, false).await;
            }
        });
        assert!(cuts >= 10);
        assert_eq!(attachment.session().id(), session.id(), "{}", kind.name);
        attachment.detach().await;
    }
}
