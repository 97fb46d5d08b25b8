//! Users by name and password, and who decides about them: with real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use running::{Home, LIMIT, Relay, counting_service};

const PASSWORD: &str = "correct horse";

/// A file with a password, in a home.
fn password_file(home: &Home, password: &str) -> PathBuf {
    let file = home.path().join("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    file
}

/// The arguments of a login by password, with further ones.
fn login(relay: &Relay, home: &Home, user: &str, password: &str, more: &[&str]) -> Output {
    let file = password_file(home, password);
    let file = file.to_str().unwrap();
    let mut all = vec!["login", &relay.url, "--user", user, "--password-file", file];
    all.extend(more);
    home.run(&all)
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_new_user_waits_is_approved_and_comes_back_by_password() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = Home::new();
    let registered = login(&relay, &bob, "bob", PASSWORD, &["--register"]);
    assert_eq!(registered.status.code(), Some(6), "{registered:?}");
    let text = told(&registered);
    assert!(
        text.contains("bob is registered, and waits for a manager's approval [UP-WAITING]"),
        "{text}"
    );
    assert!(text.contains("underpass users approve"), "{text}");
    // Until then everything says so.
    for arguments in [
        &["login", &relay.url][..],
        &["services"],
        &["publish", "db", "127.0.0.1:1"],
        &["connect", "db", "127.0.0.1:0"],
    ] {
        let waits = bob.fails(6, arguments);
        assert!(waits.contains("UP-WAITING"), "{arguments:?}: {waits}");
    }
    let users = alice.ok(&["users"]);
    assert!(
        users
            .lines()
            .any(|line| line == "bob\tuser\twaiting\t1\tusual"),
        "{users}"
    );
    // One waits for the decision, at the same time as it is made.
    let waiting = bob.command(&["login", &relay.url, "--wait", "1m"]);
    let waiting = std::thread::spawn(move || {
        let mut waiting = waiting;
        waiting.output().unwrap()
    });
    alice.ok(&["users", "approve", "bob"]);
    let came_in = waiting.join().unwrap();
    assert!(came_in.status.success(), "{came_in:?}");
    assert!(
        alice
            .fails(1, &["users", "deny", "bob"])
            .contains("UP-DECIDED")
    );
    let target = counting_service().to_string();
    bob.start(&["publish", "db", &target]);

    // A second machine, by the password; a wrong one and an unknown user are told apart by nothing.
    let second = Home::new();
    let wrong = login(
        &relay,
        &second,
        "bob",
        "correct horsf",
        &["--machine", "second"],
    );
    let unknown = login(
        &relay,
        &second,
        "nobody",
        PASSWORD,
        &["--machine", "second"],
    );
    assert_eq!(
        (wrong.status.code(), unknown.status.code()),
        (Some(3), Some(3))
    );
    let only_failure = |output: &Output| {
        let text = told(output);
        text[text.find("underpass: ").unwrap()..].to_owned()
    };
    assert_eq!(only_failure(&wrong), only_failure(&unknown));
    assert!(told(&wrong).contains("UP-PASSWORD"), "{}", told(&wrong));
    let right = login(&relay, &second, "bob", PASSWORD, &["--machine", "second"]);
    assert!(right.status.success(), "{right:?}");
    let taken = login(&relay, &Home::new(), "bob", PASSWORD, &["--register"]);
    assert!(told(&taken).contains("UP-EXISTS"), "{taken:?}");
    // The password is in no file but the one that it was given in.
    for home in [&bob, &second, &relay.home] {
        fs::remove_file(home.path().join("password")).ok();
        assert!(!contains(home.path(), PASSWORD.as_bytes()));
    }
}

/// Whether any file below a folder holds these bytes.
fn contains(folder: &std::path::Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().file_type() {
            kind if kind.is_dir() => contains(&path, bytes),
            kind if kind.is_file() => {
                let content = fs::read(&path).unwrap();
                content.windows(bytes.len()).any(|part| part == bytes)
            }
            _ => false,
        }
    })
}

