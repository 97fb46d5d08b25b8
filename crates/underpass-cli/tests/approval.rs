//! Who may use a service at this moment: managers' approvals, and permissions that are taken back, with real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use underpass_endpoint::OpenOptions;
use underpass_proto::Code;

use running::attached::session_to;
use running::{Home, LIMIT, Relay, dial, named_service};

/// Within this whoever lost a right must have lost what is open.
const AT_ONCE: Duration = Duration::from_secs(1);

fn key_of(home: &Home) -> String {
    let status: serde_json::Value =
        serde_json::from_str(&home.ok(&["--json", "status", "--offline"])).unwrap();
    status["machine"].as_str().unwrap().to_owned()
}

/// Waits for a line of a command's standard error with this in it.
fn wait_for_line(child: &mut std::process::Child, part: &str) {
    use std::io::BufRead as _;
    let stderr = child.stderr.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
        {
            eprintln!("publish: {line}");
            let _ = sender.send(line);
        }
    });
    let end = Instant::now() + LIMIT;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) if line.contains(part) => return,
            Ok(_) => {}
            Err(_) => panic!("{part:?} was not said"),
        }
    }
}

#[test]
fn publishing_waits_for_a_manager_and_goes_on_by_itself() {
    let relay = Relay::with(&["--approve-services", "true"]);
    let admin = relay.administrator();
    let bob = relay.invited(&admin, "bob");
    let target = named_service("db").to_string();
    let early = bob.fails(6, &["publish", "db", &target, "--wait", "100ms"]);
    assert!(early.contains("UP-SERVICE-WAITING"), "{early}");
    assert!(
        early.contains("underpass services approve"),
        "what a manager says: {early}"
    );
    assert!(bob.ok(&["services"]).contains("\twaiting\t"));

    // One that stays becomes live.
    let mut waiting = bob
        .command(&["publish", "db", &target])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_line(&mut waiting, "waiting for a manager's approval");
    let denied = bob.fails(3, &["services", "approve", "db"]);
    assert!(denied.contains("UP-DENIED"), "{denied}");
    admin.ok(&["services", "approve", "db.bob"]);
    let mut ready = [0; 9];
    let mut stdout = waiting.stdout.take().unwrap();
    stdout.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"published");
    let entrance = bob.start(&["connect", "db"]);
    assert_eq!(first_words(&mut dial(entrance.address())), "db");

    // Refused again: what is open ends, and the publisher with its reason.
    let mut open = dial(entrance.address());
    assert_eq!(first_words(&mut open), "db");
    admin.ok(&["services", "refuse", "db.bob"]);
    let refused = Instant::now();
    is_cut(&mut open);
    assert!(refused.elapsed() < AT_ONCE, "{:?}", refused.elapsed());
    assert_eq!(waiting.wait().unwrap().code(), Some(3));
    let again = bob.fails(3, &["publish", "db", &target]);
    assert!(again.contains("UP-SERVICE-REFUSED"), "{again}");
    bob.ok(&["services", "withdraw", "db"]);

    // Exceptions, by a manager.
    admin.ok(&["users", "publishing", "bob", "free"]);
    assert!(admin.ok(&["users"]).contains("bob\tuser\tactive\t1\tfree"));
    let free = bob.start(&["publish", "db", &target]);
    assert_eq!(first_words(&mut dial(entrance.address())), "db");
    // Withdrawn from elsewhere, it is not published again by itself.
    bob.ok(&["services", "withdraw", "db"]);
    assert_eq!(free.end(), Some(4));
}

fn first_words(stream: &mut TcpStream) -> String {
    let mut name = [0; 2];
    stream.read_exact(&mut name).unwrap();
    String::from_utf8_lossy(&name).into_owned()
}

/// Reads until the connection breaks; an orderly end would be taken for the end of what was said.
fn is_cut(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_err(), "an orderly end, after {} bytes", rest.len());
}

/// A session lives, and rights are taken back: the next channel is refused and what is open is cut, for the service that
/// the relay has let through and for another one of the same publisher, which the relay does not see.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_is_asked_for_at_each_channel() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let [web, db] = ["web", "db"].map(|name| named_service(name).to_string());
    let _publish = alice.start(&["publish", "web", &web, "db", &db]);
    let bob = relay.invited(&alice, "bob");
    alice.ok(&["services", "allow", "@user", "web"]);
    alice.ok(&["services", "allow", &key_of(&bob), "db"]);
    let (standing, session) = session_to(&bob, "web.alice.underpass.internal").await;
    let open = async |service: &'static str| {
        let mut channel = session.open(service, OpenOptions::default()).await?;
        channel.accepted().await?;
        Ok::<_, underpass_endpoint::ChannelError>(channel)
    };
    let mut to_db = open("db").await.unwrap();
    let mut to_web = open("web").await.unwrap();
    for channel in [&mut to_db, &mut to_web] {
        use tokio::io::AsyncReadExt as _;
        channel.read_u8().await.unwrap();
    }

    alice.ok(&["services", "deny", &key_of(&bob), "db"]);
    let denied = Instant::now();
    assert_eq!(cut(&mut to_db).await, std::io::ErrorKind::PermissionDenied);
    assert!(denied.elapsed() < AT_ONCE, "{:?}", denied.elapsed());
    let refused = open("db").await.unwrap_err();
    assert_eq!(refused.code(), Code::Denied);
    // The session goes on for what may be used.
    open("web").await.unwrap();
    alice.ok(&["services", "allow", &key_of(&bob), "db"]);
    open("db").await.unwrap();

    alice.ok(&["services", "deny", "bob", "web"]);
    let denied = Instant::now();
    assert_eq!(cut(&mut to_web).await, std::io::ErrorKind::PermissionDenied);
    let closed = tokio::time::timeout(LIMIT, session.closed()).await.unwrap();
    assert!(denied.elapsed() < AT_ONCE, "{:?}", denied.elapsed());
    assert_eq!(closed.code, Code::Denied.number(), "{closed:?}");
    standing.attachment().detach().await;
}

/// The kind of the error that a channel ends with.
async fn cut(channel: &mut underpass_endpoint::Channel) -> std::io::ErrorKind {
    use tokio::io::AsyncReadExt as _;
    let mut rest = Vec::new();
    let reading = channel.read_to_end(&mut rest);
    let ended = tokio::time::timeout(LIMIT, reading).await.unwrap();
    ended.unwrap_err().kind()
}

/// The publisher's own list holds against whatever the relay says.
#[test]
fn only_machines_that_the_publisher_named_are_served() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = relay.invited(&alice, "bob");
    let carol = relay.invited(&alice, "carol");
    let target = named_service("db").to_string();
    let _publish = alice.start(&["publish", "db", &target, "--only", &key_of(&bob)]);
    alice.ok(&["services", "allow", "*", "db"]);
    let entrance = bob.start(&["connect", "db"]);
    let mut stream = dial(entrance.address());
    assert_eq!(first_words(&mut stream), "db");
    stream.write_all(b"!").unwrap();
    let denied = carol.fails(3, &["nc", "db"]);
    assert!(denied.contains("UP-DENIED"), "{denied}");
    let own = alice.fails(3, &["nc", "db"]);
    assert!(own.contains("UP-DENIED"), "{own}");
}
