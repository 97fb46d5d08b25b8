//! The library for others, against the real relay and the real agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cuts;
mod datagrams;
mod examples;
mod messages;
#[path = "../running/mod.rs"]
mod running;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass::{Channel, Client, ClientBuilder, Code, ConnectOptions, Error, MachineKey};

use running::{Home, LIMIT, Relay, count, counting_service, dial, exchange};

fn builder(relay: &Relay) -> ClientBuilder {
    Client::builder().relay(&relay.url)
}

/// A client of a user whom `administrator` invites.
async fn client(relay: &Relay, administrator: &Home, user: &str) -> Client {
    enrolled(builder(relay), administrator, user).await
}

async fn enrolled(builder: ClientBuilder, administrator: &Home, user: &str) -> Client {
    let client = builder.attach().await.unwrap();
    assert_eq!(client.identity().await.unwrap(), None);
    let code = administrator.ok(&["users", "invite", user]);
    client.enrol(code.trim()).await.unwrap();
    assert_eq!(client.identity().await.unwrap().unwrap().user, user);
    client
}

/// Two users, `bob` and `carol`.
async fn two_clients(relay: &Relay) -> (Client, Client) {
    let alice = relay.administrator();
    let bob = client(relay, &alice, "bob").await;
    (bob, client(relay, &alice, "carol").await)
}

/// A connection of `carol`'s to an application of `bob`'s: her end, and his.
async fn connected(bob: &Client, carol: &Client, application: &str) -> (Channel, Channel) {
    let mut listener = bob.listen(application).await.unwrap();
    bob.allow("carol", application).await.unwrap();
    let hers = carol.connect("bob", application).await.unwrap();
    let (his, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.user, "carol");
    (hers, his)
}

