//! Senders and receivers of this program, with a pipe in the place of a session.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use underpass_proto::transfer::{
    Data, End, Entry, EntryKind, FILES_VERSION, Offer, Ready, Start, Transfer, Whole,
};
use underpass_proto::{Code, Role};
use underpass_seal::{PublicKey, sha256};

use super::body::BodySealer;
use super::claims::Claims;
use super::line::{Hearing, Telling};
use super::take::{say_not_taken, take};
use super::*;

/// A receiver at the other end of a pipe.
struct Mailbox {
    folder: tempfile::TempDir,
    overwrite: bool,
    /// Lines that break after so many bytes from the sender, the next one last.
    breaks: Mutex<Vec<u64>>,
    /// What it says to everybody.
    refusal: Option<Code>,
    claims: Arc<Claims>,
    /// Bytes that came.
    heard: Arc<AtomicU64>,
    outcomes: Mutex<Vec<Result<Received, Code>>>,
}

impl Mailbox {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            overwrite: false,
            breaks: Mutex::default(),
            refusal: None,
            claims: Arc::default(),
            heard: Arc::default(),
            outcomes: Mutex::default(),
        }
    }

    fn that_breaks(self, after: &[u64]) -> Self {
        *self.breaks.lock().unwrap() = after.iter().rev().copied().collect();
        self
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// So many outcomes: the sender may know before the receiver has put its own down.
    async fn outcomes(&self, count: usize) -> Vec<Result<Received, Code>> {
        loop {
            let outcomes = self.outcomes.lock().unwrap().clone();
            if outcomes.len() >= count {
                return outcomes;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn take(&self, line: Line, runtime: &Handle) {
        let (mut hearing, mut telling) = line.split(Role::Initiator, runtime);
        let outcome = match self.refusal {
            Some(code) => Err(Trouble::of(code).into()),
            None => take(
                &mut hearing,
                &mut telling,
                (self.folder.path(), self.overwrite),
                &self.claims.claimant(PublicKey([1; 32]), None),
                &Progress::default(),
                &|_| {},
            ),
        };
        if let Err(error) = &outcome {
            say_not_taken(&mut telling, error);
        }
        let outcome = outcome.map_err(|error| error.code());
        self.outcomes.lock().unwrap().push(outcome);
    }
}

/// Everybody there is.
#[derive(Default)]
struct Post(HashMap<String, Arc<Mailbox>>);

impl Post {
    fn of(boxes: Vec<(&str, Mailbox)>) -> Arc<Self> {
        let boxes = boxes.into_iter();
        Arc::new(Self(
            boxes
                .map(|(user, it)| (user.to_owned(), Arc::new(it)))
                .collect(),
        ))
    }
}

impl Lines for Post {
    async fn open(&self, user: &str) -> Result<Line, Trouble> {
        let mailbox = self.0.get(user).ok_or(Trouble::of(Code::ReceiverAway))?;
        let breaks = mailbox.breaks.lock().unwrap().pop();
        let (near, far) = tokio::io::duplex(50_000);
        let (reader, writer) = tokio::io::split(far);
        let broken = Broken {
            inner: reader,
            left: breaks.unwrap_or(u64::MAX),
            heard: Arc::clone(&mailbox.heard),
        };
        let (mailbox, runtime) = (Arc::clone(mailbox), Handle::current());
        tokio::task::spawn_blocking(move || mailbox.take(Line::new(broken, writer), &runtime));
        let (reader, writer) = tokio::io::split(near);
        Ok(Line::new(reader, writer))
    }
}

/// Breaks after some bytes.
struct Broken<R> {
    inner: R,
    left: u64,
    heard: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Broken<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let mut bytes = vec![0; most.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let length = part.filled().len() as u64;
        self.left -= length;
        self.heard.fetch_add(length, Ordering::Relaxed);
        buffer.put_slice(part.filled());
        read
    }
}

async fn send_to(post: &Arc<Post>, paths: &[PathBuf], users: &[&str]) -> Report {
    let sources = Sources::gather(paths, "input").unwrap();
    let users: Vec<String> = users.iter().map(|it| (*it).to_owned()).collect();
    let settings = Settings {
        wait: Duration::ZERO,
        progress: Arc::default(),
        on: Box::new(|_| {}),
    };
    send(Arc::clone(post), sources, &users, settings).await
}

/// Bytes that no compression and no other place in the file has.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut last = [7; 32];
    while bytes.len() < length {
        last = sha256(&[&last]);
        bytes.extend_from_slice(&last);
    }
    bytes.truncate(length);
    bytes
}

fn sparse(path: &Path, size: u64, data: &[(u64, usize)]) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, length) in data {
        file.write_all_at(&noise(*length), *at).unwrap();
    }
}

