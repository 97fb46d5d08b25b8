//! The file of a SQLite store: what is made, and what is said when it cannot be used.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{Connection, SqliteConnection, query};
use underpass_store::{
    CodeDigest, EventFilter, Fault, FaultKind, MachineKey, Name, NewEvent, NewMachine, OpenError,
    SqliteStore, Store, UnixMillis,
};

const START: UnixMillis = UnixMillis(1_800_000_000_000);

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("underpass.db");
    (folder, file)
}

/// Opens the file as another program would.
async fn raw(file: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(Duration::from_secs(5));
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// Makes a store with a user and enough events to fill a few hundred pages.
async fn filled(file: &Path) {
    let store = SqliteStore::open(file).await.unwrap();
    enrol(&store).await;
    let events: Vec<NewEvent> = (0..500).map(event).collect();
    store.append_events(&events).await.unwrap();
    store.close().await;
}

async fn enrol(store: &SqliteStore) {
    let code = CodeDigest([7; 32]);
    let machine = NewMachine {
        name: Name::new("console").unwrap(),
        key: MachineKey([7; 32]),
    };
    store.set_setup_code(code, START).await.unwrap();
    let root = Name::new("root").unwrap();
    store
        .redeem_setup_code(code, &root, &machine, START)
        .await
        .unwrap();
}

fn event(number: i64) -> NewEvent {
    NewEvent {
        at: UnixMillis(START.0 + number),
        kind: "connect".to_owned(),
        actor: Some(format!("user-{number}")),
        peer: None,
        address: None,
        details: format!("\"{}\"", "x".repeat(1_000)),
    }
}

/// Asks everything that reads, and returns the first fault.
async fn read_all(store: &SqliteStore) -> Result<(), Fault> {
    store.users().await?;
    store.machine_by_key(&MachineKey([7; 32])).await?;
    store.machines(None).await?;
    store.invitations().await?;
    store.services(None).await?;
    let everything = EventFilter {
        limit: u32::MAX,
        ..EventFilter::default()
    };
    store.events(&everything).await?;
    let by_user = EventFilter {
        user: Some("user-400".to_owned()),
        ..everything
    };
    store.events(&by_user).await.map(drop)
}

fn assert_fault(fault: &Fault, kind: FaultKind, file: &Path, next_step: &str) {
    assert_eq!(fault.kind, kind, "{fault:?}");
    let text = fault.to_string();
    assert!(text.contains(&file.display().to_string()), "{text}");
    assert!(text.contains(next_step), "{text}");
}

#[tokio::test]
async fn the_file_and_its_logs_are_for_their_owner_alone() {
    let (folder, file) = folder();
    let store = SqliteStore::open(&file).await.unwrap();
    enrol(&store).await;
    read_all(&store).await.unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        seen += 1;
    }
    assert_eq!(seen, 3, "the file, the log and its index");
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let (folder, _) = folder();
    let file = folder.path().join("missing/underpass.db");
    match SqliteStore::open(&file).await {
        Err(OpenError::Fault(fault)) => {
            assert_fault(
                &fault,
                FaultKind::Unreachable,
                &file,
                "check that its folder exists",
            );
        }
        other => panic!("there is no folder: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let (_folder, file) = folder();
    for content in [&b"[relay]\nlisten = \"0.0.0.0:80\"\n"[..], &[0xa5; 8192]] {
        fs::write(&file, content).unwrap();
        match SqliteStore::open(&file).await {
            Err(OpenError::Fault(fault)) => {
                assert_fault(
                    &fault,
                    FaultKind::Corrupt,
                    &file,
                    "restore it from a backup",
                );
            }
            other => panic!("this is no database: {other:?}"),
        }
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

/// Every page in turn is overwritten, which must never give a panic nor another kind of error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_gives_a_clear_error_or_goes_unnoticed() {
    const PAGE: usize = 4096;
    let (_folder, file) = folder();
    filled(&file).await;
    let sound = fs::read(&file).unwrap();
    let mut noticed = 0;
    for (number, offset) in (0..sound.len()).step_by(PAGE).enumerate().step_by(3) {
        let filling = if number % 2 == 0 { 0xff } else { 0x00 };
        let mut damaged = sound.clone();
        damaged[offset..offset + PAGE].fill(filling);
        fs::write(&file, &damaged).unwrap();
        noticed += usize::from(notices_damage(&file).await);
    }
    assert!(noticed > 10, "only {noticed} damaged pages were noticed");

    fs::write(&file, &sound[..sound.len() / 2]).unwrap();
    assert!(notices_damage(&file).await, "half of the file is missing");
}

/// Opens and reads a damaged file. Returns whether that failed, which must be as `Corrupt`.
async fn notices_damage(file: &Path) -> bool {
    let fault = match SqliteStore::open(file).await {
        Ok(store) => {
            let read = read_all(&store).await;
            store.close().await;
            match read {
                Ok(()) => return false,
                Err(fault) => fault,
            }
        }
        Err(OpenError::Fault(fault)) => fault,
        Err(other) => panic!("damaged, not of another version: {other}"),
    };
    assert_fault(&fault, FaultKind::Corrupt, file, "restore it from a backup");
    true
}

/// The number with which the newest file of schema changes begins.
fn newest_change() -> i64 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let files = fs::read_dir(folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let numbers = names.map(|name| name.split_once('_').unwrap().0.parse().unwrap());
    numbers.max().unwrap()
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let (_folder, file) = folder();
    filled(&file).await;
    let mut newer = raw(&file).await;
    query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, x'00', 0)",
    )
    .execute(&mut newer)
    .await
    .unwrap();
    newer.close().await.unwrap();
    let before = fs::read(&file).unwrap();
    let error = SqliteStore::open(&file).await.unwrap_err();
    let OpenError::Newer { found, known, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*found, *known), (9999, newest_change()));
    let text = error.to_string();
    assert!(
        text.contains("newer Underpass") && text.contains(&file.display().to_string()),
        "{text}"
    );
    assert!(fs::read(&file).unwrap() == before, "the file has changed");
}

