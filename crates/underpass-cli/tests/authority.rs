//! A ticket authority as a process of its own, with real processes that are killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use running::{
    Home, Relay, Running, count, counting_service, dial, echo_service, exchange, free_port,
};

/// Starts it, or starts it again.
fn authority(home: &Home, port: u16, allow: &[&str]) -> Running {
    let listen = format!("127.0.0.1:{port}");
    let mut arguments = vec!["authority", "--listen", &listen];
    for print in allow {
        arguments.extend(["--allow", *print]);
    }
    home.start(&arguments)
}

/// Its address, for relays.
fn address(authority: &Running) -> String {
    let address = authority.ready().strip_prefix("ticket authority at ");
    address.unwrap().to_owned()
}

/// The fingerprint by which an authority knows this relay.
fn fingerprint(relay: &Relay) -> String {
    let told = relay.process.wait_log("underpass authority --allow ");
    told.rsplit(' ').next().unwrap().to_owned()
}

fn echoes(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text.as_bytes());
}

#[test]
fn the_authority_and_then_the_relay_are_killed_and_no_connection_breaks() {
    let (home, port) = (Home::new(), free_port());
    let first = authority(&home, port, &[]);
    let address = address(&first);
    let relay = Relay::with(&["--authority", &address]);
    let print = &fingerprint(&relay);

    let alice = relay.administrator();
    let echo = echo_service().to_string();
    let counting = counting_service().to_string();
    let _published = alice.start(&["publish", "echo", &echo]);
    let _counted = alice.start(&["publish", "count", &counting]);
    let bob = relay.invited(&alice, "bob");
    for service in ["echo", "count"] {
        alice.ok(&["services", "allow", "bob", service]);
    }
    // Nobody was allowed at the authority; who comes waits until the relay is.
    let to_echo = bob.start(&["connect", "echo", "127.0.0.1:0"]);
    let to_count = bob.start(&["connect", "count", "127.0.0.1:0"]);
    let mut living = dial(to_echo.address());
    relay.process.wait_log("a route was refused");
    first.kill();
    let second = authority(&home, port, &[print]);
    assert_eq!(
        second.ready().split(' ').nth(3),
        Some(&*address),
        "as before"
    );
    echoes(&mut living, "one");

    second.kill();
    echoes(&mut living, "living connections need no authority");
    let relay = relay.restart();
    let late = std::thread::spawn({
        let address = to_count.address();
        move || exchange(address, b"new")
    });
    relay.process.wait_log("the ticket authority at ");
    let third = authority(&home, port, &[print]);
    echoes(&mut living, "kept over the death of both");
    assert_eq!(late.join().unwrap(), count(b"new"));
    assert_eq!(third.stop(), Some(0));
}

#[test]
fn who_may_ask_is_read_again() {
    let (home, port) = (Home::new(), free_port());
    let listen = format!("127.0.0.1:{port}");
    let list = home.path().join("relays");
    let list_arg = list.to_str().unwrap();
    let arguments = ["authority", "--listen", &listen, "--allow-file", list_arg];
    let said = home.fails(1, &arguments);
    assert!(said.contains("cannot read"), "{said}");
    std::fs::write(&list, "# nobody yet\n\n").unwrap();
    let authority = home.start(&arguments);
    let relay = Relay::with(&["--authority", &address(&authority)]);
    let refused = "perhaps it does not know this relay";
    let told = relay.process.wait_log(refused);
    let print = told.rsplit(' ').next().unwrap();

    std::fs::write(&list, format!("# ours\n{print}  # the first\n")).unwrap();
    authority.hang_up();
    authority.wait_log("read again; on it: 1");
    relay.process.wait_log(" is there");

    // Half a list is no list.
    std::fs::write(&list, format!("{print}\nabc\n")).unwrap();
    authority.hang_up();
    let said = authority.wait_log("who may ask stays as it was");
    assert!(said.contains("line 2"), "{said}");

    std::fs::write(&list, "").unwrap();
    authority.hang_up();
    authority.wait_log("it may not ask any more");
    relay.process.wait_log(refused);
    assert_eq!(authority.stop(), Some(0));
}

#[test]
fn settings_stand_in_a_file_of_its_own() {
    let (home, port) = (Home::new(), free_port());
    let file = home.path().join("authority.toml");
    let config = file.to_str().unwrap();
    let print = "a".repeat(51) + "q";
    let data = home.path().join("elsewhere");
    let settings =
        format!("listen = [\"127.0.0.1:{port}\"]\ndata = {data:?}\nallow = \"{print}\"\n");
    std::fs::write(&file, &settings).unwrap();
    let authority = home.start(&["--json", "--config", config, "authority"]);
    let told = authority.ready();
    assert!(told.contains(&format!("127.0.0.1:{port}#")), "{told}");
    assert!(told.contains(r#""allowed":1"#) && data.is_dir(), "{told}");
    // A flag wins.
    let other = free_port();
    let listen = format!("127.0.0.1:{other}");
    let own = home.path().join("own");
    let own = own.to_str().unwrap();
    let second = home.start(&[
        "authority",
        "--config",
        config,
        "--listen",
        &listen,
        "--data",
        own,
    ]);
    assert!(address(&second).starts_with(&listen));
    assert_eq!((authority.stop(), second.stop()), (Some(0), Some(0)));
    for (wrong, said) in [
        ("lisen = \"127.0.0.1:1\"", "no setting \"lisen\""),
        ("listen = 7", "listen: not a text"),
        ("allow = \"abc\"", "52 characters"),
        ("data = []", "one path"),
    ] {
        std::fs::write(&file, wrong).unwrap();
        let told = home.fails(2, &["authority", "--config", config]);
        assert!(told.contains(said), "{told}");
    }
    std::fs::remove_file(&file).unwrap();
    let told = home.fails(1, &["authority", "--config", config]);
    assert!(told.contains("cannot read"), "{told}");
}

#[test]
fn an_authority_is_not_named_without_its_fingerprint() {
    let home = Home::new();
    let said = home.fails(2, &["relay", "--authority", "127.0.0.1:8484"]);
    assert!(said.contains("HOST:PORT#FINGERPRINT"), "{said}");
    let said = home.fails(2, &["authority", "--allow", "abc"]);
    assert!(said.contains("52 characters"), "{said}");
}
