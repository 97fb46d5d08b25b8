//! Services for whole networks: one machine's listeners for its LAN, and one publisher for all hosts around it.
//!
//! Topology of each: servers and publisher on `a` behind firewall A, `underpass connect` on `b` behind firewall B, the
//! relay in public between them; and other hosts in the private networks, on which no Underpass runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Dnsmasq, Nginx, SshServer};
use underpass_lab::traffic::DatagramEcho;
use underpass_lab::{
    CLIENT, Finished, Host, Options, Process, Scene, Signal, TwoFirewalls, exec, tests,
};

fn main() -> ExitCode {
    tests!(
        a_lan_uses_what_one_machine_listens_for,
        a_whole_network_is_published_and_nothing_else
    )
}

/// How long one step may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);

/// The settings file of the client's agent.
struct File(PathBuf);

impl File {
    /// Replaces it as an editor does: whole.
    fn put(&self, lines: &str) -> Result<()> {
        let new = self.0.with_extension("new");
        std::fs::write(&new, lines)?;
        Ok(std::fs::rename(&new, &self.0)?)
    }
}

fn table(service: &str, bind: &str, allow_from: &[&Host]) -> String {
    let addresses: Vec<String> = allow_from
        .iter()
        .map(|host| format!("'{}'", host.address()))
        .collect();
    let addresses = addresses.join(", ");
    format!("[[connect]]\nservice = '{service}'\nbind = '{bind}'\nallow_from = [{addresses}]\n")
}

fn fetch(from: &Host, at: SocketAddr) -> Result<Finished> {
    let mut curl = from.command("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*"])
        .arg(format!("http://{at}/who"));
    exec::output(&mut curl, LIMIT)
}

fn gets(from: &Host, at: SocketAddr, expected: &str) -> Result<()> {
    let text = fetch(from, at)?.success()?.text();
    ensure!(text == expected, "{} at {at} got {text:?}", from.name());
    Ok(())
}

/// curl(1): 7 for what could not be connected, or was reset at once, 52 and 56 for what was reset.
fn gets_nothing(from: &Host, at: SocketAddr, exit: &[i32]) -> Result<()> {
    let done = fetch(from, at)?;
    let code = done.status.code().unwrap_or_default();
    ensure!(exit.contains(&code), "{code}: {}", done.errors());
    Ok(())
}

const RESET: [i32; 3] = [7, 52, 56];
const REFUSED: [i32; 1] = [7];

/// What `status` says that the agent listens for, each with a mark where it does not.
fn listens(scene: &Scene, process: &Process) -> Result<Vec<String>> {
    let status = scene.client.status_of(process)?;
    let entries = status["entries"].as_array().context("a list")?;
    let told = entries.iter().map(|entry| {
        let mark = if entry["trouble"].is_null() { "" } else { "!" };
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        format!("{mark}{} {}", text("service"), text("address"))
    });
    Ok(told.collect())
}

