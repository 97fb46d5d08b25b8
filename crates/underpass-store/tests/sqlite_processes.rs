//! Several processes on one file, processes that die, and disks that refuse.
//!
//! The other processes are this test program again, started with a task in its environment: see
//! [`another_process`]. Disks of their own need a mount namespace, which takes root; where that
//! cannot be made, the test says so and is skipped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod process;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use sqlx::Connection as _;
use underpass_store::{
    AppendError, CodeDigest, Enrolled, EventFilter, EventRetention, FaultKind, MachineKey, Name,
    NewEvent, NewInvitation, NewMachine, NewService, OpenError, RedeemError, ServiceKey,
    SqliteStore, Store, UnixMillis,
};

use process::{Process, say};

const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// The test that is the entry of the other processes.
const ENTRY: &str = "another_process";
/// Codes over which two processes compete.
const CODES: u32 = 40;

/// Entry of the other processes; without a task, as in an ordinary test run, nothing to do.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn another_process() {
    let Some((task, folder, runtime)) = process::task() else {
        return;
    };
    runtime.block_on(async {
        let file = folder.join("underpass.db");
        match task.split_once(' ').unwrap_or((&task, "")) {
            ("redeem", who) => redeem_every_code(&file, who.parse().unwrap()).await,
            ("enrol", _) => enrol_without_end(&file).await,
            ("full", _) => fill_the_disk(&folder, &file).await,
            ("read-only", _) => open_on_a_read_only_disk(&folder, &file).await,
            other => panic!("no such task: {other:?}"),
        }
    });
}

fn wait_for_go() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line, "go\n");
}

fn name(text: String) -> Name {
    Name::new(&text).unwrap()
}

fn code(number: u32) -> CodeDigest {
    let mut digest = [0xc0; 32];
    digest[..4].copy_from_slice(&number.to_be_bytes());
    CodeDigest(digest)
}

