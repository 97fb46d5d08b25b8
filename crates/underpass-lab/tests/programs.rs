//! Programs that know nothing of Underpass use real servers through both firewalls, by every carrier.
//!
//! Topology of each: server and publisher on `a` behind firewall A, client programs on `b` behind firewall B, the relay
//! in XX

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Nginx, Postgres, Redis, SshServer};
use underpass_lab::traffic::{self, Pattern};
use underpass_lab::{
    CLIENT, Finished, Options, Scene, Way, each_carrier_and_quic, exec, side_by_side, tests,
};

fn main() -> ExitCode {
    tests!(
        psql_and_pgbench,
        ssh_and_scp,
        curl,
        redis_cli_and_benchmark,
        a_redis_connection_moves_to_another_server,
        all_programs_over_https
    )
}

/// How long one program may run on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);
/// How long to try what cannot work: more than one connection attempt needs on an idle network by far.
const LOOK: Duration = Duration::from_millis(1500);
/// Carriers at work side by side: the machine that runs this may have only two processors.
const AT_ONCE: usize = 3;

fn psql_and_pgbench() -> Result<()> {
    each_carrier_and_quic(AT_ONCE, |carrier| {
        use_postgres(&scene(&Options::by(carrier))?)
    })
}

fn ssh_and_scp() -> Result<()> {
    each_carrier_and_quic(AT_ONCE, |carrier| use_ssh(&scene(&Options::by(carrier))?))
}

fn curl() -> Result<()> {
    each_carrier_and_quic(AT_ONCE, |carrier| use_nginx(&scene(&Options::by(carrier))?))
}

fn redis_cli_and_benchmark() -> Result<()> {
    each_carrier_and_quic(AT_ONCE, |carrier| use_redis(&scene(&Options::by(carrier))?))
}

/// Two servers on `a`. A connection of the client's is led from one to the other and stays the same connection.
fn a_redis_connection_moves_to_another_server() -> Result<()> {
    let scene = scene(&Options::by("ws"))?;
    let host = [127, 0, 0, 1];
    let servers = [6379, 6380].map(|port| Redis::start(&scene.net.a, host, port));
    let [one, two] = servers;
    let (one, two) = (one?, two?);
    for (server, name) in [(&one, "one"), (&two, "two")] {
        run(Redis::cli(&scene.net.a, server.address())?.args(["set", "name", name]))?;
    }
    let [one, two] = [one.address().to_string(), two.address().to_string()];
    let publish = |more: &[&str]| scene.publisher.publish_with(&[("cache", &one)], more);
    let retarget = |more: &[&str]| -> Result<Finished> {
        let order = [&["services", "retarget", "cache"], more].concat();
        exec::output(&mut scene.publisher.command(&order)?, LIMIT)
    };

    // Not without the publisher's word, and nowhere that does not answer; then nothing changes.
    let published = publish(&[])?;
    scene.publisher.allow(CLIENT, "cache")?;
    let entrance = scene.client.connect("cache")?;
    let mut old = Line::to(&scene, entrance.address)?;
    ensure!(old.asks("GET name")? == "one");
    refused(&retarget(&[&two, "--now"])?, 3, "UP-NO-REDIAL")?;
    refused(&retarget(&["127.0.0.1:1", "--now"])?, 3, "UP-NO-REDIAL")?;
    refused(&retarget(&["127.0.0.1:1"])?, 5, "UP-REFUSED")?;
    ensure!(old.asks("GET name")? == "one");
    ensure!(Line::to(&scene, entrance.address)?.asks("GET name")? == "one");

    // Only new connections follow.
    retarget(&[&two])?.success()?;
    ensure!(Line::to(&scene, entrance.address)?.asks("GET name")? == "two");
    ensure!(old.asks("GET name")? == "one");
    let shown = scene.publisher.status_of(&published)?;
    ensure!(shown["entries"][0]["address"] == two, "{shown}");
    drop(old);

    // A publisher that is started again leads to where it is told to.
    published.terminate(LIMIT)?;
    refused(&retarget(&[&two])?, 4, "UP-NOT-HERE")?;
    let published = publish(&["--redial"])?;
    let mut lines = (0..3)
        .map(|_| Line::to(&scene, entrance.address))
        .collect::<Result<Vec<_>>>()?;
    for line in &mut lines {
        ensure!(line.asks("GET name")? == "one");
    }
    // Those that there are follow, more than once, and stay the connections that they are.
    for (target, name) in [(&two, "two"), (&one, "one"), (&two, "two")] {
        let told = retarget(&[target, "--now"])?.success()?.text();
        ensure!(told.contains("dialled anew: 3"), "{told}");
        for line in &mut lines {
            ensure!(line.asks("GET name")? == name);
        }
    }

    // From the client's machine, through both firewalls and the relay: where the publisher has named its key.
    let from_afar = |target: &str| -> Result<Finished> {
        let order = ["services", "retarget", "cache", target, "--now"];
        exec::output(&mut scene.client.command(&order)?, LIMIT)
    };
    refused(&from_afar(&one)?, 3, "UP-NO-RETARGET")?;
    published.terminate(LIMIT)?;
    let key = key_of(&scene)?;
    let _published = publish(&["--redial", "--retarget-by", &key])?;
    let mut line = Line::to(&scene, entrance.address)?;
    for (target, name) in [(&two, "two"), (&one, "one")] {
        let told = from_afar(target)?.success()?.text();
        ensure!(told.contains("dialled anew: 1"), "{told}");
        ensure!(line.asks("GET name")? == name);
    }
    Ok(())
}