#[tokio::test]
async fn another_history_of_the_schema_is_refused() {
    let (_folder, file) = folder();
    filled(&file).await;
    let mut other = raw(&file).await;
    query("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1")
        .execute(&mut other)
        .await
        .unwrap();
    other.close().await.unwrap();
    let error = SqliteStore::open(&file).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Foreign { change: 1, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn rows_that_this_program_cannot_have_written_are_faults() {
    let (_folder, file) = folder();
    filled(&file).await;
    let mut other = raw(&file).await;
    for change in [
        "UPDATE users SET role = 'emperor'",
        "UPDATE users SET role = 'user', state = 'asleep'",
        "UPDATE users SET state = 'active', name = 'Not A Name'",
    ] {
        query(change).execute(&mut other).await.unwrap();
        let store = SqliteStore::open(&file).await.unwrap();
        let fault = store.users().await.unwrap_err();
        assert_fault(&fault, FaultKind::Corrupt, &file, "restore it");
        // Closed by default: who cannot be understood is not let in as something else.
        let known = store.machine_by_key(&MachineKey([7; 32])).await;
        assert!(known.is_err(), "{change}: {known:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_by_another_program_stops_writers_only() {
    let (_folder, file) = folder();
    let store = SqliteStore::open(&file).await.unwrap();
    enrol(&store).await;
    let mut other = raw(&file).await;
    query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let (written, read) = tokio::join!(
        store.set_setup_code(CodeDigest([1; 32]), START),
        read_all(&store),
    );
    read.unwrap();
    match written {
        Err(underpass_store::SetupCodeError::Fault(fault)) => {
            assert_fault(&fault, FaultKind::Busy, &file, "try again");
            assert!(fault.kind.is_retryable());
        }
        other => panic!("the file is locked: {other:?}"),
    }
    query("ROLLBACK").execute(&mut other).await.unwrap();
    store.append_events(&[event(1)]).await.unwrap();
}

#[tokio::test]
async fn a_closed_store_says_so_and_leaves_one_file() {
    let (folder, file) = folder();
    let store = SqliteStore::open(&file).await.unwrap();
    enrol(&store).await;
    read_all(&store).await.unwrap();
    store.close().await;
    let fault = store.users().await.unwrap_err();
    assert_fault(&fault, FaultKind::Closed, &file, "stopping");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A caller that gives up in mid-operation leaves nothing half done and nothing locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_write_is_done_or_not_done() {
    let (_folder, file) = folder();
    let store = SqliteStore::open(&file).await.unwrap();
    let batch: Vec<NewEvent> = (0..20).map(event).collect();
    for polls in 0..60 {
        let mut append = std::pin::pin!(store.append_events(&batch));
        for _ in 0..polls {
            let poll = std::future::poll_fn(|context| {
                std::task::Poll::Ready(append.as_mut().poll(context))
            });
            if poll.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let everything = EventFilter {
        limit: u32::MAX,
        ..EventFilter::default()
    };
    store.append_events(&batch).await.unwrap();
    let written = store.events(&everything).await.unwrap().len();
    assert!(
        written >= batch.len() && written % batch.len() == 0,
        "{written} events"
    );
}
