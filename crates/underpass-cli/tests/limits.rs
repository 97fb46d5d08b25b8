//! Sessions listed, watched and ended, usage and limits, with real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use running::{Home, LIMIT, Relay, echo_service};

/// What a command prints once it says that.
fn until(home: &Home, arguments: &[&str], part: &str) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let said = home.ok(arguments);
        if said.contains(part) {
            return said;
        }
        assert!(Instant::now() < end, "{part:?} is not in {said:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn sessions_are_seen_and_ended_and_what_passed_is_counted() {
    let relay = Relay::with(&["--usage-every", "100ms"]);
    let admin = relay.administrator();
    let target = echo_service().to_string();
    let _publish = admin.start(&["publish", "echo", &target]);
    let bob = relay.invited(&admin, "bob");
    admin.ok(&["services", "allow", "bob", "echo"]);

    let mut nc = bob
        .command(&["nc", "echo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = nc.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut said = [0; 6];
    nc.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello\n");

    // Fourteen columns, with no heading in a pipe; a user sees their own.
    let listed = bob.ok(&["connections", "list"]);
    let cells: Vec<&str> = listed.trim_end().split('\t').collect();
    assert_eq!(cells.len(), 14, "{listed}");
    assert_eq!(
        (cells[1], cells[4], cells[6]),
        ("bob", "echo.alice", "sealed")
    );
    let json: serde_json::Value =
        serde_json::from_str(&admin.ok(&["--json", "connections", "list"])).unwrap();
    assert_eq!(json[0]["id"], cells[0]);
    assert!(json[0]["sent"].as_u64().unwrap() > 6, "{json}");

    let mut watch = admin
        .command(&["connections", "watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(
        first.contains(&format!("\tnow\t{}\tbob\t", cells[0])),
        "{first}"
    );

    let none = bob.fails(4, &["connections", "kick", "00000000"]);
    assert!(none.contains("UP-NO-CONNECTION"), "{none}");
    admin.ok(&["connections", "kick", cells[0], "--reason", "closing time"]);
    let end = lines.next().unwrap().unwrap();
    assert!(end.contains(&format!("\tend\t{}\t", cells[0])), "{end}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let output = nc.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{told}");
    assert!(
        told.contains("UP-ENDED") && told.contains("alice has ended the connection: closing time"),
        "{told}"
    );
    drop(stdin);
    let kicked = admin.ok(&["events", "list", "--kind", "kick"]);
    assert!(kicked.contains("closing time"), "{kicked}");

    let used = until(&bob, &["usage", "--by", "service"], "echo.alice\t1\t");
    assert_eq!(used.lines().count(), 1, "{used}");
    assert!(
        admin
            .ok(&["usage", "--user", "bob", "--since", "1d"])
            .starts_with("bob\t1\t")
    );
    assert_eq!(admin.ok(&["usage", "--since", "2999-01-01"]), "");
    let denied = bob.fails(3, &["usage", "--user", "alice"]);
    assert!(denied.contains("UP-DENIED"), "{denied}");

    // A limit is shown, set, hit and taken back.
    let usual = bob.ok(&["users", "limit", "bob"]);
    assert!(
        usual.contains("bytes-per-month\tunlimited\tusual\t"),
        "{usual}"
    );
    admin.ok(&[
        "users",
        "limit",
        "bob",
        "--sessions",
        "0",
        "--bytes-per-second",
        "500KiB",
    ]);
    let shown = admin.ok(&["users", "limit", "bob", "--show"]);
    assert!(shown.contains("sessions\t0\texception\t"), "{shown}");
    assert!(
        shown.contains("bytes-per-second\t512000\texception\t"),
        "{shown}"
    );
    let refused = bob.fails(3, &["nc", "echo"]);
    assert!(
        refused.contains("UP-LIMIT-SESSIONS") && refused.contains("users limit"),
        "{refused}"
    );
    admin.ok(&["users", "limit", "bob", "--none"]);
    let after = admin.ok(&["users", "limit", "bob"]);
    // What is used changes all the time.
    let limits = |table: &str| -> Vec<String> {
        let lines = table.lines().map(|line| line.rsplit_once('\t').unwrap().0);
        lines.map(str::to_owned).collect()
    };
    assert_eq!(limits(&after), limits(&usual));
}
