//! The sessions that live at a relay: who sees them, and ending one for good.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use underpass_endpoint::{OpenOptions, Session};
use underpass_proto::Code;
use underpass_proto::control::{
    ConnectionKind, ConnectionRow, Connections, Control, Kick, MakeToken,
};
use underpass_relay::plain::Token;
use underpass_store::{EndedSession, Store as _, UnixMillis};

use crate::events::{details, of_kind};
use crate::stage::{Agent, Path, Stage, echo_service, exchange, in_time, pattern};

pub(crate) async fn list(agent: &Agent) -> Vec<ConnectionRow> {
    let mut rows = Vec::new();
    let answer = agent.ask(|request| Connections { request }.into()).await;
    for message in answer.unwrap() {
        match message {
            Control::ConnectionRows(part) => rows.extend(part.rows),
            other => panic!("{other:?}"),
        }
    }
    rows
}

async fn kick(agent: &Agent, id: &str, reason: &str) -> Result<(), Code> {
    let (id, reason) = (id.to_owned(), reason.to_owned());
    let make = |request| {
        Kick {
            request,
            id,
            reason,
        }
        .into()
    };
    agent.ask(make).await.map(drop)
}

/// How a session ended, in its code and in words.
async fn end_of(session: &Session) -> (u64, String) {
    let closed = in_time("the end", session.closed()).await;
    (closed.code, closed.reason)
}