fn a_lan_uses_what_one_machine_listens_for() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let c = net.lab.private_host("c", &net.firewall_b)?;
    let d = net.lab.private_host("d", &net.firewall_b)?;
    let scene = Scene::start(net, &Options::default())?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let sshd = SshServer::start(a, a.address(), 22)?;
    let one = Nginx::start(a, a.address(), 80)?;
    let two = Nginx::start(a, a.address(), 81)?;
    one.put("who", b"one\n")?;
    two.put("who", b"two\n")?;
    let echo = DatagramEcho::start(a)?;
    let (shell, web, other) = (sshd.address(), one.address(), two.address());
    let targets = [
        ("shell", shell.to_string()),
        ("web", web.to_string()),
        ("other", other.to_string()),
        ("echo", format!("udp:{}", echo.address())),
    ];
    let pairs: Vec<_> = targets.iter().map(|(name, to)| (*name, &to[..])).collect();
    let _published = scene.publisher.publish(&pairs)?;
    for (name, _) in &targets {
        scene.publisher.allow(CLIENT, name)?;
    }
    let file = File(scene.client.home().join("config.toml"));

    // What other machines reach is for somebody.
    file.put("[[connect]]\nservice = 'web'\nbind = '0.0.0.0:8080'\n")?;
    let mut refused = scene.client.command(&["connect", "--all"])?;
    let refused = exec::output(&mut refused, LIMIT)?;
    ensure!(refused.status.code() == Some(2), "{}", refused.errors());

    file.put(
        &[
            table("shell", "0.0.0.0:2222", &[&c]),
            table("web", "0.0.0.0:8080", &[&c]),
            table("echo", "udp:0.0.0.0:5300", &[&c]),
        ]
        .concat(),
    )?;
    let command = scene.client.command(&["connect", "--all"])?;
    let connect = b.spawn("connect-all", command)?;
    for _ in 0..3 {
        connect.line(LIMIT)?;
    }
    let at = |port| SocketAddr::from((b.address(), port));
    gets(&c, at(8080), "one\n")?;
    gets_nothing(&d, at(8080), &RESET)?;
    connect.logged("only this machine, ", LIMIT)?;

    // A shell and a flow of datagrams that live while everything around them changes.
    let go = c.logs().join("go");
    let mut living = sshd.ssh(&c, at(2222))?;
    living.arg(format!(
        "echo begun; while ! test -e {}; do sleep 0.05; done; seq 1 100000 | tail -n 1; exit 3",
        go.display()
    ));
    let living = c.spawn("ssh", living)?;
    ensure!(living.line(LIMIT)? == "begun");
    let flow = c.inside(|| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(at(5300))?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    })??;
    let echoes = |said: &[u8]| -> Result<()> {
        flow.send(said)?;
        let mut heard = [0; 100];
        let length = flow.recv(&mut heard)?;
        ensure!(heard[..length] == *said, "{:?}", &heard[..length]);
        Ok(())
    };
    echoes(b"before")?;

    // Found out without a signal.
    file.put(
        &[
            table("other", "0.0.0.0:8080", &[&d]),
            table("web", "0.0.0.0:8081", &[&c]),
        ]
        .concat(),
    )?;
    connect.logged("config.toml again: 2 services", LIMIT)?;
    gets(&d, at(8080), "two\n")?;
    gets_nothing(&c, at(8080), &RESET)?;
    gets(&c, at(8081), "one\n")?;
    gets_nothing(&c, at(2222), &REFUSED)?;
    ensure!(listens(&scene, &connect)? == ["other 0.0.0.0:8080", "web 0.0.0.0:8081"]);
    echoes(b"after")?;
    let newcomer = c.inside(|| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(at(5300))?;
        socket.set_nonblocking(true)?;
        socket.send(b"too late")?;
        Ok(socket)
    })??;
    echoes(b"and again")?;
    ensure!(newcomer.recv(&mut [0; 100]).is_err());
    let status = scene.client.status_of(&connect)?;
    ensure!(status["sessions"][0]["channels"] == 2, "{status}");

    // A file that cannot be used changes nothing, and one address that cannot be had nothing else.
    file.put("[[connect]]\nservice = 'web'\n")?;
    connect.signal(Signal::HUP)?;
    connect.logged("everything stays as it was", LIMIT)?;
    gets(&c, at(8081), "one\n")?;
    file.put(
        &[
            table("shell", "0.0.0.0:2222", &[&c]),
            table("web", "0.0.0.0:8081", &[&c]),
            table("web", "192.0.2.1:8082", &[&c]),
        ]
        .concat(),
    )?;
    connect.signal(Signal::HUP)?;
    connect.logged("cannot listen on 192.0.2.1:8082", LIMIT)?;
    let told = listens(&scene, &connect)?;
    let expected = [
        "web 0.0.0.0:8081",
        "shell 0.0.0.0:2222",
        "!web 192.0.2.1:8082",
    ];
    ensure!(told == expected, "{told:?}");
    let again = exec::output(sshd.ssh(&c, at(2222))?.arg("echo again"), LIMIT)?;
    ensure!(again.text() == "again\n", "{}", again.errors());
    let foreign = exec::output(sshd.ssh(&d, at(2222))?.arg("echo again"), LIMIT)?;
    ensure!(!foreign.status.success(), "{}", foreign.text());
    // Nobody has seen anything of all this who was there before.
    std::fs::write(&go, "")?;
    ensure!(living.line(LIMIT)? == "100000");
    ensure!(
        living.wait(LIMIT)?.code() == Some(3),
        "{}",
        living.log_tail()
    );
    Ok(())
}

/// The name server of the publisher's network, which answers as a file says that it reads again on SIGHUP.
struct Names {
    file: PathBuf,
    server: Dnsmasq,
}

impl Names {
    fn start(host: &Host, records: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let file = host.logs().join("names");
        std::fs::write(&file, "")?;
        let server = Dnsmasq::reading(host, host.address(), &file)?;
        let names = Self { file, server };
        names.answer(records)?;
        Ok(names)
    }

    /// These are the addresses from now on, for as long as nobody says anything else; they are not to be kept.
    fn answer(&self, records: &[(&str, Ipv4Addr)]) -> Result<()> {
        let lines = records.iter().map(|(name, at)| format!("{at} {name}\n"));
        std::fs::write(&self.file, lines.collect::<String>())?;
        self.server.process().signal(Signal::HUP)
    }
}

