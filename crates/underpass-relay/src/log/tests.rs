//! The log on a real store that is in trouble.

use std::path::Path;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use underpass_store::{Event, SqliteStore};

use super::*;

/// A log into a store, whose queue holds four events.
struct Writing {
    store: Arc<dyn Store>,
    log: Log,
    writer: JoinHandle<()>,
}

async fn writing(folder: &Path) -> Writing {
    let store = SqliteStore::open(&folder.join("db")).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let (log, writer) = Log::new(4);
    let destination = Destination {
        store: Arc::clone(&store),
        ledger: Some(Ledger::open(folder).unwrap()),
        relay: "aaaa-bbbb".to_owned(),
    };
    let writer = tokio::spawn(writer.run(destination));
    Writing { store, log, writer }
}

/// Somebody else who writes to the same file, until it is told to stop.
async fn hold(folder: &Path) -> sqlx::SqliteConnection {
    use sqlx::Connection as _;
    let file = folder.join("db");
    let url = format!("sqlite://{}", file.display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut other)
        .await
        .unwrap();
    other
}

async fn release(mut other: sqlx::SqliteConnection) {
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
}

async fn events(store: &Arc<dyn Store>, kind: Kind) -> Vec<Event> {
    let filter = EventFilter {
        kind: Some(kind.word().to_owned()),
        limit: u32::MAX,
        ..EventFilter::default()
    };
    store.events(&filter).await.unwrap()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(done.is_ok(), "{what} took too long");
}

async fn until_kept(folder: &Path, events: u64) {
    let file = folder.join(ledger::LEDGER_FILE);
    let start = format!("lost {events} from");
    until(&format!("{events} to be kept"), async || {
        std::fs::read_to_string(&file).unwrap().starts_with(&start)
    })
    .await;
}

/// One event is on its way to a store that is held, four wait, the rest finds no room.
async fn in_trouble(folder: &TempDir) -> (Writing, sqlx::SqliteConnection) {
    let writing = writing(folder.path()).await;
    let other = hold(folder.path()).await;
    writing.log.write(Note::new(Kind::Attach).by("first"));
    until_kept(folder.path(), 1).await;
    for _ in 0..100 {
        writing.log.write(Note::new(Kind::Attach).by("further"));
    }
    until_kept(folder.path(), 101).await;
    (writing, other)
}

fn lost(events: &[Event]) -> serde_json::Value {
    let [event] = events else {
        panic!("one gap: {events:?}");
    };
    serde_json::from_str(&event.event.details).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_written_once_the_store_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let (writing, other) = in_trouble(&folder).await;
    release(other).await;
    let store = Arc::clone(&writing.store);
    until("the gap to be written", async || {
        !events(&store, Kind::Lost).await.is_empty()
    })
    .await;
    until_kept(folder.path(), 0).await;
    drop(writing.log);
    writing.writer.await.unwrap();
    assert_eq!(events(&store, Kind::Attach).await.len(), 5);
    let lost = lost(&events(&store, Kind::Lost).await);
    assert_eq!(
        (&lost["events"], &lost["relay"]),
        (&96.into(), &"aaaa-bbbb".into())
    );
    assert!(lost["from"].as_i64() <= lost["to"].as_i64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_could_not_write_is_told_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (first, other) = in_trouble(&folder).await;
    // As if the process had been killed.
    first.writer.abort();
    let _ = first.writer.await;
    release(other).await;
    drop(first.store);
    let next = writing(folder.path()).await;
    next.log.write(Note::new(Kind::Start));
    drop(next.log);
    next.writer.await.unwrap();
    let attached = events(&next.store, Kind::Attach).await.len();
    // What was under way when it died may have come in all the same.
    assert!(attached <= 1, "{attached}");
    assert_eq!(lost(&events(&next.store, Kind::Lost).await)["events"], 101);
    until_kept(folder.path(), 0).await;
}

#[tokio::test]
async fn an_end_without_a_stop_is_noticed_and_other_relays_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let Writing { store, log, writer } = writing(folder.path()).await;
    assert!(!ended_unclean(store.as_ref(), "aaaa-bbbb").await.unwrap());
    log.write(Note::new(Kind::Start));
    drop(log);
    writer.await.unwrap();
    assert!(ended_unclean(store.as_ref(), "aaaa-bbbb").await.unwrap());
    assert!(!ended_unclean(store.as_ref(), "cccc-dddd").await.unwrap());
    let Writing { log, writer, .. } = writing(folder.path()).await;
    log.write(Note::new(Kind::Stop));
    drop(log);
    writer.await.unwrap();
    assert!(!ended_unclean(store.as_ref(), "aaaa-bbbb").await.unwrap());
}

#[tokio::test]
async fn what_waits_is_written_before_the_end_with_what_was_counted() {
    let folder = tempfile::tempdir().unwrap();
    let Writing { store, log, writer } = writing(folder.path()).await;
    for _ in 0..3 {
        log.write(Note::new(Kind::Refuse).by("bob").with("code", "UP-DENIED"));
    }
    drop(log);
    writer.await.unwrap();
    let refused = events(&store, Kind::Refuse).await;
    let [counted, first] = &refused[..] else {
        panic!("{refused:?}");
    };
    assert!(counted.event.details.contains("\"times\":2"), "{counted:?}");
    assert!(!first.event.details.contains("times"), "{first:?}");
}
