//! Who is let in, who is believed, and what happens when a key changes: with real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_endpoint::{Channel, ChannelError, OpenOptions, Session};
use underpass_proto::Code;
use underpass_seal::Fingerprint;

use running::attached::session_to;
use running::{Home, Relay, count, counting_service, exchange, named_service};

#[test]
fn codes_work_once_and_only_when_right() {
    let relay = Relay::start();
    let home = Home::new();
    let wrong = home.fails(
        3,
        &[
            "login",
            &relay.url,
            "--setup",
            "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa",
        ],
    );
    assert!(wrong.contains("UP-CODE"), "{wrong}");
    let nothing = home.fails(3, &["login", &relay.url]);
    assert!(nothing.contains("UP-NOT-ENROLLED"), "{nothing}");
    assert_eq!(
        home.fails(4, &["services"]).matches("UP-NO-RELAY").count(),
        1
    );

    let alice = relay.administrator();
    let code = alice.ok(&["users", "invite", "bob", "--lifetime", "1h"]);
    let bob = Home::new();
    let file = bob.path().join("code");
    fs::write(&file, &code).unwrap();
    bob.ok(&[
        "login",
        &relay.url,
        "--invite-file",
        file.to_str().unwrap(),
        "--machine",
        "desk",
    ]);
    let second = Home::new();
    let used = second.fails(3, &["login", &relay.url, "--invite", code.trim()]);
    assert!(used.contains("UP-CODE"), "{used}");
    // A machine that is enrolled needs none.
    let again = bob.ok(&["login", &relay.url]);
    assert!(
        again.contains("as bob (user), this machine being desk"),
        "{again}"
    );
    // Only who administers invites.
    let denied = bob.fails(3, &["users", "invite", "carol"]);
    assert!(denied.contains("UP-DENIED"), "{denied}");
}

#[test]
fn a_relay_with_another_key_is_refused() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let file = alice.path().join("relays.toml");
    let text = fs::read_to_string(&file).unwrap();
    let real = text
        .lines()
        .find_map(|line| line.strip_prefix("key = \""))
        .unwrap()
        .trim_end_matches('"');
    let other = Fingerprint::from_bytes([7; 32]).to_string();
    fs::write(&file, text.replace(real, &other)).unwrap();
    let refused = alice.fails(3, &["services"]);
    for part in ["UP-KEY", real, &other] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    // Logging in again is refused too, until the new key is named.
    alice.fails(3, &["login", &relay.url]);
    alice.fails(3, &["login", &format!("{}#{other}", relay.url)]);
    alice.ok(&["login", &format!("{}#{real}", relay.url)]);
    alice.ok(&["services"]);
}

#[test]
fn a_publisher_with_another_key_is_refused() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    let mut connect = alice.start(&["connect", "counter"]);
    assert_eq!(exchange(connect.address(), b"x"), count(b"x"));
    assert_eq!(connect.stop(), Some(0));

    let file = alice.path().join("known_peers");
    let text = fs::read_to_string(&file).unwrap();
    let words: Vec<&str> = text.lines().last().unwrap().split(' ').collect();
    assert_eq!(words[0], "counter.alice.underpass.internal");
    let (real, other) = (
        words[2].to_owned(),
        Fingerprint::from_bytes([7; 32]).to_string(),
    );
    fs::write(&file, text.replace(&real, &other)).unwrap();
    let refused = alice.fails(3, &["nc", "counter"]);
    for part in ["UP-KEY", "known_peers", &real, &other] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    // Whoever has learnt the key by another way says so; a wrong one is of no use.
    alice.fails(3, &["nc", "counter", "--peer-key", &other]);
    connect = alice.start(&["connect", "counter", "--peer-key", &real]);
    assert_eq!(exchange(connect.address(), b"y"), count(b"y"));
    assert!(fs::read_to_string(&file).unwrap().contains(&real));
}

/// The fingerprint of a home's machine.
fn fingerprint(home: &Home) -> String {
    let status = home.ok(&["status", "--offline"]);
    let line = status.lines().find(|line| line.starts_with("machine\t"));
    line.unwrap().split('\t').nth(1).unwrap().to_owned()
}

/// The cells of the one line that is printed.
fn cells(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let cells = lines.next().unwrap().split('\t');
    assert_eq!(lines.next(), None, "{text}");
    cells.map(str::to_owned).collect()
}

#[test]
fn a_publisher_can_be_trusted_beforehand_and_forgotten() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = relay.invited(&alice, "bob");
    let target = counting_service().to_string();
    let full = "counter.alice.underpass.internal";
    let (real, other) = (
        fingerprint(&alice),
        Fingerprint::from_bytes([7; 32]).to_string(),
    );
    // Before the service is there, by its full name: no relay is asked.
    bob.ok(&["peers", "trust", full, &other]);
    let _publish = alice.start(&["publish", "counter", &target]);
    alice.ok(&["services", "allow", "bob", "counter"]);
    let refused = bob.fails(3, &["nc", "counter"]);
    for part in ["UP-KEY", "peers trust", &real, &other] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    bob.ok(&["peers", "trust", "counter", &real]);
    assert_eq!(bob.ok(&["nc", "counter"]), count(b""));
    let listed = cells(&bob.ok(&["peers"]));
    assert_eq!(listed[..3], ["service", full, &real]);
    assert!(listed[4].starts_with("given "), "{listed:?}");
    bob.ok(&["peers", "forget", "counter.alice"]);
    assert_eq!(bob.ok(&["peers", "list"]), "");
    bob.fails(4, &["peers", "forget", "counter"]);
    bob.fails(2, &["peers", "trust", "counter", "abc"]);
    assert_eq!(bob.ok(&["nc", "counter"]), count(b""));
    assert!(cells(&bob.ok(&["peers"]))[4].starts_with("first used "));
}