#[test]
fn managers_decide_and_the_last_administrator_stays() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let mia = relay.invited(&alice, "mia");
    let bob = Home::new();
    login(&relay, &bob, "bob", PASSWORD, &["--register"]);
    assert!(
        mia.fails(3, &["users", "approve", "bob"])
            .contains("UP-DENIED")
    );
    alice.ok(&["users", "role", "mia", "manager"]);
    mia.ok(&["users", "deny", "bob"]);
    assert!(
        mia.fails(4, &["users", "approve", "bob"])
            .contains("UP-NO-USER")
    );
    let gone = bob.fails(3, &["login", &relay.url]);
    assert!(gone.contains("UP-NOT-ENROLLED"), "{gone}");
    for arguments in [
        &["users", "disable", "alice"][..],
        &["users", "role", "alice", "user"],
    ] {
        let stays = alice.fails(3, arguments);
        assert!(stays.contains("UP-LAST-ADMIN"), "{stays}");
        assert!(mia.fails(3, arguments).contains("UP-DENIED"));
    }
    // A publisher that is disabled ends, and says who ended it.
    let carol = relay.invited(&alice, "carol");
    let target = counting_service().to_string();
    let publisher = carol.start(&["publish", "db", &target]);
    mia.ok(&["users", "disable", "carol"]);
    assert_eq!(publisher.end(), Some(7));
    carol.fails(3, &["services"]);
    mia.ok(&["users", "enable", "carol"]);
    carol.ok(&["services"]);
    // Who was invited may have a password too, for further machines.
    let file = password_file(&carol, PASSWORD);
    carol.ok(&[
        "users",
        "password",
        "--password-file",
        file.to_str().unwrap(),
    ]);
    let further = login(
        &relay,
        &Home::new(),
        "carol",
        PASSWORD,
        &["--machine", "phone"],
    );
    assert!(further.status.success(), "{further:?}");
    assert!(alice.ok(&["users"]).contains("carol\tuser\tactive\t2"));

    // All of that was written down, and everybody may read what concerns them.
    let watch = carol.start(&["events", "watch", "--since", "1h", "--kind", "disable"]);
    let seen = watch.ready();
    assert!(seen.contains("\tdisable\tmia\tcarol\t\t"), "{seen:?}");
    let one = [
        "--json", "events", "list", "--user", "carol", "--kind", "disable",
    ];
    let told = mia.ok(&one);
    assert!(
        told.contains(r#""actor":"mia""#) && told.contains("127.0.0.1:"),
        "{told}"
    );
    let others = carol.fails(3, &["events", "list", "--user", "mia"]);
    assert!(others.contains("UP-DENIED"), "{others}");
    carol.fails(2, &["events", "list", "--kind", "nonsense"]);
    let last = alice.ok(&["events", "list", "--limit", "1"]);
    assert_eq!(last.lines().count(), 1, "{last}");
    let kinds = carol.ok(&["events", "kinds"]);
    assert!(
        kinds.lines().any(|line| line.starts_with("disconnect\t")),
        "{kinds}"
    );
}

#[test]
fn a_relay_may_let_nobody_register() {
    let relay = Relay::with(&["--registration", "false"]);
    relay.administrator();
    for user in ["bob", "alice"] {
        let refused = login(&relay, &Home::new(), user, PASSWORD, &["--register"]);
        assert_eq!(refused.status.code(), Some(3));
        assert!(
            told(&refused).contains("does not let strangers register"),
            "{refused:?}"
        );
    }
}

#[test]
fn only_so_many_users_wait_at_once() {
    let relay = Relay::with(&["--users-waiting", "1"]);
    let alice = relay.administrator();
    let register = |user: &str| login(&relay, &Home::new(), user, PASSWORD, &["--register"]);
    assert_eq!(register("bob").status.code(), Some(6));
    let full = register("carol");
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    assert!(told(&full).contains("too many users wait"), "{full:?}");
    alice.ok(&["users", "approve", "bob"]);
    assert_eq!(register("carol").status.code(), Some(6));
}

/// A terminal of its own, made by script(1), on which the program runs.
struct OnTerminal {
    child: std::process::Child,
    seen: String,
}

impl OnTerminal {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let program = env!("CARGO_BIN_EXE_underpass");
        let line = format!("{program} {}", arguments.join(" "));
        let child = Command::new("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("UNDERPASS_HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let seen = String::new();
        Self { child, seen }
    }

    /// Waits until the terminal has shown something.
    fn shows(&mut self, text: &str) {
        let end = std::time::Instant::now() + LIMIT;
        while !self.seen.contains(text) {
            assert!(
                std::time::Instant::now() < end,
                "{text:?} is not in {:?}",
                self.seen
            );
            let mut part = [0; 512];
            match self.child.stdout.as_mut().unwrap().read(&mut part).unwrap() {
                0 => panic!("{text:?} is not in {:?}", self.seen),
                read => self.seen += &String::from_utf8_lossy(&part[..read]),
            }
        }
    }

    fn types(&mut self, text: &str) {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(text.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut rest = self.child.stdout.take().unwrap();
        let mut bytes = Vec::new();
        rest.read_to_end(&mut bytes).unwrap();
        self.seen += &String::from_utf8_lossy(&bytes);
        (code, self.seen)
    }
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let bob = Home::new();
    let mut terminal =
        OnTerminal::start(&bob, &["login", &relay.url, "--user", "bob", "--register"]);
    terminal.shows("New password of bob: ");
    terminal.types("correct horse\n");
    terminal.shows("The same again: ");
    terminal.types("correct horse\n");
    let (code, seen) = terminal.end();
    assert_eq!(code, Some(6), "{seen}");
    assert!(
        seen.contains("UP-WAITING") && !seen.contains("correct"),
        "{seen}"
    );
    alice.ok(&["users", "approve", "bob"]);
    let second = Home::new();
    let line = ["login", &relay.url, "--user", "bob", "--machine", "second"];
    let mut terminal = OnTerminal::start(&second, &line);
    terminal.shows("Password of bob: ");
    terminal.types("correct horse\n");
    let (code, seen) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(
        seen.contains("as bob (user)") && !seen.contains("correct"),
        "{seen}"
    );
    // Two that differ make no password, and without a terminal the way without one is told.
    let mut terminal = OnTerminal::start(
        &Home::new(),
        &["login", &relay.url, "--user", "eve", "--register"],
    );
    terminal.shows("New password of eve: ");
    terminal.types("correct horse\n");
    terminal.shows("The same again: ");
    terminal.types("battery staple\n");
    let (code, seen) = terminal.end();
    assert_eq!(code, Some(2), "{seen}");
    assert!(!alice.ok(&["users"]).contains("eve"));
}