fn short(session: &Session) -> String {
    let id = session.id().0;
    id[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A relay with an administrator; bob, who publishes `db`; alice, who may use it and comes by a path that can be cut;
/// and eve.
struct Scene {
    stage: Stage,
    admin: Agent,
    bob: Agent,
    alice: Agent,
    eve: Agent,
    path: Path,
}

impl Scene {
    async fn new(services: &str) -> Self {
        let stage = Stage::with(|settings| settings.read_toml(services).unwrap()).await;
        let admin = stage.administrator().await;
        let bob = stage.invited(&admin, "bob").await;
        bob.serve_echo();
        bob.publish("db").await.unwrap();
        let path = Path::to(stage.address()).await;
        let alice = stage.invited_at(path.address, &admin, "alice").await;
        let eve = stage.invited(&admin, "eve").await;
        bob.allow("alice", "db").await.unwrap();
        Self {
            stage,
            admin,
            bob,
            alice,
            eve,
            path,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_at_an_end_sees_a_session_and_managers_see_all() {
    let scene = Scene::new("").await;
    let Scene {
        admin,
        bob,
        alice,
        eve,
        path,
        ..
    } = &scene;
    assert_eq!(list(admin).await, []);
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    let data = pattern(300_000);
    assert!(exchange(&session, "db", data.clone()).await == data);
    let [seen] = &list(admin).await[..] else {
        panic!("one session");
    };
    assert_eq!(seen.id, short(&session));
    assert_eq!(seen.kind, ConnectionKind::Sealed);
    let client = &seen.client;
    assert_eq!((&*client.user, &*client.machine), ("alice", "laptop"));
    assert!(client.address.starts_with("127.0.0.1:"), "{seen:?}");
    assert_eq!((&*seen.service, &*seen.owner), ("db", "bob"));
    assert_eq!(seen.publisher, "laptop");
    let way = &seen.way;
    assert_eq!((&*way.carrier, &*way.far_carrier), ("upgrade", "upgrade"));
    assert_eq!(way.paths, 1);
    for bytes in [seen.sent, seen.received] {
        assert!((300_000..400_000).contains(&bytes), "{seen:?}");
    }
    // Where the client is, is not the owner's to know.
    let [told] = &list(bob).await[..] else {
        panic!("one session");
    };
    assert_eq!((&told.id, &*told.client.address), (&seen.id, ""));
    assert_eq!(list(alice).await[0].client.address, client.address);
    assert_eq!(list(eve).await, []);

    // What passed before a path broke still counts, and it is the same session since the same time.
    path.cut();
    assert!(exchange(&session, "db", data.clone()).await == data);
    let again = &list(admin).await[0];
    assert_eq!(again.id, seen.id);
    assert!(again.since_ms.abs_diff(seen.since_ms) < 1000, "{again:?}");
    assert!(
        again.sent >= 600_000 && again.received >= 600_000,
        "{again:?}"
    );
    session.close(Code::NoError, "done");
    in_time("the end in the list", async {
        while !list(admin).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_ended_never_comes_back() {
    let scene = Scene::new("").await;
    let Scene {
        stage,
        admin,
        bob,
        alice,
        eve,
        path,
    } = scene;
    // By a manager, the client itself, and the owner of the service.
    for (n, by) in [&admin, &alice, &bob].into_iter().enumerate() {
        let session = alice.connect("db.bob", &bob.key).await.unwrap();
        let channel = session.open("db", OpenOptions::default()).await.unwrap();
        let id = short(&session);
        assert_eq!(kick(&eve, &id, "").await, Err(Code::NoConnection));
        kick(by, &id, "enough").await.unwrap();
        let (code, words) = end_of(&session).await;
        assert_eq!(code, Code::Ended.number());
        let name = ["admin", "alice", "bob"][n];
        assert_eq!(words, format!("{name} has ended the connection: enough"));
        let (mut reader, _) = channel.into_split();
        let told = in_time("the end of a channel", reader.read_chunk()).await;
        assert_eq!(told.unwrap_err().code(), Code::Ended);
        assert_eq!(
            kick(by, &id, "").await,
            Err(Code::NoConnection),
            "it is over"
        );
    }
    let kicks = of_kind(&admin, "kick", 3).await;
    assert_eq!((&*kicks[0].actor, &*kicks[0].peer), ("admin", "alice"));
    assert_eq!(details(&kicks[0])["reason"], "enough");
    assert_eq!(details(&kicks[0])["service"], "db");

    // One that another relay of the group has ended while the client was away: it is refused when it comes back, at once
    // after a restart as well.
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    path.set_open(false);
    let ended = EndedSession {
        session: session.id(),
        reason: "said elsewhere".into(),
    };
    let now = UnixMillis::from(std::time::SystemTime::now());
    let until = now.saturating_add(std::time::Duration::from_secs(3600));
    let store = stage.store().await;
    store.end_session(&ended, until, now).await.unwrap();
    let stage = stage.restart().await;
    path.set_open(true);
    let told = end_of(&session).await;
    assert_eq!(told, (Code::Ended.number(), "said elsewhere".to_owned()));
    drop(stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_relay_dials_and_plain_http_are_sessions_too() {
    let target = echo_service().await;
    let services = format!("[[service]]\nname = \"web\"\ntarget = \"{target}\"\nallow = [\"*\"]\n");
    let scene = Scene::new(&services).await;
    let Scene {
        stage,
        admin,
        bob,
        alice,
        ..
    } = &scene;
    let hop = alice.attachment.session();
    let options = OpenOptions::default;
    let channel = hop.open("web", options()).await.unwrap();
    let (mut reader, mut writer) = channel.into_split();
    writer.write_chunk(pattern(10_000).into()).await.unwrap();
    let mut got = 0;
    while got < 10_000 {
        got += reader.read_chunk().await.unwrap().unwrap().len();
    }
    let [seen] = &list(alice).await[..] else {
        panic!("one session");
    };
    assert_eq!(seen.kind, ConnectionKind::Direct);
    assert_eq!((&*seen.service, &*seen.owner), ("web", "relay"));
    assert_eq!((seen.sent, seen.received), (10_000, 10_000));
    assert_eq!(
        (&*seen.way.carrier, &*seen.way.far_carrier),
        ("upgrade", "")
    );
    assert_eq!(list(bob).await, []);
    assert_eq!(kick(bob, &seen.id, "").await, Err(Code::NoConnection));
    kick(admin, &seen.id, "").await.unwrap();
    let told = in_time("the end", reader.read_chunk()).await;
    assert_eq!(told.unwrap_err().code(), Code::Ended);
    let ended = &of_kind(alice, "disconnect", 1).await[0];
    assert_eq!(details(ended)["code"], "UP-ENDED");

    // A client with nothing but HTTP, at the same service.
    let token = Token::new([7; 32]);
    let make = |request| {
        MakeToken {
            request,
            user: String::new(),
            name: "curl".into(),
            key: token.key().public().0,
            lifetime_s: 0,
        }
        .into()
    };
    alice.ask(make).await.unwrap();
    let mut http = TcpStream::connect(stage.address()).await.unwrap();
    let request = format!(
        "POST /plain/open?service=web HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    );
    http.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let len = in_time("an answer", http.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let [seen] = &list(alice).await[..] else {
        panic!("one session");
    };
    assert_eq!(seen.kind, ConnectionKind::PlainHttp);
    assert_eq!(
        (&*seen.client.machine, &*seen.way.carrier),
        ("curl", "plain-http")
    );
    kick(alice, &seen.id, "").await.unwrap();
    of_kind(alice, "disconnect", 2).await;
    assert_eq!(list(admin).await, []);
}
