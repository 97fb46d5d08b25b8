//! Relays of one group: each with a key and a port of its own, all with one database.

use underpass_proto::Code;
use underpass_proto::control::Revoke;
use underpass_seal::StaticKey;

use crate::stage::{Agent, Stage, exchange, in_time, pattern};

/// Two relays, and an administrator at the first one.
async fn two() -> (Stage, Stage, Agent) {
    let first = Stage::new().await;
    let admin = first.administrator().await;
    let file = first.settings.data.join("underpass.db");
    assert!(file.exists());
    let second = Stage::with(|settings| settings.database = Some(file)).await;
    assert_ne!(first.relay.fingerprint(), second.relay.fingerprint());
    (first, second, admin)
}

async fn same_machine(agent: &Agent, at: &Stage) -> Agent {
    Agent::attach(at.address(), StaticKey::from_bytes(*agent.key.to_bytes())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_known_at_one_relay_is_known_at_all() {
    let (first, second, admin) = two().await;
    assert_eq!(second.relay.setup_code(), None, "it has its administrator");
    let alice = first.invited(&admin, "alice").await;
    let there = same_machine(&alice, &second).await;
    assert_eq!(there.who_am_i().await.unwrap().user, "alice");

    // A service that is published at both is one service, and whoever may use it may do so at either.
    let admin_there = same_machine(&admin, &second).await;
    let names = [
        admin.publish("echo").await,
        admin_there.publish("echo").await,
    ];
    assert_eq!(names[0], names[1]);
    admin.allow("alice", "echo").await.unwrap();
    for (publisher, client) in [(&admin, &alice), (&admin_there, &there)] {
        publisher.serve_echo();
        let session = client.connect("echo", &publisher.key).await.unwrap();
        let data = pattern(100_000);
        assert!(exchange(&session, "echo", data.clone()).await == data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_shut_out_at_one_relay_is_out_at_all() {
    let (first, second, admin) = two().await;
    let alice = first.invited(&admin, "alice").await;
    let there = same_machine(&alice, &second).await;
    assert_eq!(there.hello().await.unwrap().user, "alice");
    let admin_there = same_machine(&admin, &second).await;
    assert_eq!(admin_there.hello().await.unwrap().user, "admin");
    let machine = "laptop.alice".to_owned();
    admin
        .ask(|request| Revoke { request, machine }.into())
        .await
        .unwrap();
    for out in [&alice, &there] {
        let ended = in_time("the end", out.attachment.ended()).await;
        assert_eq!(ended.code(), Code::Ended);
    }
    assert_eq!(
        admin_there.who_am_i().await.unwrap().user,
        "admin",
        "others stay"
    );
}