async fn conversation(mut channel: Channel, bytes: &[u8]) -> String {
    channel.write_all(bytes).await.unwrap();
    channel.shutdown().await.unwrap();
    let mut answer = String::new();
    channel.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Takes connections and answers as the counting service does; gives the users who came.
async fn count_for_all(mut listener: underpass::Listener) -> Vec<String> {
    let mut users = Vec::new();
    while let Some((mut channel, peer)) = listener.accept().await {
        users.push(peer.user);
        let mut bytes = Vec::new();
        channel.read_to_end(&mut bytes).await.unwrap();
        channel.write_all(count(&bytes).as_bytes()).await.unwrap();
        channel.shutdown().await.unwrap();
    }
    users
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_uses_what_an_agent_publishes() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    let bob = client(&relay, &alice, "bob").await;
    let denied = bob.connect("alice", "counter").await.unwrap_err();
    assert_eq!(denied.code(), Code::DENIED);
    assert!(!denied.is_retryable());
    alice.ok(&["services", "allow", "bob", "counter"]);
    let bytes = vec![5; 100_000];
    let channel = bob.connect("alice", "counter").await.unwrap();
    assert_eq!(conversation(channel, &bytes).await, count(&bytes));
    for name in ["counter", "counter.alice.underpass.internal"] {
        let options = ConnectOptions::new().uncompressed();
        let channel = bob.connect_service(name, &options).await.unwrap();
        assert_eq!(conversation(channel, &bytes).await, count(&bytes), "{name}");
    }
    let none = bob.connect("alice", "none").await.unwrap_err();
    assert_eq!(none.code(), Code::NO_SERVICE);
    let options = ConnectOptions::new();
    let flow = bob.connect_datagrams("alice", "counter", &options).await;
    assert_eq!(flow.unwrap_err().code(), Code::OTHER_TRANSPORT);
    assert!(bob.status().carrier.is_some());
    bob.disconnect().await;
    let over = bob.connect("alice", "counter").await.unwrap_err();
    assert!(matches!(over, Error::Disconnected), "{over:?}");
    assert_eq!(over.code(), Code::DISCONNECTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_what_an_agent_connects_to() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = client(&relay, &alice, "bob").await;
    let listener = bob.listen("program").await.unwrap();
    assert_eq!(listener.full_name(), "program.bob.underpass.internal");
    let twice = bob.listen("program").await.unwrap_err();
    assert_eq!(twice.code(), Code::EXISTS);
    let serving = tokio::spawn(count_for_all(listener));
    tokio::spawn(count_for_all(bob.listen("second").await.unwrap()));
    bob.allow("alice", "program").await.unwrap();
    bob.allow("alice", "second").await.unwrap();
    let nobody = bob.allow("nobody", "program").await.unwrap_err();
    assert_eq!(nobody.code(), Code::NO_USER);
    // An agent has one session for all that one machine publishes, and what it may not use is no part of it.
    let connect = alice.start(&["connect", "program.bob=0", "second.bob=0"]);
    let second: SocketAddr = connect.line().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(exchange(connect.address(), b"hello"), count(b"hello"));
    assert_eq!(exchange(second, b"two"), count(b"two"));
    bob.deny("alice", "second").await.unwrap();
    let refused = std::io::Read::read(&mut dial(second), &mut [0]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    connect.wait_log("[UP-DENIED]");
    // The relay dies and comes back: the program is published again by itself.
    let relay = relay.restart();
    assert_eq!(exchange(connect.address(), b"again"), count(b"again"));
    assert_eq!(connect.stop(), Some(0));
    bob.disconnect().await;
    assert_eq!(serving.await.unwrap(), ["alice", "alice"]);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_holds_at_once() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let mut listener = bob.listen("desk").await.unwrap();
    bob.allow("carol", "desk").await.unwrap();
    let mut hers = carol.connect("bob", "desk").await.unwrap();
    let (mut his, _) = listener.accept().await.unwrap();
    hers.write_all(b"x").await.unwrap();
    assert_eq!(his.read_u8().await.unwrap(), b'x');
    bob.deny("carol", "desk").await.unwrap();
    // What there is, is cut off, and both sides learn why.
    let cut = hers.read_u8().await.unwrap_err();
    assert_eq!(Error::of_io(&cut).map(Error::code), Some(Code::DENIED));
    assert_eq!(cut.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(his.read_u8().await.is_err());
    let denied = carol.connect("bob", "desk").await.unwrap_err();
    assert_eq!(denied.code(), Code::DENIED);
    bob.allow("carol", "desk").await.unwrap();
    carol.connect("bob", "desk").await.unwrap();
    assert!(listener.accept().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_there_yet_can_be_waited_for() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let briefly = ConnectOptions::new().wait(Duration::from_millis(300));
    let away = carol
        .connect_with("bob", "late", &briefly)
        .await
        .unwrap_err();
    assert_eq!(away.code(), Code::NO_SERVICE);
    let waiting = tokio::spawn({
        let carol = carol.clone();
        let options = ConnectOptions::new().wait(Duration::MAX);
        async move { carol.connect_with("bob", "late", &options).await }
    });
    // An attempt that is dropped leaves nothing behind that would spoil another.
    let dropped = tokio::time::timeout(
        Duration::from_millis(1),
        carol.connect_with("bob", "late", &briefly),
    );
    assert!(dropped.await.is_err());
    bob.allow("carol", "late").await.unwrap_err();
    let listener = bob.listen("late").await.unwrap();
    let serving = tokio::spawn(count_for_all(listener));
    // Private until it is allowed, and that is no reason to wait on.
    let outcome = waiting.await.unwrap();
    assert_eq!(outcome.err().map(|error| error.code()), Some(Code::DENIED));
    bob.allow("carol", "late").await.unwrap();
    let channel = carol.connect("bob", "late").await.unwrap();
    assert_eq!(conversation(channel, b"now").await, count(b"now"));
    bob.disconnect().await;
    assert_eq!(serving.await.unwrap(), ["carol"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_an_end_only_when_the_other_side_says_so() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let (mut hers, his) = connected(&bob, &carol, "ends").await;
    // Halves go their own ways: he ends his direction, she goes on with hers.
    let (mut reader, mut writer) = his.into_split();
    writer.write_all(b"done").await.unwrap();
    writer.shutdown().await.unwrap();
    let mut answer = String::new();
    hers.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "done");
    hers.write_all(b"and more").await.unwrap();
    assert_eq!(
        &reader.read_chunk().await.unwrap().unwrap()[..],
        b"and more"
    );
    hers.abort();
    let broken = reader.read_chunk().await.unwrap_err();
    assert_eq!(broken.code(), Code::ABORTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_may_only_enrol_or_log_in() {
    let relay = Relay::start();
    let stranger = builder(&relay).attach().await.unwrap();
    let refused = stranger.connect("any", "thing").await.unwrap_err();
    assert_eq!(refused.code(), Code::NOT_ENROLLED);
    let refused = stranger.enrol("aaaa-aaaa").await.unwrap_err();
    assert_eq!(refused.code(), Code::INVALID_CODE);
    let other = MachineKey::generate().fingerprint();
    let another_relay = Client::builder().relay(format!("{}#{other}", relay.url));
    let refused = another_relay.attach().await.unwrap_err();
    assert_eq!(refused.code(), Code::KEY_MISMATCH);
    let nobody = Client::builder().relay("http://127.0.0.1:1").proxy("none");
    let silent = nobody.attach().await.unwrap_err();
    assert_eq!(silent.code(), Code::UNREACHABLE);
    assert!(silent.is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_comes_by_name_and_password() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let first = builder(&relay)
        .machine_name("first")
        .attach()
        .await
        .unwrap();
    first.register("bob", "correct horse").await.unwrap();
    let waits = first.listen("any").await.unwrap_err();
    assert_eq!(waits.code(), Code::WAITING);
    alice.ok(&["users", "approve", "bob"]);
    first.listen("any").await.unwrap();
    let second = builder(&relay)
        .machine_name("second")
        .attach()
        .await
        .unwrap();
    let wrong = second.sign_in("bob", "battery staple").await.unwrap_err();
    assert_eq!(wrong.code(), Code::WRONG_PASSWORD);
    let nobody = second.sign_in("eve", "correct horse").await.unwrap_err();
    assert_eq!(nobody.code(), Code::WRONG_PASSWORD);
    second.sign_in("bob", "correct horse").await.unwrap();
    let identity = second.identity().await.unwrap().unwrap();
    assert_eq!((&*identity.user, &*identity.machine), ("bob", "second"));
    let empty = second.sign_in("bob", "").await.unwrap_err();
    assert_eq!(empty.code(), Code::BAD_SETTING);
}

/// Waits for something that must come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it comes")
}
