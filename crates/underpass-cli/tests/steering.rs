//! Leading a service elsewhere from another machine than the one that publishes it: who may, and that
//! nobody else may, whatever the relay says of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_endpoint::{OpenOptions, Session};
use underpass_proto::steer::{Lead, MAX_STEER, NotLed, STEER_SERVICE, Steer};
use underpass_proto::{Code, Role};

use running::attached::session_to;
use running::{Home, Relay, dial, named_service};

/// What `underpass status` shows on a machine.
fn key_of(home: &Home) -> String {
    let status: serde_json::Value =
        serde_json::from_str(&home.ok(&["--json", "status", "--offline"])).unwrap();
    status["machine"].as_str().unwrap().to_owned()
}

/// A connection to one of the named services, which say who they are.
fn connected(entrance: SocketAddr, expected: &str) -> TcpStream {
    let mut stream = dial(entrance);
    says(&mut stream, expected);
    stream
}

fn says(stream: &mut TcpStream, expected: &str) {
    let mut name = vec![0; expected.len()];
    stream.read_exact(&mut name).unwrap();
    assert_eq!(String::from_utf8_lossy(&name), expected);
}

#[test]
fn machines_that_the_publisher_named_lead_its_service_elsewhere() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let laptop = relay.further(&alice, "alice", "laptop");
    let bob = relay.invited(&alice, "bob");
    let [one, two, six] = ["one", "two", "six"].map(|name| named_service(name).to_string());
    let publish = |more: &[&str]| {
        let words = [&["publish", "db", &one], more].concat();
        alice.start(&words)
    };
    let (laptop_key, bob_key) = (key_of(&laptop), key_of(&bob));
    let published = publish(&[
        "--redial",
        "--retarget-by",
        &laptop_key,
        "--retarget-by",
        &bob_key,
    ]);
    let entrance = laptop.start(&["connect", "db"]);
    let mut living = connected(entrance.address(), "one");

    // The owner on another machine of hers: new connections first, then those that there are.
    let told = laptop.ok(&["services", "retarget", "db", &two]);
    assert!(
        told.contains(&format!(
            "instead of {one}; connections that stay where they are: 1"
        )),
        "{told}"
    );
    connected(entrance.address(), "two");
    living.write_all(b"!").unwrap();
    says(&mut living, "!");
    let told = laptop.ok(&["services", "retarget", "db.alice", &two, "--now"]);
    assert!(told.contains("dialled anew: "), "{told}");
    says(&mut living, "two");
    published.wait_log(&format!("the machine {laptop_key} has led"));
    assert!(alice.ok(&["status", "--offline"]).contains(&two));

    // Somebody else whom the publisher named, once he may use the service at all.
    let denied = bob.fails(3, &["services", "retarget", "db.alice", &six]);
    assert!(denied.contains("UP-DENIED"), "{denied}");
    alice.ok(&["services", "allow", "bob", "db"]);
    bob.ok(&["services", "retarget", "db.alice", &six, "--now"]);
    says(&mut living, "six");

    // A host that does not answer changes nothing.
    let refused = bob.fails(5, &["services", "retarget", "db.alice", "127.0.0.1:1"]);
    assert!(
        refused.contains("UP-REFUSED") && refused.contains("nothing was changed"),
        "{refused}"
    );
    connected(entrance.address(), "six");

    // Without --redial living connections stay, whoever asks.
    assert_eq!(published.stop(), Some(0));
    let _published = publish(&["--retarget-by", &laptop_key]);
    let refused = laptop.fails(3, &["services", "retarget", "db", &two, "--now"]);
    assert!(refused.contains("UP-NO-REDIAL"), "{refused}");
    // What is named for one start is not named for the next.
    let refused = bob.fails(3, &["services", "retarget", "db.alice", &two]);
    assert!(refused.contains("UP-NO-RETARGET"), "{refused}");
}