/// The fingerprint that the client's machine shows.
fn key_of(scene: &Scene) -> Result<String> {
    let mut command = scene.client.command(&["--json", "status", "--offline"])?;
    let text = exec::output(&mut command, LIMIT)?.success()?.text();
    let status: serde_json::Value = serde_json::from_str(&text)?;
    let key = status["machine"].as_str().context("a machine has a key")?;
    Ok(key.to_owned())
}

fn refused(finished: &Finished, code: i32, stable: &str) -> Result<()> {
    let said = finished.errors();
    ensure!(
        finished.status.code() == Some(code) && said.contains(stable),
        "{:?}: {said}",
        finished.status
    );
    Ok(())
}

/// One connection on which redis is spoken by hand.
struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    fn to(scene: &Scene, address: SocketAddr) -> Result<Self> {
        let stream = traffic::connect(&scene.net.b, address, LIMIT)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The text that answers an inline command.
    fn asks(&mut self, command: &str) -> Result<String> {
        write!(self.stream.get_mut(), "{command}\r\n")?;
        let mut length = String::new();
        self.stream.read_line(&mut length)?;
        ensure!(length.starts_with('$'), "{command}: {length:?}");
        let mut text = String::new();
        self.stream.read_line(&mut text)?;
        Ok(text.trim_end().to_owned())
    }
}

/// The same on port 443 with TLS around it: one carrier that upgrades, one that only asks and is answered.
fn all_programs_over_https() -> Result<()> {
    side_by_side(&["ws", "posts"], 2, |carrier| {
        let scene = scene(&Options::by(carrier).with_tls())?;
        use_postgres(&scene)?;
        use_ssh(&scene)?;
        use_nginx(&scene)?;
        use_redis(&scene)
    })
}

fn scene(options: &Options) -> Result<Scene> {
    Scene::start(options.network()?, options)
}

fn run(command: &mut Command) -> Result<Finished> {
    exec::output(command, LIMIT)?.success()
}

/// A way to the server at `target`, once it is certain that there is no other.
fn way(scene: &Scene, name: &str, target: SocketAddr) -> Result<Way> {
    let outside = IpAddr::from(scene.net.firewall_a.address());
    for at in [target, SocketAddr::new(outside, target.port())] {
        let direct = scene
            .net
            .b
            .inside(|| TcpStream::connect_timeout(&at, LOOK))?;
        ensure!(direct.is_err(), "{at} is reached without a tunnel");
    }
    scene.way(name, target)
}