fn machine(number: u32) -> NewMachine {
    let mut key = [0x3e; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    NewMachine {
        name: name(format!("m-{number}")),
        key: MachineKey(key),
    }
}

fn event(kind: String, size: usize) -> NewEvent {
    NewEvent {
        at: START,
        kind,
        actor: None,
        peer: None,
        address: None,
        details: format!("\"{}\"", "x".repeat(size)),
    }
}

fn everything() -> EventFilter {
    EventFilter {
        limit: u32::MAX,
        ..EventFilter::default()
    }
}

async fn administrator(store: &SqliteStore) -> Enrolled {
    store.set_setup_code(code(0), START).await.unwrap();
    let root = name("root".to_owned());
    store
        .redeem_setup_code(code(0), &root, &machine(0), START)
        .await
        .unwrap()
}

fn invitation(number: u32, by: &Enrolled) -> NewInvitation {
    NewInvitation {
        digest: code(number),
        user: name(format!("user-{number}")),
        made_by: by.user.id,
        made_at: START,
        expires_at: UnixMillis(i64::MAX),
    }
}

/// Opens the file, which may not exist yet, together with others; then tries every code.
async fn redeem_every_code(file: &Path, who: u32) {
    wait_for_go();
    let store = SqliteStore::open(file).await.unwrap();
    say("open");
    wait_for_go();
    for number in 1..=CODES {
        match store
            .redeem_invitation(code(number), &machine(number + who * 1_000), START)
            .await
        {
            Ok(_) => say(number),
            Err(RedeemError::Used) => {}
            Err(other) => panic!("code {number}: {other:?}"),
        }
    }
    say("end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_a_file_and_each_code_is_won_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut processes: Vec<Process> = (1..=4)
        .map(|who| Process::start(ENTRY, &format!("redeem {who}"), folder.path()))
        .collect();
    // All of them make the file and its schema at the same moment.
    processes.iter_mut().for_each(|process| process.tell("go"));
    for process in &mut processes {
        assert_eq!(process.line().as_deref(), Some("open"));
    }
    let store = SqliteStore::open(&folder.path().join("underpass.db"))
        .await
        .unwrap();
    let root = administrator(&store).await;
    for number in 1..=CODES {
        store.invite(&invitation(number, &root)).await.unwrap();
    }
    processes.iter_mut().for_each(|process| process.tell("go"));
    let mut won = Vec::new();
    for process in &mut processes {
        loop {
            match process.line().expect("a process failed").as_str() {
                "end" => break,
                number => won.push(number.parse::<u32>().unwrap()),
            }
        }
    }
    won.sort_unstable();
    assert_eq!(won, (1..=CODES).collect::<Vec<_>>());
    // What they wrote is seen here at once.
    assert_eq!(
        store.machines(None).await.unwrap().len(),
        1 + CODES as usize
    );
    assert_eq!(store.users().await.unwrap().len(), 1 + CODES as usize);
}

/// Goes on where the process before was killed: for each number a user with a machine, a service
/// and two events, each told only when the store has said that it is done.
async fn enrol_without_end(file: &Path) {
    let store = SqliteStore::open(file).await.unwrap();
    let root = store
        .machine_by_key(&machine(0).key)
        .await
        .unwrap()
        .unwrap();
    let mut number = u32::try_from(store.invitations().await.unwrap().len()).unwrap();
    loop {
        number += 1;
        store.invite(&invitation(number, &root)).await.unwrap();
        let new = machine(number);
        let made = store
            .redeem_invitation(code(number), &new, START)
            .await
            .unwrap();
        let service = NewService {
            name: name("db".to_owned()),
            owner: made.user.id,
            machine: made.machine.id,
            key: ServiceKey::new(&new.key.0).unwrap(),
            compression: true,
            plain_http: false,
            approval: false,
            at: START,
        };
        store.publish_service(&service).await.unwrap();
        let pair = ["a", "b"].map(|half| event(format!("{half}-{number}"), 2_000));
        store.append_events(&pair).await.unwrap();
        say(number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_that_was_done() {
    const KILLS: u32 = 12;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("underpass.db");
    administrator(&SqliteStore::open(&file).await.unwrap()).await;
    let mut done = Vec::new();
    for round in 0..KILLS {
        let mut process = Process::start(ENTRY, "enrol", folder.path());
        for _ in 0..=round {
            done.push(
                process
                    .line()
                    .expect("the process failed")
                    .parse::<u32>()
                    .unwrap(),
            );
        }
        // In the middle of whatever it does next.
        process.kill();
        assert_consistent(&file, &done).await;
    }
    assert!(done.len() > KILLS as usize);
}

async fn assert_consistent(file: &Path, done: &[u32]) {
    let raw = process::intact(file).await;
    raw.close().await.unwrap();

    let store = SqliteStore::open(file).await.unwrap();
    for number in done {
        let known = store
            .machine_by_key(&machine(*number).key)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(known.user.name, name(format!("user-{number}")));
        assert_eq!(store.services(Some(known.user.id)).await.unwrap().len(), 1);
    }
    // What is done together is there together, also for the numbers that were under way.
    let users = store.users().await.unwrap().len();
    let machines = store.machines(None).await.unwrap().len();
    let invitations = store.invitations().await.unwrap();
    let used = invitations
        .iter()
        .filter(|invitation| invitation.used_at.is_some())
        .count();
    assert_eq!((users, machines), (used + 1, used + 1));
    let events = store.events(&everything()).await.unwrap();
    assert!(events.len().is_multiple_of(2) && events.len() >= 2 * done.len());
    // An invitation that was under way still works: nobody is locked out by the crash.
    for open in invitations
        .iter()
        .filter(|invitation| invitation.used_at.is_none())
    {
        let number: u32 = open
            .user
            .as_str()
            .trim_start_matches("user-")
            .parse()
            .unwrap();
        store
            .redeem_invitation(code(number), &machine(number), START)
            .await
            .unwrap();
    }
}

async fn fill_the_disk(folder: &Path, file: &Path) {
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![0; 512 * 1024]).unwrap();
    let store = Arc::new(SqliteStore::open(file).await.unwrap());
    administrator(&store).await;
    let mut written = 0;
    let fault = loop {
        match store
            .append_events(&[event("fill".to_owned(), 10_000)])
            .await
        {
            Ok(()) => written += 1,
            Err(AppendError::Fault(fault)) => break fault,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(fault.kind, FaultKind::Full, "{fault:?}");
    let text = fault.to_string();
    assert!(
        text.contains(&file.display().to_string()) && text.contains("free some"),
        "{text}"
    );
    // Reading goes on, and what was said to be written is there.
    assert_eq!(store.events(&everything()).await.unwrap().len(), written);
    // With space again the same store goes on.
    std::fs::remove_file(ballast).unwrap();
    store
        .append_events(&[event("again".to_owned(), 10)])
        .await
        .unwrap();
    let keep = EventRetention {
        not_before: None,
        at_most: Some(1),
    };
    assert_eq!(store.prune_events(keep).await.unwrap(), written as u64);
    say("ok");
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(mut process) = Process::start_on_disk(2, ENTRY, "full", folder.path()) {
        assert_eq!(process.line().as_deref(), Some("ok"));
    }
}

async fn open_on_a_read_only_disk(folder: &Path, file: &Path) {
    let store = SqliteStore::open(file).await.unwrap();
    administrator(&store).await;
    store.close().await;
    let remount = |mode: &str| {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", mode]).arg(folder).status();
        assert!(status.unwrap().success(), "{mode}");
    };
    // With the file there, and with none to begin with.
    for exists in [true, false] {
        if !exists {
            remount("remount,rw");
            std::fs::remove_file(file).unwrap();
        }
        remount("remount,ro");
        match SqliteStore::open(file).await {
            Err(OpenError::Fault(fault)) => {
                assert_eq!(fault.kind, FaultKind::ReadOnly, "{fault:?}");
                let text = fault.to_string();
                assert!(text.contains("read-only"), "{text}");
            }
            other => panic!("the disk is read-only: {other:?}"),
        }
    }
    say("ok");
}

#[test]
fn a_read_only_disk_is_said() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(mut process) = Process::start_on_disk(2, ENTRY, "read-only", folder.path()) {
        assert_eq!(process.line().as_deref(), Some("ok"));
    }
}