/// A folder with files of every sort, and how many files these are.
fn folder(at: &Path) -> u64 {
    fs::create_dir_all(at.join("inner/empty")).unwrap();
    for number in 0..300 {
        let place = at.join(format!("inner/{number:03}.txt"));
        fs::write(place, noise(number * 17)).unwrap();
    }
    sparse(
        &at.join("sparse"),
        40 << 20,
        &[(5 << 20, 70_000), (30 << 20, 100)],
    );
    fs::write(at.join("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("script"), fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("/etc/passwd", at.join("link")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5_000);
    let script = fs::File::open(at.join("script")).unwrap();
    script.set_modified(old).unwrap();
    302
}

/// Whether two folders have the same in them, links left out.
fn assert_same(one: &Path, other: &Path) {
    let mut names: Vec<_> = fs::read_dir(one)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.retain(|name| !one.join(name).is_symlink());
    names.sort();
    let mut there: Vec<_> = fs::read_dir(other)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    there.sort();
    assert_eq!(names, there, "{}", other.display());
    for name in names {
        let (one, other) = (one.join(&name), other.join(&name));
        if one.is_dir() {
            assert_same(&one, &other);
        } else {
            assert!(
                fs::read(&one).unwrap() == fs::read(&other).unwrap(),
                "{name:?}"
            );
        }
        let (one, other) = (fs::metadata(&one).unwrap(), fs::metadata(&other).unwrap());
        assert_eq!(one.mode() & 0o777, other.mode() & 0o7777, "{name:?}");
        assert_eq!(
            one.modified().unwrap(),
            other.modified().unwrap(),
            "{name:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_is_there_gets_everything_and_the_others_are_told() {
    let home = tempfile::tempdir().unwrap();
    let from = home.path().join("things");
    let files = folder(&from);
    let refusing = Mailbox {
        refusal: Some(Code::SenderRefused),
        ..Mailbox::new()
    };
    let post = Post::of(vec![
        ("bob", Mailbox::new()),
        ("carol", Mailbox::new()),
        ("dave", refusing),
    ]);
    let sources = Sources::gather(std::slice::from_ref(&from), "input").unwrap();
    assert_eq!(sources.skipped, [from.join("link")]);
    let report = send_to(
        &post,
        std::slice::from_ref(&from),
        &["bob", "away", "dave", "carol"],
    )
    .await;
    assert!(!report.is_complete());
    let outcomes = report.receivers.iter().map(|it| it.outcome.clone());
    let outcomes: Vec<_> = outcomes.map(|it| it.map_err(|it| it.code)).collect();
    let digest = outcomes[0].unwrap().1;
    assert_eq!(
        outcomes,
        [
            Ok((files, digest)),
            Err(Code::ReceiverAway),
            Err(Code::SenderRefused),
            Ok((files, digest))
        ]
    );
    for user in ["bob", "carol"] {
        assert_same(&from, &post.0[user].file("things"));
        let received = post.0[user].outcomes(1).await;
        let [Ok(received)] = &received[..] else {
            panic!("{received:?}")
        };
        assert_eq!((received.files, received.missing), (files, 0));
        assert_eq!(received.digest, digest);
        let there = fs::metadata(post.0[user].file("things/sparse")).unwrap();
        let here = fs::metadata(from.join("sparse")).unwrap();
        assert!(
            there.blocks() <= here.blocks() + 16,
            "{} blocks became {}",
            here.blocks(),
            there.blocks()
        );
    }
    // Sealed once: as many bytes for each, and holes are none.
    let heard = |user: &str| post.0[user].heard.load(Ordering::Relaxed);
    assert!(heard("bob").abs_diff(heard("carol")) < 100);
    assert!(heard("bob") < 3 << 20, "{}", heard("bob"));
    // Again: nothing is sent, since all of it is there.
    let before = heard("bob");
    let report = send_to(&post, std::slice::from_ref(&from), &["bob"]).await;
    assert!(report.is_complete(), "{report:?}");
    assert!(heard("bob") - before < 60_000, "{}", heard("bob") - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_goes_on_where_it_stopped() {
    let home = tempfile::tempdir().unwrap();
    let size = 8 << 20;
    let from = home.path().join("large");
    fs::write(&from, noise(size)).unwrap();
    // Breaks three times by itself, in the offer as well.
    let post = Post::of(vec![(
        "bob",
        Mailbox::new().that_breaks(&[3 << 20, 30, 2 << 20, 1 << 20]),
    )]);
    let report = send_to(&post, std::slice::from_ref(&from), &["bob"]).await;
    assert!(report.is_complete(), "{report:?}");
    let bob = &post.0["bob"];
    assert!(fs::read(bob.file("large")).unwrap() == noise(size));
    let heard = bob.heard.load(Ordering::Relaxed);
    // Of what was under way when it broke, up to a sealed piece is lost each time.
    assert!(heard < (size + (1 << 20)) as u64, "{heard}");
    assert_eq!(bob.outcomes(5).await.len(), 5);
    assert_eq!(fs::read_dir(bob.folder.path()).unwrap().count(), 1);
}

/// Two have different parts of it, one of them not of this file, and one has all.
#[tokio::test(flavor = "multi_thread")]
async fn each_goes_on_from_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let from = home.path().join("x");
    let bytes = noise(1 << 20);
    fs::write(&from, &bytes).unwrap();
    let post = Post::of(vec![
        ("little", Mailbox::new()),
        ("much", Mailbox::new()),
        ("other", Mailbox::new()),
        ("all", Mailbox::new()),
        ("nothing", Mailbox::new()),
    ]);
    let part = ".x.underpass-part";
    fs::write(post.0["little"].file(part), &bytes[..70_001]).unwrap();
    fs::write(post.0["much"].file(part), &bytes[..900_000]).unwrap();
    fs::write(post.0["other"].file(part), vec![9; 500_000]).unwrap();
    fs::write(post.0["all"].file("x"), &bytes).unwrap();
    for users in [&["much", "little", "all"][..], &["other", "nothing"]] {
        let report = send_to(&post, std::slice::from_ref(&from), users).await;
        assert!(report.is_complete(), "{report:?}");
        for user in users {
            assert!(
                fs::read(post.0[*user].file("x")).unwrap() == bytes,
                "{user}"
            );
            assert!(!post.0[*user].file(part).exists());
        }
    }
    let heard = post.0["much"].heard.load(Ordering::Relaxed);
    assert!(heard < 1_000_000, "{heard} bytes, and 70,001 were there");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_unasked() {
    let home = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c", "d"].map(|name| home.path().join(name));
    for (number, path) in paths.iter().enumerate() {
        fs::write(path, noise(1000 + number)).unwrap();
    }
    let asked = Mailbox {
        overwrite: true,
        ..Mailbox::new()
    };
    let post = Post::of(vec![("bob", Mailbox::new()), ("asked", asked)]);
    for user in ["bob", "asked"] {
        // Of the same size, of another, and a folder.
        fs::write(post.0[user].file("a"), vec![1; 1000]).unwrap();
        fs::write(post.0[user].file("b"), "mine").unwrap();
        fs::create_dir(post.0[user].file("c")).unwrap();
    }
    let report = send_to(&post, &paths, &["bob", "asked"]).await;
    let declined = |at: usize| -> Vec<(&str, Code)> {
        let declined = report.receivers[at].declined.iter();
        declined.map(|(path, it)| (&**path, it.code)).collect()
    };
    let exists = Code::FileExists;
    assert_eq!(declined(0), [("a", exists), ("b", exists), ("c", exists)]);
    assert_eq!(declined(1), [("c", exists)]);
    assert!(
        report.receivers.iter().all(|it| it.outcome.is_ok()),
        "{report:?}"
    );
    let bob = &post.0["bob"];
    assert_eq!(fs::read(bob.file("a")).unwrap(), vec![1; 1000]);
    assert_eq!(fs::read(bob.file("b")).unwrap(), b"mine");
    assert!(fs::read(bob.file("d")).unwrap() == noise(1003));
    let asked = &post.0["asked"];
    for (name, number) in [("a", 1000), ("b", 1001), ("d", 1003)] {
        assert!(
            fs::read(asked.file(name)).unwrap() == noise(number),
            "{name}"
        );
    }
}

/// A sender that says whatever it likes.
fn hostile(
    mailbox: &Arc<Mailbox>,
    entries: Vec<Entry>,
    say: impl FnOnce(&mut dyn FnMut(Transfer)) + Send + 'static,
) -> Result<Received, Code> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(far);
    let (taker, handle) = (Arc::clone(mailbox), runtime.handle().clone());
    let taking = std::thread::spawn(move || taker.take(Line::new(reader, writer), &handle));
    let (reader, writer) = tokio::io::split(near);
    let line = Line::new(reader, writer);
    let (mut hearing, mut telling): (Hearing, Telling) =
        line.split(Role::Responder, runtime.handle());
    let count = entries.len() as u64;
    let offer = Offer {
        version: FILES_VERSION,
        entries: count,
        bytes: 0,
    };
    telling.say(offer).unwrap();
    entries
        .into_iter()
        .for_each(|entry| telling.say(entry).unwrap());
    telling.flush().unwrap();
    let key = loop {
        match hearing.expect() {
            Ok(Transfer::Ready(Ready { key })) => break Some(key),
            Ok(_) => {}
            Err(_) => break None,
        }
    };
    if let Some(key) = key {
        let (header, mut sealer) = BodySealer::start(&[PublicKey(key)]).unwrap();
        say(&mut |message| sealer.put(&message));
        let mut writer = telling.into_writer();
        runtime.block_on(async {
            use tokio::io::AsyncWriteExt as _;
            // The receiver may have ended before.
            let _ = writer.write_all(&header).await;
            while let Some(piece) = sealer.piece() {
                let _ = writer.write_all(&piece).await;
            }
            let _ = writer.write_all(&sealer.end()).await;
            let _ = writer.shutdown().await;
        });
        while hearing.next().is_ok_and(|it| it.is_some()) {}
    }
    taking.join().unwrap();
    mailbox.outcomes.lock().unwrap().pop().unwrap()
}

fn entry(path: &str, size: u64) -> Entry {
    Entry {
        kind: EntryKind::File,
        path: path.to_owned(),
        size,
        mode: 0o7777,
        modified_s: 1,
        modified_ns: 0,
    }
}

fn file_of(entry: u64, bytes: &'static [u8], digest: [u8; 32]) -> [Transfer; 3] {
    [
        Start { entry, offset: 0 }.into(),
        Data {
            bytes: bytes.into(),
        }
        .into(),
        End { sha256: digest }.into(),
    ]
}

#[test]
fn no_path_leads_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let absolute = outside.path().join("x");
    for path in [
        "../x",
        "a/../../x",
        absolute.to_str().unwrap(),
        "a\\x",
        "nul",
        "",
    ] {
        let mailbox = Arc::new(Mailbox::new());
        let outcome = hostile(&mailbox, vec![entry(path, 3)], |_| {});
        assert_eq!(outcome, Err(Code::PathRefused), "{path:?}");
        assert_eq!(fs::read_dir(mailbox.folder.path()).unwrap().count(), 0);
    }
    let twice = vec![entry("x", 1), entry("x", 1)];
    let outcome = hostile(&Arc::new(Mailbox::new()), twice, |_| {});
    assert_eq!(outcome, Err(Code::PathRefused));
    // Links that the receiver has: to a folder, to a file, in the place of the part.
    let mailbox = Arc::new(Mailbox::new());
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(outside.path(), mailbox.file("out")).unwrap();
    symlink(&secret, mailbox.file("link")).unwrap();
    symlink(&secret, mailbox.file(".part.underpass-part")).unwrap();
    let entries = vec![
        entry("out/x", 3),
        entry("link", 6),
        entry("part", 3),
        entry("good", 3),
    ];
    let outcome = hostile(&mailbox, entries, |say| {
        for at in 0..4 {
            file_of(at, b"abc", sha256(&[b"abc"]))
                .into_iter()
                .for_each(&mut *say);
        }
        say(Whole { sha256: [0; 32] }.into());
    });
    let received = outcome.unwrap();
    assert_eq!((received.files, received.missing), (1, 3));
    assert_eq!(fs::read(mailbox.file("good")).unwrap(), b"abc");
    let mode = fs::metadata(mailbox.file("good")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o777, "no rights come from afar");
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

/// What a hostile sender says once its offer is taken.
type Break = fn(&mut dyn FnMut(Transfer));

#[test]
fn what_is_not_what_was_offered_gets_no_name() {
    let wrong = |say: Break| {
        let mailbox = Arc::new(Mailbox::new());
        let outcome = hostile(&mailbox, vec![entry("x", 3), entry("y", 3)], say);
        assert!(!mailbox.file("x").exists());
        outcome.map(|it| (it.files, it.missing))
    };
    // Another digest: the next file is not the worse for it.
    let outcome = wrong(|say| {
        file_of(0, b"abc", [1; 32]).into_iter().for_each(&mut *say);
        file_of(1, b"abc", sha256(&[b"abc"]))
            .into_iter()
            .for_each(&mut *say);
        say(Whole { sha256: [0; 32] }.into());
    });
    assert_eq!(outcome, Ok((1, 1)));
    let breaks: [Break; 6] = [
        // Too much, too little, none, a file in a file, nothing at the end, something after it.
        |say| {
            file_of(0, b"abcd", sha256(&[b"abcd"]))
                .into_iter()
                .for_each(say)
        },
        |say| {
            file_of(0, b"ab", sha256(&[b"ab"]))
                .into_iter()
                .for_each(say)
        },
        |say| {
            say(Start {
                entry: 0,
                offset: 1,
            }
            .into())
        },
        |say| {
            say(Start {
                entry: 0,
                offset: 0,
            }
            .into());
            say(Start {
                entry: 1,
                offset: 0,
            }
            .into());
        },
        |_| {},
        |say| {
            say(Whole { sha256: [0; 32] }.into());
            say(Start {
                entry: 0,
                offset: 0,
            }
            .into());
        },
    ];
    for (at, say) in breaks.into_iter().enumerate() {
        assert_eq!(wrong(say), Err(Code::ProtocolViolation), "{at}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_not_taken_for_whole() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    fs::write(&path, noise(1000)).unwrap();
    let sources = Sources::gather(std::slice::from_ref(&path), "input").unwrap();
    assert!(sources.list[0].open().is_ok());
    fs::write(&path, noise(1001)).unwrap();
    let error = sources.list[0].open().err().unwrap();
    assert_eq!(error.code, Code::FileChanged);
    fs::remove_file(&path).unwrap();
    let error = sources.list[0].open().err().unwrap();
    assert_eq!(error.code, Code::FileChanged);
}

#[test]
fn two_things_of_one_name_cannot_be_sent_at_once() {
    let home = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(home.path().join(name)).unwrap();
        fs::write(home.path().join(name).join("x"), "x").unwrap();
    }
    let paths = [home.path().join("a/x"), home.path().join("b/x")];
    let error = Sources::gather(&paths, "input").unwrap_err();
    assert_eq!(error.code, Code::NameInvalid);
    let both = [home.path().join("a"), home.path().join("b/x")];
    let sources = Sources::gather(&both, "input").unwrap();
    let names: Vec<_> = sources.entries().into_iter().map(|it| it.path).collect();
    assert_eq!(names, ["a", "a/x", "x"]);
}
