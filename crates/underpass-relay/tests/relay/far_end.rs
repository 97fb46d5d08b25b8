//! The relay as the far end: services that it dials itself.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use underpass_endpoint::OpenOptions;
use underpass_proto::Code;
use underpass_proto::control::FarEnd;

use crate::stage::{Agent, Stage, echo_service, exchange, in_time, pattern};

async fn stage() -> (Stage, Agent, Agent) {
    let echo = echo_service().await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let services = format!(
        "[[service]]\nname = \"web\"\ntarget = \"{echo}\"\nallow = [\"*\"]\n\
         [[service]]\nname = \"off\"\ntarget = \"{closed}\"\nallow = [\"alice\"]\n\
         [[service]]\nname = \"unknown\"\ntarget = \"nowhere.invalid:1\"\nallow = [\"alice\"]\n",
    );
    let stage = Stage::with(|settings| settings.read_toml(&services).unwrap()).await;
    let admin = stage.administrator().await;
    let alice = stage.invited(&admin, "alice").await;
    (stage, admin, alice)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_relay_dials_is_byte_exact_with_its_ends() {
    let (stage, _admin, alice) = stage().await;
    let resolved = alice.resolve("web").await.unwrap();
    assert_eq!(resolved.far_end, FarEnd::Relay);
    assert_eq!(resolved.full_name, "web.relay.underpass.internal");
    assert_eq!(resolved.publisher_key, alice.attachment.relay_key().0);
    assert!(resolved.present);
    let session = alice.attachment.session();
    let data = pattern(3_000_000);
    assert!(exchange(&session, "web", data.clone()).await == data);
    assert!(exchange(&session, "web.relay.underpass.internal", data.clone()).await == data);
    drop(stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_dial_is_told_as_it_was() {
    let (_stage, admin, alice) = stage().await;
    for (service, code) in [
        ("off", Code::Refused),
        ("unknown", Code::Unreachable),
        ("none", Code::NoService),
        ("WEB", Code::NameInvalid),
    ] {
        let session = alice.attachment.session();
        let mut channel = session.open(service, OpenOptions::default()).await.unwrap();
        let refused = in_time("a refusal", channel.accepted()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{service}");
    }
    let session = admin.attachment.session();
    let mut channel = session.open("off", OpenOptions::default()).await.unwrap();
    let refused = in_time("a refusal", channel.accepted()).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Denied,
        "nobody has allowed it to the administrator"
    );
    assert_eq!(admin.resolve("off").await, Err(Code::Denied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_service_takes_the_place_of_the_relays_only_for_its_owner() {
    let (_stage, admin, alice) = stage().await;
    alice.publish("web").await.unwrap();
    alice.allow("*", "web").await.unwrap();
    assert_eq!(
        alice.resolve("web").await.unwrap().far_end,
        FarEnd::Publisher
    );
    assert_eq!(admin.resolve("web").await.unwrap().far_end, FarEnd::Relay);
    assert_eq!(
        admin.resolve("web.alice").await.unwrap().far_end,
        FarEnd::Publisher
    );
    assert_eq!(
        alice.resolve("web.relay").await.unwrap().far_end,
        FarEnd::Relay
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_moves_to_another_service_of_the_relay() {
    let (first, second) = (echo_service().await, echo_service().await);
    let services = format!(
        "[[service]]\nname = \"one\"\ntarget = \"{first}\"\nallow = [\"*\"]\n\
         [[service]]\nname = \"two\"\ntarget = \"{second}\"\nallow = [\"admin\"]\n\
         [[service]]\nname = \"three\"\ntarget = \"{second}\"\n",
    );
    let stage = Stage::with(|settings| settings.read_toml(&services).unwrap()).await;
    let admin = stage.administrator().await;
    let session = admin.attachment.session();
    let mut channel = session.open("one", OpenOptions::default()).await.unwrap();
    let mut back = [0; 5];
    channel.write_all(b"first").await.unwrap();
    in_time("an echo", channel.read_exact(&mut back))
        .await
        .unwrap();
    channel.redial("two");
    channel.write_all(b"later").await.unwrap();
    in_time("an echo", channel.read_exact(&mut back))
        .await
        .unwrap();
    assert_eq!(&back, b"later");
    channel.redial("three");
    let ended = in_time("the end", channel.read_exact(&mut back))
        .await
        .unwrap_err();
    assert_eq!(
        ended.kind(),
        std::io::ErrorKind::PermissionDenied,
        "nobody may use that one"
    );
}
