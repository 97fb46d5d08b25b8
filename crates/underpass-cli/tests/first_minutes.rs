//! The main job with real processes on loopback: the first five minutes, ends of connections,
//! refusals as programs and scripts see them, a relay that dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use running::{
    Home, Relay, count, counting_service, dial, echo_service, exchange, free_port, serve,
};
use underpass_carrier::KINDS;

#[test]
fn the_first_five_minutes() {
    let relay = Relay::start();
    let mode = fs::metadata(relay.setup_file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let alice = relay.administrator();
    let service = counting_service();
    let publish = alice.start(&["publish", "counter", &service.to_string()]);
    assert!(
        publish
            .ready()
            .starts_with("published counter.alice.underpass.internal at ")
    );

    let bob = relay.invited(&alice, "bob");
    let denied = bob.fails(3, &["connect", "counter"]);
    assert!(
        denied.contains("[UP-DENIED]") && denied.contains("next:"),
        "{denied}"
    );
    alice.ok(&["services", "allow", "bob", "counter"]);

    let connect = bob.start(&["connect", "counter", "127.0.0.1:0"]);
    assert!(connect.ready().starts_with("counter is at 127.0.0.1:"));
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 31 % 251) as u8).collect();
    assert_eq!(exchange(connect.address(), &bytes), count(&bytes));
    assert_eq!(exchange(connect.address(), b""), count(b""));

    let status: serde_json::Value = serde_json::from_str(&bob.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["relays"][0]["state"], "reachable");
    assert_eq!(status["relays"][0]["user"], "bob");
    assert_eq!(status["agents"][0]["command"], "connect");
    assert_eq!(
        status["agents"][0]["sessions"][0]["service"],
        "counter.alice.underpass.internal"
    );
    let services = bob.ok(&["services"]);
    let columns: Vec<&str> = services.trim_end().split('\t').collect();
    assert_eq!(columns[..3], ["counter", "alice", "present"]);

    assert_eq!(connect.stop(), Some(0));
    assert_eq!(publish.stop(), Some(0));
    let away = bob.ok(&["services", "--json"]);
    assert!(away.contains("\"present\":false"), "{away}");
    assert_eq!(relay.process.stop(), Some(0));
}

#[test]
fn standard_input_and_output_end_on_their_own() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    let bytes = vec![7u8; 500_000];
    let mut child = alice
        .command(&["nc", "counter"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&bytes).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), count(&bytes));
}

/// A service that closes first: what is sent after that must still arrive before the program ends.
#[test]
fn the_last_bytes_of_standard_input_arrive() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let (sender, received) = std::sync::mpsc::channel();
    let service = serve(move |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        sender.send(bytes.len()).unwrap();
    });
    let _publish = alice.start(&["publish", "sink", &service.to_string()]);
    let mut child = alice
        .command(&["nc", "sink"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The service's end is seen first.
    let mut output = child.stdout.take().unwrap();
    let (seen, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || seen.send(output.read_to_end(&mut Vec::new())));
    let read = end.recv_timeout(running::LIMIT).unwrap();
    assert_eq!(read.unwrap(), 0);
    let mut input = child.stdin.take().unwrap();
    input.write_all(&vec![1; 1_000_000]).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(received.recv_timeout(running::LIMIT).unwrap(), 1_000_000);
}

/// A transfer that is stopped half way must not look complete to the shell.
#[test]
fn a_conversation_that_is_stopped_has_not_succeeded() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let service = serve(|mut stream| {
        stream.write_all(b"half\n").unwrap();
        std::thread::park();
    });
    let _publish = alice.start(&["publish", "slow", &service.to_string()]);
    let nc = alice.start(&["nc", "slow"]);
    assert_eq!(nc.ready(), "half");
    assert_eq!(nc.stop(), Some(1));
}

#[test]
fn a_refused_service_looks_refused() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let closed = format!("127.0.0.1:{}", free_port());
    let aborting = serve(|mut stream| {
        stream.write_all(b"some").unwrap();
        // Closed with data unread, which the kernel answers by a reset (RFC 2525 section 2.17).
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
    });
    let publish = alice.start(&["publish", "dead", &closed, "rude", &aborting.to_string()]);
    let connect = alice.start(&["connect", "dead=0", "rude=0"]);
    let mut stream = dial(connect.address());
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    connect.wait_log("[UP-REFUSED]");
    publish.wait_log("Connection refused");

    let rude: std::net::SocketAddr = connect.line().rsplit(' ').next().unwrap().parse().unwrap();
    let mut stream = dial(rude);
    stream.write_all(&[0; 1000]).unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionReset,
        "never a clean end"
    );

    let error = alice.fails(5, &["nc", "dead", "--json"]);
    let error: serde_json::Value = serde_json::from_str(error.trim()).unwrap();
    assert_eq!(error["error"]["code"], "UP-REFUSED");
    let error = alice.fails(4, &["nc", "none"]);
    assert!(error.contains("UP-NO-SERVICE"), "{error}");
}

