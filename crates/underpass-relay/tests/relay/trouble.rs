//! A relay that is killed while it writes, and one whose disk is full: in processes of their own.
//!
//! Those are this test program again, started with a task in its environment. A disk of its own needs a
//! mount namespace, which takes root; where that cannot be made, the test says so and is skipped.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use underpass_proto::Code;
use underpass_proto::control::{CodeKind, Withdraw};
use underpass_proto::event::EventKind;
use underpass_relay::settings::Settings;
use underpass_relay::{Relay, RelayHandle};
use underpass_seal::StaticKey;

use crate::events::{details, of_kind};
use crate::process::{self, Process, say};
use crate::stage::{Agent, exchange, in_time, pattern};

/// The test that is the entry of the other processes.
const ENTRY: &str = "trouble::another_process";
/// How often the relay is killed.
const KILLS: u32 = 30;

/// Entry of the other processes; without a task, as in an ordinary test run, nothing to do.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn another_process() {
    let Some((task, folder, runtime)) = process::task() else {
        return;
    };
    runtime.block_on(async {
        match task.split_once(' ').unwrap_or((&task, "")) {
            ("write", from) => write_without_end(&folder, from.parse().unwrap()).await,
            ("full", _) => fill_the_disk(&folder).await,
            other => panic!("no such task: {other:?}"),
        }
    });
}

/// A relay on the folder, and its administrator, whose key is always the same.
async fn relay(folder: &Path) -> (RelayHandle, Agent) {
    let settings = Settings {
        data: folder.join("data"),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        services_per_attachment: 100_000,
        events_queue: 4,
        ..Settings::default()
    };
    let relay = Relay::start(settings).await.unwrap();
    let address = relay.addresses()[0].1;
    let admin = Agent::attach(address, StaticKey::from_bytes([7; 32])).await;
    if let Some(code) = relay.setup_code() {
        let enrolled = admin.enrol(CodeKind::Setup, &code, "admin", "desk").await;
        enrolled.unwrap();
    }
    admin.serve_echo();
    (relay, admin)
}

/// Publishes and withdraws, allows, invites and connects, and tells what is done once the relay has said so.
async fn write_without_end(folder: &Path, from: u32) {
    let (relay, admin) = relay(folder).await;
    say("up");
    for n in from.. {
        let name = format!("s-{n}");
        admin.publish(&name).await.unwrap();
        say(format!("published {name}"));
        admin.allow("*", &name).await.unwrap();
        admin.invite(&format!("guest-{n}")).await.unwrap();
        let session = admin.connect(&name, &admin.key).await.unwrap();
        session.close(Code::NoError, "done");
        if n % 2 == 1 {
            say(format!("withdrawing {name}"));
            let gone = name.clone();
            let withdraw = |request| {
                Withdraw {
                    request,
                    name: gone,
                }
                .into()
            };
            admin.ask(withdraw).await.unwrap();
            say(format!("withdrawn {name}"));
        }
    }
    drop(relay);
}

/// What a process has said to be done.
#[derive(Default)]
struct Told {
    published: Vec<String>,
    withdrawn: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_killed_while_it_writes_loses_nothing_that_it_has_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Told::default();
    for round in 0..KILLS {
        let task = format!("write {}", round * 1000);
        let mut process = Process::start(ENTRY, &task, folder.path());
        let first = process.line();
        assert_eq!(first.as_deref(), Some("up"), "round {round}");
        for _ in 0..round % 7 {
            let line = process.line().expect("the process failed");
            take(&mut told, &line);
        }
        // Somewhere in what it does next; where exactly does not matter, so long as it varies.
        tokio::time::sleep(Duration::from_micros(u64::from(round * 773 % 9000))).await;
        process.kill();
        while let Some(line) = process.line() {
            take(&mut told, &line);
        }
        drop(process);
        assert_consistent(folder.path(), &told).await;
    }
    assert!(
        told.published.len() > KILLS as usize,
        "it did something between the kills"
    );
    let (relay, admin) = relay(folder.path()).await;
    let starts = of_kind(&admin, "start", KILLS as usize + 1).await;
    // The first one knows of none before it.
    let unclean = starts[1..]
        .iter()
        .all(|row| details(row)["unclean"] == true);
    assert!(unclean, "{starts:?}");
    relay.shutdown().await;
}