fn use_postgres(scene: &Scene) -> Result<()> {
    let (a, b) = (&scene.net.a, &scene.net.b);
    let postgres = Postgres::start(a, a.address(), 5432)?;
    let way = way(scene, "db", postgres.address())?;
    let at = way.address();
    let ask = |statement: &str| -> Result<String> {
        let done = run(&mut Postgres::psql(b, at, statement)?).context("psql")?;
        Ok(done.text().trim().to_owned())
    };
    ensure!(ask("select 6 * 7")? == "42");

    run(&mut Postgres::pgbench(b, at, &["-i", "-q", "-s", "1"])?).context("pgbench -i")?;
    ensure!(ask("select count(*) from pgbench_accounts")? == "100000");
    // With -n it keeps the history of earlier runs.
    let done = run(&mut Postgres::pgbench(
        b,
        at,
        &["-n", "-c", "4", "-t", "50"],
    )?)?
    .text();
    ensure!(done.contains("processed: 200/200"), "{done}");
    ensure!(done.contains("failed transactions: 0 "), "{done}");
    // A connection for each transaction.
    let done = run(&mut Postgres::pgbench(
        b,
        at,
        &["-n", "-C", "-c", "4", "-t", "10"],
    )?)?
    .text();
    ensure!(done.contains("processed: 40/40"), "{done}");

    // Each transaction adds the same amount to one account, one teller and one branch, and writes it down.
    let sums = ask(
        "select (select sum(abalance) from pgbench_accounts) = sum(delta) \
         and (select sum(tbalance) from pgbench_tellers) = sum(delta) \
         and (select sum(bbalance) from pgbench_branches) = sum(delta), count(*) from pgbench_history",
    )?;
    ensure!(sums == "t|240", "the books do not balance: {sums}");

    // A result of some MiB, and an error of the server with its text.
    let rows = ask("select string_agg(md5(i::text), '') from generate_series(1, 100000) i")?;
    ensure!(rows.len() == 3_200_000, "{} bytes came", rows.len());
    ensure!(
        rows.starts_with("c4ca4238a0b923820dcc509a6f75849b"),
        "wrong bytes"
    );
    let wrong = exec::output(&mut Postgres::psql(b, at, "select nothing")?, LIMIT)?;
    ensure!(wrong.errors().contains("\"nothing\" does not exist"));

    // It was the tunnel that carried all this: without it there is nothing at the same address.
    drop(way);
    let gone = exec::output(&mut Postgres::psql(b, at, "select 1")?, LIMIT)?;
    ensure!(
        !gone.status.success(),
        "the server answers without a tunnel"
    );
    Ok(())
}

fn use_ssh(scene: &Scene) -> Result<()> {
    let (a, b) = (&scene.net.a, &scene.net.b);
    let sshd = SshServer::start(a, a.address(), 22)?;
    let way = way(scene, "shell", sshd.address())?;
    let at = way.address();
    // The server sees the publisher's machine, which is its own.
    let done = run(sshd.ssh(b, at)?.arg("echo $SSH_CONNECTION"))?.text();
    ensure!(done.starts_with(&a.address().to_string()), "{done}");
    let code = exec::output(sshd.ssh(b, at)?.arg("exit 7"), LIMIT)?.status;
    ensure!(code.code() == Some(7), "exit 7 became {code}");

    let content = random(5 << 20);
    let mut cat = sshd.ssh(b, at)?;
    let done = exec::output_with_input(cat.arg("cat"), &content, LIMIT)?.success()?;
    ensure!(done.stdout == content, "ssh cat gave other bytes");

    let proxy = scene.client.nc("shell")?;
    let mut through = sshd.ssh_through(b, &proxy)?;
    let done = exec::output_with_input(through.arg("cat; echo end"), &content, LIMIT)?.success()?;
    ensure!(
        done.stdout.strip_suffix(b"end\n") == Some(&content[..]),
        "ssh by ProxyCommand gave other bytes"
    );

    let logs = scene.net.lab.logs();
    let (here, there, back) = (logs.join("here"), logs.join("there"), logs.join("back"));
    std::fs::write(&here, &content)?;
    let remote = format!("lab:{}", there.display());
    run(sshd.scp(b, at)?.arg(&here).arg(&remote)).context("scp up")?;
    ensure!(std::fs::read(&there)? == content, "scp sent another file");
    run(sshd.scp(b, at)?.arg(&remote).arg(&back)).context("scp down")?;
    ensure!(std::fs::read(&back)? == content, "scp fetched another file");
    Ok(())
}

