//! Programs that can use a proxy reach services by name, through both firewalls.
//!
//! Topology of each: servers and publisher on `a` behind firewall A, programs and `underpass proxy` on `b` behind firewall
//! B, the relay in public between them. On `b` itself a server listens as well, for what must not be reached.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Nginx, SshServer};
use underpass_lab::traffic::{self, DatagramEcho};
use underpass_lab::{CLIENT, Finished, Options, Process, Scene, TwoFirewalls, exec, tests};

fn main() -> ExitCode {
    tests!(
        curl_and_ssh_by_every_kind_of_proxy,
        datagrams_by_socks,
        what_is_no_service_is_refused_or_let_out_and_nothing_breaks_it
    )
}

/// How long one program may run on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);
const SOCKS: &str = "127.0.0.1:1080";
const HTTP: &str = "127.0.0.1:8118";

fn scene() -> Result<Scene> {
    Scene::start(TwoFirewalls::new()?, &Options::default())
}

/// A running `underpass proxy` with these arguments, at its usual addresses.
fn proxy(scene: &Scene, more: &[&str]) -> Result<Process> {
    let command = scene.client.command(&[&["proxy"], more].concat())?;
    let process = scene.net.b.spawn("proxy", command)?;
    for expected in [SOCKS, HTTP] {
        let line = process.line(LIMIT)?;
        ensure!(line.contains(expected), "{line}");
    }
    Ok(process)
}

fn curl(scene: &Scene, arguments: &[&str]) -> Result<Command> {
    let mut command = scene.net.b.command("curl");
    // Loopback addresses too are to go through a proxy here, whatever the environment says.
    command
        .args(["--silent", "--show-error", "--noproxy", ""])
        .args(arguments);
    Ok(command)
}

/// Status and body of what curl got.
fn got(scene: &Scene, arguments: &[&str]) -> Result<(String, String)> {
    let mut command = curl(scene, arguments)?;
    let done = exec::output(command.args(["--write-out", "\n%{http_code}"]), LIMIT)?;
    let text = done.success()?.text();
    let (body, status) = text.rsplit_once('\n').context("curl writes a status")?;
    Ok((status.to_owned(), body.to_owned()))
}

fn failed(scene: &Scene, arguments: &[&str]) -> Result<Finished> {
    let done = exec::output(&mut curl(scene, arguments)?, LIMIT)?;
    ensure!(!done.status.success(), "{}", done.text());
    Ok(done)
}

/// How curl is told of the proxy, each way that there is.
const WAYS: [(&str, &[&str]); 4] = [
    ("SOCKS 5", &["--proxy", "socks5h://127.0.0.1:1080"]),
    ("SOCKS 4a", &["--proxy", "socks4a://127.0.0.1:1080"]),
    ("whole addresses", &["--proxy", "http://127.0.0.1:8118"]),
    (
        "CONNECT",
        &["--proxy", "http://127.0.0.1:8118", "--proxytunnel"],
    ),
];

fn curl_and_ssh_by_every_kind_of_proxy() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let files = Nginx::start(a, a.address(), 80)?;
    files.put("who", b"the far one\n")?;
    let large: Vec<u8> = (0..8_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    files.put("large", &large)?;
    let sshd = SshServer::start(a, a.address(), 22)?;
    let _published = scene.publish(&[("files", files.address()), ("shell", sshd.address())])?;
    let proxy = proxy(&scene, &[])?;
    for (name, way) in WAYS {
        let ask = |url: &str, more: &[&str]| got(&scene, &[way, more, &[url]].concat());
        for host in ["files", "files.admin", "FILES"] {
            let (status, body) = ask(&format!("http://{host}.underpass.internal/who"), &[])?;
            ensure!(
                status == "200" && body == "the far one\n",
                "{name}: {status} {body}"
            );
        }
        let to = b.logs().join("large");
        let file = to.to_str().context("temporary folders are UTF-8")?;
        ask("http://files.underpass.internal/large", &["--output", file])?;
        ensure!(std::fs::read(&to)? == large, "{name}: other bytes arrived");
        // What the server says is passed on as it is.
        let (status, _) = ask("http://files.underpass.internal/missing", &[])?;
        ensure!(status == "404", "{name}: {status}");
        let (status, body) = ask("http://files.underpass.internal/who", &["--head"])?;
        ensure!(
            status == "200" && body.contains("ength: 12"),
            "{name}: {body}"
        );
        // Two requests on one connection of the client's.
        let twice = ["http://files.underpass.internal/who"; 2];
        let (_, body) = got(&scene, &[way, &twice[..]].concat())?;
        ensure!(body.matches("the far one").count() == 2, "{name}: {body}");
    }
    for kind in ["5", "connect"] {
        let at = if kind == "5" { SOCKS } else { HTTP };
        let way = format!("nc -X {kind} -x {at} shell.underpass.internal 22");
        let mut ssh = sshd.ssh_through(b, &way)?;
        let done = exec::output(ssh.arg("seq 1 100000 | tail -n 1; exit 3"), LIMIT)?;
        ensure!(
            done.text() == "100000\n" && done.status.code() == Some(3),
            "{}",
            done.errors()
        );
    }
    let shown = scene.client.status_of(&proxy)?;
    ensure!(
        shown["command"] == "proxy" && shown["sessions"][0]["channels"] == 0,
        "{shown}"
    );
    Ok(())
}

