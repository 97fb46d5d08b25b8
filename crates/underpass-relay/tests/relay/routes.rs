//! Sessions from end to end through the relay.

use std::time::Duration;

use bytes::Bytes;
use underpass_endpoint::OpenOptions;
use underpass_proto::Code;
use underpass_proto::control::{FarEnd, Withdraw};
use underpass_relay::settings::Span;

use crate::stage::{Agent, Path, Stage, exchange, in_time, pattern, until};

/// A relay with a publisher of `db` and a user who may use it.
async fn stage() -> (Stage, Agent, Agent) {
    let stage = Stage::new().await;
    let publisher = stage.administrator().await;
    publisher.serve_echo();
    publisher.publish("db").await.unwrap();
    let user = stage.invited(&publisher, "alice").await;
    publisher.allow("alice", "db").await.unwrap();
    (stage, publisher, user)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_user_reaches_the_publisher() {
    let (stage, publisher, user) = stage().await;
    let resolved = user.resolve("db").await.unwrap();
    assert_eq!(resolved.far_end, FarEnd::Publisher);
    assert_eq!(resolved.full_name, "db.admin.underpass.internal");
    assert_eq!(resolved.publisher_key, publisher.key.public().0);
    for name in ["db", "db.admin", "db.admin.underpass.internal"] {
        let session = user.connect(name, &publisher.key).await.unwrap();
        let data = pattern(1_000_000);
        assert!(
            exchange(&session, "db", data.clone()).await == data,
            "{name}"
        );
        session.close(Code::NoError, "done");
    }
    until("routes to go", || stage.relay.load().0.routes == 0).await;
    until("queues to empty", || stage.relay.load().1 == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_until_the_owner_allows_and_again_when_that_is_taken_back() {
    let stage = Stage::new().await;
    let publisher = stage.administrator().await;
    publisher.serve_echo();
    publisher.publish("db").await.unwrap();
    let user = stage.invited(&publisher, "alice").await;
    let refused = user.connect("db", &publisher.key).await.unwrap_err();
    assert_eq!(refused, Code::Denied);
    assert_eq!(user.resolve("db").await, Err(Code::Denied));
    assert_eq!(
        user.allow("alice", "db.admin").await,
        Err(Code::Denied),
        "not her own"
    );
    assert_eq!(
        user.connect("none", &publisher.key).await.unwrap_err(),
        Code::NoService
    );

    publisher.allow("alice", "db").await.unwrap();
    let session = user.connect("db", &publisher.key).await.unwrap();
    assert_eq!(exchange(&session, "db", b"hello".to_vec()).await, b"hello");
    publisher.deny("alice", "db").await.unwrap();
    let closed = in_time("the end", session.closed()).await;
    assert_eq!(closed.code, Code::Denied.number(), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_withdrawn_is_gone() {
    let (stage, publisher, user) = stage().await;
    let _session = user.connect("db", &publisher.key).await.unwrap();
    let name = "db".to_owned();
    publisher
        .ask(|request| Withdraw { request, name }.into())
        .await
        .unwrap();
    until("its route to go", || stage.relay.load().0.routes == 0).await;
    assert_eq!(user.resolve("db").await, Err(Code::NoService));
    assert_eq!(
        user.connect("db", &publisher.key).await.unwrap_err(),
        Code::NoService
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_waits_for_a_publisher_that_comes_back() {
    let (stage, publisher, user) = stage().await;
    let key = publisher.key.clone();
    publisher.attachment.detach().await;
    until("the publisher to be gone", || {
        stage.relay.load().0.services == 0
    })
    .await;
    assert!(!user.resolve("db").await.unwrap().present);
    let back = async {
        until("the user to wait", || stage.relay.load().0.waiting == 1).await;
        let secret = underpass_seal::StaticKey::from_bytes(*key.to_bytes());
        let again = Agent::attach(stage.address(), secret).await;
        again.serve_echo();
        again.publish("db").await.unwrap();
        again
    };
    let (session, _again) = tokio::join!(user.connect("db", &key), back);
    assert_eq!(
        exchange(&session.unwrap(), "db", b"hello".to_vec()).await,
        b"hello"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_stays_away_is_not_waited_for_without_end() {
    let wait = Span(Duration::from_millis(50));
    let stage = Stage::with(|settings| settings.wait_for_publisher = wait).await;
    let publisher = stage.administrator().await;
    publisher.publish("db").await.unwrap();
    let user = stage.invited(&publisher, "alice").await;
    publisher.allow("*", "db").await.unwrap();
    publisher.attachment.detach().await;
    until("the publisher to be gone", || {
        stage.relay.load().0.services == 0
    })
    .await;
    let refused = user.connect("db", &publisher.key).await.unwrap_err();
    assert_eq!(refused, Code::ServiceAway);
    assert_eq!(stage.relay.load().0.routes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_on_both_sides_lose_nothing() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let (near, far) = (
        Path::to(stage.address()).await,
        Path::to(stage.address()).await,
    );
    let publisher = stage.invited_at(far.address, &admin, "bob").await;
    publisher.serve_echo();
    publisher.publish("db").await.unwrap();
    publisher.allow("alice", "db").await.unwrap_err();
    let user = stage.invited_at(near.address, &admin, "alice").await;
    publisher.allow("alice", "db").await.unwrap();
    let session = user.connect("db.bob", &publisher.key).await.unwrap();
    let cutting = async {
        for cut in 0..6 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            [&near, &far][cut % 2].cut();
        }
    };
    let data = pattern(64 << 20);
    let (back, ()) = tokio::join!(exchange(&session, "db", data.clone()), cutting);
    assert!(back == data, "byte for byte");
    assert!(session.status().resumes > 0, "the cuts were felt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_holds_back_its_sender_and_nobody_else() {
    let (stage, publisher, user) = stage().await;
    let session = user.connect("db", &publisher.key).await.unwrap();
    let channel = session.open("db", OpenOptions::default()).await.unwrap();
    let (mut reader, mut writer) = channel.into_split();
    // More than all windows on the way hold together: the echo is not read, so this cannot end.
    let flood = tokio::spawn(async move {
        for _ in 0..4096 {
            if writer
                .write_chunk(Bytes::from(vec![7; 64 * 1024]))
                .await
                .is_err()
            {
                return;
            }
        }
        panic!("nothing holds the sender back");
    });
    let other = user.connect("db", &publisher.key).await.unwrap();
    let data = pattern(4 << 20);
    assert!(exchange(&other, "db", data.clone()).await == data);
    let hard = stage.settings.route_hard.0;
    let (load, queued) = stage.relay.load();
    assert_eq!(load.routes, 2);
    assert!(queued <= 4 * (hard + hard / 4), "{queued} bytes wait");
    assert!(!flood.is_finished());
    session.close(Code::NoError, "enough");
    in_time("the flood to end", flood).await.unwrap();
    assert!(reader.read_chunk().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_come_back_is_forgotten() {
    let stage = Stage::with(|settings| settings.keep = Span(Duration::from_secs(1))).await;
    let admin = stage.administrator().await;
    let path = Path::to(stage.address()).await;
    let away = stage.invited_at(path.address, &admin, "alice").await;
    away.publish("db").await.unwrap();
    assert_eq!(stage.relay.load().0.attachments, 2);
    path.set_open(false);
    until("it to be forgotten", || {
        stage.relay.load().0.attachments == 1
    })
    .await;
    let load = stage.relay.load().0;
    assert_eq!((load.services, load.links), (0, 1));
    assert_eq!(admin.who_am_i().await.unwrap().user, "admin");
}
