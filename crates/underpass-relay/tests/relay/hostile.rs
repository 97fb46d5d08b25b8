//! Peers that mean harm are refused, and nobody else notices.

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use underpass_carrier::SourceLimit;
use underpass_endpoint::OpenOptions;
use underpass_proto::control::CONTROL_SERVICE;
use underpass_proto::packet::{PacketKind, Refused};
use underpass_proto::{Code, varint};
use underpass_seal::StaticKey;

use crate::events::{details, of_kind};
use crate::raw::lingering;
use crate::stage::{Agent, Stage, in_time, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_on_a_control_channel_costs_that_channel_only() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let eve = stage.stranger().await;
    let session = eve.attachment.session();
    let mut giant = BytesMut::new();
    varint::put(&mut giant, 1 << 40);
    let mut unknown = BytesMut::new();
    varint::put(&mut unknown, 1);
    unknown.put_u8(0x3f);
    let mut not_hers = BytesMut::new();
    varint::put(&mut not_hers, 2);
    not_hers.put_slice(&[0x20, 0x01]);
    for nonsense in [giant, unknown, not_hers] {
        let mut channel = session
            .open(CONTROL_SERVICE, OpenOptions::default())
            .await
            .unwrap();
        channel.accepted().await.unwrap();
        let (mut reader, mut writer) = channel.into_split();
        writer.write_chunk(nonsense.freeze()).await.unwrap();
        let refused = in_time("a refusal", reader.read_chunk()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ProtocolViolation);
    }
    eve.hello().await.unwrap();
    admin.who_am_i().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_channels_are_few() {
    let stage = Stage::new().await;
    let eve = stage.stranger().await;
    let session = eve.attachment.session();
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut channel = session
            .open(CONTROL_SERVICE, OpenOptions::default())
            .await
            .unwrap();
        match in_time("an answer", channel.accepted()).await {
            Ok(()) => open.push(channel),
            Err(refused) => assert_eq!(refused.code(), Code::Busy),
        }
    }
    assert!((1..10).contains(&open.len()), "{} are open", open.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_few_and_leave_room_for_members() {
    let stage = Stage::with(|settings| settings.strangers_per_source = 3).await;
    let admin = stage.administrator().await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        // The refusal comes as the end of the session, right after its beginning.
        if let Ok(stranger) = Agent::attach_as(stage.address(), StaticKey::generate()).await {
            strangers.push(stranger);
        }
    }
    assert!(stage.relay.load().0.strangers <= 3);
    admin.who_am_i().await.unwrap();
    let again = StaticKey::from_bytes(*admin.key.to_bytes());
    let again = Agent::attach(stage.address(), again).await;
    assert_eq!(again.who_am_i().await.unwrap().user, "admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_linger_leave_room_for_others() {
    let stage = Stage::with(|settings| settings.handshakes_per_source = 2).await;
    let admin = stage.administrator().await;
    let first = lingering(stage.address()).await;
    let second = lingering(stage.address()).await;
    for (_, said) in [&first, &second] {
        assert_eq!(said.kind, PacketKind::Padding);
    }
    let (_carrier, refused) = lingering(stage.address()).await;
    let refused = Refused::decode(refused.body).unwrap();
    assert_eq!(refused.code, Code::Busy.number());
    admin.who_am_i().await.unwrap();
    let told = &of_kind(&admin, "limit", 1).await[0];
    assert_eq!(told.address, "127.0.0.1");
    let limit = SourceLimit::Handshakes.words();
    assert_eq!(details(told)["limit"], limit);
    drop((first, second));
    in_time("room", async {
        while lingering(stage.address()).await.1.kind != PacketKind::Padding {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_enrols_is_sent_away() {
    let within = underpass_relay::settings::Span(std::time::Duration::from_millis(200));
    let stage = Stage::with(|settings| settings.enrol_within = within).await;
    let stranger = stage.stranger().await;
    let session = stranger.attachment.session();
    let closed = in_time("the end", session.closed()).await;
    assert_eq!(closed.code, Code::NotEnrolled.number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_port_disturbs_nobody() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let mut connections = Vec::new();
    for round in 0..100u32 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let noise: Vec<u8> = (0..512u32).map(|at| (at * 31 + round * 17) as u8).collect();
        let beginning: &[u8] = match round % 3 {
            0 => &noise,
            1 => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            _ => b"POST /",
        };
        // The relay may have hung up already.
        let _ = stream.write_all(beginning).await;
        connections.push(stream);
    }
    admin.who_am_i().await.unwrap();
    drop(connections);
    let load = stage.relay.load().0;
    assert_eq!((load.attachments, load.links), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_to_nowhere_are_refused_one_by_one() {
    let stage = Stage::with(|settings| settings.waiting_per_attachment = 8).await;
    let admin = stage.administrator().await;
    let key = StaticKey::generate();
    for name in [
        "none",
        "none.nobody",
        "UPPER",
        "a.b.c",
        "@control",
        "x".repeat(255).as_str(),
    ] {
        let refused = admin.connect(name, &key).await.unwrap_err();
        assert!(
            matches!(refused, Code::NoService | Code::NameInvalid),
            "{name}: {refused:?}"
        );
    }
    admin.publish("db").await.unwrap();
    // The publisher serves nothing: it refuses by itself, and every route is gone again.
    let many = (0..32).map(|_| admin.connect("db", &key));
    for refused in futures_util::future::join_all(many).await {
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, Code::NoService | Code::Busy),
            "{refused:?}"
        );
    }
    until("routes to go", || stage.relay.load().0.routes == 0).await;
    assert_eq!(stage.relay.load().1, 0, "no bytes are left behind");
}