fn use_nginx(scene: &Scene) -> Result<()> {
    let (a, b) = (&scene.net.a, &scene.net.b);
    let nginx = Nginx::start(a, a.address(), 80)?;
    let content = random(16 << 20);
    nginx.put("big", &content)?;
    nginx.put("small", b"hello\n")?;
    let way = way(scene, "files", nginx.address())?;
    let url = |name: &str| format!("http://{}/{name}", way.address());

    let got = b.run("curl", ["-fsS", &url("big")], LIMIT)?.success()?;
    ensure!(got.stdout == content, "curl gave another file");
    // Keepalive: the second and third request need no new connection.
    let (url, report) = (url("small"), "%{num_connects}\n");
    let got = b
        .run("curl", ["-fsS", "-w", report, &url, &url, &url], LIMIT)?
        .success()?
        .text();
    ensure!(got == "hello\n1\nhello\n0\nhello\n0\n", "{got}");
    // Several at once, and an answer that is an error.
    let many = "http://{}/small?[1-40]".replace("{}", &way.address().to_string());
    let got = b
        .run("curl", ["-fsS", "-Z", "--parallel-max", "20", &many], LIMIT)?
        .success()?
        .text();
    ensure!(got == "hello\n".repeat(40), "{got}");
    let none = b.run("curl", ["-fsS", &format!("{url}er")], LIMIT)?;
    ensure!(none.errors().contains("404"), "{}", none.errors());
    Ok(())
}

fn use_redis(scene: &Scene) -> Result<()> {
    let (a, b) = (&scene.net.a, &scene.net.b);
    let redis = Redis::start(a, a.address(), 6379)?;
    let way = way(scene, "cache", redis.address())?;
    let at = way.address();
    let ask = |words: &[&str]| -> Result<String> {
        let done = run(Redis::cli(b, at)?.args(words)).context("redis-cli")?;
        Ok(done.text().trim().to_owned())
    };
    let value: String = random(1 << 20)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut set = Redis::cli(b, at)?;
    let done = exec::output_with_input(set.args(["-x", "set", "large"]), value.as_bytes(), LIMIT)?;
    ensure!(done.success()?.text().trim() == "OK");
    ensure!(ask(&["get", "large"])? == value, "redis gave another value");

    ask(&["config", "resetstat"])?;
    let benchmark = |words: &[&str]| -> Result<()> {
        let done = run(Redis::benchmark(b, at)?.args(words)).context("redis-benchmark")?;
        let text = done.text() + &done.errors();
        ensure!(!text.to_lowercase().contains("error"), "{text}");
        ensure!(text.matches("requests per second").count() == 2, "{text}");
        Ok(())
    };
    benchmark(&["-q", "-n", "2000", "-c", "10", "-t", "set,get"])?;
    benchmark(&[
        "-q", "-n", "20000", "-c", "5", "-P", "20", "-d", "100", "-t", "set,get",
    ])?;
    let counts = ask(&["info", "commandstats"])?;
    for command in ["set", "get"] {
        let wanted = format!("cmdstat_{command}:calls=22000,");
        ensure!(counts.contains(&wanted), "no {wanted} in {counts}");
    }
    ensure!(!counts.contains("failed_calls=1"), "{counts}");
    Ok(())
}

/// Bytes that no compression makes smaller.
fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Pattern::new(length as u64).fill(&mut bytes);
    bytes
}