/// For the relay all of these are the owner or the administrator. It could say the same of a machine of its
/// own, so that must not be enough.
#[test]
fn the_word_of_the_relay_leads_no_service_elsewhere() {
    let relay = Relay::start();
    let root = relay.administrator();
    let bob = relay.invited(&root, "bob");
    let second = relay.further(&root, "bob", "second");
    let [one, two] = ["one", "two"].map(|name| named_service(name).to_string());
    let other_key = key_of(&Home::new());
    for more in [&[][..], &["--redial", "--retarget-by", &other_key]] {
        let published = bob.start(&[&["publish", "db", &one], more].concat());
        root.ok(&["services", "allow", "alice", "db.bob"]);
        for (home, name) in [(&second, "db"), (&root, "db.bob")] {
            for now in [&[][..], &["--now"]] {
                let words = [&["services", "retarget", name, &two], now].concat();
                let refused = home.fails(3, &words);
                assert!(refused.contains("UP-NO-RETARGET"), "{refused}");
            }
        }
        published.wait_log(&key_of(&root));
        let entrance = second.start(&["connect", "db"]);
        connected(entrance.address(), "one");
        assert_eq!(published.stop(), Some(0));
    }
    // Where its publisher is not there, nobody can be told; where it was here, here is where to look.
    let away = second.fails(5, &["services", "retarget", "db", &two]);
    assert!(away.contains("UP-AWAY"), "{away}");
    let ours = bob.fails(4, &["services", "retarget", "db", &two]);
    assert!(ours.contains("UP-NOT-HERE"), "{ours}");
}

#[test]
fn another_publisher_than_the_pinned_one_is_told_nothing() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let laptop = relay.further(&alice, "alice", "laptop");
    let [one, two] = ["one", "two"].map(|name| named_service(name).to_string());
    let _published = alice.start(&["publish", "db", &one, "--retarget-by", &key_of(&laptop)]);
    let wrong = key_of(&laptop);
    let words = ["services", "retarget", "db", &two, "--peer-key"];
    let refused = laptop.fails(3, &[&words[..], &[&wrong]].concat());
    assert!(refused.contains("UP-KEY"), "{refused}");
    laptop.ok(&[&words[..], &[&key_of(&alice)]].concat());
}

/// All that a machine that may lead services elsewhere can say wrongly.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_wish_changes_nothing() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let laptop = relay.further(&alice, "alice", "laptop");
    let [one, two] = ["one", "two"].map(|name| named_service(name).to_string());
    let [db, web] = ["db", "web"];
    let key = key_of(&laptop);
    let _published = alice.start(&["publish", db, &one, web, &one, "--retarget-by", &key]);
    let (standing, session) = session_to(&laptop, "web.alice.underpass.internal").await;
    let mut wish = Vec::new();
    let lead = |service: &str, target: &str| Lead {
        service: service.into(),
        target: target.into(),
        now: false,
    };
    Steer::from(lead(db, &two)).encode(&mut wish);
    let mut foreign = Vec::new();
    Steer::from(lead("none", &two)).encode(&mut foreign);
    let mut no_target = Vec::new();
    Steer::from(lead(db, "nonsense")).encode(&mut no_target);
    let answer = Steer::from(NotLed {
        code: 4,
        text: String::new(),
    });
    let mut wrong_end = Vec::new();
    answer.encode(&mut wrong_end);
    let twice = wish.repeat(2);
    for (bytes, code) in [
        (vec![], Code::ProtocolViolation),
        (vec![0; MAX_STEER * 4], Code::ProtocolViolation),
        (wish[..wish.len() - 1].to_vec(), Code::ProtocolViolation),
        (twice, Code::ProtocolViolation),
        (wrong_end, Code::ProtocolViolation),
        (foreign, Code::MayNotRetarget),
    ] {
        match said(&session, &bytes).await {
            Steer::NotLed(refused) => assert_eq!(refused.code, code.number(), "{bytes:?}"),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    assert!(matches!(said(&session, &no_target).await, Steer::NotLed(_)));
    // The same session, and a service of the same publisher that it was not opened for.
    assert!(matches!(said(&session, &wish).await, Steer::Led(led) if led.before == one));
    session.close(Code::NoError, "done");
    standing.attachment().detach().await;
}

/// The answer to bytes on a steering channel.
async fn said(session: &Session, bytes: &[u8]) -> Steer {
    let talk = async {
        let options = OpenOptions::default();
        let mut channel = session.open(STEER_SERVICE, options).await.unwrap();
        channel.accepted().await.unwrap();
        // It may be too much, and be answered before all of it was taken.
        let _ = channel.write_all(bytes).await;
        let _ = channel.shutdown().await;
        let mut answer = Vec::new();
        channel.read_to_end(&mut answer).await.unwrap();
        Steer::decode_whole(Role::Responder, answer.into()).unwrap()
    };
    tokio::time::timeout(running::LIMIT, talk).await.unwrap()
}