fn datagrams_by_socks() -> Result<()> {
    let scene = scene()?;
    let echo = DatagramEcho::start(&scene.net.a)?;
    let target = format!("udp:{}", echo.address());
    let _published = scene
        .publisher
        .publish(&[("echo", &target), ("other", &target)])?;
    for name in ["echo", "other"] {
        scene.publisher.allow(CLIENT, name)?;
    }
    let _proxy = proxy(&scene, &[])?;
    let b = &scene.net.b;
    let mut control = traffic::connect(b, SOCKS.parse()?, LIMIT)?;
    control.write_all(&[5, 1, 0])?;
    let mut answer = [0; 2];
    control.read_exact(&mut answer)?;
    ensure!(answer == [5, 0], "{answer:?}");
    control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut answer = [0; 10];
    control.read_exact(&mut answer)?;
    ensure!(answer[..8] == [5, 0, 0, 1, 127, 0, 0, 1], "{answer:?}");
    let at = SocketAddr::from((
        Ipv4Addr::LOCALHOST,
        u16::from_be_bytes([answer[8], answer[9]]),
    ));
    let socket = || -> Result<UdpSocket> {
        let socket = b.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    };
    let head = |name: &str, port: u16| {
        let name = format!("{name}.underpass.internal");
        let length = u8::try_from(name.len()).expect("the names are short");
        [&[0, 0, 0, 3, length], name.as_bytes(), &port.to_be_bytes()].concat()
    };
    let client = socket()?;
    for (name, size) in [
        ("echo", 0),
        ("other", 1200),
        ("echo", 9000),
        ("echo", 60_000),
    ] {
        let bytes = [head(name, 7), vec![b'x'; size]].concat();
        ensure!(comes_back(&client, at, &bytes)?, "{size} bytes to {name}");
    }
    // Neither what is no service nor a piece of a datagram passes, nor what another program sends.
    let stranger = socket()?;
    for bytes in [
        [
            &[0, 0, 0, 1, 127, 0, 0, 1],
            &echo.address().port().to_be_bytes()[..],
            b"x",
        ]
        .concat(),
        [&[0, 0, 1], &head("echo", 7)[3..], b"x"].concat(),
        head("nothing", 7),
        b"rubbish".to_vec(),
    ] {
        client.send_to(&bytes, at)?;
    }
    stranger.send_to(&[head("echo", 7), b"stolen".to_vec()].concat(), at)?;
    let last = [head("echo", 7), b"last".to_vec()].concat();
    ensure!(comes_back(&client, at, &last)?);
    let mut room = [0; 64];
    ensure!(stranger.recv_from(&mut room).is_err() && client.recv_from(&mut room).is_err());
    Ok(())
}

/// Whether exactly `bytes` come back, and nothing else does before; asked again where nothing came.
fn comes_back(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> Result<bool> {
    let mut room = vec![0; 65_536];
    for _ in 0..60 {
        socket.send_to(bytes, to)?;
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            if let Ok((length, _)) = socket.recv_from(&mut room) {
                return Ok(room[..length] == *bytes);
            }
        }
    }
    Ok(false)
}