fn take(told: &mut Told, line: &str) {
    let Some((what, name)) = line.split_once(' ') else {
        panic!("{line}");
    };
    match what {
        "published" => told.published.push(name.to_owned()),
        // Whether that has happened yet is not known.
        "withdrawing" => told.published.retain(|it| it != name),
        "withdrawn" => told.withdrawn.push(name.to_owned()),
        _ => panic!("{line}"),
    }
}

async fn assert_consistent(folder: &Path, told: &Told) {
    let file = folder.join("data/underpass.db");
    let mut raw = process::intact(&file).await;
    let count = async |raw: &mut SqliteConnection, from: &'static str| -> i64 {
        sqlx::query_scalar(from).fetch_one(raw).await.unwrap()
    };
    let administrators =
        "SELECT count(*) FROM users WHERE role = 'administrator' AND state = 'active'";
    assert_eq!(count(&mut raw, administrators).await, 1);
    // A service is its owner's machine's; its access list went with it, or came after it.
    let strays = "SELECT count(*) FROM services s LEFT JOIN machines m \
                  ON m.id = s.machine_id AND m.user_id = s.owner_id AND m.state = 'active' WHERE m.id IS NULL";
    assert_eq!(count(&mut raw, strays).await, 0);
    let twice = "SELECT count(*) - count(DISTINCT current) FROM tickets";
    assert_eq!(count(&mut raw, twice).await, 0);
    let services: Vec<String> = sqlx::query_scalar("SELECT name FROM services")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let missing: Vec<_> = told
        .published
        .iter()
        .filter(|it| !services.contains(it))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let back: Vec<_> = told
        .withdrawn
        .iter()
        .filter(|it| services.contains(it))
        .collect();
    assert!(back.is_empty(), "{back:?}");
    let kinds: Vec<String> = sqlx::query_scalar("SELECT DISTINCT kind FROM events")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    assert!(
        kinds
            .iter()
            .all(|kind| EventKind::from_word(kind).is_some()),
        "{kinds:?}"
    );
    raw.close().await.unwrap();
}

/// Fills what is left of the disk that `folder` is on.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    let block = [0x55; 4096];
    while file.write_all(&block).is_ok() {}
}

async fn fill_the_disk(folder: &Path) {
    let (relay, admin) = relay(folder).await;
    admin.publish("db").await.unwrap();
    let session = admin.connect("db", &admin.key).await.unwrap();
    let ballast = folder.join("ballast");
    fill(&ballast);
    let ledger = folder.join("data/events.gap");
    let lost = || {
        let text = std::fs::read_to_string(&ledger).unwrap();
        text.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    // What the log of the database has room for already is still written; then nothing more.
    let filling = async {
        while lost() < 10 {
            let key = StaticKey::from_bytes([7; 32]);
            let agent = Agent::attach(relay.addresses()[0].1, key).await;
            agent.attachment.detach().await;
            let data = pattern(10_000);
            assert!(exchange(&session, "db", data.clone()).await == data);
        }
    };
    in_time("events to be missing", filling).await;
    let refused = admin.publish("other").await;
    assert_eq!(refused, Err(Code::StoreUnavailable));
    std::fs::remove_file(&ballast).unwrap();
    let gap = &of_kind(&admin, "lost", 1).await[0];
    assert!(details(gap)["events"].as_u64().unwrap() > 0, "{gap:?}");
    admin.publish("other").await.unwrap();
    assert_eq!(exchange(&session, "db", b"on".to_vec()).await, b"on");
    relay.shutdown().await;
    say("ok");
}

#[test]
fn a_full_disk_costs_events_and_no_session() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(mut process) = Process::start_on_disk(4, ENTRY, "full", folder.path()) {
        assert_eq!(process.line().as_deref(), Some("ok"));
    }
}
