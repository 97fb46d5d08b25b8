//! Several relays on one database: sessions go on through whichever is there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use underpass_endpoint::choice::ChoiceSettings;
use underpass_endpoint::{AttachSettings, Attachment, Fleet, OpenOptions, Sessions};
use underpass_proto::Code;
use underpass_proto::control::Revoke;
use underpass_seal::StaticKey;

use crate::stage::{
    Agent, Only, Path, Stage, attach_settings, exchange, in_time, pattern, serve_echo_at, until,
};

/// Two relays, an administrator at the first one, and a publisher of `db` and a user who are not yet
/// attached.
struct Group {
    stages: [Stage; 2],
    admin: Agent,
    publisher: Arc<StaticKey>,
    user: Arc<StaticKey>,
}

/// An agent at both relays; and the paths there.
struct Both {
    fleet: Fleet,
    paths: [Path; 2],
}

impl Both {
    /// One relay is gone for this agent, or there again.
    fn set_open(&self, relay: usize, open: bool) {
        self.paths[relay].set_open(open);
    }

    fn at(&self, relay: usize) -> Attachment {
        self.fleet.attachment(relay).unwrap()
    }
}

async fn enrolled(stage: &Stage, admin: &Agent, user: &str) -> Arc<StaticKey> {
    let agent = stage.invited(admin, user).await;
    agent.attachment.detach().await;
    agent.key
}

impl Group {
    async fn new() -> Self {
        let first = Stage::new().await;
        let admin = first.administrator().await;
        let file = first.settings.data.join("underpass.db");
        let second = Stage::with(|settings| settings.database = Some(file)).await;
        Self {
            publisher: enrolled(&first, &admin, "bob").await,
            user: enrolled(&first, &admin, "alice").await,
            stages: [first, second],
            admin,
        }
    }

    async fn attach(&self, key: &Arc<StaticKey>) -> Both {
        let paths = [
            Path::to(self.stages[0].address()).await,
            Path::to(self.stages[1].address()).await,
        ];
        let names = ["one".to_owned(), "two".to_owned()];
        let fleet = Fleet::new(&names, Sessions::default(), ChoiceSettings::default());
        for (at, path) in paths.iter().enumerate() {
            let settings: AttachSettings = attach_settings(path.address);
            let attaching = Attachment::attach_with(settings, Arc::clone(key), fleet.sessions());
            fleet.put(at, in_time("attaching", attaching).await.unwrap());
        }
        Both { fleet, paths }
    }

    /// A publisher of `db` at these relays, which all may use.
    async fn publish(&self, at: &[usize]) -> Both {
        let publisher = self.attach(&self.publisher).await;
        for at in at {
            let agent = Agent::of(publisher.at(*at), &self.publisher);
            serve_echo_at(&agent.attachment);
            agent.publish("db").await.unwrap();
            agent.allow("*", "db").await.unwrap();
        }
        publisher
    }
}

/// The relay in use dies again and again while data flows and while nothing does. The name of the service
/// means another one by then: it is the ticket that leads to the far endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_through_the_other_relay() {
    let group = Group::new().await;
    let publisher = group.publish(&[0, 1]).await;
    let user = group.attach(&group.user).await;
    let trust = Only(group.publisher.public());
    let connecting = user.fleet.connect("db", &trust);
    let session = in_time("connecting", connecting).await.unwrap();
    Agent::of(user.at(0), &group.user)
        .publish("db")
        .await
        .unwrap();

    let idle = session.open("db", OpenOptions::default()).await.unwrap();
    let (mut reader, mut writer) = idle.into_split();
    let busy = {
        let session = session.clone();
        tokio::spawn(async move {
            for round in 0..12 {
                let data = pattern(1_000_000 + round);
                assert!(exchange(&session, "db", data.clone()).await == data);
            }
        })
    };
    for death in 0..6 {
        let carried = session.status().told.by.unwrap_or_default();
        let dying = usize::from(carried.ends_with("through two"));
        for agent in [&user, &publisher] {
            agent.set_open(dying, false);
        }
        until("the session to go on", || session.status().resumes > death).await;
        // What was said before and what is said now arrives, in this order.
        let sent = Bytes::from(format!("death {death}"));
        writer.write_chunk(sent.clone()).await.unwrap();
        let heard = in_time("an echo", reader.read_chunk()).await.unwrap();
        assert_eq!(heard, Some(sent));
        for agent in [&user, &publisher] {
            agent.set_open(dying, true);
            let carrier = || agent.at(dying).status().carrier.is_some();
            until("the dead relay to be back", carrier).await;
        }
    }
    in_time("all exchanges", busy).await.unwrap();
    assert!(session.status().closed.is_none());
}

/// One relay does not have the publisher, and has clients wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_is_found_where_it_is() {
    let group = Group::new().await;
    let publisher = group.publish(&[1]).await;
    let user = group.attach(&group.user).await;
    let trust = Only(group.publisher.public());
    let connecting = user.fleet.connect("db", &trust);
    let session = in_time("connecting", connecting).await.unwrap();
    assert_eq!(exchange(&session, "db", b"found".to_vec()).await, b"found");
    drop(publisher);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_leaves_the_others_and_a_revocation_ends_all() {
    let group = Group::new().await;
    let publisher = group.publish(&[0, 1]).await;
    let user = group.attach(&group.user).await;
    let trust = Only(group.publisher.public());
    let connecting = user.fleet.connect("db", &trust);
    let session = in_time("connecting", connecting).await.unwrap();
    // One attachment that ends is made anew, beside the others.
    let hop = user.at(0).session();
    hop.close(Code::NoError, "");
    assert_eq!(exchange(&session, "db", b"on".to_vec()).await, b"on");
    let anew = user.at(0);
    assert!(in_time("another attachment", anew.session_changed(&hop)).await);

    let machine = "laptop.alice".to_owned();
    group
        .admin
        .ask(|request| Revoke { request, machine }.into())
        .await
        .unwrap();
    let ended = in_time("the end", user.fleet.ended()).await;
    assert_eq!(ended.code(), Code::Ended);
    let closed = in_time("the end of the session", session.closed()).await;
    assert_ne!(Code::from_number(closed.code), Some(Code::NoError));
    let again = user.fleet.connect("db", &trust).await;
    assert_eq!(again.unwrap_err().code(), Code::Ended);
    drop(publisher);
}

/// All relays are gone for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_waits_until_any_relay_is_back() {
    let group = Group::new().await;
    let publisher = group.publish(&[0, 1]).await;
    let user = group.attach(&group.user).await;
    let trust = Only(group.publisher.public());
    let connecting = user.fleet.connect("db", &trust);
    let session = in_time("connecting", connecting).await.unwrap();
    for relay in [0, 1] {
        user.set_open(relay, false);
    }
    let detached = || session.status().detached_for.is_some();
    until("the session to be without a path", detached).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    user.set_open(1, true);
    assert_eq!(exchange(&session, "db", b"back".to_vec()).await, b"back");
    let ranking = user.fleet.status();
    assert_eq!(ranking[0].name, "two");
    assert!(ranking[0].ranked.words.ends_with("in use"), "{ranking:?}");
    assert_eq!(ranking[1].ranked.words, "not reached");
    drop(publisher);
}