#[test]
fn two_people_compare_one_code() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = relay.invited(&alice, "bob");
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    alice.ok(&["services", "allow", "bob", "counter"]);
    bob.fails(4, &["peers", "code", "counter"]);
    let connect = bob.start(&["connect", "counter"]);
    assert_eq!(exchange(connect.address(), b"x"), count(b"x"));
    let bobs = cells(&bob.ok(&["peers", "code", "counter"]));
    let alices = cells(&alice.ok(&["peers", "code", "--user", "bob"]));
    assert_eq!(bobs[1..], [fingerprint(&alice), alices[2].clone()]);
    assert_eq!(alices[..2], ["bob", &fingerprint(&bob)[..]]);
    // Read aloud, and typed in at the other end.
    alice.ok(&[
        "peers",
        "trust",
        "--user",
        "bob",
        &bobs[2].replace('-', " "),
    ]);
    let listed = cells(&alice.ok(&["peers"]));
    assert_eq!(listed[..2], ["user", "bob"]);
    assert!(listed[4].starts_with("compared "), "{listed:?}");
    let wrong = bobs[2].replacen(
        &bobs[2][..1],
        if bobs[2].starts_with('1') { "2" } else { "1" },
        1,
    );
    let refused = bob.fails(3, &["peers", "trust", "counter", &wrong]);
    assert!(refused.contains("UP-KEY"), "{refused}");
    assert_eq!(connect.stop(), Some(0));
}

/// The relay says who a user is. Where the publisher knows better, it is not believed.
#[test]
fn a_relay_that_takes_another_for_a_user_is_not_believed() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = relay.invited(&alice, "bob");
    let target = counting_service().to_string();
    let publish = alice.start(&["publish", "counter", &target]);
    alice.ok(&["services", "allow", "bob", "counter"]);
    let other = Fingerprint::from_bytes([7; 32]).to_string();
    alice.ok(&["peers", "trust", "--user", "bob", &other]);
    let refused = bob.fails(3, &["nc", "counter"]);
    assert!(refused.contains("UP-KEY"), "{refused}");
    assert!(!refused.contains("known_peers"), "{refused}");
    let logged = publish.wait_log("refused");
    for key in [&other, &fingerprint(&bob)] {
        assert!(logged.contains(key), "{logged}");
    }
    alice.ok(&["peers", "trust", "--user", "bob", &fingerprint(&bob)]);
    assert_eq!(bob.ok(&["nc", "counter"]), count(b""));
    assert_eq!(alice.ok(&["peers"]).lines().count(), 2);
}

#[test]
fn a_revoked_machine_is_shut_out() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    let bob = relay.invited(&alice, "bob");
    alice.ok(&["services", "allow", "*", "counter"]);
    let connect = bob.start(&["connect", "counter"]);
    assert_eq!(exchange(connect.address(), b"x"), count(b"x"));
    let machines = bob.ok(&["machines"]);
    let name = machines.split('\t').next().unwrap();
    alice.ok(&["machines", "revoke", &format!("{name}.bob")]);
    let said = bob.fails(3, &["services"]);
    assert!(
        said.contains("UP-NOT-ENROLLED") || said.contains("UP-DENIED"),
        "{said}"
    );
    // What still ran was ended.
    let code = connect.end().unwrap();
    assert!(code == 3 || code == 7, "exit code {code}");
}

/// The relay lets bob through to one service of alice's machine. A session could ask that machine for
/// others, which the relay does not see.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_for_one_service_does_not_open_another() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let [web, db] = ["web", "db"].map(|name| named_service(name).to_string());
    let _publish = alice.start(&["publish", "web", &web, "db", &db]);
    let bob = relay.invited(&alice, "bob");
    alice.ok(&["services", "allow", "bob", "web"]);

    let (standing, session) = session_to(&bob, "web.alice.underpass.internal").await;
    let mut channel = open(&session, "web").await.unwrap();
    says(&mut channel, "web").await;
    for other in ["db", "db.alice.underpass.internal"] {
        let refused = open(&session, other).await.unwrap_err();
        assert_eq!(refused.code(), Code::Denied, "{other}");
    }
    let missing = open(&session, "none").await.unwrap_err();
    assert_eq!(missing.code(), Code::NoService);
    // Moving a channel there is no way round.
    channel.redial("db");
    let error = channel.read_u8().await.unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::PermissionDenied,
        "{error}"
    );

    alice.ok(&["services", "allow", "bob", "db"]);
    let mut other = open(&session, "db").await.unwrap();
    says(&mut other, "db").await;
    let mut moved = open(&session, "web").await.unwrap();
    says(&mut moved, "web").await;
    moved.redial("db");
    says(&mut moved, "db").await;
    session.close(Code::NoError, "done");
    standing.attachment().detach().await;
}

async fn open(session: &Session, service: &str) -> Result<Channel, ChannelError> {
    let mut channel = session.open(service, OpenOptions::default()).await?;
    channel.accepted().await?;
    Ok(channel)
}

/// The service behind the channel tells its name, and sends back what it gets.
async fn says(channel: &mut Channel, name: &str) {
    let talk = async {
        let mut said = vec![0; name.len()];
        channel.read_exact(&mut said).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said), name);
        channel.write_all(b"ping").await.unwrap();
        channel.flush().await.unwrap();
        let mut echo = [0; 4];
        channel.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    };
    tokio::time::timeout(running::LIMIT, talk).await.unwrap();
}