/// Output of a program that gets there.
fn said(command: &mut Command) -> Result<String> {
    Ok(exec::output(command, LIMIT)?.success()?.text())
}

const CURL: [&str; 5] = ["curl", "--silent", "--show-error", "--noproxy", "*"];

/// What the proxy answers on `b` for this host and port: status and page.
fn by_proxy(scene: &Scene, at: &str) -> Result<(String, String)> {
    let mut curl = scene.net.b.command("curl");
    curl.args(["--silent", "--show-error", "--noproxy", ""])
        .args(["--proxy", "http://127.0.0.1:8118"])
        .args(["--write-out", "\n%{http_code}"])
        .arg(format!("http://{at}/who"));
    let text = said(&mut curl)?;
    let (page, status) = text.rsplit_once('\n').context("curl writes a status")?;
    Ok((status.to_owned(), page.to_owned()))
}

fn a_whole_network_is_published_and_nothing_else() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let web = net.lab.private_host("web", &net.firewall_a)?;
    let shell = net.lab.private_host("shell", &net.firewall_a)?;
    let (near, far) = (net.a.address(), web.address());
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let outside = Ipv4Addr::new(203, 0, 113, 1);
    let steady = [
        ("web.corp", far),
        ("own.corp", near),
        ("mixed.corp", far),
        ("mixed.corp", metadata),
        ("two.corp", far),
        ("two.corp", outside),
        ("outside.corp", outside),
        ("web.example", far),
    ];
    let names = Names::start(&shell, &steady)?;
    net.a.asks(shell.address())?;
    let scene = Scene::start(net, &Options::default())?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    // Whoever gets this has got to the publisher itself.
    let decoys = [
        Nginx::start(a, Ipv4Addr::LOCALHOST, 80)?,
        Nginx::start(a, near, 80)?,
    ];
    decoys.iter().try_for_each(|it| it.put("who", b"decoy\n"))?;
    let site = Nginx::start(&web, far, 80)?;
    site.put("who", b"web\n")?;
    let other = Nginx::start(&web, far, 8080)?;
    other.put("who", b"another port\n")?;
    let sshd = SshServer::start(&shell, shell.address(), 22)?;

    let network = format!("{near}/24");
    let refused = scene.publisher.command(&["publish", "net", &network])?;
    let refused = exec::output(&mut { refused }, LIMIT)?;
    ensure!(refused.status.code() == Some(2), "{}", refused.errors());
    let options = ["--ports", "22,80", "--hosts", "*.corp"];
    let _published = scene
        .publisher
        .publish_with(&[("net", &network), ("one", "127.0.0.1:80")], &options)?;
    for name in ["net", "one"] {
        scene.publisher.allow(CLIENT, name)?;
    }

    // By every way that programs have.
    let dashes = far.to_string().replace('.', "-");
    let run = |more: &[&str], url: &str| -> Result<String> {
        let arguments = [&["run"], more, &["--"], &CURL[..], &[url]].concat();
        said(&mut scene.client.command(&arguments)?)
    };
    for host in [
        format!("{dashes}.net"),
        format!("{far}.net"),
        format!("{dashes}.net.admin"),
        "web.corp.net".to_owned(),
        "two.corp.net.admin".to_owned(),
    ] {
        let url = format!("http://{host}.underpass.internal/who");
        ensure!(run(&[], &url)? == "web\n", "{host}");
        let url = format!("http://{host}.far.test/who");
        ensure!(run(&["--suffix", "far.test"], &url)? == "web\n", "{host}");
    }
    // A name that nobody has looked up yet can be given an address.
    let mapped = "two.corp.net.far.test";
    let map = format!("{mapped}=127.64.1.1");
    let seccomp = ["--via", "seccomp", "--suffix", "far.test", "--map", &map];
    for host in [mapped, "127.64.1.1"] {
        let told = run(&seccomp, &format!("http://{host}/who"))?;
        ensure!(told == "web\n", "{host}: {told}");
    }
    let inside = shell.address().to_string().replace('.', "-");
    let way = scene.client.nc(&format!("{inside}.net:22"))?;
    let told = said(sshd.ssh_through(b, &way)?.arg("echo here"))?;
    ensure!(told == "here\n", "{told}");
    let entrance = scene.client.connect(&format!("{dashes}.net:80"))?;
    gets(b, entrance.address, "web\n")?;
    let _proxy = {
        let process = b.spawn("proxy", scene.client.command(&["proxy"])?)?;
        process.line(LIMIT)?;
        process.line(LIMIT)?;
        process
    };

    // What is published, and nothing else, each refusal told from the others.
    let own = near.to_string().replace('.', "-");
    let [x, y, z, w] = far.octets();
    let mapped = format!(
        "0--ffff-{:x}-{:x}",
        u16::from(x) << 8 | u16::from(y),
        u16::from(z) << 8 | u16::from(w)
    );
    for (host, port, status, says) in [
        (dashes.as_str(), 80, "200", "web"),
        ("web.corp", 80, "200", "web"),
        ("two.corp", 80, "200", "web"),
        (&dashes, 8080, "403", "UP-PORT-NOT-LISTED"),
        ("web.example", 80, "403", "UP-HOST-NOT-LISTED"),
        ("web", 80, "403", "UP-HOST-NOT-LISTED"),
        ("203-0-113-1", 80, "403", "UP-HOST-NOT-LISTED"),
        ("outside.corp", 80, "403", "UP-HOST-NOT-LISTED"),
        (&own, 80, "403", "UP-HOST-FORBIDDEN"),
        ("own.corp", 80, "403", "UP-HOST-FORBIDDEN"),
        ("127-0-0-1", 80, "403", "UP-HOST-FORBIDDEN"),
        ("0-0-0-0", 80, "403", "UP-HOST-FORBIDDEN"),
        ("0--1", 80, "403", "UP-HOST-FORBIDDEN"),
        ("169-254-169-254", 80, "403", "UP-HOST-FORBIDDEN"),
        ("mixed.corp", 80, "403", "UP-HOST-FORBIDDEN"),
        (&mapped, 80, "403", "UP-HOST-FORBIDDEN"),
        ("missing.corp", 80, "502", "UP-HOST-UNKNOWN"),
        (&inside, 80, "502", "UP-REFUSED"),
    ] {
        let at = format!("{host}.net.underpass.internal:{port}");
        let (got, page) = by_proxy(&scene, &at)?;
        ensure!(got == status && page.contains(says), "{at}: {got} {page}");
    }
    for (at, status, says) in [
        ("net.underpass.internal", "400", "UP-HOST-NEEDED"),
        ("web.one.underpass.internal", "502", "UP-NO-NETWORK"),
        ("one.underpass.internal", "200", "decoy"),
    ] {
        let (got, page) = by_proxy(&scene, at)?;
        ensure!(got == status && page.contains(says), "{at}: {got} {page}");
    }

    // A name that means the host, the publisher and a metadata service in turn, as fast as it can: who gets anything gets
    // it from the host.
    let over = AtomicBool::new(false);
    let (reached, refused) = std::thread::scope(|scope| -> Result<(usize, usize)> {
        let turning = scope.spawn(|| -> Result<()> {
            for at in [far, Ipv4Addr::LOCALHOST, far, near, far, metadata]
                .into_iter()
                .cycle()
            {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                names.answer(&[&steady[..], &[("turning.corp", at)]].concat())?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let mut seen = (0, 0);
        let mut asking = || -> Result<()> {
            for _ in 0..1000 {
                let (status, page) = by_proxy(&scene, "turning.corp.net.underpass.internal")?;
                match &status[..] {
                    "200" => {
                        ensure!(page == "web\n", "{page}");
                        seen.0 += 1;
                    }
                    "403" if page.contains("UP-HOST-FORBIDDEN") => seen.1 += 1,
                    // For a moment, between two answers.
                    "502" if page.contains("UP-HOST-UNKNOWN") => {}
                    _ => anyhow::bail!("{status} {page}"),
                }
                if seen.0 >= 20 && seen.1 >= 20 {
                    break;
                }
            }
            Ok(())
        };
        let asked = asking();
        over.store(true, Ordering::Relaxed);
        turning.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        asked?;
        Ok(seen)
    })?;
    ensure!(reached > 0 && refused > 0, "{reached} {refused}");

    // Rights are those of the service.
    let living = underpass_lab::traffic::connect(b, entrance.address, LIMIT)?;
    scene.publisher.run(&["services", "deny", CLIENT, "net"])?;
    let end = io::Read::read(&mut &living, &mut [0]);
    ensure!(
        end.as_ref()
            .is_err_and(|it| it.kind() == io::ErrorKind::ConnectionReset),
        "{end:?}"
    );
    let (status, page) = by_proxy(&scene, &format!("{dashes}.net.underpass.internal"))?;
    ensure!(status != "200" && page.contains("UP-"), "{status} {page}");
    Ok(())
}
