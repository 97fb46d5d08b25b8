//! What agents learn of a shutdown, and what outlives it.

use underpass_proto::Code;
use underpass_proto::control::Control;

use crate::stage::{Stage, exchange, in_time, pattern, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_told_that_the_relay_goes() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let idle = stage.stranger().await;
    let session = idle.attachment.session();
    until("both to be known", || stage.relay.load().0.links == 2).await;
    let shutdown = stage.relay.shutdown();
    let (said, closed, ()) = in_time("the shutdown", async {
        tokio::join!(admin.control.unasked(), session.closed(), shutdown)
    })
    .await;
    let Some(Control::Going(going)) = said else {
        panic!("{said:?}");
    };
    assert_eq!(going.code, Code::GoingAway.number());
    assert!(going.retry_after_ms > 0 && !going.text.is_empty());
    assert_eq!(
        closed.code,
        Code::GoingAway.number(),
        "also without a control channel"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_end_to_end_goes_on_after_a_restart() {
    let stage = Stage::new().await;
    let publisher = stage.administrator().await;
    publisher.serve_echo();
    publisher.publish("db").await.unwrap();
    let user = stage.invited(&publisher, "alice").await;
    publisher.allow("alice", "db").await.unwrap();
    let session = user.connect("db", &publisher.key).await.unwrap();
    let before = pattern(100_000);
    assert!(exchange(&session, "db", before.clone()).await == before);

    let hop = publisher.attachment.session();
    let stage = stage.restart().await;
    assert!(
        in_time(
            "attaching again",
            publisher.attachment.session_changed(&hop)
        )
        .await
    );
    let mut published = publisher.publish("db").await;
    while published == Err(Code::GoingAway) {
        published = publisher.publish("db").await;
    }
    published.unwrap();
    let after = pattern(200_000);
    assert!(exchange(&session, "db", after.clone()).await == after);
    assert_eq!(session.status().resumes, 1);
    drop(stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_agents_ends_at_once() {
    let stage = Stage::new().await;
    in_time("the shutdown", stage.relay.shutdown()).await;
    // The port and the data are free.
    let again = underpass_relay::Relay::start(stage.settings).await.unwrap();
    again.shutdown().await;
}
