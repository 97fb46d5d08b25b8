//! What a relay writes down, who may read it, and what becomes of it while the store is in trouble.

use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use underpass_proto::Code;
use underpass_proto::control::{Control, EventRow, Events, MAX_EVENTS};
use underpass_seal::StaticKey;

use crate::stage::{Agent, Stage, exchange, in_time, pattern, until};
use crate::tickets::{FirstRoute, hello, once_more};

/// A question for all that one may see.
pub(crate) fn everything(request: u64) -> Events {
    Events {
        request,
        since_ms: 0,
        user: String::new(),
        kind: String::new(),
        before: 0,
        after: 0,
        limit: MAX_EVENTS,
    }
}

pub(crate) async fn ask(agent: &Agent, which: Events) -> Result<Vec<EventRow>, Code> {
    let make = |request| Events { request, ..which }.into();
    let mut rows = Vec::new();
    for message in agent.ask(make).await? {
        match message {
            Control::EventRows(part) => rows.extend(part.rows),
            other => panic!("{other:?}"),
        }
    }
    Ok(rows)
}

/// The events of one kind, the oldest first, once there are so many.
pub(crate) async fn of_kind(agent: &Agent, kind: &str, count: usize) -> Vec<EventRow> {
    let which = || Events {
        kind: kind.to_owned(),
        ..everything(0)
    };
    let asking = async {
        loop {
            let mut rows = ask(agent, which()).await.unwrap();
            if rows.len() >= count {
                rows.reverse();
                return rows;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    in_time(&format!("{count} events {kind}"), asking).await
}

pub(crate) fn details(row: &EventRow) -> Value {
    serde_json::from_str(&row.details).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_told_to_both_with_what_passed_and_to_nobody_else() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let bob = stage.invited(&admin, "bob").await;
    bob.serve_echo();
    bob.publish("db").await.unwrap();
    let alice = stage.invited(&admin, "alice").await;
    let eve = stage.invited(&admin, "eve").await;
    bob.allow("alice", "db").await.unwrap();
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    let data = pattern(300_000);
    assert!(exchange(&session, "db", data.clone()).await == data);
    session.close(Code::NoError, "done");

    let [ended] = &of_kind(&alice, "disconnect", 1).await[..] else {
        panic!("one end");
    };
    assert_eq!((&*ended.actor, &*ended.peer), ("alice", "bob"));
    assert!(ended.address.starts_with("127.0.0.1:"), "{ended:?}");
    let told = details(ended);
    assert_eq!(
        (&told["service"], &told["machine"]),
        (&"db".into(), &"laptop".into())
    );
    // Both ends let go of a session that was closed; one is first.
    assert!(
        ["user", "publisher"].contains(&told["by"].as_str().unwrap()),
        "{told}"
    );
    for direction in ["sent", "received"] {
        // The same both ways; sealed, and without what is to be had by compression.
        let bytes = told[direction].as_u64().unwrap();
        assert!((300_000..400_000).contains(&bytes), "{told}");
    }
    let began = &of_kind(&alice, "connect", 1).await[0];
    assert_eq!(details(began)["session"], told["session"]);
    assert!(began.id < ended.id && began.at_ms <= ended.at_ms);

    // The publisher is told too, but not where alice is; eve is told nothing.
    let seen = &of_kind(&bob, "disconnect", 1).await[0];
    assert_eq!((seen.id, &*seen.address), (ended.id, ""));
    for row in ask(&eve, everything(0)).await.unwrap() {
        assert!(row.actor == "eve" || row.peer == "eve", "{row:?}");
    }
    let of_bob = || Events {
        user: "bob".into(),
        ..everything(0)
    };
    assert_eq!(ask(&eve, of_bob()).await, Err(Code::Denied));
    let all = ask(&admin, of_bob()).await.unwrap();
    assert!(
        all.iter()
            .all(|row| row.actor == "bob" || row.peer == "bob")
    );
    assert!(
        all.iter()
            .any(|row| row.kind == "access" && !row.address.is_empty())
    );

    // Pages go on where the one before ended, in both directions.
    let two = |before, after| Events {
        limit: 2,
        before,
        after,
        ..of_bob()
    };
    let newest = ask(&admin, two(0, 0)).await.unwrap();
    let older = ask(&admin, two(newest[1].id, 0)).await.unwrap();
    assert!(newest[0].id > newest[1].id && newest[1].id > older[0].id);
    let again = ask(&admin, two(0, older[0].id)).await.unwrap();
    assert_eq!(again, [newest[1].clone(), newest[0].clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_written_and_a_loop_of_them_is_counted() {
    let stage = Stage::with(|settings| settings.strangers_per_source = 3).await;
    let admin = stage.administrator().await;
    let alice = stage.invited(&admin, "alice").await;
    for _ in 0..40 {
        let refused = alice.connect("none", &admin.key).await.unwrap_err();
        assert_eq!(refused, Code::NoService);
    }
    assert_eq!(alice.invite("friend").await, Err(Code::Denied));
    let [refused] = &of_kind(&alice, "refuse", 1).await[..] else {
        panic!("one refusal, the others are counted");
    };
    assert_eq!(details(refused)["code"], "UP-NO-SERVICE");
    let asked = &of_kind(&alice, "request-refused", 1).await[0];
    assert_eq!(details(asked)["request"], "Invite");
    // Strangers beyond the limit, and a code that is none.
    let mut strangers = Vec::new();
    for _ in 0..4 {
        if let Ok(agent) = Agent::attach_as(stage.address(), StaticKey::generate()).await {
            strangers.push(agent);
        }
    }
    let hit = &of_kind(&admin, "limit", 1).await[0];
    assert!(
        details(hit)["limit"]
            .as_str()
            .unwrap()
            .contains("not enrolled")
    );
    let enrolling = strangers[0].enrol(
        underpass_proto::control::CodeKind::Invite,
        "abcd-efgh",
        "",
        "x",
    );
    assert_eq!(enrolling.await.unwrap_err(), Code::InvalidCode);
    let refused = &of_kind(&admin, "login-refused", 1).await[0];
    assert_eq!(details(refused)["by"], "invitation");
    // A token that is none, again and again.
    for _ in 0..3 {
        let mut client = TcpStream::connect(stage.address()).await.unwrap();
        let request = "POST /plain/open?service=db HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\
                       Authorization: Bearer none\r\nContent-Length: 0\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("UP-TOKEN"), "{answer}");
    }
    let refused = &of_kind(&admin, "login-refused", 2).await[1];
    assert_eq!(details(refused)["by"], "token");
    assert!(
        ask(&alice, everything(0))
            .await
            .unwrap()
            .iter()
            .all(|row| row.kind != "limit")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_is_told_and_so_is_one_that_comes_from_elsewhere() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let admin_key = StaticKey::from_bytes(*admin.key.to_bytes());
    let mut route = FirstRoute::new(&stage, &admin).await;
    let first = route.given.ticket;
    let second = once_more(&mut route.near, &mut route.far, 4, first).await;
    let ended = of_kind(&admin, "disconnect", 2).await;
    let told = details(&ended[0]);
    let sent = hello(1).len();
    assert_eq!(
        (&told["sent"], &told["received"], &told["code"], &told["by"]),
        (&sent.into(), &6.into(), &"UP-OK".into(), &"user".into())
    );
    assert_eq!(
        details(&of_kind(&admin, "resume", 1).await[0])["beside"],
        false
    );

    let stage = stage.restart().await;
    let (mut near, mut far) = route.at(stage.address()).await;
    once_more(&mut near, &mut far, 2, second.ticket).await;
    let admin = Agent::attach(stage.address(), admin_key).await;
    admin.hello().await.unwrap();
    let failover = &of_kind(&admin, "failover", 1).await[0];
    assert_eq!(details(failover)["session"], told["session"]);
    let starts = of_kind(&admin, "start", 2).await;
    assert_eq!(
        details(&starts[1])["unclean"],
        false,
        "it was stopped in order"
    );
    assert_eq!(of_kind(&admin, "stop", 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_another_program_holds_costs_events_and_no_session() {
    let stage = Stage::with(|settings| settings.events_queue = 4).await;
    let admin = stage.administrator().await;
    admin.serve_echo();
    admin.publish("db").await.unwrap();
    let session = admin.connect("db", &admin.key).await.unwrap();
    let file = stage.settings.data.join("underpass.db");
    let ledger = stage.settings.data.join("events.gap");
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", file.display()))
        .await
        .unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut other)
        .await
        .unwrap();
    let lost = || {
        let text = std::fs::read_to_string(&ledger).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        words[1].parse::<u64>().unwrap()
    };
    // Machines come and go until some of what is to be written has found no room.
    for _ in 0..12 {
        let key = StaticKey::from_bytes(*admin.key.to_bytes());
        let agent = Agent::attach(stage.address(), key).await;
        agent.attachment.detach().await;
        let data = pattern(20_000);
        assert!(exchange(&session, "db", data.clone()).await == data);
    }
    until("the gap to be kept", || lost() > 8).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let gap = &of_kind(&admin, "lost", 1).await[0];
    let told = details(gap);
    assert!(told["events"].as_u64().unwrap() > 0, "{told}");
    let (from, to) = (told["from"].as_u64().unwrap(), told["to"].as_u64().unwrap());
    assert!(
        from > 1_700_000_000_000 && from <= to && to <= gap.at_ms,
        "{told}"
    );
    until("nothing to be missing", || lost() == 0).await;
    assert_eq!(exchange(&session, "db", b"on".to_vec()).await, b"on");
}
