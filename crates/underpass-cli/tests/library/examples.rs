//! The examples of the library, each as the program that it is.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::running::{Home, Relay, Running, dial, finish};

/// A user with a key file of their own, who runs examples.
struct User {
    home: Home,
    relay: String,
    invitation: String,
}

impl User {
    fn new(relay: &Relay, administrator: &Home, name: &str) -> Self {
        Self {
            home: Home::new(),
            relay: relay.url.clone(),
            invitation: administrator.ok(&["users", "invite", name]),
        }
    }

    fn command(&self, example: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(built(example));
        command
            .arg(&self.relay)
            .arg(self.home.path().join("key"))
            .args(arguments)
            .env("UNDERPASS_INVITATION", &self.invitation)
            .stdin(Stdio::null());
        command
    }

    /// Runs a server among the examples, once it says that it is ready.
    fn serves(&self, example: &str, arguments: &[&str]) -> Running {
        Running::start(self.command(example, arguments), &[example])
    }

    /// What an example says that comes to a good end.
    fn says(&self, example: &str, arguments: &[&str]) -> String {
        let output = finish(self.command(example, arguments), &[example]);
        assert!(output.status.success(), "{example}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What an example says that fails.
    fn fails(&self, example: &str, arguments: &[&str]) -> String {
        let output = finish(self.command(example, arguments), &[example]);
        assert_eq!(output.status.code(), Some(1), "{example}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// An example that was built beside this test.
fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().nth(2).unwrap().join("examples");
    let file = folder.join(name);
    let how = "run cargo build --workspace --examples first";
    assert!(file.is_file(), "there is no {}: {how}", file.display());
    file
}

#[test]
fn echo_answers() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let (bob, carol) = (
        User::new(&relay, &alice, "bob"),
        User::new(&relay, &alice, "carol"),
    );
    // Enrols carol, so that bob can name her.
    let early = carol.fails("echo", &["ask", "nobody-", "mirror", "x"]);
    assert!(early.contains("UP-SETTING"), "{early}");
    let server = bob.serves("echo", &["serve", "mirror", "carol"]);
    assert_eq!(server.ready(), "mirror.bob.underpass.internal is served");
    let answer = carol.says("echo", &["ask", "bob", "mirror", "hello hello"]);
    assert_eq!(answer, "hello hello\n");
    assert_eq!(server.line(), "carol: 11 bytes");
}

#[test]
fn a_file_is_copied() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let (bob, carol) = (
        User::new(&relay, &alice, "bob"),
        User::new(&relay, &alice, "carol"),
    );
    carol.fails("file_copy", &["send", "-", "box", "/dev/null"]);
    let folder = bob.home.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let server = bob.serves("file_copy", &["receive", "box", "carol", folder]);
    let file = carol.home.path().join("some.bin");
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n * 31 % 251) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let send = ["send", "bob", "box", file.to_str().unwrap()];
    assert_eq!(
        carol.says("file_copy", &send),
        "3000001 bytes were received\n"
    );
    assert_eq!(server.line(), "carol: some.bin, 3000001 bytes");
    assert!(std::fs::read(format!("{folder}/some.bin")).unwrap() == bytes);
    // It is not written over.
    carol.fails("file_copy", &send);
}

#[test]
fn a_web_application_is_reached() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let (bob, carol) = (
        User::new(&relay, &alice, "bob"),
        User::new(&relay, &alice, "carol"),
    );
    carol.fails("hyper_client", &["-", "web", "/"]);
    let _server = bob.serves("axum_server", &["web", "carol"]);
    let fetch = |path: &str| carol.says("hyper_client", &["bob", "web", path]);
    assert_eq!(fetch("/"), "hello carol\n");
    assert_eq!(fetch("/health"), "well\n");
    // The command reaches it as well.
    let desk = relay.further(&alice, "carol", "desk");
    let connect = desk.start(&["connect", "web.bob"]);
    let mut stream = dial(connect.address());
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.ends_with("hello carol"), "{page}");
}