fn what_is_no_service_is_refused_or_let_out_and_nothing_breaks_it() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let files = Nginx::start(a, a.address(), 80)?;
    files.put("who", b"the far one\n")?;
    let near = Nginx::start(b, Ipv4Addr::LOCALHOST, 80)?;
    near.put("who", b"the near one\n")?;
    b.knows(&[
        ("near.test", Ipv4Addr::LOCALHOST),
        ("a.b.c.underpass.internal", Ipv4Addr::LOCALHOST),
    ])?;
    let _published = scene.publish(&[("files", files.address())])?;
    let _denied = scene
        .publisher
        .publish(&[("secret", &files.address().to_string())])?;
    let strict = proxy(&scene, &[])?;
    let plain = |url: &str| got(&scene, &["--proxy", "http://127.0.0.1:8118", url]);
    for (url, status, code) in [
        ("http://near.test/who", "403", "UP-DENIED"),
        ("http://127.0.0.1/who", "403", "UP-DENIED"),
        ("http://secret.underpass.internal/who", "403", "UP-DENIED"),
        (
            "http://nothing.underpass.internal/who",
            "502",
            "UP-NO-SERVICE",
        ),
        ("http://a.b.c.underpass.internal/who", "400", "UP-NAME"),
    ] {
        let (seen, body) = plain(url)?;
        ensure!(
            seen == status && body.contains(code),
            "{url}: {seen} {body}"
        );
        for (name, way) in WAYS.iter().filter(|(name, _)| *name != "whole addresses") {
            let done = failed(&scene, &[way, &[url][..]].concat())?;
            ensure!(!done.text().contains("near one"), "{name}: {}", done.text());
        }
    }
    // A browser asks the proxy itself.
    let (status, script) = got(&scene, &["http://127.0.0.1:8118/proxy.pac"])?;
    ensure!(
        status == "200" && script.contains("PROXY 127.0.0.1:8118; SOCKS5 127.0.0.1:1080"),
        "{script}"
    );
    let (status, words) = got(&scene, &["http://127.0.0.1:8118/"])?;
    ensure!(status == "404" && words.contains("/proxy.pac"), "{words}");

    // Whatever a program says, the others are served.
    for at in [SOCKS, HTTP] {
        for said in [
            &b"\x05\x01\x02"[..],
            b"\x04\x02\x00\x50\x7f\x00\x00\x01\x00",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"CONNECT / HTTP/1.1\r\n\r\n",
            b"GET http:// HTTP/1.1\r\n\r\n",
            &[b'x'; 200_000],
        ] {
            let mut stream = traffic::connect(b, at.parse()?, LIMIT)?;
            // It may be cut off in the middle.
            let _ = stream.write_all(said);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    ensure!(plain("http://files.underpass.internal/who")?.1 == "the far one\n");
    strict.terminate(LIMIT)?;

    // As browsers want it that know no PAC file. What ends as a pseudo name does not get out even then.
    let _open = proxy(&scene, &["--direct"])?;
    for (name, way) in WAYS {
        let ask = |url: &str| got(&scene, &[way, &[url]].concat());
        ensure!(ask("http://near.test/who")?.1 == "the near one\n", "{name}");
        ensure!(
            ask("http://files.underpass.internal/who")?.1 == "the far one\n",
            "{name}"
        );
    }
    ensure!(plain("http://a.b.c.underpass.internal/who")?.0 == "400");

    // Other machines are let in only where they are named, and never out.
    for (arguments, part) in [
        (&["--http", "0.0.0.0:8119"][..], "--allow-from"),
        (
            &[
                "--http",
                "0.0.0.0:8119",
                "--allow-from",
                "10.0.0.0/8",
                "--direct",
            ],
            "--direct",
        ),
        (&["--socks", "udp:1081"], "TCP"),
    ] {
        let mut command = scene.client.command(&[&["proxy"], arguments].concat())?;
        let done = exec::output(&mut command, LIMIT)?;
        let said = done.errors();
        ensure!(
            done.status.code() == Some(2) && said.contains(part),
            "{said}"
        );
    }
    Ok(())
}
