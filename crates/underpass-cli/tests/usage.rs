//! What the program says when it is used wrongly, or asked for help; nothing here needs a relay.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use running::Home;

const COMMANDS: [&str; 10] = [
    "relay",
    "login",
    "publish",
    "connect",
    "nc",
    "status",
    "services",
    "users",
    "machines",
    "completions",
];

#[test]
fn help_names_every_command() {
    let home = Home::new();
    let help = home.ok(&["--help"]);
    for command in COMMANDS {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}: {help}"
        );
        let text = home.ok(&[command, "--help"]);
        assert!(text.contains("Usage: underpass"), "{text}");
    }
    assert!(home.ok(&["--version"]).starts_with("underpass 0."));
}

#[test]
fn wrong_use_exits_with_2_and_says_what_is_wrong() {
    let home = Home::new();
    for (arguments, part) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["publish"], "HOST:PORT"),
        (&["publish", "db"], "HOST:PORT"),
        (&["publish", "db", "nowhere"], "HOST:PORT"),
        (&["publish", "DB", "h:1"], "DB"),
        (&["publish", "db", "h:1", "web"], "web"),
        (&["publish", "db", "h:1", "db", "h:2"], "twice"),
        (&["publish", "net", "10.0.0.0/8"], "--ports 22,443"),
        (
            &["publish", "net", "127.0.0.0/8", "--ports", "1"],
            "never published",
        ),
        (&["publish", "db", "h:1", "--ports", "1"], "for a network"),
        (&["publish", "--all"], "no table [[publish]]"),
        (&["publish", "--all", "db", "h:1"], "--all"),
        (&["connect"], "NAME"),
        (&["connect", "--all"], "no table [[connect]]"),
        (&["connect", "--all", "db"], "--all"),
        (&["connect", "a", "--bind", "0.0.0.0:1"], "--allow-from"),
        (&["connect", "a", "1", "--bind", "2"], "--bind"),
        (&["connect", "a", "--suffix", "under_pass"], "under_pass"),
        (&["connect", "a", "b", "c"], "NAME=LOCAL"),
        (
            &["connect", "a", "--class", "fast"],
            "interactive, normal, bulk",
        ),
        (&["connect", "a", "--carrier", "pigeon"], "pigeon"),
        (&["connect", "a", "--peer-key", "abc"], "52 characters"),
        (&["login", "relay"], "http://"),
        (&["login", "http://h#abc"], "52 characters"),
        (
            &["login", "http://h", "--setup", "a", "--invite", "b"],
            "cannot be used with",
        ),
        (&["login", "http://h", "--setup", " "], "empty"),
        (&["users", "invite"], "NAME"),
        (&["services", "allow", "bob"], "NAME"),
        (&["relay", "--listen", "here"], "listen"),
        (
            &[
                "relay",
                "--tls-cert",
                "a",
                "--tls",
                "self-signed",
                "--tls-listen",
                "127.0.0.1:0",
            ],
            "--tls",
        ),
        (&["status", "--log", "a=b=c"], "a=b=c"),
    ] {
        let said = home.fails(2, arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn settings_are_taken_from_all_layers_and_checked_in_all() {
    let home = Home::new();
    fs::write(home.path().join("config.toml"), "patience = 'soon'").unwrap();
    let said = home.fails(2, &["services"]);
    assert!(
        said.contains("config.toml, key patience") && said.contains("UP-USAGE"),
        "{said}"
    );
    let other = home.path().join("other.toml");
    fs::write(&other, "patiense = '1s'").unwrap();
    let said = home.fails(2, &["services", "--config", other.to_str().unwrap()]);
    assert!(said.contains("patiense"), "{said}");
    // A flag wins over the file, whose value is not even looked at.
    let said = home.fails(4, &["services", "--patience", "1s"]);
    assert!(said.contains("UP-NO-RELAY"), "{said}");
    let mut command = home.command(&["services", "--patience", "1s"]);
    let output = command.env("UNDERPASS_KEEP", "x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("UNDERPASS_KEEP"));
}

#[test]
fn errors_are_json_where_that_was_asked_for() {
    let home = Home::new();
    for arguments in [&["--json", "services"][..], &["nc", "db", "--json"]] {
        let said = home.fails(4, arguments);
        let error: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
        for key in ["code", "what", "cause", "next"] {
            assert!(
                !error["error"][key].as_str().unwrap().is_empty(),
                "{key} in {said}"
            );
        }
        assert_eq!(error["error"]["exit"], 4);
    }
}

#[test]
fn a_relay_that_is_not_there() {
    let home = Home::new();
    let url = format!("http://127.0.0.1:{}", running::free_port());
    let said = home.fails(5, &["login", &url, "--invite", "x", "--patience", "0s"]);
    assert!(said.contains("UP-NO-PATH") && said.contains(&url), "{said}");
    assert!(!said.contains("--invite x"));
    assert!(!home.path().join("relays.toml").exists());
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let home = Home::new();
    let status = home.ok(&["status"]);
    let fingerprint = status.trim().strip_prefix("machine\t").unwrap();
    assert_eq!(fingerprint.len(), 64);
    let file = home.path().join("machine.key");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(home.ok(&["status", "--json"]).contains(fingerprint));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let said = home.fails(1, &["status"]);
    assert!(
        said.contains("chmod 600") && said.contains("UP-FILE"),
        "{said}"
    );
    let key = fs::read_to_string(&file).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!said.contains(secret));
}

#[test]
fn completions_know_the_commands() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.ok(&["completions", shell]);
        assert!(
            COMMANDS.iter().all(|command| script.contains(command)),
            "{shell}"
        );
    }
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new();
    let said = home.fails(1, &["relay", "--listen", &address]);
    assert!(
        said.contains("UP-LISTEN") && said.contains(&address),
        "{said}"
    );
}
