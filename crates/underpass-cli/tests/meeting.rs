//! Meeting by user and application, with real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use underpass_seal::Fingerprint;

use running::{Home, LIMIT, Relay, Running, count, counting_service, exchange};

/// A relay, its administrator alice, and bob.
fn alice_and_bob() -> (Relay, Home, Home) {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = relay.invited(&alice, "bob");
    (relay, alice, bob)
}

/// A command that has nothing to say yet.
struct Waiting {
    child: Child,
}

impl Waiting {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut command = home.command(arguments);
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// The same, once it has said that it waits.
    fn begun(home: &Home, arguments: &[&str]) -> Self {
        let mut waiting = Self::start(home, arguments);
        let stderr = waiting.child.stderr.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("waiting: {line}");
                let _ = sender.send(line);
            }
        });
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).expect("it says that it waits");
            if line.contains("waiting for") {
                return waiting;
            }
        }
    }

    /// What it says once it is ready.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut reader = BufReader::with_capacity(1, stdout);
        reader.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Writes all of its input, then reads its output to the end.
    fn talk(mut self, text: &str) -> (Option<i32>, String) {
        let mut input = self.child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let mut said = String::new();
        let mut output = self.child.stdout.take().unwrap();
        output.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(line: &str) -> std::net::SocketAddr {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Tries again until a service answers right: what was cut may be made anew.
fn exchange_again(address: std::net::SocketAddr) {
    let end = Instant::now() + 2 * LIMIT;
    loop {
        let exchanged = std::panic::catch_unwind(|| exchange(address, b"again"));
        if exchanged.is_ok_and(|answer| answer == count(b"again")) {
            return;
        }
        assert!(Instant::now() < end, "no answer any more");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn two_who_name_each_other_talk_by_standard_input_and_output() {
    let (_relay, alice, bob) = alice_and_bob();
    // Who opens the session follows from the keys: each order of coming has both sides in both parts.
    for (first, second, [to_first, to_second]) in [
        (&alice, &bob, ["alice", "bob"]),
        (&bob, &alice, ["bob", "alice"]),
    ] {
        let early = Waiting::begun(first, &["meet", to_second, "chat"]);
        let late = Waiting::start(second, &["meet", to_first, "chat"]);
        let other = std::thread::spawn(move || late.talk("from the late one\n"));
        assert_eq!(
            early.talk("from the early one\n"),
            (Some(0), "from the late one\n".into())
        );
        let heard = other.join().unwrap();
        assert_eq!(heard, (Some(0), "from the early one\n".into()));
    }
    let pinned = fs::read_to_string(alice.path().join("known_peers")).unwrap();
    assert!(pinned.contains("@meet/chat/bob "), "{pinned}");
}

#[test]
fn programs_meet_hosts_and_go_on_with_a_relay_that_was_killed() {
    let (relay, alice, bob) = alice_and_bob();
    let target = counting_service().to_string();
    let mut early = Waiting::begun(&bob, &["meet", "alice", "notes", "--target", &target]);
    let late = alice.start(&["meet", "bob", "notes", "--listen", "0"]);
    assert!(late.ready().starts_with("notes with bob is at 127.0.0.1:"));
    assert_eq!(early.line(), format!("notes with alice leads to {target}"));
    assert_eq!(exchange(late.address(), b"x"), count(b"x"));
    let status = alice.ok(&["status", "--offline"]);
    assert!(
        status.contains("\tbob\tnotes\tconnected\t127.0.0.1:"),
        "{status}"
    );

    // What passes then is held, and arrives.
    let relay = relay.restart();
    assert_eq!(exchange(late.address(), b"y"), count(b"y"));
    drop(relay);
}

#[test]
fn every_answer_has_a_code_of_its_own() {
    let (relay, alice, bob) = alice_and_bob();
    let fails = |home: &Home, code, up: &str, arguments: &[&str]| {
        let said = home.fails(code, arguments);
        assert!(said.contains(up), "{up}: {said}");
    };
    fails(
        &alice,
        6,
        "UP-PEER-WAITING",
        &["meet", "bob", "chat", "--wait", "100ms"],
    );
    fails(
        &alice,
        6,
        "UP-PEER-WAITING",
        &["meet", "bob", "chat", "--wait", "0s"],
    );
    fails(&alice, 4, "UP-NO-USER", &["meet", "nobody", "chat"]);
    fails(&alice, 2, "UP-SELF", &["meet", "alice", "chat"]);
    fails(&alice, 2, "UP-NAME", &["meet", "Bob", "chat"]);
    fails(&alice, 2, "UP-USAGE", &["meet", "--all"]);
    fails(
        &alice,
        2,
        "UP-USAGE",
        &["meet", "*", "chat", "--listen", "0"],
    );

    let held = Waiting::begun(&alice, &["meet", "bob", "chat"]);
    fails(
        &alice,
        1,
        "UP-CONNECTED",
        &["meet", "bob", "chat", "--wait", "1s"],
    );
    // Two that wait for whoever comes never meet; another application is another meeting.
    let _anybody = Waiting::begun(&bob, &["meet", "*", "talk"]);
    fails(
        &alice,
        6,
        "UP-PEER-WAITING",
        &["meet", "*", "talk", "--wait", "300ms"],
    );
    fails(
        &bob,
        6,
        "UP-PEER-WAITING",
        &["meet", "alice", "chatter", "--wait", "300ms"],
    );
    // One that was killed gives way.
    drop(held);
    let end = Instant::now() + LIMIT;
    loop {
        let said = alice.run(&["meet", "bob", "chat", "--wait", "100ms"]);
        match said.status.code() {
            Some(6) => break,
            Some(1) if Instant::now() < end => std::thread::sleep(Duration::from_millis(200)),
            _ => panic!("{said:?}"),
        }
    }

    // What bob publishes under that name is for whom he has allowed to use it.
    let _publish = bob.start(&["publish", "chat", &counting_service().to_string()]);
    fails(&alice, 3, "UP-DENIED", &["meet", "bob", "chat"]);
    relay.process.kill();
    fails(
        &alice,
        5,
        "UP-NO-PATH",
        &["meet", "bob", "chat", "--patience", "1s"],
    );
}

#[test]
fn whoever_comes_meets_one_who_waits_for_anybody() {
    let (relay, alice, bob) = alice_and_bob();
    let carol = relay.invited(&alice, "carol");
    let target = counting_service().to_string();
    let waits = bob.start(&["meet", "*", "notes", "--target", &target]);
    assert_eq!(waits.ready(), format!("notes with * leads to {target}"));
    let come = |home: &Home| home.start(&["meet", "bob", "notes", "--listen", "0"]);
    let both = [come(&alice), come(&carol)];
    for (guest, bytes) in both.iter().zip([b"from alice", b"from carol"]) {
        assert_eq!(exchange(guest.address(), bytes), count(bytes));
    }
    let [first, second] = both;
    assert_eq!(first.stop(), Some(0));
    assert_eq!(exchange(second.address(), b"z"), count(b"z"));
    // Who came learns of the end.
    assert_eq!(waits.stop(), Some(0));
    assert_eq!(second.end(), Some(0));
}

#[test]
fn what_is_published_waits_for_whom_its_owner_allows() {
    let (_relay, alice, bob) = alice_and_bob();
    let target = counting_service().to_string();
    let mut early = Waiting::begun(&alice, &["meet", "bob", "counter", "--listen", "0"]);
    let publish = |home: &Home| home.start(&["publish", "counter", &target]);
    let publishing = publish(&bob);
    bob.ok(&["services", "allow", "alice", "counter"]);
    let line = early.line();
    assert!(line.starts_with("counter with bob is at "), "{line}");
    assert_eq!(exchange(address(&line), b"x"), count(b"x"));
    assert_eq!(publishing.stop(), Some(0));
}

#[test]
fn another_key_is_refused_with_both_fingerprints() {
    let (_relay, alice, bob) = alice_and_bob();
    let target = counting_service().to_string();
    let _waits = bob.start(&["meet", "*", "notes", "--target", &target]);
    let meet = |more: &[&str]| -> Running {
        alice.start(&[&["meet", "bob", "notes", "--listen", "0"], more].concat())
    };
    assert_eq!(meet(&[]).stop(), Some(0));
    let file = alice.path().join("known_peers");
    let text = fs::read_to_string(&file).unwrap();
    let words: Vec<&str> = text.lines().last().unwrap().split(' ').collect();
    let (real, other) = (
        words[2].to_owned(),
        Fingerprint::from_bytes([7; 32]).to_string(),
    );
    fs::write(&file, text.replace(&real, &other)).unwrap();
    let refused = alice.fails(3, &["meet", "bob", "notes", "--listen", "0"]);
    for part in ["UP-KEY", "--peer-key", &real, &other] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let told = meet(&["--peer-key", &real]);
    assert_eq!(exchange(told.address(), b"x"), count(b"x"));
    assert_eq!(told.stop(), Some(0));
    // What was told of the user's machines holds for every application.
    alice.ok(&["peers", "trust", "--user", "bob", &other]);
    let refused = alice.fails(3, &["meet", "bob", "notes", "--listen", "0"]);
    for part in ["UP-KEY", &real, &other] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    alice.ok(&["peers", "trust", "--user", "bob", &real]);
    let known = meet(&[]);
    assert_eq!(exchange(known.address(), b"x"), count(b"x"));
}

#[test]
fn pairs_of_the_settings_file_stay_connected() {
    let (relay, alice, bob) = alice_and_bob();
    let target = counting_service().to_string();
    let pair = |home: &Home, user: &str, place: &str| {
        let text = format!("[[pair]]\nuser = '{user}'\napplication = 'notes'\n{place}\n");
        fs::write(home.path().join("config.toml"), text).unwrap();
    };
    pair(&alice, "bob", "listen = '127.0.0.1:0'");
    pair(&bob, "alice", &format!("target = '{target}'"));
    let here = alice.start(&["meet", "--all"]);
    assert!(here.ready().starts_with("notes with bob is at "));
    let state = || {
        let status = alice.ok(&["status", "--offline"]);
        let line = status.lines().find(|line| line.starts_with("pair\t"));
        line.unwrap().split('\t').nth(4).unwrap().to_owned()
    };
    assert_eq!(state(), "waiting");
    let there = bob.start(&["meet", "--all"]);
    exchange_again(here.address());
    assert_eq!(state(), "connected");
    // Ended in order, killed, and with another relay process.
    assert_eq!(there.stop(), Some(0));
    let there = bob.start(&["meet", "--all"]);
    exchange_again(here.address());
    there.kill();
    let _there = bob.start(&["meet", "--all"]);
    exchange_again(here.address());
    let relay = relay.restart();
    exchange_again(here.address());
    drop(relay);
    assert_eq!(here.stop(), Some(0));
}

/// Two relays on one database that say nothing to each other: both sides meet once, and go on through either.
#[test]
fn a_meeting_goes_on_through_the_other_relay() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("group.db");
    let relay = || Relay::with(&["--database", database.to_str().unwrap()]);
    let one = relay();
    let alice = one.administrator();
    // Before that it would print a setup code of its own, and the first one's were good no more.
    let other = relay();
    let bob = one.invited(&alice, "bob");
    for home in [&alice, &bob] {
        home.ok(&["login", &other.url]);
    }
    let relays = format!("{},{}", one.url, other.url);
    let target = counting_service().to_string();
    let command = |user: &'static str, application, door, place| {
        [
            "meet",
            user,
            application,
            door,
            place,
            "--relay",
            relays.as_str(),
        ]
    };
    let there = |application| command("alice", application, "--target", target.as_str());
    let here = |application| command("bob", application, "--listen", "0");
    let first = Waiting::begun(&bob, &there("notes"));
    let second = alice.start(&here("notes"));
    assert_eq!(exchange(second.address(), b"x"), count(b"x"));
    one.process.kill();
    assert_eq!(exchange(second.address(), b"y"), count(b"y"));
    // Others meet through the one that is left, as if there were no other.
    drop((first, second));
    let mut first = Waiting::start(&alice, &here("talk"));
    let _second = Waiting::start(&bob, &there("talk"));
    assert_eq!(exchange(address(&first.line()), b"z"), count(b"z"));
}