#[test]
fn a_connection_outlives_its_relay() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = echo_service().to_string();
    let publish = alice.start(&["publish", "echo", &target]);
    let connect = alice.start(&["connect", "echo"]);
    let mut stream = dial(connect.address());
    let mut say = |text: &[u8]| {
        stream.write_all(text).unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, text);
    };
    say(b"before");
    let relay = relay.restart();
    say(b"after");
    // New ones work too: the service is registered again.
    let bytes = vec![9; 100_000];
    let mut second = dial(connect.address());
    second.write_all(&bytes).unwrap();
    second.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    second.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, bytes);
    publish.wait_log("survived, resumed");
    let status: serde_json::Value = serde_json::from_str(&alice.ok(&["status", "--json"])).unwrap();
    let agents = status["agents"].as_array().unwrap();
    let connect = agents.iter().find(|it| it["command"] == "connect").unwrap();
    assert!(
        connect["relay"]["drops"].as_u64().unwrap() >= 1,
        "{connect}"
    );
    assert!(connect["relay"]["last_resume_s"].as_f64().is_some());
    drop(relay);
}

#[test]
fn the_relay_itself_may_be_the_far_end() {
    let home = Home::new();
    let config = home.path().join("relay.toml");
    let target = counting_service();
    let closed = free_port();
    let lines = format!(
        "[[service]]\nname = 'counter'\ntarget = '{target}'\nallow = ['*']\n\
         [[service]]\nname = 'dead'\ntarget = '127.0.0.1:{closed}'\nallow = ['*']\n"
    );
    fs::write(&config, lines).unwrap();
    let relay = Relay::with(&["--config", config.to_str().unwrap()]);
    let alice = relay.administrator();
    let connect = alice.start(&["connect", "counter"]);
    assert_eq!(exchange(connect.address(), b"hello"), count(b"hello"));
    let error = alice.fails(5, &["nc", "dead"]);
    assert!(error.contains("UP-REFUSED"), "{error}");
}

#[test]
fn https_with_a_certificate_of_its_own() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let relay = Relay::with(&["--tls-listen", &listen, "--tls", "self-signed"]);
    let url = format!("https://{listen}");
    let alice = Home::new();
    let setup = relay.setup_file();
    let untrusted = [
        "login",
        &url,
        "--setup-file",
        setup.to_str().unwrap(),
        "--tls",
        "system",
        "--patience",
        "0s",
    ];
    let error = alice.fails(3, &untrusted);
    assert!(error.contains("UP-CERTIFICATE"), "{error}");
    alice.ok(&["login", &url, "--setup-file", setup.to_str().unwrap()]);
    let file = alice.path().join("relays.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("certificate = "), "{text}");
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target]);
    let connect = alice.start(&["connect", "counter"]);
    assert_eq!(exchange(connect.address(), b"x"), count(b"x"));
    let status = alice.ok(&["status", "--json"]);
    assert!(status.contains("\"tls\":\"TLS 1.3\""), "{status}");

    // Another certificate than the pinned one.
    let line = text
        .lines()
        .find(|line| line.starts_with("certificate"))
        .unwrap();
    let pairs = ["00"; 32].join(":");
    fs::write(
        &file,
        text.replace(line, &format!("certificate = \"{pairs}\"")),
    )
    .unwrap();
    let error = alice.fails(3, &["services", "--patience", "0s"]);
    assert!(error.contains(&pairs), "{error}");
}

#[test]
fn every_carrier_carries() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = free.local_addr().unwrap();
    drop(free);
    let relay = Relay::with(&["--quic-listen", &udp.to_string()]);
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let port = udp.port().to_string();
    for carrier in KINDS.iter().map(|kind| kind.name) {
        let how = ["--carrier", carrier, "--quic-port", &port];
        let publish = alice.start(&[&["publish", "counter", &target][..], &how].concat());
        let connect = alice.start(&[
            "connect",
            "counter",
            "--quic-port",
            &port,
            "--carrier",
            carrier,
            "--id-place",
            "cookie",
        ]);
        let bytes = vec![3; 200_000];
        assert_eq!(
            exchange(connect.address(), &bytes),
            count(&bytes),
            "{carrier}"
        );
        let status: serde_json::Value =
            serde_json::from_str(&alice.ok(&["status", "--json", "--offline"])).unwrap();
        for agent in status["agents"].as_array().unwrap() {
            assert_eq!(agent["relay"]["carrier"], carrier);
        }
        assert_eq!((connect.stop(), publish.stop()), (Some(0), Some(0)));
    }
}
