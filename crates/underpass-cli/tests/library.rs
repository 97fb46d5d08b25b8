//! The library for others, against the real relay and the real agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass::{Client, Code, MachineKey, Options, Stream};

use running::{Home, Relay, count, counting_service, exchange};

fn options(relay: &Relay) -> Options {
    Options::new(&relay.url, MachineKey::generate()).unwrap()
}

/// A client of a user whom `administrator` invites.
async fn client(relay: &Relay, administrator: &Home, user: &str) -> Client {
    let client = Client::attach(options(relay)).await.unwrap();
    let code = administrator.ok(&["users", "invite", user]);
    client.enrol(code.trim()).await.unwrap();
    client
}

async fn conversation(mut stream: Stream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_uses_what_an_agent_publishes() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    let bob = client(&relay, &alice, "bob").await;
    let denied = bob.connect("counter").await.unwrap_err();
    assert_eq!(denied.code(), Code::Denied);
    assert!(!denied.is_retryable());
    alice.ok(&["services", "allow", "bob", "counter"]);
    let bytes = vec![5; 100_000];
    for name in [
        "counter",
        "counter.alice",
        "counter.alice.underpass.internal",
    ] {
        let stream = bob.connect(name).await.unwrap();
        assert_eq!(conversation(stream, &bytes).await, count(&bytes), "{name}");
    }
    assert_eq!(
        bob.connect("none").await.unwrap_err().code(),
        Code::NoService
    );
    assert!(bob.status().carrier.is_some());
    bob.detach().await;
    assert!(bob.connect("counter").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_what_an_agent_connects_to() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = client(&relay, &alice, "bob").await;
    let mut listener = bob.listen("program").await.unwrap();
    assert_eq!(listener.full_name(), "program.bob.underpass.internal");
    assert!(bob.listen("program").await.is_err());
    let serving = tokio::spawn(async move {
        let mut users = Vec::new();
        while let Some((mut stream, user)) = listener.accept().await {
            users.push(user);
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            stream.write_all(count(&bytes).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        users
    });
    // The program is bob's, so bob says who may use it: with another machine of bob's.
    let desk = Home::new();
    let code = alice.ok(&["users", "invite", "bob"]);
    desk.ok(&[
        "login",
        &relay.url,
        "--invite",
        code.trim(),
        "--machine",
        "desk",
    ]);
    desk.ok(&["services", "allow", "alice", "program"]);
    let connect = alice.start(&["connect", "program.bob"]);
    assert_eq!(exchange(connect.address(), b"hello"), count(b"hello"));
    // The relay dies and comes back: the program is published again by itself.
    let relay = relay.restart();
    assert_eq!(exchange(connect.address(), b"again"), count(b"again"));
    assert_eq!(connect.stop(), Some(0));
    bob.detach().await;
    assert_eq!(serving.await.unwrap(), ["alice", "alice"]);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_may_only_enrol() {
    let relay = Relay::start();
    let stranger = Client::attach(options(&relay)).await.unwrap();
    let refused = stranger.connect("any").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotEnrolled);
    let refused = stranger.enrol("aaaa-aaaa").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidCode);
    let other = MachineKey::generate().fingerprint();
    let wrong = format!("{}#{other}", relay.url);
    let options = Options::new(&wrong, MachineKey::generate()).unwrap();
    let refused = Client::attach(options).await.unwrap_err();
    assert_eq!(refused.code(), Code::KeyMismatch);
}
